"""Trainings in processes of their own: the memory they take, and several in parallel."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import Bench
from protodl.core.limits import available_cpus
from protodl.pipeline.shares import worker_environments

LONGER = 3  # times a measurement's usual seconds: processes start and end at their own steps


class FreshTraining:
    """A training in a process of its own, which waits until it is told to train for a while."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.memory: dict[str, float] = json.loads(self._line())  # MiB: imported, peak

    def start(self) -> None:
        """Let it train for its seconds."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)

    def rate(self) -> float:
        """Images a second of the time it was told to train; waits for the end of it."""
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"{self._process.args!r} ended early; the reason stands above")
        return line


@contextmanager
def fresh_training(
    root: Path, row: str, seconds: float, environment: Mapping[str, str]
) -> Iterator[FreshTraining]:
    """Start a training of a row; it ends with the block."""
    command = [sys.executable, "-m", "benchmarks.fresh", row, str(seconds)]
    with subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield FreshTraining(process)
        finally:
            process.terminate()


def measure_memory(bench: Bench) -> dict[str, Any]:
    """Peak resident MiB of a training step in a fresh process, without what the imports take."""
    found: dict[str, dict[str, float]] = {}
    for row in bench.params.experiments:
        with fresh_training(bench.root, row, 0, {}) as training:
            imported, peak = training.memory["imported"], training.memory["peak"]
        found[row] = {"training": peak - imported, "imports": imported}
    return {"peak_mebibytes": found}


def measure_side_by_side(bench: Bench) -> dict[str, Any]:
    """Images a second of 1, 2 and as many trainings as processors, together.

    The threads are divided as `protodl run -j N` does.
    """
    counts = sorted({1, 2, available_cpus()})
    return {
        "side_by_side": {row: side_by_side(bench, row, counts) for row in bench.extremes},
    }


def side_by_side(bench: Bench, row: str, counts: Sequence[int]) -> dict[str, dict[str, float]]:
    """Total rate of a row by number of trainings, measured in turns, and its ratio to one."""
    seconds = LONGER * bench.stopwatch.seconds
    with ExitStack() as stack:
        groups = [
            [
                stack.enter_context(fresh_training(bench.root, row, seconds, each))
                for each in worker_environments(count, device="cpu")
            ]
            for count in counts
        ]
        rounds = [[total_rate(group) for group in groups] for _ in range(bench.stopwatch.rounds)]
    totals = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return {
        str(count): {"images_per_second": total, "ratio": total / totals[0]}
        for count, total in zip(counts, totals, strict=True)
    }


def total_rate(group: Sequence[FreshTraining]) -> float:
    """Images a second of trainings that run at the same time."""
    for training in group:
        training.start()
    return sum(training.rate() for training in group)
