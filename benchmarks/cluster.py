"""`python -m benchmarks.cluster`: trainings a minute on one, two and three nodes of Ray.

All nodes are on this machine, with one training at a time on each. Trainings that only sleep show
what Ray and the command allow for; real ones end where the machine's processors do.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from benchmarks.measure import random_split
from protodl.core.config import load_params
from protodl.core.limits import THREADS_VARIABLE, available_cpus
from protodl.data.datasets import save_split
from protodl.pipeline import dispatch
from protodl.pipeline.cluster import LOOPBACK, VARIABLES
from protodl.pipeline.seeds import Seed, seeds_of
from protodl.report.tables import markdown_table
from protodl.training.away import Request, Word, train_away

ROOT = Path(__file__).parents[1]
ROW = "mnist-small-deconv"
IMAGES = 6000  # random ones, of which 1,200 validate
NODES = 3
SLEEPING, REAL = 16, 6  # trainings for each node
SLEEP_SECONDS = 2.0
NOTHING = 1000  # trainings in which nothing is computed
NODE = {  # with the smallest object store that Ray takes
    "num_cpus": 1,
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
}


@dataclass(frozen=True)
class Cost:
    """What it costs to hand out a training and to take its files; memory is the command's."""

    seconds: float
    processor_seconds: float
    growth: float  # MiB more after the last training than after the first quarter of them

    def __str__(self) -> str:
        return (
            f"{1000 * self.seconds:.1f} ms for each training, {1000 * self.processor_seconds:.1f} "
            f"of them of this process; {self.growth:.1f} MiB more after the first quarter"
        )


def main() -> None:
    """Measure, and print a table; nothing else should run."""
    os.environ[THREADS_VARIABLE] = "1"
    lines = []
    with one_node() as cluster, tempfile.TemporaryDirectory() as folder:
        for nodes in range(1, NODES + 1):
            if nodes > 1:
                cluster.add_node(**NODE)
            rates = [
                rate(new_seeds(folder, nodes * SLEEPING), cluster.address, sleeps),
                rate(new_seeds(folder, nodes * REAL), cluster.address, train_away),
            ]
            lines.append([str(nodes), *(f"{each:.1f}" for each in rates)])
        print(cost(new_seeds(folder, NOTHING), cluster.address))
    heading = ["nodes", f"trainings a minute, of {SLEEP_SECONDS:g} s asleep", "of one epoch"]
    print(f"{available_cpus()} processors")
    print(markdown_table(heading, lines))


@contextmanager
def one_node() -> Iterator[Any]:
    """A cluster with one node, on 127.0.0.1; its variables stay set."""
    with tempfile.TemporaryDirectory() as folder:  # of its own, and short: Ray puts sockets there
        os.environ.update({**VARIABLES, **LOOPBACK, "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)})
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            yield cluster
        finally:
            cluster.shutdown()


def new_seeds(folder: str, count: int) -> list[Seed]:
    """Seeds of a row of one epoch, in a new project below `folder`."""
    project = Path(tempfile.mkdtemp(dir=folder))
    (project / "data" / "mnist").mkdir(parents=True)
    save_split(random_split((1, 28, 28), IMAGES), project / "data" / "mnist" / "train.pt")
    params = load_params(ROOT / "params.yaml")
    row = params.experiment(ROW).model_copy(update={"epochs": 1})
    changed = {"experiments": {ROW: row}, "seeds": range(count)}
    return list(seeds_of(project, params.model_copy(update=changed), [ROW]))


def rate(seeds: Sequence[Seed], address: str, training: Any) -> float:
    """Trainings a minute in the second half of them, when all nodes have imported torch."""
    ends: list[float] = []

    def on_end(_seed: Seed, end: dispatch.End, reason: str) -> None:
        assert end is dispatch.End.FINISHED, reason
        ends.append(time.monotonic())

    with patch.object(dispatch, "train_away", training):
        dispatch.train_seeds(seeds, address, dispatch.Listener(on_end=on_end), {})
    half = len(ends) // 2
    return 60 * (len(ends) - half) / (ends[-1] - ends[half - 1])


def cost(seeds: Sequence[Seed], address: str) -> Cost:
    """What trainings cost in which nothing is computed."""
    seen: list[tuple[float, float, float]] = []

    def on_end(_seed: Seed, _end: dispatch.End, _reason: str) -> None:
        memory = psutil.Process().memory_info().rss / 2**20
        seen.append((time.monotonic(), time.process_time(), memory))

    with patch.object(dispatch, "train_away", does_nothing):
        dispatch.train_seeds(seeds, address, dispatch.Listener(on_end=on_end), {})
    first, quarter, last = seen[0], seen[len(seen) // 4], seen[-1]
    wall, processor = ((last[i] - first[i]) / (len(seen) - 1) for i in (0, 1))
    return Cost(wall, processor, last[2] - quarter[2])


def sleeps(_request: Request, *_files: Any) -> Iterator[Word]:
    """A training that needs no processor."""
    yield Word(os.getpid())
    time.sleep(SLEEP_SECONDS)
    yield from does_nothing(_request)


def does_nothing(_request: Request, *_files: Any) -> Iterator[Word]:
    """A training that is over at once."""
    yield Word(os.getpid(), files={"log.json": b"{}"})


if __name__ == "__main__":
    main()
