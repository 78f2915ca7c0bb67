"""Running rows of the table through DVC: what has changed, how long it takes, rows in parallel."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from protodl.core.check import check_params
from protodl.core.config import Params
from protodl.core.errors import ProtodlError
from protodl.core.limits import free_memory
from protodl.core.machine import project_root
from protodl.core.training_log import Means, ResultsError
from protodl.pipeline.forecast import (
    CLASSIFIERS,
    describe_expectation,
    epoch_seconds,
    read_logs,
    training_seconds,
)
from protodl.pipeline.forecast import ROWS as ROWS
from protodl.pipeline.quiet_dvc import LOCKED
from protodl.pipeline.shares import worker_environments, workers_in_memory
from protodl.pipeline.workers import Job, Workers, end_in_words
from protodl.report.results import read_row, result_row
from protodl.report.tables import results_table

MODELS = Path("models")
ROW_STAGES = ("train", "evaluate", "prototypes")
DATA_STAGES = ("download", *CLASSIFIERS)  # one for each data set, before the rows
FOLDERS, REPORT = "folders", "report"  # stages: looks for changes in folders of images; the table
ENDING_SECONDS = 5.0  # until what a killed `protodl run` had started has noticed that and ended
ACCURACIES = {"test_accuracy": "test accuracy", "validation_accuracy": "validation accuracy"}


class PipelineError(ProtodlError):
    """DVC could not run, or a stage failed; the message says which."""


def run_pipeline(
    root: Path,
    rows: Sequence[str],
    workers: int = 1,
    row_stages: Sequence[str] = ROW_STAGES,
    expected: str = "",
    cluster: str | None = None,
    fresh: bool = False,
) -> None:
    """Bring the given rows (none: all, and the table) up to date, each reported as it finishes.

    The same as `dvc repro`, with the rows that have changed taken from a queue by `workers`.

    Args:
        root: folder with the dvc.yaml and its params.yaml.
        rows: keys of experiments in params.yaml.
        workers: rows in parallel.
        row_stages: the stages of a row in that dvc.yaml, in their order; the first one trains.
        expected: what to say of the time that it takes; otherwise what the last records tell.
        cluster: address of a Ray cluster on which the seeds are trained first, or `auto`.
        fresh: whether nothing is computed yet, which DVC need not be asked then.

    Raises:
        ConfigError: params.yaml is wrong, or has no such row; nothing was started.
        PipelineError: a stage failed; the other rows were still finished.
        protodl.pipeline.cluster.ClusterError: the cluster cannot be used.
        protodl.core.process.Interrupted: this process was told to end.
    """
    params = check_params(Path(os.path.relpath(root / "params.yaml")))
    plan = _plan(root, params, rows or list(params.experiments), row_stages, fresh)
    expected = expected or describe_expectation(
        root, params, plan.classifiers, plan.todo, plan.trained, workers
    )
    print(expected, flush=True)
    if _prepare_data(root, params, plan, workers) and len(plan.trained) < len(plan.rows):
        plan = replace(plan, changed=changed_stages(root))  # other data may mean other rows
    failed = _train_on(cluster, root, params, plan.trained) if cluster and plan.trained else []
    todo = [row for row in plan.todo if row not in failed]
    failed += _run_rows(root, params, todo, workers, row_stages) if todo else []
    if failed:
        raise PipelineError(
            f"failed: {', '.join(failed)} (the reason stands above); the table was not rebuilt. "
            "Correct it and run the same command again; finished rows are not repeated."
        )
    # Without rows the table, and so no data set that none of its rows needs.
    reproduce(root, [f"{stage}@{row}" for row in rows for stage in row_stages] or [REPORT])
    if rows:
        print(describe_results(root, params, rows))


@dataclass(frozen=True)
class Plan:
    """What a run has to do, as far as that is known before it."""

    rows: Sequence[str]  # that are to be up to date
    row_stages: Sequence[str]
    datasets: Sequence[str]  # of these rows
    changed: set[str]  # stages, by their full names

    @property
    def classifiers(self) -> dict[str, list[str]]:
        """Which of a data set's classifiers are trained, `judge` or `teacher`."""
        found = {
            name: [kind for kind in CLASSIFIERS if f"{kind}@{name}" in self.changed]
            for name in self.datasets
        }
        return {name: kinds for name, kinds in found.items() if kinds}

    @property
    def todo(self) -> list[str]:
        """Rows of which something is computed."""
        return self._rows_in(self.row_stages)

    @property
    def trained(self) -> list[str]:
        """Those of them that are trained."""
        return self._rows_in(self.row_stages[:1])

    def _rows_in(self, stages: Sequence[str]) -> list[str]:
        return [row for row in self.rows if any(f"{name}@{row}" in self.changed for name in stages)]


def _plan(
    root: Path, params: Params, rows: Sequence[str], row_stages: Sequence[str], fresh: bool
) -> Plan:
    datasets = list(dict.fromkeys(params.experiment(row).dataset for row in rows))
    changed = every_stage(params) if fresh else changed_stages(root)
    if FOLDERS in changed and any(params.datasets[name].folder for name in datasets):
        reproduce(root, [FOLDERS])  # what has changed in them is known only then
        changed = changed_stages(root)
    return Plan(rows, row_stages, datasets, changed)


def _prepare_data(root: Path, params: Params, plan: Plan, workers: int) -> bool:
    """Run what comes before the rows, the data sets in parallel; whether there was any of it.

    Raises:
        PipelineError: a stage failed.
    """
    stages = {
        name: [stage for kind in DATA_STAGES if (stage := f"{kind}@{name}") in plan.changed]
        for name in plan.datasets
    }
    stages = {name: first for name, first in stages.items() if first}
    before = [stage for stage in ("check", FOLDERS) if stage in plan.changed]
    if before and (stages or "check" in plan.changed):
        reproduce(root, before)  # a download reads what `folders` has written
    if not stages:
        return False
    failed: list[str] = []

    def ended(job: Job, status: int) -> None:
        if status:
            failed.append(job.name)

    jobs = [_reproducing(name, first) for name, first in stages.items()]
    _workers(root, params, len(jobs), workers).run(jobs, ended)
    if failed:
        raise PipelineError(f"failed: {', '.join(failed)} (the reason stands above)")
    return True


def every_stage(params: Params) -> set[str]:
    """All stages of the project's dvc.yaml, by their full names."""
    data = {f"{stage}@{name}" for stage in DATA_STAGES for name in params.datasets}
    rows = {f"{stage}@{row}" for stage in ROW_STAGES for row in params.experiments}
    return {"check", FOLDERS, REPORT} | data | rows


def changed_stages(root: Path) -> set[str]:
    """The stages of dvc.yaml that `dvc repro` would run, as far as known before it starts.

    Raises:
        PipelineError: DVC refuses, for instance because dvc.yaml is wrong.
    """
    return set(json.loads(dvc_output(root, "status", "--json", "dvc.yaml")))


def dvc_output(root: Path, *arguments: str) -> str:
    """What a command of DVC prints; raises PipelineError where it fails."""
    command, end = [*_dvc(), *arguments], time.monotonic() + ENDING_SECONDS
    while True:
        answer = subprocess.run(
            command, cwd=root, capture_output=True, text=True, errors="replace", check=False
        )
        if LOCKED not in answer.stderr or time.monotonic() > end:
            break
    if answer.returncode:
        reason = answer.stderr.strip().removeprefix("error: ")
        raise PipelineError(f"dvc {arguments[0]} failed: {reason}")
    return answer.stdout


def describe_row(root: Path, row: str) -> str:
    """Accuracy, on the test split where that was measured, and seconds of training of a row."""
    mean = Means.read(root / ROWS / row / "metrics.json").mean
    name = next(name for name in ACCURACIES if name in mean)
    seconds = sum(log.train_seconds for log in read_logs(root, row))
    return f"{ACCURACIES[name]} {mean[name]:.4f}, {seconds:.0f} s of training"


def describe_results(root: Path, params: Params, rows: Sequence[str]) -> str:
    """The lines of the table of these rows, and where their pictures are."""
    folder = Path(os.path.relpath(root / ROWS))
    try:
        found = [result_row(row, params, read_row(row, params, folder)) for row in rows]
        table = results_table(found)
    except ResultsError as error:  # of another dvc.yaml than the project's own
        table = f"no lines of the table: {error}"
    pictures = "\n".join(f"pictures of {row}: {folder / row / 'pictures'}/" for row in rows)
    return (
        f"\n{table}\n\n{pictures}\n"
        f"why an image gets its class: protodl explain {rows[0]} IMAGE\n"
        "the table of all rows follows with `make repro`, or `protodl run` without a row"
    )


def _train_on(cluster: str, root: Path, params: Params, rows: Sequence[str]) -> list[str]:
    """Fill the checkpoint store, from which the train stages take the seeds; return what failed."""
    from protodl.pipeline.missing import train_missing  # late: it needs torch

    order = _longest_first(root, params, rows)
    known = {row: seconds for row in rows if (seconds := epoch_seconds(root, row))}
    return list(train_missing(project_root(), params, order, cluster, known))


def _longest_first(root: Path, params: Params, rows: Sequence[str]) -> list[str]:
    seconds = {row: training_seconds(root, params, row) for row in rows}
    large = {row: params.experiment(row).model.architecture == "large" for row in rows}
    return sorted(rows, key=lambda row: (-(seconds[row] or math.inf), not large[row]))


def _run_rows(
    root: Path, params: Params, rows: Sequence[str], workers: int, stages: Sequence[str]
) -> list[str]:
    """Run the stages of each row, the longest first, and report it; return those that failed."""
    order = _longest_first(root, params, rows) if workers > 1 else rows
    jobs = [_reproducing(row, [f"{stage}@{row}" for stage in stages]) for row in order]
    failed: list[str] = []
    number = count(1)

    def ended(job: Job, status: int) -> None:
        if status:
            failed.append(job.name)
        outcome = f"failed: {end_in_words(status)}" if status else describe_row(root, job.name)
        print(f"[{next(number)}/{len(jobs)}] {job.name}: {outcome}", flush=True)

    _workers(root, params, len(jobs), workers).run(jobs, ended)
    return failed


def _reproducing(name: str, stages: Sequence[str]) -> Job:
    """These stages and no others, which must be in their order."""
    return Job(name, (*_dvc(), "repro", "--single-item", *stages))


def _workers(root: Path, params: Params, jobs: int, workers: int) -> Workers:
    """As many workers as asked for, as there are jobs, and as the memory is enough for."""
    count = workers_in_memory(min(workers, jobs), params.data.source, free_memory() / 2**30)
    environments = worker_environments(count, params.training.device)
    return Workers(root, environments, prefix=count > 1)


def reproduce(root: Path, targets: Sequence[str]) -> None:
    """Run `dvc repro` of these stages, with all that they need, in this terminal.

    Raises:
        PipelineError: a stage failed.
    """
    failed: list[int] = []

    def ended(_job: Job, status: int) -> None:
        if status:
            failed.append(status)

    job = Job("dvc repro", (*_dvc(), "repro", *targets))
    Workers(root, worker_environments(1)).run([job], ended)
    if failed:
        what = f"`dvc repro {' '.join(targets)}` failed: {end_in_words(failed[0])}"
        raise PipelineError(f"{what}; the reason stands above")


def _dvc() -> tuple[str, ...]:
    # Waits for the lock: after three seconds without it a finished training would be lost.
    return (sys.executable, "-m", "protodl.pipeline.quiet_dvc", "--wait-for-lock")
