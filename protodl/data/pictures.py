"""A picture of any kind as the image that a network was trained on: its channels, its size.

Shapes: C channels, H x W pixels.
"""

import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from protodl.core.errors import ProtodlError
from protodl.data.datasets import DatasetInfo, to_unit_interval

Array: TypeAlias = npt.NDArray[Any]
Input: TypeAlias = Tensor | Array | Image.Image | Path | str

SUFFIXES = (".png", ".jpg", ".jpeg")  # of the files of a folder that are taken for images


class InputError(ProtodlError):
    """A picture that is missing, damaged or of a wrong kind; the message says which."""


def as_input(image: Input, info: DatasetInfo) -> tuple[Tensor, tuple[str, ...]]:
    """The image (C, H, W) in [0, 1] as the data set has them, and remarks on what was done to it.

    An array of the data set's own shape is taken as it is. All else is made grey or RGB, laid on
    white where it is transparent, and resized by Lanczos' filter, which averages where it shrinks.
    Colours are never inverted: the two grey data sets show light on dark.

    Args:
        image: a path, a PIL image, or a tensor or array (1 or 3, H, W), uint8 or floats in [0, 1].
        info: the data set.

    Raises:
        InputError: the file is missing or no image, or shape, type or values are others.
    """
    notes: list[str] = []
    if isinstance(image, str | Path):
        image = read_picture(Path(image))
    if not isinstance(image, Image.Image):
        image = _checked(image)
    if isinstance(image, Tensor) and tuple(image.shape) == info.shape:
        result = to_unit_interval(image) if image.dtype == torch.uint8 else image.float()
    else:
        picture = _as_picture(image) if isinstance(image, Tensor) else image
        result = _fitted(picture, info, notes)
    if info.channels == 1 and _border(result[0]) > 0.5:
        notes.append(
            f"The picture is light at its border; {info.title} shows light on dark. "
            "If yours shows dark on light, invert it first."
        )
    return result, tuple(notes)


def read_picture(path: Path) -> Image.Image:
    """Read an image file whole, turned as its EXIF data say.

    Raises:
        InputError: it is missing, damaged or not an image.
    """
    try:
        # A size that Pillow only warns of is refused before it is unpacked.
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(path) as picture,
        ):
            return ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: too large ({error}); make it smaller") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, for damaged files
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: not an image, or a damaged one ({reason})") from error


def image_files(paths: list[Path]) -> list[Path]:
    """The files themselves, and the PNG and JPEG files in those that are folders, sorted by name.

    Raises:
        InputError: a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        files = [file for file in inside if file.suffix.lower() in SUFFIXES]
        if path.is_dir() and not files:
            raise InputError(f"{path}: holds no image ({', '.join(SUFFIXES)})")
        found += files or [path]
    return found


def _checked(image: Tensor | Array) -> Tensor:
    """A tensor (1 or 3, H, W) of uint8, or of floats within [0, 1]."""
    tensor = image.detach().cpu() if isinstance(image, Tensor) else torch.as_tensor(np.array(image))
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or 0 in tensor.shape:
        raise InputError(f"image of shape {tuple(tensor.shape)}: expected (1 or 3, H, W)")
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.dtype.is_floating_point:
        raise InputError(f"image of {tensor.dtype}: expected uint8, or floats in [0, 1]")
    low, high = float(tensor.min()), float(tensor.max())
    if not (low >= 0 and high <= 1):
        raise InputError(f"image with values from {low:g} to {high:g}: expected [0, 1]")
    return tensor


def _as_picture(image: Tensor) -> Image.Image:
    pixels = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy().squeeze(2 if len(pixels) == 1 else ()))


def _fitted(picture: Image.Image, info: DatasetInfo, notes: list[str]) -> Tensor:
    """The picture with the data set's channels and size; remarks are added to the notes."""
    picture = _opaque(_eight_bits(picture), notes).convert("L" if info.channels == 1 else "RGB")
    if picture.width != picture.height:
        notes.append(
            f"The picture is not square ({picture.width} x {picture.height}): it was stretched."
        )
    if picture.size != (info.size, info.size):
        picture = picture.resize((info.size, info.size), Image.Resampling.LANCZOS)
    pixels = np.array(picture).reshape(info.size, info.size, info.channels)
    return to_unit_interval(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8; Pillow itself would cut the values off."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))


def _opaque(picture: Image.Image, notes: list[str]) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    coloured = picture.convert("RGBA")
    lowest, _ = coloured.getchannel("A").getextrema()
    if lowest != 255:
        notes.append("Transparent parts of the picture were taken as white.")
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured)


def _border(plane: Tensor) -> float:
    """Mean of the outermost pixels of (H, W)."""
    edges = [plane[0], plane[-1], plane[1:-1, 0], plane[1:-1, -1]]
    return float(torch.cat(edges).mean())
