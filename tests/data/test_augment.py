"""Augmentation: the elastic deformation is SciPy's, each image has its own, all is seeded."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from protodl.core.experiment_config import AugmentConfig
from protodl.data.augment import (
    augmented,
    deform,
    displacement,
    elastic,
    gaussian_matrix,
    shift_and_flip,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("size", "sigma"), [(28, 4.0), (32, 4.0), (28, 1.3), (9, 10.0)])
def test_gaussian_matrix_is_scipys_filter(size: int, sigma: float) -> None:
    field = torch.rand(size, size, dtype=torch.float64, generator=generator())
    matrix = gaussian_matrix(size, sigma)
    expected = gaussian_filter(field.numpy(), sigma, mode="constant", cval=0)
    np.testing.assert_allclose((matrix @ field @ matrix.T).numpy(), expected, atol=1e-14)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 32, 32), (2, 11, 17)])
@pytest.mark.parametrize("alpha", [20.0, 300.0])  # the second throws many points outside
def test_elastic_deformation_is_scipys(
    channels: int, height: int, width: int, alpha: float
) -> None:
    images = torch.rand(4, channels, height, width, dtype=torch.float64, generator=generator(1))
    noise = 2 * torch.rand(4, 2, height, width, dtype=torch.float64, generator=generator(2)) - 1
    ours = deform(images, displacement(noise, alpha, 4.0)).numpy()
    y, x = np.mgrid[:height, :width].astype(float)
    for n in range(4):
        dy, dx = (
            alpha * gaussian_filter(noise[n, axis].numpy(), 4.0, mode="constant", cval=0)
            for axis in (0, 1)
        )
        for c in range(channels):
            expected = map_coordinates(images[n, c].numpy(), [y + dy, x + dx], order=1)
            np.testing.assert_allclose(ours[n, c], expected, atol=1e-10)


def test_elastic_keeps_floating_point_and_gives_each_image_its_own_field() -> None:
    same = torch.rand(1, 1, 28, 28, generator=generator()).expand(3, 1, 28, 28)
    deformed = elastic(same, 20, 4, generator())
    assert not torch.equal(deformed[0], deformed[1])
    assert not torch.equal(deformed * 255, (deformed * 255).round())  # not truncated to uint8
    assert 0 <= deformed.min() <= deformed.max() <= 1


def test_shift_moves_whole_pixels_and_brings_in_zeros() -> None:
    images = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(200, 1, 5, 5)
    moved = shift_and_flip(images, 1, False, generator())
    assert moved.dtype == torch.uint8
    padded = torch.nn.functional.pad(images[:1], (1, 1, 1, 1))[0, 0]
    possible = {
        tuple(padded[top : top + 5, left : left + 5].flatten().tolist())
        for top in range(3)
        for left in range(3)
    }
    seen = {tuple(image.flatten().tolist()) for image in moved}
    assert seen == possible


def test_flip_mirrors_about_half_of_the_images_left_and_right() -> None:
    images = torch.rand(1, 3, 4, 6, generator=generator()).expand(400, 3, 4, 6)
    flipped = shift_and_flip(images, 0, True, generator())
    mirrored = torch.tensor([torch.equal(image, images[0].flip(-1)) for image in flipped])
    kept = torch.tensor([torch.equal(image, images[0]) for image in flipped])
    assert (mirrored ^ kept).all()
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(elastic_alpha=20, shift=2, flip=True),
        AugmentConfig(elastic_alpha=20),
        AugmentConfig(shift=1),
    ],
)
def test_the_same_seed_gives_the_same_batch(config: AugmentConfig) -> None:
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8, generator=generator())
    state = torch.get_rng_state()

    def run(seed: int) -> torch.Tensor:
        return augmented(images, config, generator(seed))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(state, torch.get_rng_state())  # the global state is nobody's business


def test_everything_off_only_scales() -> None:
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8, generator=generator())
    assert torch.equal(augmented(images, AugmentConfig(), generator()), images / 255)
