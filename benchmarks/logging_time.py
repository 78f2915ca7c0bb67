"""What it costs to show a training in MLflow: `python -m benchmarks.logging_time <row>`.

Trains a row of params.yaml on random images and prints as JSON the seconds an epoch that are spent
in the hooks.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Bench, build_trainer
from protodl.core.machine import environment_facts
from protodl.core.training_log import SeedFacts
from protodl.data.datasets import to_unit_interval
from protodl.tracking.live import start_seed
from protodl.tracking.progress import watch
from protodl.training.trainer import Hooks

SAMPLES = 10  # images that are shown with their reconstructions, as by the train stage


class Clock:
    """Adds up the seconds that are spent in hooks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook, with its seconds added up."""

        def watched(*arguments: Any) -> None:
            start = time.perf_counter()
            hook(*arguments)
            self.seconds += time.perf_counter() - start

        return watched


def logging_seconds(bench: Bench, row: str) -> float:
    """Seconds an epoch that the hooks of a tracked training take."""
    experiment, clock = bench.params.experiment(row), Clock()
    trainer = build_trainer(experiment, bench.runtime)
    count, epochs = len(trainer.train), experiment.epochs
    tracker = start_seed(
        SeedFacts(
            row=row,
            seed=0,
            fingerprint=f"benchmark of {row}",
            parameters=experiment.model_dump(),
            environment=environment_facts(bench.runtime),
            data_digest="random",
            num_train=count,
            num_validation=count,
        )
    )
    samples = to_unit_interval(trainer.train.images[:SAMPLES])
    every = bench.params.training.pictures_every
    with tracker, watch(tracker, samples, every) as shown:
        hooks = Hooks(clock.timed(shown.on_step), clock.timed(shown.on_epoch))
        for _ in range(epochs):
            hooks.on_epoch(trainer.run_epoch(hooks), trainer.kept_network)
    return clock.seconds / epochs


if __name__ == "__main__":
    from benchmarks.run import build_bench

    print(
        json.dumps({"logging_seconds_per_epoch": logging_seconds(build_bench(False), sys.argv[1])})
    )
