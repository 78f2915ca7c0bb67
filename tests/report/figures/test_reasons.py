"""An image beside the prototypes that it looks like, and nothing said of them that is not so."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex

from protodl.explanation.types import Explanation
from protodl.report.figures.page import BLUE, VERMILION, to_array
from protodl.report.figures.reasons import reasons_figure
from tests.report.figures.drawings import explanation, places_of, words

BECAUSE = ("because it looks like this prototype", "because it looks like these prototypes")


def with_contributions(values: list[float], far: tuple[int, ...] = (), **given: int) -> Explanation:
    """An explanation by prototypes with these contributions; those named are unusually far."""
    found = explanation(len(values), **given)
    reasons = [
        dataclasses.replace(reason, contribution=value, distance=30.0 if p in far else 1.5 * p)
        for p, (reason, value) in enumerate(zip(found.prototypes, values, strict=True))
    ]
    reasons.sort(key=lambda reason: -reason.contribution)
    return dataclasses.replace(found, prototypes=tuple(reasons))


def drawn(found: Explanation) -> list[int]:
    """The prototypes that are drawn, each below its case."""
    page = to_array(reasons_figure(found, "Tiny"))
    indices = []
    for reason in found.prototypes:
        upper, lower = (places_of(each, page) for each in (reason.nearest_case.picture,
                                                           reason.picture))  # fmt: skip
        assert bool(upper) == bool(lower)
        if lower:
            assert upper[0][1] == lower[0][1] and upper[0][0] < lower[0][0]
            indices.append(reason.index)
    return indices


@pytest.mark.parametrize("channels", [1, 3])
def test_image_and_reconstruction_stand_left_of_cases_and_prototypes(channels: int) -> None:
    found = with_contributions([1.5, 6.0, 3.0, 0.1], channels=channels)
    assert drawn(found) == [1, 2, 0]
    figure = reasons_figure(found, "Tiny")
    page = to_array(figure)
    upper = [found.image, *(found.prototypes[k].nearest_case.picture for k in range(3))]
    lower = [found.reconstruction, *(found.prototypes[k].picture for k in range(3))]
    for line in (upper, lower):
        corners = [places_of(picture, page)[0] for picture in line]
        assert [x for _, x in corners] == sorted(x for _, x in corners)
        assert len({y for y, _ in corners}) == 1
    expected = {BECAUSE[1], "distance 3.00", "contributes +6.00", "automobile", "Tiny"}
    assert expected | {"the other prototype", "contributes +0.10"} <= set(words(figure))
    lengths = [np.ptp(np.asarray(line.get_xdata())) for line in figure.axes[0].lines]
    assert np.allclose(np.array(lengths) / lengths[0], [1, 0.5, 0.25])
    assert {to_hex(line.get_color()).upper() for line in figure.axes[0].lines} == {BLUE}


@pytest.mark.parametrize(
    ("values", "far", "expected"),
    [
        ([7.17, 0.19, -0.05], (), [0]),
        ([4.0, 0.35, 0.45, -9.0], (), [0]),
        ([2.0, 1.0, 3.0], (2,), [0, 1]),
        ([5.0, 4.0, 3.0, 2.0, 1.0], (), [0, 1, 2]),
    ],
    ids=["negative and small", "small beside one against", "far", "more than are named"],
)
def test_because_stands_only_over_what_speaks_for_the_class(
    values: list[float], far: tuple[int, ...], expected: list[int]
) -> None:
    found = with_contributions(values, far)
    assert drawn(found) == expected
    text = words(reasons_figure(found, "Tiny"))
    assert BECAUSE[len(expected) > 1] in text
    others = sum(value for p, value in enumerate(values) if p not in expected)
    assert any(each.endswith(f"{others:+.2f}") for each in text)


@pytest.mark.parametrize(
    ("values", "far"),
    [([-2.0, -0.5, -1.0, -3.0], ()), ([0.004, 0.001, 0.0], ()), ([3.0, 2.0], (0, 1))],
    ids=["all against", "all negligible", "all far"],
)
def test_where_none_that_is_near_speaks_for_the_class_the_figure_says_so(
    values: list[float], far: tuple[int, ...]
) -> None:
    found = with_contributions(values, far)
    figure = reasons_figure(found, "Tiny")
    assert not any("because" in each for each in words(figure))
    assert "although no prototype near it speaks for that; the nearest:" in words(figure)
    nearest = sorted(found.prototypes, key=lambda reason: reason.distance)[:3]
    assert sorted(drawn(found)) == sorted(reason.index for reason in nearest)
    assert "looks like" not in found.because
    colours = {to_hex(line.get_color()).upper() for line in figure.axes[0].lines}
    assert (VERMILION in colours) == (min(values) <= 0)


@pytest.mark.parametrize(
    ("label", "truth"), [("automobile", "correct"), ("truck", "true class: truck")]
)
def test_the_true_class_is_told(label: str, truth: str) -> None:
    assert truth in words(reasons_figure(explanation(2, label=label), "Tiny"))
