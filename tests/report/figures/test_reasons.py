"""An image beside its nearest prototypes."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex

from protodl.report.figures.page import BLUE, VERMILION, to_array
from protodl.report.figures.reasons import reasons_figure
from tests.report.figures.drawings import explanation, places_of, words


@pytest.mark.parametrize("channels", [1, 3])
def test_image_reconstruction_and_nearest_prototypes_stand_from_left_to_right(
    channels: int,
) -> None:
    found = explanation(5, channels)
    contributions = dict(enumerate([-0.5, 1.5, 3.0, 9.0, 9.0]))  # the first three are nearest
    reasons = [
        dataclasses.replace(reason, contribution=contributions[reason.index])
        for reason in reversed(found.prototypes)
    ]
    figure = reasons_figure(dataclasses.replace(found, prototypes=tuple(reasons)), "Tiny")
    page = to_array(figure)
    nearest = sorted(reasons, key=lambda reason: reason.distance)[:3]
    pictures = [found.image, found.reconstruction, *(reason.picture for reason in nearest)]
    corners = [places_of(picture, page)[0] for picture in pictures]
    assert [x for _, x in corners] == sorted(x for _, x in corners)
    assert len({y for y, _ in corners}) == 1
    expected = {"distance 1.50", "contribution +3.00", "contribution -0.50", "automobile", "Tiny"}
    assert expected <= set(words(figure))
    lengths = [np.ptp(np.asarray(line.get_xdata())) for line in figure.axes[0].lines]
    colours = [to_hex(line.get_color()).upper() for line in figure.axes[0].lines]
    assert np.allclose(np.array(lengths) / lengths[2], [1 / 6, 0.5, 1])
    assert colours == [VERMILION, BLUE, BLUE]


@pytest.mark.parametrize(
    ("label", "truth"), [("automobile", "correct"), ("truck", "true class: truck")]
)
def test_the_true_class_is_told(label: str, truth: str) -> None:
    assert truth in words(reasons_figure(explanation(2, label=label), "Tiny"))
