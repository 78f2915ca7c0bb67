"""Images and explanations to draw, and what is read back from a figure."""

import dataclasses
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from protodl.explanation.types import (
    Case,
    ChangeNeeded,
    Explanation,
    Outcome,
    OutOfDistribution,
    PrototypeReason,
    SingleChange,
)
from protodl.report.figures.prototypes import prototypes_figure

DIGITS = [str(k) for k in range(10)]
CIFAR = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]  # fmt: skip
MINUS = "\N{MINUS SIGN}"
Pixels = NDArray[np.uint8]


def smooth_images(count: int, channels: int, size: int) -> NDArray[np.float64]:
    """Soft random blobs, about as compressible as decoded images: (N, C, size, size)."""
    coarse = np.random.default_rng(0).random((count, channels, 6, 6))
    places = np.linspace(0, 5, size)
    low = np.minimum(places.astype(int), 4)
    resize = np.zeros((size, 6))
    resize[np.arange(size), low] = 1 - (places - low)
    resize[np.arange(size), low + 1] = places - low
    return np.asarray(np.einsum("hi,ncij,wj->nchw", resize, coarse, resize))


def marked_images(count: int, channels: int = 3, height: int = 8, width: int = 14) -> Pixels:
    """Images (N, C, H, W) without symmetry: three corners and the background all differ."""
    images = np.full((count, channels, height, width), 90, np.uint8)
    images[:, 0, 0, 0] = 10
    images[:, 0, 0, -1] = 170
    images[:, -1, -1, 0] = 230
    images[:, 0, 2, 3] = 100 + np.arange(count) % 60  # each image its own
    return images


def places_of(image: Pixels, page: Pixels) -> list[tuple[int, int]]:
    """Where an image (C, H, W) stands upright on a page (H, W, 3), enlarged by a whole number."""
    found = []
    upright = np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))
    for scale in range(1, 15):
        tile = upright.repeat(scale, axis=0).repeat(scale, axis=1)
        high, wide = tile.shape[:2]
        if high > page.shape[0] or wide > page.shape[1]:
            break
        candidates = np.ones((page.shape[0] - high + 1, page.shape[1] - wide + 1), bool)
        for y, x in ((0, 0), (0, wide - 1), (high - 1, 0)):
            window = page[y : y + candidates.shape[0], x : x + candidates.shape[1], 0]
            candidates &= window == tile[y, x, 0]
        for y, x in np.argwhere(candidates):
            if (page[y : y + high, x : x + wide] == tile).all():
                found.append((int(y), int(x)))
    return found


def texts(figure: Figure) -> list[Text]:
    return [text for axes in figure.axes for text in axes.texts]


def words(figure: Figure) -> list[str]:
    """Everything written on a figure, with plain minus signs."""
    return [text.get_text().replace(MINUS, "-") for text in texts(figure)]


def head_weights(count: int, classes: int = 10) -> NDArray[np.float64]:
    """(K, P); each prototype has one clearly negative weight."""
    generator = np.random.default_rng(1)
    weights = generator.uniform(0, 2, (classes, count))
    weights[np.arange(count) * 7 % classes, np.arange(count)] = generator.uniform(-9, -1, count)
    return weights


def prototypes_of(count: int, channels: int = 3, **size: int) -> tuple[Pixels, Figure]:
    images = marked_images(count, channels, **size)
    weights = head_weights(count)
    classes = weights.argmin(axis=0)
    return images, prototypes_figure(images, classes, weights.min(axis=0), DIGITS, cases_of(images))


def cases_of(images: Pixels) -> Pixels:
    """For each prototype's picture a training image that differs from all of them."""
    cases = 255 - images
    cases[:, 0, 4, 4] = 100 + np.arange(len(images)) % 60
    return cases


def explanation(count: int, channels: int = 3, **changes: Any) -> Explanation:
    """Of an image that is taken for an automobile; pictures without symmetry, each its own."""
    pictures = marked_images(2 * count + 8, channels)
    values = np.random.default_rng(0).normal(0, 2, (count, 2)).round(3)
    values = values[np.argsort(-values[:, 0])]
    prototypes = [
        PrototypeReason(
            index=p,
            class_name=CIFAR[p % 10],
            distance=1.5 * p,
            usual_distance=20.25,
            weight=-12.5,
            weight_to_runner_up=0.5,
            contribution=float(values[p, 0]),
            contribution_to_runner_up=float(values[p, 1]),
            nearest_case=Case(100 + p, CIFAR[p % 3], 0.5, pictures[2 * p]),
            picture=pictures[2 * p + 1],
        )
        for p in range(count)
    ]
    base = [0.25] * 10
    totals = 0.25 + values.sum(axis=0)
    found = Explanation(
        name="a-picture",
        path=None,
        row="cifar10-small-deconv",
        seed=0,
        class_names=tuple(CIFAR),
        prediction=Outcome(1, "automobile", 0.8, float(totals[0])),
        runner_up=Outcome(0, "airplane", 0.1, float(totals[1])),
        label="automobile",
        baseline_logits=tuple(base),
        prototypes=tuple(prototypes),
        nearest_cases=tuple(Case(n, CIFAR[n], 1.0 + n, pictures[-1 - n]) for n in range(6)),
        change_needed=ChangeNeeded(1.5, SingleChange(3, "automobile", 0.5, 1.25)),
        out_of_distribution=OutOfDistribution(False, 0.25, 0.5, 1.0, 0.25, 0.75),
        notes=(),
        doubts=(),
        remarks=(),
        image=pictures[-7],
        reconstruction=pictures[-8],
    )
    return dataclasses.replace(found, **changes)
