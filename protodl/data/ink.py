"""What stands out from the ground of a picture: ink on paper, a garment on a plain cloth.

Shapes: H x W pixels of the picture, at most WORKING_SIZE each.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from protodl.core.errors import ProtodlError

Floats: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]

WORKING_SIZE = 448  # pixels of the longer side that ink is looked for in
LEAST_CONTRAST = 0.1  # of ink against its ground, of 1
NOISE_FACTOR = 5.0  # ink differs from its ground by as many deviations of the ground's noise
BLANK = "nothing stands out from its ground: it is blank, or its contrast is too low"


class NothingFound(ProtodlError):
    """A picture in which nothing stands out from its ground."""


@dataclass(frozen=True, eq=False)
class Ink:
    """What stands out from the ground of a picture."""

    strength: Floats  # (H, W): 0 on the ground, 1 where most of the ink is
    mask: Mask  # (H, W): where the ink is
    others: int  # things of a similar size that were left out
    cut: bool  # whether it reaches the picture's edge


def find_ink(picture: Image.Image, lines: bool = True) -> Ink:
    """The largest thing in a picture that stands out from its ground, whatever their colours.

    The ground is a quadratic surface of each colour, so that light may fall off across the picture.

    Args:
        picture: opaque, of any size and mode.
        lines: whether lines from edge to edge, as on ruled paper, are taken for ground.

    Raises:
        NothingFound: see `NothingFound`.
    """
    from scipy import ndimage

    colours = floats(reduced(picture).convert("RGB"))
    difference = np.sqrt(((colours - _ground(colours)) ** 2).sum(axis=2) / 3).astype(np.float32)
    difference = ndimage.gaussian_filter(difference, max(difference.shape) / WORKING_SIZE)
    if float(difference.max()) < LEAST_CONTRAST:
        raise NothingFound(BLANK)
    low = difference[difference <= np.median(difference)]
    noise = float(low.std() + low.mean())
    threshold = max(_otsu(difference), NOISE_FACTOR * noise * 0.5)
    high = float(np.quantile(difference, 0.999))
    if high < max(LEAST_CONTRAST, NOISE_FACTOR * noise):
        raise NothingFound(BLANK)
    mask = difference > threshold
    if lines:
        mask = _without_lines(mask)
    kept, others, cut = _largest(mask)
    level = float(np.quantile(difference[kept], 0.75))
    near = ndimage.binary_dilation(kept, iterations=2)
    strength = np.clip((difference - threshold / 2) / (level - threshold / 2), 0, 1) * near
    return Ink(strength.astype(np.float32), kept, others, cut)


def reduced(picture: Image.Image) -> Image.Image:
    """The picture at most WORKING_SIZE pixels wide and high."""
    scale = WORKING_SIZE / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)


def floats(picture: Image.Image) -> Floats:
    """A picture as floats in [0, 1]: (H, W), or (H, W, 3) where it is in colour."""
    return np.asarray(picture, np.float32) / np.float32(255)


def _ground(colours: Floats) -> Floats:
    """The ground (H, W, 3): least squares on what lies near it, found in a few rounds."""
    height, width, _ = colours.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1).reshape(-1, 6)
    flat = colours.reshape(-1, 3)
    surface = np.broadcast_to(np.median(flat, axis=0), flat.shape)
    for _ in range(6):
        distance = np.sqrt(((flat - surface) ** 2).sum(axis=1))
        near = distance <= max(3 * float(np.median(distance)), 0.02)
        surface = terms @ np.linalg.lstsq(terms[near], flat[near], rcond=None)[0]
    return surface.reshape(colours.shape).astype(np.float32)


def _otsu(values: Floats) -> float:
    """The threshold that divides values into the two most different classes (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * middles).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(middles[np.nanargmax(between)])


def _without_lines(mask: Mask) -> Mask:
    """The mask without straight lines from edge to edge; what they cut through is joined again."""
    from scipy import ndimage

    for axis in (0, 1):
        length = round(0.8 * mask.shape[axis])
        shape = (length, 1) if axis == 0 else (1, length)
        line = ndimage.binary_opening(mask, np.ones(shape, bool))
        if line.any() and line.mean() < 0.3:
            # Where ink lies on both sides of a line, it lies on the line as well.
            across = (1, 9) if axis == 0 else (9, 1)
            rest = mask & ~line
            mask = rest | (ndimage.binary_closing(rest, np.ones(across, bool)) & line)
    return mask


def _largest(mask: Mask) -> tuple[Mask, int, bool]:
    """The largest thing, with its parts; the number of others; whether it is cut at the edge."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        raise NothingFound("nothing stands out from the ground")
    areas = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
    places = ndimage.find_objects(labels)
    edges = [_touches((place[0], place[1]), mask.shape) for place in places]
    inside = [i for i in range(count) if not edges[i]]
    best = max(inside or range(count), key=lambda i: areas[i])
    if areas[best] < 0.1 * areas.max():
        best = int(areas.argmax())
    rows, columns = places[best]
    reach = round(0.15 * max(rows.stop - rows.start, columns.stop - columns.start))
    kept, others = labels == best + 1, 0
    for i in range(count):
        if i == best or areas[i] < 0.04 * areas[best]:
            continue
        near = _overlap(places[i][0], rows, reach) and _overlap(places[i][1], columns, reach)
        if near and not edges[i]:
            kept |= labels == i + 1
        elif areas[i] > 0.25 * areas[best]:
            others += 1
    return kept, others, edges[best]


def _touches(place: tuple[slice, slice], shape: tuple[int, ...]) -> bool:
    parts = zip(place, shape, strict=True)
    return any(part.start == 0 or part.stop == side for part, side in parts)


def _overlap(one: slice, other: slice, reach: int) -> bool:
    return bool(one.start <= other.stop + reach and other.start <= one.stop + reach)


def bounds(mask: Mask) -> tuple[slice, slice]:
    """The rows and the columns that a mask reaches over."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
