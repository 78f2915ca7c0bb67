"""How everything here is measured: in turns, after a warm-up, as medians; and what is trained."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from protodl.core.config import Params
from protodl.core.experiment_config import Experiment, TeacherConfig
from protodl.core.machine import Runtime
from protodl.data.datasets import DATASETS, DatasetInfo, Split
from protodl.network.losses import Lesson, asks_teacher
from protodl.network.network import PrototypeNetwork
from protodl.network.teacher import Teacher
from protodl.training.trainer import Trainer

IMAGES = 4000  # random ones: speed does not depend on what they show


@dataclass(frozen=True)
class Work:
    """Something to time: `do` does a piece of it and returns how many units that was."""

    do: Callable[[], int]
    settle: Callable[[], None] = lambda: None  # returns once nothing goes on in the background


@dataclass(frozen=True)
class Stopwatch:
    """Times works in turns, each for `seconds` in each of `rounds`; the medians count."""

    seconds: float = 1.0
    rounds: int = 5
    warm_up: int = 4  # pieces

    def rates(self, *works: Work) -> list[float]:
        """Units a second of each work."""
        for work in works:
            for _ in range(self.warm_up):
                work.do()
            work.settle()
        rounds = [[self._rate(work) for work in works] for _ in range(self.rounds)]
        return [statistics.median(column) for column in zip(*rounds, strict=True)]

    def _rate(self, work: Work) -> float:
        work.do()  # the work before has left the caches to itself
        work.settle()
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < self.seconds:
            done += work.do()
        work.settle()  # from rest to rest: nothing was prepared for free, nothing goes on after
        return done / (time.perf_counter() - start)


@dataclass(frozen=True)
class Bench:
    """What a section of the benchmark is given."""

    root: Path  # of the project
    params: Params
    runtime: Runtime
    stopwatch: Stopwatch
    quick: bool = False  # too short to mean anything

    @property
    def extremes(self) -> dict[str, Experiment]:
        """The first row and, where there is another, the last: small and large network."""
        rows = list(self.params.experiments)
        return {row: self.params.experiments[row] for row in dict.fromkeys((rows[0], rows[-1]))}


def random_split(shape: tuple[int, int, int], count: int = IMAGES) -> Split:
    """Random images of a shape (C, H, W), with labels of ten classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % 10)


def build_trainer(
    experiment: Experiment, runtime: Runtime, shape: tuple[int, int, int] | None = None
) -> Trainer:
    """A training on random images, of the data set's shape (C, H, W) unless another is given."""
    split = random_split(shape or DATASETS[experiment.dataset].shape)
    channels, size = split.images.shape[1:3]
    torch.manual_seed(0)
    network = PrototypeNetwork(experiment.model, channels, size)
    lesson = random_lesson(split) if asks_teacher(experiment) else None
    return Trainer(network, split, split, experiment, runtime, 0, lesson)


def random_lesson(split: Split) -> Lesson:
    """What an untrained teacher has to say of images, which takes as long as any other's words."""
    channels, size = split.images.shape[1:3]
    names = tuple(map(str, range(10)))
    teacher = Teacher(DatasetInfo("random", "random", channels, size, names), TeacherConfig().width)
    teacher.eval().requires_grad_(False)
    return Lesson(torch.randn(len(split), len(names)), teacher)


def training(trainer: Trainer) -> Work:
    """Steps of the project's own loop, data and augmentation included; the unit is an image."""

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield from torch.randperm(len(trainer.train)).split(trainer.experiment.batch_size)

    source = batches()
    middle = trainer.experiment.epochs * trainer.steps_per_epoch // 2  # whatever starts late is on

    def step() -> int:
        batch = next(source)
        trainer.train_step(batch, middle)
        return len(batch)

    return Work(step)
