"""Images as pixels: where each tile of a grid comes to stand, and what is no image."""

import numpy as np
import pytest

from protodl.report.figures.pixels import Images, image_grid
from tests.report.figures.drawings import marked_images


@pytest.mark.parametrize("channels", [1, 3])
def test_the_plain_grid_tiles_row_by_row(channels: int) -> None:
    images = marked_images(7, channels)
    grid = image_grid(images, columns=3, padding=2)
    assert grid.shape == (3 * 10 + 2, 3 * 16 + 2, channels)
    for index, image in enumerate(images):
        y, x = 2 + index // 3 * 10, 2 + index % 3 * 16
        assert (grid[y : y + 8, x : x + 14] == image.transpose(1, 2, 0)).all()
    assert (grid[22:, 18:] == 255).all()
    one = image_grid(images[:1] / 255.0, columns=5, padding=0, scale=2)
    assert (one[::2, ::2] == images[0].transpose(1, 2, 0)).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8)), "shape"),
        (np.zeros((2, 2, 8, 8)), "shape"),
        (np.zeros((0, 1, 8, 8)), "shape"),
        (np.zeros((2, 1, 8, 8), np.int64), "int64"),
        (np.full((2, 1, 8, 8), np.nan), "finite"),
    ],
)
def test_images_that_cannot_be_shown_are_refused(images: Images, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_grid(images)
