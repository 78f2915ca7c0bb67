"""What the pipeline costs beside training, measured in a copy of the project on the sample."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import Bench
from protodl.core.config import Params
from protodl.pipeline.demo import copy_project, demo_params
from protodl.pipeline.forecast import read_logs
from protodl.pipeline.run import MODELS, ROWS
from protodl.pipeline.shares import worker_environments

STARTED = "Running stage '"  # DVC, at the start of each stage
STORE = "from protodl.tracking import store; store.open_current()"
FOREIGN = ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")

Lines = Sequence[tuple[float, str]]  # seconds since the command was started, and what it printed


def measure_pipeline(bench: Bench) -> dict[str, Any]:
    """Seconds of a `dvc repro` without work, of each stage, to the first step, and in hooks."""
    row = next(iter(bench.params.experiments))
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare(bench, folder, row)
        lines = run(folder, "-m", "dvc", "repro")
        stages = stage_seconds(lines)
        (log,) = read_logs(folder, row)
        stages[f"train@{row}"] -= log.train_seconds
        logging = logging_seconds(folder, row)
        spread_row(folder, row, bench.params)
        run(folder, "-m", "dvc", "commit", "--force")
        nothing = run(folder, "-m", "dvc", "repro")
    if stage_seconds(nothing):
        raise RuntimeError(f"`dvc repro` was to find nothing to do, and ran {nothing}")
    return {
        "pipeline": {
            "noop_repro_seconds": nothing[-1][0],
            "stage_overhead_seconds": stages,
            "first_step_seconds": first_step_seconds(lines),
            "logging_seconds_per_epoch": logging,
            "logging_share": logging_share(logging, bench.root, row),
        }
    }


def logging_share(seconds: float, root: Path, row: str) -> float | None:
    """Seconds of logging an epoch over those of an epoch on the full data, as it was recorded."""
    logs = read_logs(root, row)
    if not logs:
        return None
    epochs = sum(log.num_epochs for log in logs)
    return seconds * epochs / sum(log.train_seconds for log in logs)


def prepare(bench: Bench, folder: Path, row: str) -> None:
    """Copy the project, with one row and with a store for MLflow, which is created only once."""
    copy_project(bench.root, folder)
    shutil.rmtree(folder / "studies")  # pipelines of their own, of which nothing is computed here
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    one = bench.params.model_copy(update={"experiments": {row: bench.params.experiment(row)}})
    (folder / "params.yaml").write_text(demo_params(one), encoding="utf-8")
    run(folder, "-c", STORE)


def spread_row(folder: Path, row: str, params: Params) -> None:
    """Give every row of the project the files of the one that was computed."""
    (folder / "params.yaml").write_text(demo_params(params), encoding="utf-8")
    for other in params.experiments:
        if other != row:
            for parent in (folder / MODELS, folder / MODELS / "references", folder / ROWS):
                shutil.copytree(parent / row, parent / other)


def logging_seconds(folder: Path, row: str) -> float:
    """Seconds an epoch that it takes to show a training in MLflow."""
    lines = run(folder, "-m", "benchmarks.logging_time", row)
    seen = json.loads(next(text for _, text in reversed(lines) if text.startswith("{")))
    return float(seen["logging_seconds_per_epoch"])


def first_step_seconds(lines: Lines) -> float:
    """Seconds from the start of the train stage's process to its first step, as it printed them."""
    found = (re.search(r": first step ([\d.]+) s after the start$", text) for _, text in lines)
    return next(float(each[1]) for each in found if each)


def stage_seconds(lines: Lines) -> dict[str, float]:
    """Seconds of each stage in what `dvc repro` printed, DVC's own bookkeeping included."""
    starts = [(seconds, text) for seconds, text in lines if text.startswith(STARTED)]
    return {
        text.removeprefix(STARTED).partition("'")[0]: end - start
        for (start, text), (end, _) in pairwise([*starts, lines[-1]])
    }


def run(folder: Path, *arguments: str) -> Lines:
    """Run Python in a folder; returns what it printed, its last entry the empty one of its end.

    Raises:
        RuntimeError: it failed; the message holds what it printed.
    """
    environment = {name: text for name, text in os.environ.items() if name not in FOREIGN}
    environment |= worker_environments(1)[0] | {"PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines += [(time.perf_counter() - start, line.rstrip("\n")) for line in process.stdout]
    lines.append((time.perf_counter() - start, ""))
    if process.returncode:
        printed = "\n".join(text for _, text in lines)
        raise RuntimeError(f"{' '.join(arguments)} failed in a copy of the project:\n{printed}")
    return lines
