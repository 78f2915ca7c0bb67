"""Originals above their reconstructions."""

import numpy as np
import pytest

from protodl.report.figures.page import to_array
from protodl.report.figures.samples import samples_figure
from tests.report.figures.drawings import marked_images, places_of, texts, words


@pytest.mark.parametrize("channels", [1, 3])
def test_each_original_stands_above_its_reconstruction(channels: int) -> None:
    images = marked_images(20, channels)
    originals, decoded = images[:10], (images[10:] / 255).astype(np.float32)
    page = to_array(samples_figure(originals, decoded))
    for original, reconstruction in zip(originals, images[10:], strict=True):
        above, below = places_of(original, page), places_of(reconstruction, page)
        assert len(above) == len(below) == 1
        assert above[0][1] == below[0][1]
        assert above[0][0] < below[0][0]


def test_wrong_predictions_stand_out() -> None:
    images = marked_images(3)
    figure = samples_figure(images, images, ["cat", "bird", "deer"], ["cat", "dog", "deer"])
    bold = [text.get_text() for text in texts(figure) if text.get_fontweight() == "bold"]
    assert bold == ["dog"]
    assert words(figure).count("cat") == 2


def test_numbers_that_do_not_fit_together_are_refused() -> None:
    images = marked_images(3)
    with pytest.raises(ValueError, match="reconstructions"):
        samples_figure(images, images[:2])
    with pytest.raises(ValueError, match="2 labels"):
        samples_figure(images, images, ["cat", "dog"])
