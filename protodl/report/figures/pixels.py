"""Arrays of images as pixels, without matplotlib: a training shows its pictures with this alone.

Shapes: N images, C channels (1 grey, 3 colour), H, W.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Images = npt.NDArray[Any]  # uint8, or floating in [0, 1]


def to_pixels(images: Images, name: str) -> Pixels:
    """(N, C, H, W) -> uint8 (N, H, W, C); ValueError for other shapes or values."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"{name}: expected images (N, 1 or 3, H, W), got shape {images.shape}")
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"{name}: expected uint8 or floats in [0, 1], got {images.dtype}")
        if not np.isfinite(images).all():
            raise ValueError(f"{name}: not all values are finite; has the training diverged?")
        images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def image_grid(
    images: Images, columns: int = 10, padding: int = 2, scale: int = 1, background: int = 255
) -> Pixels:
    """Tile images (N, C, H, W) row by row, a pixel `scale` wide: uint8 (H, W, C)."""
    if columns < 1 or padding < 0 or scale < 1:
        raise ValueError(f"image_grid: {columns=} and {scale=} start at 1, {padding=} at 0")
    tiles = to_pixels(images, "image_grid").repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = tiles.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (rows * (height + padding) + padding, columns * (width + padding) + padding, channels)
    grid = np.full(size, background, np.uint8)
    for index, tile in enumerate(tiles):
        y = padding + index // columns * (height + padding)
        x = padding + index % columns * (width + padding)
        grid[y : y + height, x : x + width] = tile
    return grid
