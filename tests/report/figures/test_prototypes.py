"""The grid of prototypes: each upright, to the pixel, in its place."""

import numpy as np
import pytest

from protodl.report.figures.page import PAGE_WIDTH, to_array
from protodl.report.figures.prototypes import prototype_order, prototypes_figure
from tests.report.figures.drawings import (
    CIFAR,
    DIGITS,
    cases_of,
    marked_images,
    places_of,
    prototypes_of,
    words,
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 15, 50])
def test_every_prototype_is_drawn_upright_and_to_the_pixel(count: int, channels: int) -> None:
    images, figure = prototypes_of(count, channels)
    page = to_array(figure)
    for p in range(0, count, 7):
        assert places_of(images[p], page), f"prototype {p} is missing or turned"
        assert not places_of(images[p].transpose(0, 2, 1), page)
    assert sum(len(axes.images) for axes in figure.axes) == 2 * count


@pytest.mark.parametrize("count", [3, 15, 50])
def test_every_prototype_stands_below_its_nearest_case(count: int) -> None:
    images, figure = prototypes_of(count)
    page, cases = to_array(figure), cases_of(images)
    for p in range(0, count, 7):
        upper, lower = (places_of(each, page)[0] for each in (cases[p], images[p]))
        assert upper[1] == lower[1]
        side = (lower[0] - upper[0]) // images.shape[2] * images.shape[2]
        assert 0 < lower[0] - upper[0] - side < 8  # nothing but a gap between them


def test_many_prototypes_stay_on_the_page() -> None:
    _, figure = prototypes_of(200)
    assert figure.bbox.width <= PAGE_WIDTH
    assert sum(name in DIGITS for name in words(figure)) == 200


def test_one_row_of_prototypes_is_one_row() -> None:
    images, figure = prototypes_of(5)
    page = to_array(figure)
    assert len({places_of(images[p], page)[0][0] for p in range(5)}) == 1


def test_empty_cells_are_blank() -> None:
    images, figure = prototypes_of(11)
    page = to_array(figure)
    height, scale = images.shape[2], 6  # 84 pixels over 14
    corners = [places_of(image, page)[0] for image in images]
    bottom = max(y for y, _ in corners)
    last = max(x for y, x in corners if y == bottom)
    right = last + images.shape[3] * scale
    assert right < max(x for _, x in corners) + images.shape[3] * scale  # there is an empty cell
    assert (page[bottom : bottom + height * scale + 40, right:] == 255).all()


def test_prototypes_of_a_class_stand_together_the_strongest_first() -> None:
    classes, weights = np.array([2, 0, 2, 0]), np.array([-1.0, -2.0, -3.0, -4.0])
    assert prototype_order(classes, weights) == [3, 1, 2, 0]
    figure = prototypes_figure(marked_images(4), classes, weights, DIGITS, marked_images(4))
    assert words(figure)[:8] == ["0", "#3 -4.00", "0", "#1 -2.00", "2", "#2 -3.00", "2", "#0 -1.00"]


def test_classes_without_a_prototype_are_named() -> None:
    figure = prototypes_figure(
        marked_images(2), np.array([0, 3]), np.array([-1.0, -1.0]), CIFAR[:5], marked_images(2)
    )
    assert "without a prototype: automobile, bird, deer" in words(figure)
    _, covered = prototypes_of(15)
    assert not any("without" in line for line in words(covered))


def test_numbers_that_do_not_fit_together_are_refused() -> None:
    images = marked_images(3)
    with pytest.raises(ValueError, match="as many"):
        prototypes_figure(images, np.zeros(2, int), np.zeros(2), DIGITS, images)
    with pytest.raises(ValueError, match="cases"):
        prototypes_figure(images, np.zeros(3, int), np.zeros(3), DIGITS, images[:2])
