"""Pictures of every kind as images of a data set."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protodl.data.datasets import DATASETS, DatasetInfo
from protodl.data.pictures import InputError, as_input

GREY, COLOUR = DATASETS["mnist"], DATASETS["cifar10"]
GRADIENT = np.linspace(0, 200, 28 * 28).reshape(28, 28).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("info", [GREY, COLOUR], ids=["grey", "colour"])
def test_files_of_every_mode_and_size(mode: str, suffix: str, info: object, tmp_path: Path) -> None:
    if suffix == "jpg" and mode in ("LA", "RGBA", "P", "I;16"):
        pytest.skip("JPEG has no such mode")
    if suffix == "png" and mode == "CMYK":
        pytest.skip("PNG has no such mode")
    plain = Image.fromarray(GRADIENT).resize((70, 70))
    picture = plain.convert(mode) if mode != "I;16" else wide(np.asarray(plain))
    path = tmp_path / f"picture.{suffix}"
    picture.save(path)
    assert info in (GREY, COLOUR)
    prepared = as_input(path, GREY if info is GREY else COLOUR, "as-is")
    image = prepared.image
    shape = (GREY if info is GREY else COLOUR).shape
    assert tuple(image.shape) == shape
    assert image.dtype == torch.float32
    assert prepared.notes == ()
    middle = image.mean(dim=0)[shape[1] // 2].mean()
    assert float(middle) == pytest.approx(100 / 255, abs=0.08 if mode == "1" else 0.02)
    assert image[:, 1].mean() < image[:, -2].mean() - 0.5


def wide(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Image.Image:
    """The same picture with 16 bits."""
    return Image.fromarray(pixels.astype(np.uint16) * 257)


def test_shrinking_averages_and_does_not_pick() -> None:
    checked = np.zeros((280, 280), np.uint8)
    checked[::2] = 255
    image = as_input(Image.fromarray(checked), GREY, "as-is").image
    assert float(image[0, 3:-3].std()) < 0.01
    assert float(image[0, 10, 10]) == pytest.approx(0.5, abs=0.02)


def test_transparent_ink_lies_on_a_ground_that_shows_it() -> None:
    as_it_is = as_input(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), COLOUR, "as-is")
    assert float(as_it_is.image.min()) == 1
    for ink in (0, 255):
        sheet = Image.new("RGBA", (200, 200), (ink, ink, ink, 0))
        sheet.paste((ink, ink, ink, 255), (80, 30, 110, 170))
        image = as_input(sheet, GREY).image
        assert float(image[0, :, 14].sum()) > 15  # a light stroke upright in the middle
        assert float(image[0, :, :6].sum()) == 0


@pytest.mark.parametrize("info", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("size", [28, 32, 200])
@pytest.mark.parametrize("colour", ["white", "black", (120, 110, 130)])
def test_a_picture_that_shows_nothing_is_refused(info: DatasetInfo, size: int, colour: str) -> None:
    blank = Image.new("RGB", (size, size), colour)
    with pytest.raises(InputError, match=r"nothing stands out .* --as-is"):
        as_input(blank, info)
    assert as_input(blank, info, "as-is").image.shape == info.shape


def test_light_and_dark_are_exchanged_where_asked_for() -> None:
    dark = Image.fromarray(255 - GRADIENT)
    inverted = as_input(dark, GREY, "invert")
    assert inverted.image.equal(as_input(Image.fromarray(GRADIENT), GREY, "as-is").image)
    assert any("exchanged" in note for note in inverted.notes)


def test_a_picture_that_lies_on_its_side_is_turned(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[:14, 4:-4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    image = as_input(tmp_path / "turned.jpg", GREY, "as-is").image
    assert image[0, :10].max() < 0.1 < 0.9 < image[0, -10:, 6:-6].min()


def test_arrays_of_other_sizes_are_resized_and_floats_of_the_right_one_kept() -> None:
    exact = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_input(exact, GREY).image, exact)
    large = np.kron(GRADIENT, np.ones((2, 2), np.uint8))[None]
    whole = as_input(large, GREY, "as-is").image
    assert torch.equal(as_input(large / 255, GREY, "as-is").image, whole)
    assert float((whole - torch.tensor(GRADIENT) / 255).abs().max()) < 0.12
    assert tuple(as_input(large, COLOUR).image.shape) == (3, 32, 32)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((28, 28)), "shape (28, 28)"),
        (np.zeros((2, 28, 28)), "shape (2, 28, 28)"),
        (np.zeros((1, 0, 28)), "shape (1, 0, 28)"),
        (np.zeros((1, 28, 28), np.int64), "int64"),
        (np.full((1, 28, 28), 255.0), "from 255 to 255"),
        (np.full((1, 28, 28), np.nan), "nan"),
        (np.array([[["a"]]]), "expected numbers"),
        (np.array([[[None]]], dtype=object), "expected numbers"),
        (b"no array", "expected numbers"),
        (None, "expected numbers"),
    ],
)
def test_other_arrays_are_refused(image: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
                                  words: str) -> None:  # fmt: skip
    with pytest.raises(InputError) as error:
        as_input(image, GREY)
    assert words in str(error.value)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut\.png: a damaged image"):
        as_input(path, GREY)


def test_a_picture_too_large_to_unpack_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    for limit in (1000, 500):  # Pillow warns above its limit, and raises above twice as much
        with monkeypatch.context() as pillow:
            pillow.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(InputError, match=r"large\.png: too large"):
                as_input(tmp_path / "large.png", GREY)
    wide = tmp_path / "wide.png"
    Image.new("1", (70_000_000, 1)).save(wide)  # 8 KB on disk
    with pytest.raises(InputError, match=r"wide\.png: 70000000 x 1 pixels are too many"):
        as_input(wide, GREY)
    for given in (np.zeros((1, 1, 20_000_001), np.uint8), Image.new("1", (20_000_001, 1))):
        with pytest.raises(InputError, match=r"the picture: 20000001 x 1 .*; make it smaller"):
            as_input(given, GREY)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_phone_s_photo_is_taken(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(GRADIENT).resize((3024, 4032)).convert("RGB").save(path)
    assert as_input(path, COLOUR).image.shape == (3, 32, 32)


def test_a_program_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "program.png"
    Image.new("RGB", (40, 40)).save(path, "EPS")
    with pytest.raises(InputError, match=r"program\.png: not an image of a known kind"):
        as_input(path, COLOUR)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png: is not a regular file"):
        as_input(tmp_path / "pipe.png", GREY)


def test_heic_is_read_where_its_reader_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "phone.heic"
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(GRADIENT).resize((90, 90)).convert("RGB")).save(path)
    image = as_input(path, COLOUR).image
    assert float(image[:, 2].mean()) < float(image[:, -3].mean()) - 0.4
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    with pytest.raises(InputError, match="HEIC needs one package more: pip install pillow-heif"):
        as_input(path, COLOUR)


def test_a_damaged_heic_gives_no_other_error(tmp_path: Path) -> None:
    path = tmp_path / "phone.heic"
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(GRADIENT).resize((90, 90)).convert("RGB")).save(path)
    whole = path.read_bytes()
    for place in range(80, len(whole), 5):  # for some of these its reader raises EOFError
        path.write_bytes(whole[:place] + b"\0" + whole[place + 1 :])
        with suppress(InputError):
            as_input(path, COLOUR, "as-is")
