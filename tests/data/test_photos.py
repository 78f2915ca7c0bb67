"""Photos and drawings, prepared as the data sets' makers prepared theirs."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from protodl.data.ink import NothingFound, find_ink
from protodl.data.photos import digit, garment, middle, middle_grey
from tests.drawn import MANNERS, STROKES, Manner, draw


@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.name)
def test_a_digit_fills_twenty_pixels_and_is_centred_by_its_mass(manner: Manner) -> None:
    prepared = digit(draw(STROKES[5], manner, 3), 28)
    image = prepared.image[0].numpy()
    rows, columns = np.flatnonzero(image.max(axis=1)), np.flatnonzero(image.max(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    places = np.arange(28)
    for axis in (0, 1):
        centre = (image.sum(axis=1 - axis) * places).sum() / image.sum()
        assert abs(centre - 13.5) <= 0.75
    assert image.max() == 1
    assert image[0].max() == image[:, 0].max() == 0
    assert 0.08 < (image > 0.5).mean() < 0.35  # strokes as wide as a pen's
    assert prepared.doubts == ()
    assert any("MNIST" in note for note in prepared.notes)


def test_ink_is_the_same_whichever_of_two_colours_is_the_paper() -> None:
    dark = draw(STROKES[2], Manner("dark", paper=(250, 250, 250), ink=(10, 10, 10)), 1)
    light = Image.fromarray(255 - np.asarray(dark))
    assert np.allclose(digit(dark, 28).image, digit(light, 28).image, atol=0.02)


def test_light_that_falls_off_is_no_ink() -> None:
    y, x = np.mgrid[:300, :300]
    paper = (230 - 0.35 * x - 0.2 * y).clip(0, 255).astype(np.uint8)
    with pytest.raises(NothingFound):
        find_ink(Image.fromarray(paper))
    noise = np.random.default_rng(0).normal(0, 4, paper.shape)
    with pytest.raises(NothingFound):
        find_ink(Image.fromarray((paper + noise).clip(0, 255).astype(np.uint8)))


def test_several_things_and_cut_ones_are_doubted() -> None:
    page = Image.new("L", (400, 200), 240)
    for left in (60, 260):
        ImageDraw.Draw(page).ellipse([left, 50, left + 80, 150], outline=20, width=12)
    doubts = digit(page, 28).doubts
    assert any("Other things of a similar size" in doubt for doubt in doubts)
    cut = page.crop((100, 0, 200, 200))
    assert any("reaches the picture's edge" in doubt for doubt in digit(cut, 28).doubts)


def test_a_garment_is_cut_out_and_made_light_on_dark() -> None:
    photo = Image.new("RGB", (300, 500), (245, 245, 245))
    ImageDraw.Draw(photo).rectangle([110, 60, 190, 440], fill=(60, 40, 90))
    image = garment(photo, 28).image[0].numpy()
    assert image[:, :8].max() == image[:, -8:].max() == 0
    assert image[1:-1, 13:15].min() > 0.5
    rows = np.flatnonzero(image.max(axis=1))
    assert np.ptp(rows) + 1 == 28


def test_a_colour_picture_gives_the_square_in_its_middle() -> None:
    photo = Image.new("RGB", (300, 100), (0, 0, 255))
    photo.paste((255, 0, 0), (100, 0, 150, 100))
    photo.paste((0, 255, 0), (150, 0, 200, 100))
    prepared = middle(photo, 32)
    assert prepared.image.shape == (3, 32, 32)
    assert prepared.image[:, 16, 4].tolist() == [1, 0, 0]
    assert prepared.image[:, 16, 28].tolist() == [0, 1, 0]
    assert "the square in its middle" in prepared.notes[0]
    grey = middle_grey(photo, 32).image
    assert grey.shape == (1, 32, 32)
    assert float(grey.max()) == pytest.approx(1 / 3, abs=0.01)


def test_a_dot_is_no_digit() -> None:
    narrow = Image.new("L", (90, 5000), "white")
    narrow.paste("black", (40, 2400, 70, 2430))  # three pixels where ink is looked for
    with pytest.raises(NothingFound):
        digit(narrow, 28)
