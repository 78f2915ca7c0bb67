"""The baseline: the same network, trained as the published port trains it, in plain words.

Each image is deformed on its own by SciPy in the workers of a DataLoader; float32, NCHW; resize and
convolution one after the other; losses are fetched from the device in every step.
"""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from protodl.config import Experiment
from protodl.datasets import Split
from protodl.losses import loss_terms
from protodl.models import PrototypeNetwork, ResizeConv2d, UpsampleDecoder

LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 2e-3, 4e-5, 1.0


Pixels = NDArray[np.floating]


def deform_image(image: Pixels, noise: Pixels, alpha: float, sigma: float) -> Pixels:
    """Elastic deformation of one image (C, H, W) by noise (2, H, W) in [-1, 1] (Simard 2003)."""
    dy, dx = (alpha * gaussian_filter(axis, sigma, mode="constant", cval=0) for axis in noise)
    y, x = np.mgrid[: image.shape[1], : image.shape[2]]
    place = [y + dy, x + dx]
    return np.stack([map_coordinates(channel, place, order=1) for channel in image])


class DeformedImages(Dataset[tuple[Tensor, int]]):
    """A data set that hands out one image at a time, deformed."""

    def __init__(self, split: Split, alpha: float, sigma: float) -> None:
        self.images, self.labels = split.images.numpy(), split.labels.tolist()
        self.alpha, self.sigma = alpha, sigma

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image (C, H, W) in [0, 1] and label."""
        image = self.images[index].astype(np.float32) / 255
        noise = 2 * np.random.rand(2, *image.shape[1:]) - 1
        deformed = deform_image(image, noise, self.alpha, self.sigma)
        return torch.from_numpy(deformed.astype(np.float32)), self.labels[index]


class PortWay:
    """A training that goes step by step; `steps` yields the number of images of each."""

    def __init__(self, network: PrototypeNetwork, split: Split, experiment: Experiment) -> None:
        self.network = use_plain_layers(network)
        self.experiment = experiment
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self.split = split

    def steps(self, workers: int) -> Iterator[int]:
        """Train for ever."""
        data = DeformedImages(self.split, alpha=20, sigma=4)
        loader = DataLoader(
            data,
            batch_size=self.experiment.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,  # its epochs are long, those of a benchmark are short
        )
        while True:
            for images, labels in loader:
                self.step(images, labels)
                yield len(labels)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """One optimizer step; returns every loss term as a number, fetched one by one."""
        output = self.network(images)
        terms = loss_terms(output, images, labels, self.experiment.loss.reconstruction_norm)
        loss = terms.total(self.experiment.loss)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
        self.optimizer.step()
        fetched = {name: value.item() for name, value in vars(terms).items()}
        correct = (F.softmax(output.logits, dim=1).argmax(dim=1) == labels).float().mean()
        return {**fetched, "accuracy": correct.item()}


def use_plain_layers(network: PrototypeNetwork) -> PrototypeNetwork:
    """Switch every shortcut of the network off: resize, then convolve."""
    if isinstance(network.decoder, UpsampleDecoder):
        for layer in cast(list[ResizeConv2d], list(network.decoder.layers)):
            layer.mix_first = False
    return network
