"""The baseline: the same network, trained as the published port trains it, in plain words.

Each image is deformed on its own by SciPy in the workers of a DataLoader; float32, NCHW; every
layer as it is defined; losses are fetched from the device in every step.
"""

import multiprocessing
import time
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate

from protodl.core.experiment_config import Experiment
from protodl.data.datasets import Split
from protodl.network.losses import classification, r1, r2, reconstruction_error
from protodl.network.network import PrototypeNetwork

LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 2e-3, 4e-5, 1.0
ALPHA, SIGMA = 20.0, 4.0  # pixels
AHEAD = 2  # batches that each worker loads ahead: DataLoader's default
ENDLESS = 10**12  # images
PATIENCE = 120.0  # seconds for the workers to come to rest

Pixels = NDArray[np.floating]
Network = TypeVar("Network", bound=nn.Module)


def deform_image(image: Pixels, noise: Pixels, alpha: float, sigma: float) -> Pixels:
    """Elastic deformation of one image (C, H, W) by noise (2, H, W) in [-1, 1] (Simard 2003)."""
    dy, dx = (alpha * gaussian_filter(axis, sigma, mode="constant", cval=0) for axis in noise)
    y, x = np.mgrid[: image.shape[1], : image.shape[2]]
    place = [y + dy, x + dx]
    return np.stack([map_coordinates(channel, place, order=1) for channel in image])


class DeformedImages(Dataset[tuple[Tensor, int]]):
    """A data set that hands out one image at a time, deformed."""

    def __init__(self, split: Split) -> None:
        self.images, self.labels = split.images.numpy(), split.labels.tolist()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image (C, H, W) in [0, 1] and label."""
        image = self.images[index].astype(np.float32) / 255
        noise = 2 * np.random.rand(2, *image.shape[1:]) - 1
        deformed = deform_image(image, noise, ALPHA, SIGMA)
        return torch.from_numpy(deformed.astype(np.float32)), self.labels[index]


class Collate:
    """Makes batches of images and counts them, over all workers."""

    def __init__(self) -> None:
        self.batches = multiprocessing.Value("q", 0)

    def __call__(self, cases: list[tuple[Tensor, int]]) -> list[Tensor]:
        """Images (N, C, H, W) and labels (N,)."""
        batch: list[Tensor] = default_collate(cases)
        with self.batches.get_lock():
            self.batches.value += 1
        return batch


class PortWay:
    """A training that goes step by step."""

    def __init__(
        self, network: PrototypeNetwork, split: Split, experiment: Experiment, workers: int
    ) -> None:
        self.network = use_plain_layers(network)
        self.experiment = experiment
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        data = DeformedImages(split)
        self.loaded, self.taken, self.ahead = Collate(), 0, AHEAD * workers
        loader = DataLoader(
            data,
            experiment.batch_size,
            sampler=RandomSampler(data, num_samples=ENDLESS),  # no gaps between short epochs
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            collate_fn=self.loaded,
        )
        self.batches = iter(loader)

    def train_batch(self) -> int:
        """One step on the next batch; returns its number of images."""
        images, labels = next(self.batches)
        self.taken += 1
        self.step(images, labels)
        return len(labels)

    def settle(self) -> None:
        """Wait until the workers have loaded all that they load ahead, and rest.

        Raises:
            TimeoutError: they do not come to rest.
        """
        deadline = time.monotonic() + PATIENCE
        while self.loaded.batches.value < self.taken + self.ahead:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the loader's workers did not finish within {PATIENCE} s")
            time.sleep(0.001)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """One optimizer step; returns every loss term as a number, fetched one by one."""
        output, weights = self.network(images), self.experiment.loss
        errors = reconstruction_error(output.reconstructions, images, weights.reconstruction_norm)
        terms = {
            "classification": classification(output.logits, labels),
            "reconstruction": errors.mean(),
            "r1": r1(output.distances),
            "r2": r2(output.distances),
        }
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
        self.optimizer.step()
        fetched = {name: value.item() for name, value in terms.items()}
        correct = (F.softmax(output.logits, dim=1).argmax(dim=1) == labels).float().mean()
        return {**fetched, "loss": loss.item(), "accuracy": correct.item()}


def use_plain_layers(network: Network) -> Network:
    """Switch every shortcut of the network off: each layer computes as it is defined."""
    for layer in network.modules():
        if (plain := getattr(layer, "plain", None)) is not None:
            layer.forward = plain
    return network
