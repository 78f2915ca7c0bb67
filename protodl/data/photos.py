"""Photos and drawings prepared as the makers of the grey data sets prepared theirs.

MNIST: each digit is scaled to fit 20 x 20 pixels, keeping its aspect ratio, and laid into 28 x 28
so that its centre of mass is in the middle, light on dark (LeCun et al., 1998, section III).
Fashion-MNIST: each garment is cut out of its plain ground, its longest edge scaled to 28 pixels,
sharpened, and centred, light on dark (Xiao et al., 2017, section 2).

CIFAR-10, and colour pictures in general: the square in the middle, made small.

Shapes: C channels, S x S pixels of the result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from protodl.data.ink import (
    BLANK,
    Floats,
    Ink,
    Mask,
    NothingFound,
    bounds,
    find_ink,
    floats,
    reduced,
)

DIGIT_BOX = 20  # pixels
LEAST_STROKE, LARGEST_STROKE = 0.11, 0.2  # width of a pen's stroke over the digit's longer side


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as an image of a data set, and what is to be said of that."""

    image: Tensor  # (C, S, S) in [0, 1]
    notes: tuple[str, ...] = ()  # what was done
    doubts: tuple[str, ...] = ()  # why it may not show what was meant


def digit(picture: Image.Image, size: int) -> Prepared:
    """A written digit as MNIST has it, (1, S, S).

    Raises:
        NothingFound: the picture is blank, its contrast too low, or there is but a dot.
    """
    ink = find_ink(picture)
    rows, columns = bounds(ink.mask)
    strength, mask = ink.strength[rows, columns], ink.mask[rows, columns]
    strength = _with_usual_stroke(strength, mask)
    if not strength.any():  # a dot
        raise NothingFound(BLANK)
    scale = DIGIT_BOX / max(strength.shape)
    height, width = (max(1, round(side * scale)) for side in strength.shape)
    small = _resized(strength, width, height)
    small /= max(float(small.max()), 1e-6)
    weights = small / small.sum()
    centre_y = float((weights.sum(axis=1) * np.arange(height)).sum())
    centre_x = float((weights.sum(axis=0) * np.arange(width)).sum())
    top = min(max(round((size - 1) / 2 - centre_y), 0), size - height)
    left = min(max(round((size - 1) / 2 - centre_x), 0), size - width)
    result = np.zeros((size, size), np.float32)
    result[top : top + height, left : left + width] = small
    note = "Prepared as MNIST's digits: cut out, 20 pixels large, centred by mass, light on dark."
    return Prepared(torch.from_numpy(result)[None], (note,), _doubts(ink))


def garment(picture: Image.Image, size: int) -> Prepared:
    """A garment as Fashion-MNIST has it, (1, S, S).

    Raises:
        NothingFound: nothing stands out from the picture's ground.
    """
    from scipy import ndimage

    ink = find_ink(picture, lines=False)
    rows, columns = bounds(ink.mask)
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(ink.mask, iterations=2))
    grey = floats(reduced(picture).convert("L"))
    if grey[~mask].mean() > 0.5:
        grey = 1 - grey
    cut = (grey * mask)[rows, columns]
    scale = size / max(cut.shape)
    height, width = (max(1, round(side * scale)) for side in cut.shape)
    sharp = Image.fromarray((_resized(cut, width, height) * 255).astype(np.uint8))
    sharp = sharp.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    result = np.zeros((size, size), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    result[top : top + height, left : left + width] = floats(sharp)
    note = "Prepared as Fashion-MNIST's garments: cut out, 28 pixels large, centred, light on dark."
    return Prepared(torch.from_numpy(result)[None], (note,), _doubts(ink))


def middle(picture: Image.Image, size: int) -> Prepared:
    """The square in the middle of a colour picture, (3, S, S)."""
    cut = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    note = f"The picture, {picture.width} x {picture.height}, was made {size} x {size}"
    note += "." if picture.width == picture.height else ", the square in its middle."
    return Prepared(torch.from_numpy(floats(cut)).permute(2, 0, 1).contiguous(), (note,))


def middle_grey(picture: Image.Image, size: int) -> Prepared:
    """The square in the middle of a grey picture, (1, S, S)."""
    coloured = middle(picture, size)
    return Prepared(coloured.image.mean(dim=0, keepdim=True), coloured.notes)


PREPARATIONS: Mapping[str, Callable[[Image.Image, int], Prepared]] = MappingProxyType(
    {"digit": digit, "garment": garment, "photo": middle, "grey photo": middle_grey}
)


def _with_usual_stroke(strength: Floats, mask: Mask) -> Floats:
    """Thin strokes made as thick, and thick ones as thin, as a pen's on MNIST's digits."""
    from scipy import ndimage

    side = max(strength.shape)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))
    ridge = depth[(depth == ndimage.maximum_filter(depth, 3)) & (depth > 0)]
    width = 2 * float(np.median(ridge)) / side
    if width < LEAST_STROKE:
        radius = round((LEAST_STROKE - width) * side / 2)
        strength, cross = np.pad(strength, radius), ndimage.generate_binary_structure(2, 1)
        for _ in range(radius):
            strength = ndimage.grey_dilation(strength, footprint=cross)
    elif width > LARGEST_STROKE:
        radius = round((width - LARGEST_STROKE) * side / 2)
        strength = ndimage.grey_erosion(np.pad(strength, 1), size=2 * radius + 1)
        rows, columns = bounds(strength > 0.5) if (strength > 0.5).any() else (slice(None),) * 2
        strength = strength[rows, columns]
    return strength


def _resized(values: Floats, width: int, height: int) -> Floats:
    picture = Image.fromarray(values, mode=None).resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture, np.float32).copy()


def _doubts(ink: Ink) -> tuple[str, ...]:
    doubts = []
    if ink.others:
        doubts.append(
            f"Other things of a similar size in the picture: {ink.others}; the largest was taken."
        )
    if ink.cut:
        doubts.append("What was found reaches the picture's edge: part of it may be missing.")
    return tuple(doubts)
