"""Training: images a second beside the port's way, share of the machine's peak, what takes time."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Bench, Work, build_trainer, random_split, training
from benchmarks.operations import step_operations
from benchmarks.port_way import ALPHA, SIGMA, PortWay
from protodl.core.experiment_config import AugmentConfig, Experiment
from protodl.data.datasets import DATASETS
from protodl.network.network import PrototypeNetwork
from protodl.training.trainer import Trainer

# Keys of the loss that the published work has no counterpart of, at the value that takes them out.
OFF = {
    "decoded_prototype_classification": 0.0,
    "cycle": 0.0,
    "diversity": 0.0,
    "distillation": 0.0,
    "recognition": 0.0,
    "label_smoothing": 0.0,
    "exchanged_appearance": 0.0,
    "reconstruction_share": 1.0,
}
PROFILED_STEPS = 5
TOP_OPERATORS = 6


def published_work(experiment: Experiment) -> Experiment:
    """The row with the published terms of the loss and the published augmentation only.

    Both sides of a comparison then do the same work for an image.
    """
    augment = AugmentConfig(elastic_alpha=ALPHA, elastic_sigma=SIGMA, shift=0, flip=False)
    return experiment.model_copy(
        update={"loss": experiment.loss.model_copy(update=OFF), "augment": augment}
    )


def measure_rows(bench: Bench) -> dict[str, Any]:
    """Throughput, share of peak and profile of every row."""
    found: dict[str, Any] = {"throughput": {}, "share_of_peak": {}, "operations": {}, "profile": {}}
    for row, experiment in bench.params.experiments.items():
        for name, value in measure_row(bench, experiment).items():
            found[name][row] = value
        print(f"{row}: {found['throughput'][row]['ratio']:.1f} times the port's way", flush=True)
    return found


def measure_row(bench: Bench, experiment: Experiment) -> dict[str, Any]:
    """The figures of one row: our way, the port's, the row's recipe and the peak, in turns."""
    runtime, published = bench.runtime, published_work(experiment)
    ours = build_trainer(published, runtime)
    port = build_port(published, workers=runtime.threads)
    ours_rate, port_rate, recipe_rate, peak = bench.stopwatch.rates(
        training(ours),
        Work(port.train_batch, port.settle),
        training(build_trainer(experiment, runtime)),
        matrix_product(runtime.dtype),
    )
    per_image = step_operations(ours.network, 1)
    achieved = ours_rate * per_image
    return {
        "throughput": {
            "images_per_second": ours_rate,
            "port_images_per_second": port_rate,
            "ratio": ours_rate / port_rate,
            "recipe_images_per_second": recipe_rate,
        },
        "share_of_peak": achieved / peak,
        "operations": {
            "megaflop_per_image": per_image / 1e6,
            "achieved_gflops": achieved / 1e9,
            "peak_gflops": peak / 1e9,
        },
        "profile": top_operators(ours),
    }


def build_port(experiment: Experiment, workers: int) -> PortWay:
    """The baseline's training of the same row, on images of its own."""
    info = DATASETS[experiment.dataset]
    torch.manual_seed(0)
    network = PrototypeNetwork(experiment.model, info.channels, info.size)
    return PortWay(network, random_split(info.shape), experiment, workers)


def matrix_product(dtype: torch.dtype, size: int = 2048) -> Work:
    """A product of two square matrices; the unit is a floating-point operation."""
    a = torch.randn(size, size).to(dtype)

    def product() -> int:
        torch.mm(a, a)
        return 2 * size**3

    return Work(product)


def top_operators(trainer: Trainer) -> list[tuple[str, float]]:
    """The operators that take most of a step, each with its own share of the processors' time."""
    work = training(trainer)
    work.do()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(PROFILED_STEPS):
            work.do()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [(event.key, event.self_cpu_time_total / total) for event in events[:TOP_OPERATORS]]
