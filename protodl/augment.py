"""Random changes of a batch of training images, each image its own; all state in a Generator.

Shapes: N images, C channels, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from protodl.config import AugmentConfig


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
    top, left = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator, device=device)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    if flip:
        mirrored = torch.randint(0, 2, (n, 1), generator=generator, device=device).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (shift, shift, shift, shift))
    batch = torch.arange(n, device=device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], (left + columns)[:, None, :]]
    return moved.permute(0, 3, 1, 2)


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
    height, width = noise.shape[-2:]
    down = gaussian_matrix(height, sigma).to(noise)
    across = gaussian_matrix(width, sigma).to(noise)
    return alpha * (down @ noise @ across.T)


def deform(images: Tensor, field: Tensor) -> Tensor:
    """Sample images (N, C, H, W) at p + field(p), field (N, 2, H, W) in pixels, (y, x) order.

    Bilinear, and 0 wherever a point lies outside the pixel centres: what
    `scipy.ndimage.map_coordinates(order=1, mode="constant")` gives, border included.
    """
    height, width = images.shape[-2:]
    y = field[:, 0] + torch.arange(height, device=field.device)[:, None]
    x = field[:, 1] + torch.arange(width, device=field.device)
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    sampled = F.grid_sample(images, grid, align_corners=True, padding_mode="border")
    inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    return sampled * inside[:, None]


def elastic(images: Tensor, alpha: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Elastic deformation of images (N, C, H, W), a field of its own for each (Simard 2003).

    Args:
        images: floating point.
        alpha: strength, in pixels before smoothing.
        sigma: smoothness, the Gaussian's standard deviation in pixels.
        generator: source of randomness, on the images' device.
    """
    n, _, height, width = images.shape
    noise = torch.rand(
        (n, 2, height, width), generator=generator, device=images.device, dtype=images.dtype
    )
    return deform(images, displacement(2 * noise - 1, alpha, sigma))


def augment_pixels(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """The changes that only move whole pixels, on the stored uint8 images (N, C, H, W)."""
    if config.shift == 0 and not config.flip:
        return images
    return shift_and_flip(images, config.shift, config.flip, generator)


def augment_values(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """The changes that interpolate, on images (N, C, H, W) in [0, 1]."""
    if config.elastic_alpha == 0:
        return images
    return elastic(images, config.elastic_alpha, config.elastic_sigma, generator)
