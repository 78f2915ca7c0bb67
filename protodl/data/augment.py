"""Random changes of a batch of training images, each image its own; all state in a Generator.

Shapes: N images, C channels, H x W pixels.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from protodl.core.experiment_config import AugmentConfig
from protodl.data.datasets import to_unit_interval


def shift_and_flip(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Move each image by up to `shift` pixels along each axis (zeros come in), mirror half of them.

    Args:
        images: (N, C, H, W), any dtype.
        shift: largest movement in pixels.
        flip: whether to mirror left and right with probability 1/2.
        generator: source of randomness, on the images' device.
    """
    n, _, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * shift + 1, (2, n), generator=generator, device=device)
    padded = F.pad(images, (shift, shift, shift, shift))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # N, C, top, left, H, W
    moved = windows[torch.arange(n, device=device), :, top, left]
    if flip:
        mirrored = torch.randint(0, 2, (n, 1, 1, 1), generator=generator, device=device).bool()
        moved = torch.where(mirrored, moved.flip(3), moved)
    return moved


@cache
def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> Tensor:
    """Toeplitz matrix (size, size) of a Gaussian filter with zeros outside, as SciPy truncates it.

    `G @ x @ G.T` equals `scipy.ndimage.gaussian_filter(x, sigma, mode="constant")`.
    """
    radius = int(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    difference = torch.arange(size)[:, None] - torch.arange(size)[None, :]
    inside = difference.abs() <= radius
    return torch.where(inside, kernel[(difference + radius).clamp(0, 2 * radius)], 0.0)


def displacement(noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """Smooth fields (N, 2, H, W) in pixels from noise (N, 2, H, W) in [-1, 1): α · gaussian(noise).

    Simard, Steinkraus, Platt 2003, section 2.
    """
    n, axes, height, width = noise.shape
    down = alpha * gaussian_matrix(height, sigma).to(noise)
    across = gaussian_matrix(width, sigma).to(noise)
    rows = down @ noise.permute(2, 0, 1, 3).reshape(height, n * axes * width)  # H, (N 2 W)
    field = rows.view(height * n * axes, width) @ across.T  # one product for all images each way
    return field.view(height, n, axes, width).permute(1, 2, 0, 3)


def deform(images: Tensor, field: Tensor) -> Tensor:
    """Sample images (N, C, H, W) at p + field(p), field (N, 2, H, W) in pixels, (y, x) order.

    Bilinear, and 0 wherever a point lies outside the pixel centres: what
    `scipy.ndimage.map_coordinates(order=1, mode="constant")` gives, border included.
    """
    height, width = images.shape[-2:]
    y, x = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in (height, width))
    places = torch.stack([y[:, None].expand(height, width), x.expand(height, width)], dim=1)
    scale = 2 / torch.tensor([[height - 1], [width - 1]], dtype=torch.float64)  # pixels to [-1, 1]
    # H, N, (y, x), W: how `displacement` lays its fields out, and one that grid_sample reads fast.
    grid = torch.addcmul(places[:, None].to(field), field.permute(2, 0, 1, 3), scale.to(field))
    grid.masked_fill_(grid.abs() > 1, 3)  # so far outside that no pixel has a share in it
    upright = images.transpose(2, 3)  # grid_sample takes (x, y): exchange the images' axes instead
    return F.grid_sample(upright, grid.permute(1, 0, 3, 2), align_corners=True)


def uniform_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Whole numbers of [-2¹⁵, 2¹⁵), uniform, as float32: four for each 64-bit draw."""
    count = math.prod(shape)
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    draws.random_(-(2**63), None, generator=generator)
    return draws.view(torch.int16)[:count].view(shape).float()


def elastic(images: Tensor, alpha: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Elastic deformation of images (N, C, H, W), a field of its own for each (Simard 2003).

    Args:
        images: floating point.
        alpha: strength, in pixels before smoothing.
        sigma: smoothness, the Gaussian's standard deviation in pixels.
        generator: source of randomness, on the images' device.
    """
    n, _, height, width = images.shape
    # In the order in which `displacement` multiplies.
    noise = uniform_noise((height, n, 2, width), generator).permute(1, 2, 0, 3)
    return deform(images, displacement(noise.to(images.dtype), alpha / 2**15, sigma))


def augmented(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Training images in [0, 1], changed as `augment` in params.yaml says.

    Whole pixels are moved first, while the images are still uint8; elastic deformation follows.

    Args:
        images: uint8 (N, C, H, W).
        config: which changes, and how strong.
        generator: source of randomness, on the images' device.
    """
    if config.shift or config.flip:
        images = shift_and_flip(images, config.shift, config.flip, generator)
    values = to_unit_interval(images)
    if not config.elastic_alpha:
        return values
    return elastic(values, config.elastic_alpha, config.elastic_sigma, generator)
