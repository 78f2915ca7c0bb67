"""Measured speed of training, elastic deformation and evaluation; every figure is of this run."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.operations import step_operations
from benchmarks.port_way import PortWay, deform_image
from protodl.augment import deform, displacement
from protodl.config import Experiment
from protodl.datasets import DATASETS, Split, to_unit_interval
from protodl.runtime import Runtime
from protodl.training import Trainer, build_network

IMAGES = 4000  # random ones: speed does not depend on what they show
SECONDS = 1.5  # of one measurement
LEAD = 5  # calls before the clock: batches that a loader prepared meanwhile must not count
ROUNDS = 5  # of alternating measurements; the median counts


def random_split(dataset: str, count: int = IMAGES) -> Split:
    """Random images of a data set's shape, with labels."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, *DATASETS[dataset].shape)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % DATASETS[dataset].num_classes)


def rate(work: Callable[[], int], seconds: float = SECONDS) -> float:
    """Units a second: `work` is called until the time is over, and returns how many it did."""
    for _ in range(LEAD):
        work()
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or done == 0:
        done += work()
    return done / passed


def alternate(*works: Callable[[], int]) -> list[float]:
    """Median rate of each, measured in turns."""
    rounds = [[rate(work) for work in works] for _ in range(ROUNDS)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def fast_steps(trainer: Trainer) -> Callable[[], int]:
    """Training steps of the project's own loop, data and augmentation included."""

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield from torch.randperm(len(trainer.train)).split(trainer.experiment.batch_size)

    source = batches()

    def step() -> int:
        batch = next(source)
        trainer.train_step(batch, 0)
        return len(batch)

    return step


def build_trainer(experiment: Experiment, runtime: Runtime, seed: int = 0) -> Trainer:
    """A training on random images."""
    split = random_split(experiment.dataset)
    network = build_network(experiment, split, seed)
    return Trainer(network, split, split, experiment, runtime, seed)


def throughput(experiment: Experiment, runtime: Runtime) -> dict[str, float]:
    """Images a second of this project and of the port's way, in turns, and their ratio."""
    trainer = build_trainer(experiment, runtime)
    network = build_network(experiment, trainer.train, 0)
    port = PortWay(network, random_split(experiment.dataset), experiment)
    port_steps = port.steps(workers=runtime.threads)
    ours, theirs = alternate(fast_steps(trainer), lambda: next(port_steps))
    return {"images_per_second": ours, "port_way": theirs, "ratio": ours / theirs}


def share_of_peak(experiment: Experiment, runtime: Runtime) -> dict[str, float]:
    """Operations a second of a step over those of a matrix product, in turns."""
    trainer = build_trainer(experiment, runtime)
    per_image = step_operations(trainer.network, 1)
    a = torch.randn(2048, 2048).to(runtime.dtype)

    def product() -> int:
        a @ a
        return 2 * len(a) ** 3

    images, peak = alternate(fast_steps(trainer), product)
    achieved = images * per_image
    return {"achieved_gflops": achieved / 1e9, "peak_gflops": peak / 1e9, "share": achieved / peak}


def elastic() -> dict[str, float]:
    """Deformed images a second on one core, against SciPy image by image."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = to_unit_interval(random_split("mnist", 250).images)
    noise = 2 * torch.rand(250, 2, 28, 28) - 1
    arrays, noises = images.numpy(), noise.double().numpy()

    def ours() -> int:
        fresh = 2 * torch.rand(250, 2, 28, 28) - 1  # drawing it belongs to the work
        deform(images, displacement(fresh, 20.0, 4.0))
        return 250

    def scipys() -> int:
        for image, own in zip(arrays[:25], noises, strict=False):
            deform_image(image, own, 20.0, 4.0)
        return 25

    try:
        fast, slow = alternate(ours, scipys)
    finally:
        torch.set_num_threads(threads)
    return {"images_per_second": fast, "scipy": slow, "ratio": fast / slow}


def growth(experiment: Experiment, runtime: Runtime) -> dict[str, dict[str, float]]:
    """Milliseconds of a step against batch size and number of prototypes."""
    found: dict[str, dict[str, float]] = {"batch_size": {}, "num_prototypes": {}}
    for size in (32, 64, 125, 250, 500, 1000):
        changed = experiment.model_copy(update={"batch_size": size})
        found["batch_size"][str(size)] = _step_milliseconds(changed, runtime)
    for count in (15, 50, 200, 1000, 2000):
        model = experiment.model.model_copy(update={"num_prototypes": count})
        changed = experiment.model_copy(update={"model": model})
        found["num_prototypes"][str(count)] = _step_milliseconds(changed, runtime)
    return found


def _step_milliseconds(experiment: Experiment, runtime: Runtime) -> float:
    (images,) = alternate(fast_steps(build_trainer(experiment, runtime)))
    return 1000 * experiment.batch_size / images


def evaluation(experiment: Experiment, runtime: Runtime) -> dict[str, float]:
    """Microseconds an image: classified, and classified with its reconstruction."""
    network = build_trainer(experiment, runtime).network
    images = to_unit_interval(random_split(experiment.dataset, 500).images)

    @torch.inference_mode()
    def run(decode: bool) -> int:
        network(images, decode=decode)
        return len(images)

    plain, decoded = alternate(lambda: run(False), lambda: run(True))
    return {"classify": 1e6 / plain, "explain": 1e6 / decoded}
