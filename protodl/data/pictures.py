"""A picture of any kind as the image that a network was trained on: its channels, its size.

Shapes: C channels, H x W pixels.
"""

import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from protodl.core.errors import ProtodlError
from protodl.data.datasets import DatasetInfo, to_unit_interval
from protodl.data.ink import BLANK, LEAST_CONTRAST, NothingFound
from protodl.data.photos import PREPARATIONS, Prepared

Array: TypeAlias = npt.NDArray[Any]
Input: TypeAlias = Tensor | Array | Image.Image | Path | str
Preparation: TypeAlias = Literal["auto", "as-is", "invert"]

# Of the files of a folder that are taken for images.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif")
LARGEST_PICTURE = 20_000_000  # pixels; a JPEG is read at a half, a quarter or an eighth of its size
DARK = 0.2  # mean of the corners of an image that shows light on dark


class InputError(ProtodlError):
    """A picture that is missing, damaged, empty or of a wrong kind; the message says which."""


def as_input(image: Input, info: DatasetInfo, prepare: Preparation = "auto") -> Prepared:
    """The image (C, H, W) in [0, 1] as the data set has them, and what was done to it.

    A tensor or array of the data set's own shape is taken as it is, and so is a picture of its size
    that is, if grey, dark in the corners. All else is prepared as the data set's makers prepared
    their pictures (`protodl.data.photos`), unless that is overruled.

    Args:
        image: a path, a PIL image, or a tensor or array (1 or 3, H, W), uint8 or floats in [0, 1].
        info: the data set.
        prepare: `auto`; or `as-is`: only made grey or RGB, laid on white where it is transparent,
            and stretched to the size; or `invert`: the same with dark and light exchanged.

    Raises:
        InputError: the file is missing or no image, shape, type or values are others, it has too
            many pixels, or nothing can be seen in it.
    """
    name = "the picture"
    if isinstance(image, str | Path):
        name, image = str(image), read_picture(Path(image))
    if not isinstance(image, Image.Image):
        image = _checked(image)
        if tuple(image.shape) == info.shape and prepare != "invert":
            as_it_is = to_unit_interval(image) if image.dtype == torch.uint8 else image.float()
            return Prepared(as_it_is)
        image = _as_picture(image)
    _require_few_pixels(image, name)
    if prepare != "auto":
        return _stretched(_eight_bits(image), info, prepare == "invert")
    try:
        prepared = _prepared(_eight_bits(image), info)
        planes = prepared.image.flatten(1)
        if float((planes.amax(dim=1) - planes.amin(dim=1)).max()) < LEAST_CONTRAST:
            raise NothingFound(BLANK)
    except NothingFound as error:
        raise InputError(f"{name}: {error}; to take it anyway: --as-is") from None
    return prepared


def training_image(path: Path, info: DatasetInfo) -> Tensor:
    """An image file as one of the data set (C, H, W) in [0, 1], made as `as_input` makes it.

    Raises:
        InputError: the file is missing or no image.
    """
    return _prepared(_eight_bits(read_picture(path)), info).image


def _prepared(picture: Image.Image, info: DatasetInfo) -> Prepared:
    exact = picture.size == (info.size, info.size) and not picture.has_transparency_data
    if exact and (info.channels > 1 or _dark_corners(picture)):
        return _stretched(picture, info, invert=False)
    return PREPARATIONS[info.preparation](_opaque(picture), info.size)


def read_picture(path: Path) -> Image.Image:
    """Read an image file whole, turned as its EXIF data say.

    Raises:
        InputError: it is missing, damaged, too large or not an image.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    try:
        return _read(path, str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def picture_of_bytes(data: bytes) -> Image.Image:
    """An image file that came without a name; see `read_picture`."""
    return _read(io.BytesIO(data), "the image")


def _read(file: Path | io.BytesIO, name: str) -> Image.Image:
    _register_heic()
    try:
        with warnings.catch_warnings(action="ignore"):  # of damage that does no harm
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as picture:
                if picture.format == "EPS":  # a program, which Ghostscript would run
                    raise UnidentifiedImageError
                picture.draft(None, (2048, 2048))  # a JPEG at a half, a quarter, an eighth
                _require_few_pixels(picture, name)
                return ImageOps.exif_transpose(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: too large ({error}); make it smaller") from error
    except (FileNotFoundError, InputError):
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name}: {_unknown(name)}") from None
    except Exception as error:  # Pillow and its plugins raise many kinds for damaged files
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name}: a damaged image ({reason})") from error


def _require_few_pixels(picture: Image.Image, name: str) -> None:
    if picture.width * picture.height > LARGEST_PICTURE:
        raise InputError(
            f"{name}: {picture.width} x {picture.height} pixels are too many "
            f"(at most {LARGEST_PICTURE // 10**6} million); make it smaller"
        )


def _unknown(name: str) -> str:
    if name.lower().endswith((".heic", ".heif")):
        return "HEIC needs one package more: pip install pillow-heif"
    return "not an image of a known kind"


def _register_heic() -> None:
    with suppress(ImportError):  # an extra
        import pillow_heif

        pillow_heif.register_heif_opener()


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and the image files in folders and theirs, sorted by path.

    Raises:
        InputError: a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES]
        if not inside:
            raise InputError(f"{path}: holds no image ({', '.join(SUFFIXES)})")
        found += inside
    return found


def _checked(image: Tensor | Array) -> Tensor:
    """A tensor (1 or 3, H, W) of uint8, or of floats within [0, 1]."""
    try:
        tensor = image if isinstance(image, Tensor) else torch.as_tensor(np.array(image))
        tensor = tensor.detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"image of type {type(image).__name__}: expected numbers") from None
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


def _stretched(picture: Image.Image, info: DatasetInfo, invert: bool) -> Prepared:
    """The picture with the data set's channels and size, and nothing else done to it."""
    notes = ["Dark and light were exchanged."] if invert else []
    if picture.width != picture.height:
        notes.append(f"The picture, {picture.width} x {picture.height}, was stretched to a square.")
    picture = _opaque(picture, Image.new("RGBA", picture.size, "white"))
    picture = picture.convert("L" if info.channels == 1 else "RGB")
    if picture.size != (info.size, info.size):
        picture = picture.resize((info.size, info.size), Image.Resampling.LANCZOS)
    pixels = np.array(picture).reshape(info.size, info.size, info.channels)
    shown = torch.from_numpy(255 - pixels if invert else pixels).permute(2, 0, 1).contiguous()
    return Prepared(to_unit_interval(shown), tuple(notes))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8; Pillow itself would cut the values off."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))


def _opaque(picture: Image.Image, ground: Image.Image | None = None) -> Image.Image:
    """The picture on a ground where it is transparent: on white what is dark, and else on black."""
    if not picture.has_transparency_data:
        return picture
    coloured = picture.convert("RGBA")
    if ground is None:
        cover = np.asarray(coloured.getchannel("A"), np.float32)
        grey = np.asarray(coloured.convert("RGB").convert("L"), np.float32)
        light = (grey * cover).sum() > 127 * cover.sum()
        ground = Image.new("RGBA", coloured.size, "black" if light else "white")
    return Image.alpha_composite(ground, coloured)


def _dark_corners(picture: Image.Image) -> bool:
    pixels = np.asarray(picture.convert("L"))
    return bool(pixels[[0, 0, -1, -1], [0, -1, 0, -1]].mean() < DARK * 255)
