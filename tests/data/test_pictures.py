"""Pictures of every kind as images of a data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protodl.data.datasets import DATASETS
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
    image, notes = as_input(path, GREY if info is GREY else COLOUR)
    shape = (GREY if info is GREY else COLOUR).shape
    assert tuple(image.shape) == shape
    assert image.dtype == torch.float32
    assert notes == ()
    middle = image.mean(dim=0)[shape[1] // 2].mean()
    assert float(middle) == pytest.approx(100 / 255, abs=0.08 if mode == "1" else 0.02)
    assert image[:, 1].mean() < image[:, -2].mean() - 0.5


def wide(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Image.Image:
    """The same picture with 16 bits."""
    return Image.fromarray(pixels.astype(np.uint16) * 257)


def test_shrinking_averages_and_does_not_pick() -> None:
    checked = np.zeros((280, 280), np.uint8)
    checked[::2] = 255
    image, _ = as_input(Image.fromarray(checked), GREY)
    assert float(image[0, 3:-3].std()) < 0.01
    assert float(image[0, 10, 10]) == pytest.approx(0.5, abs=0.02)


def test_transparency_becomes_white_and_is_told() -> None:
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image, notes = as_input(clear, COLOUR)
    assert float(image.min()) == 1
    assert any("white" in note for note in notes)
    opaque, notes = as_input(Image.new("RGBA", (32, 32), (0, 255, 0, 255)), COLOUR)
    assert opaque[:, 0, 0].tolist() == [0, 1, 0]
    assert notes == ()


def test_a_light_picture_is_remarked_on_and_left_as_it_is() -> None:
    white = np.full((1, 28, 28), 250, np.uint8)
    image, notes = as_input(white, GREY)
    assert float(image.mean()) == pytest.approx(250 / 255)
    assert len(notes) == 1 and "light on dark" in notes[0]
    assert as_input(np.full((3, 32, 32), 250, np.uint8), COLOUR)[1] == ()


def test_a_picture_that_lies_on_its_side_is_turned(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[:14] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    image, _ = as_input(tmp_path / "turned.jpg", GREY)
    assert image[0, :10].max() < 0.1 < 0.9 < image[0, -10:].min()


def test_arrays_of_other_sizes_are_resized_and_floats_of_the_right_one_kept() -> None:
    exact = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_input(exact, GREY)[0], exact)
    large = np.kron(GRADIENT, np.ones((2, 2), np.uint8))[None]
    whole, _ = as_input(large, GREY)
    assert torch.equal(as_input(large / 255, GREY)[0], whole)
    assert float((whole - torch.tensor(GRADIENT) / 255).abs().max()) < 0.12
    assert tuple(as_input(large, COLOUR)[0].shape) == (3, 32, 32)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((28, 28)), "shape (28, 28)"),
        (np.zeros((2, 28, 28)), "shape (2, 28, 28)"),
        (np.zeros((1, 0, 28)), "shape (1, 0, 28)"),
        (np.zeros((1, 28, 28), np.int64), "int64"),
        (np.full((1, 28, 28), 255.0), "from 255 to 255"),
        (np.full((1, 28, 28), np.nan), "nan"),
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
    with pytest.raises(InputError, match=r"cut\.png: not an image, or a damaged one"):
        as_input(path, GREY)


def test_a_picture_too_large_to_unpack_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    for limit in (1000, 500):  # Pillow warns above its limit, and raises above twice as much
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match=r"large\.png: too large"):
            as_input(tmp_path / "large.png", GREY)
