"""A long life of one process: trainings and explanations leave no memory, file or thread behind."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from protodl.core.training_log import SeedLog
from protodl.explanation.loading import load
from protodl.explanation.local import explain
from protodl.report.sheets import write_explanation
from tests.shared import time_is_up
from tests.stages.test_train import Stage

TRAININGS = int(os.environ.get("PROTODL_SOAK_TRAININGS", "100"))
EXPLANATIONS = int(os.environ.get("PROTODL_SOAK_EXPLANATIONS", "2000"))
GROWTH_MIB = 60  # from a fifth of the way to the end: what allocators keep is not a leak

pytestmark = [pytest.mark.faults, pytest.mark.slow]


class Held(NamedTuple):
    """What this process holds."""

    mebibytes: float
    files: int
    threads: int

    @classmethod
    def now(cls) -> "Held":
        gc.collect()
        process = psutil.Process()
        return cls(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())


Record = Callable[[str, object], None]


def assert_flat(held: list[Held], record: Record) -> None:
    """From a fifth of the way on nothing grows."""
    early, late = held[len(held) // 5], held[-1]
    record("looks", len(held))
    for name, before, after in zip(Held._fields, early, late, strict=True):
        record(f"{name} early", before)
        record(f"{name} late", after)
    assert late.mebibytes - early.mebibytes < GROWTH_MIB
    assert late.files <= early.files + 2
    assert late.threads <= early.threads + 1


def test_many_trainings_in_one_process(
    tmp_path: Path, migrated_database: Path, record_property: Record
) -> None:
    stage = Stage(tmp_path, migrated_database)
    held: list[Held] = []
    for seed in range(TRAININGS):
        if time_is_up() and len(held) > 10:
            break
        status, output = stage.run(str(seed))
        assert status == 0, output
        held.append(Held.now())
    assert_flat(held, record_property)
    checkpoints = tmp_path / ".protodl" / "checkpoints"
    kept = [path.stat().st_size for path in checkpoints.rglob("*") if path.is_file()]
    log = SeedLog.read(tmp_path / "logs" / f"seed-{len(held) - 1}.json")
    networks = sum(path.stat().st_size for path in (tmp_path / "models").glob("*"))
    # Each finished seed keeps its two networks and its log, as models/ and logs/ do.
    assert sum(kept) < 1.2 * (networks + len(held) * len(log.model_dump_json(indent=1)))


def test_many_explanations_in_one_process(tmp_path: Path, record_property: Record) -> None:
    model = load("mnist-small-deconv")
    generator = np.random.default_rng(0)
    held: list[Held] = []
    for number in range(EXPLANATIONS):
        if time_is_up() and len(held) > 10:
            break
        image = generator.integers(0, 256, (1, 28, 28), dtype=np.uint8)
        explanation = explain(model, image)
        if number % 20 == 0:
            write_explanation(explanation, tmp_path, f"{number % 200}")
            held.append(Held.now())
    assert_flat(held, record_property)
