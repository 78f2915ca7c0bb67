"""Matrices: each number in its cell, under its column and beside its row, on the right shade."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from protodl.report.figures.matrices import confusion_figure, weights_figure
from protodl.report.figures.page import PAGE_WIDTH, to_array
from tests.report.figures.drawings import (
    CIFAR,
    DIGITS,
    MINUS,
    Pixels,
    head_weights,
    marked_images,
    places_of,
    smooth_images,
    words,
)


def names(axes: Axes) -> tuple[list[str], list[str]]:
    """Of rows and of columns, in order."""
    ticks = axes.get_yticklabels(), axes.get_xticklabels()
    rows, columns = ([label.get_text() for label in labels] for labels in ticks)
    return rows, columns


def cells(axes: Axes) -> dict[tuple[int, int], str]:
    """What is written in row r, column c, with plain minus signs."""
    places = [(text.get_position(), text.get_text()) for text in axes.texts]
    return {(round(r), round(c)): words.replace(MINUS, "-") for (c, r), words in places}


def shades(axes: Axes) -> Pixels:
    return np.asarray(axes.images[0].get_array())


@pytest.mark.parametrize("count", [1, 5, 15, 26, 60])
def test_each_weight_stands_in_its_cell_and_the_most_negative_is_filled(count: int) -> None:
    weights = head_weights(count)
    seen = []
    for axes in weights_figure(weights, DIGITS).axes[1:]:
        rows, columns = names(axes)
        assert columns == DIGITS
        prototypes = [int(name[1:]) for name in rows]
        shown = weights.T[prototypes]
        assert len(cells(axes)) == shown.size
        for place, number in cells(axes).items():
            assert float(number) == pytest.approx(shown[place], abs=0.051)
        full = (shades(axes) == [0x00, 0x72, 0xB2]).all(axis=2)
        assert (full == (shown == shown.min(axis=1, keepdims=True))).all()
        white = {text.get_position() for text in axes.texts if text.get_color() == "white"}
        assert white == {(c, r) for r, c in np.argwhere(full)}
        seen += prototypes
    strongest = [(int(weights[:, p].argmin()), float(weights[:, p].min())) for p in seen]
    assert strongest == sorted(strongest)
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("count", [26, 50, 51, 120])
def test_long_weight_matrices_stand_side_by_side_on_the_page(count: int) -> None:
    figure = weights_figure(head_weights(count), CIFAR, smooth_images(count, 3, 32))
    assert round(figure.bbox.width) <= PAGE_WIDTH
    boxes = [axes.get_window_extent() for axes in figure.axes[1:]]
    assert len({round(box.x0) for box in boxes}) == 2
    assert all(box.x1 <= figure.bbox.width for box in boxes)


def test_the_thumbnail_stands_left_of_its_row_and_upright() -> None:
    images = marked_images(3, height=12, width=9)
    figure = weights_figure(head_weights(3), DIGITS, images)
    page = to_array(figure)
    for label in figure.axes[1].get_yticklabels():
        ((y, x),) = places_of(images[int(label.get_text()[1:])], page)
        number = label.get_window_extent()
        assert y < page.shape[0] - (number.y0 + number.y1) / 2 < y + 80
        assert 0 <= number.x0 < number.x1 < x < figure.axes[1].get_window_extent().x0


def test_numbers_are_as_small_as_their_cells_need() -> None:
    figure = weights_figure(-2 * head_weights(40), CIFAR, smooth_images(40, 1, 28))
    for axes in figure.axes[1:]:
        cell = axes.get_window_extent().width / 10
        assert all(text.get_window_extent().width < cell for text in axes.texts)


def test_confusion_shows_each_count_in_its_cell_the_accuracy_and_the_seed() -> None:
    counts = np.arange(100).reshape(10, 10) + 1
    figure = confusion_figure(counts, CIFAR, seed=3)
    assert names(figure.axes[1]) == (CIFAR, CIFAR)
    assert cells(figure.axes[1]) == {place: str(n) for place, n in np.ndenumerate(counts)}
    share = 100 * np.trace(counts) / counts.sum()
    assert f"seed 3: accuracy {share:.2f} % of 5,050 test images" in words(figure)
    assert f"{100 * counts[0, 0] / counts[0].sum():.1f} %" in words(figure)


def test_the_diagonal_does_not_drown_a_rare_error() -> None:
    counts = np.diag([1000] * 10)
    counts[4, 9] = 3
    shade = shades(confusion_figure(counts, DIGITS, 0).axes[1]).astype(int)
    assert (shade[4, 9] - 255).min() < -100
    assert (shade[9, 4] == 255).all()
    assert shade[4, 4, 2] > shade[4, 4, 0]  # the diagonal is blue, errors are not
    assert shade[4, 9, 2] < shade[4, 9, 0]


def test_confusion_with_an_absent_class_and_many_classes() -> None:
    counts = np.eye(30, dtype=np.int64)
    counts[3, 3] = 0
    figure = confusion_figure(counts, [f"a long class name {k}" for k in range(30)], 0)
    assert "no image" in words(figure)
    height, width, _ = to_array(figure).shape
    assert max(height, width) < 2000
    for label in figure.axes[1].get_xticklabels() + figure.axes[1].get_yticklabels():
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_shapes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="class names"):
        weights_figure(head_weights(3), DIGITS[:9])
    with pytest.raises(ValueError, match="classes"):
        confusion_figure(np.zeros((3, 3), int), DIGITS, 0)
