"""What single parts cost: elastic deformation, a step as it grows, an answer, an explanation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Bench, Work, build_trainer, random_split, training
from benchmarks.port_way import ALPHA, SIGMA, deform_image
from protodl.core.experiment_config import Experiment
from protodl.data.augment import elastic
from protodl.data.datasets import DATASETS, to_unit_interval
from protodl.network.head import contributions
from protodl.network.network import PrototypeNetwork

BATCH_SIZES = (32, 64, 125, 250, 500, 1000)
PROTOTYPES = (15, 50, 200, 1000, 2000)
ANSWERED = 500  # images at once

Variant = tuple[Experiment, tuple[int, int, int] | None]  # with images (C, H, W), or the data set's


def measure_elastic(bench: Bench) -> dict[str, Any]:
    """Deformed images a second on one core, against SciPy image by image; noise included."""
    images = to_unit_interval(random_split((1, 28, 28), 250).images)
    arrays = images[:25].numpy()
    generator, random = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def ours() -> int:
        elastic(images, ALPHA, SIGMA, generator)
        return len(images)

    def scipys() -> int:
        for image in arrays:
            deform_image(image, 2 * random.random((2, 28, 28)) - 1, ALPHA, SIGMA)
        return len(arrays)

    torch.set_num_threads(1)
    try:
        fast, slow = bench.stopwatch.rates(Work(ours), Work(scipys))
    finally:
        torch.set_num_threads(bench.runtime.threads)
    speed = {"images_per_second": fast, "scipy_images_per_second": slow, "ratio": fast / slow}
    return {"elastic": speed}


def measure_growth(bench: Bench) -> dict[str, Any]:
    """Milliseconds of a step of the first row with one thing changed at a time.

    Channels and widths are compared on images of 32 x 32 pixels.
    """
    first = next(iter(bench.params.experiments.values()))
    grey, colour = (1, 32, 32), (3, 32, 32)
    large = changed_model(first, architecture="large")
    variants: dict[str, dict[str, Variant]] = {
        "batch_size": {str(n): (batch_of(first, n), None) for n in BATCH_SIZES},
        "num_prototypes": {
            str(n): (changed_model(first, num_prototypes=n), None) for n in PROTOTYPES
        },
        "channels": {"1": (first, grey), "3": (first, colour)},
        "encoder": {"small": (first, colour), "large": (large, colour)},
    }
    found = {name: milliseconds(bench, chosen) for name, chosen in variants.items()}
    return {"step_milliseconds": found}


def batch_of(experiment: Experiment, size: int) -> Experiment:
    """The experiment with another batch size."""
    return experiment.model_copy(update={"batch_size": size})


def changed_model(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with another network."""
    return experiment.model_copy(update={"model": experiment.model.model_copy(update=changes)})


def milliseconds(bench: Bench, variants: Mapping[str, Variant]) -> dict[str, float]:
    """Milliseconds of a step of each variant, measured in turns."""
    works = [
        training(build_trainer(each, bench.runtime, shape)) for each, shape in variants.values()
    ]
    sizes = [experiment.batch_size for experiment, _ in variants.values()]
    rates = bench.stopwatch.rates(*works)
    return {
        name: 1000 * size / rate for name, size, rate in zip(variants, sizes, rates, strict=True)
    }


def measure_answers(bench: Bench) -> dict[str, Any]:
    """Microseconds an image of every row: classified, and explained."""
    found: dict[str, dict[str, float]] = {}
    for row, experiment in bench.params.experiments.items():
        network = build_trainer(experiment, bench.runtime).network.eval()
        images = to_unit_interval(random_split(DATASETS[experiment.dataset].shape, ANSWERED).images)
        rates = bench.stopwatch.rates(*answers(network, images))
        found[row] = dict(zip(("classify", "explain"), (1e6 / rate for rate in rates), strict=True))
    return {"evaluation_microseconds": found}


def answers(network: PrototypeNetwork, images: torch.Tensor) -> tuple[Work, Work]:
    """Classifying images (N, C, H, W) without the decoder; and explaining them.

    The explanation: distances, what each prototype contributes, and the reconstruction.
    """

    @torch.inference_mode()
    def classify() -> int:
        network(images, decode=False)
        return len(images)

    @torch.inference_mode()
    def explain() -> int:
        output = network(images)
        contributions(output.distances, output.distances.mean(dim=0), network.head.weight)
        return len(images)

    return Work(classify), Work(explain)
