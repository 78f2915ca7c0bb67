"""Finished seeds and rows: their runs completed, refilled and read back."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from protodl.core.training_log import EpochRecord, ResultsError, SeedEvaluation, SeedLog
from protodl.tracking.experiment_page import NOTE, shortened
from protodl.tracking.runs import (
    create_seed_run,
    ensure_parent,
    epoch_metrics,
    find_runs,
    log_numbers,
    recorded_epochs,
)
from protodl.tracking.served import (
    ServedModel,
    find_versions,
    log_model,
    registered_name,
)
from protodl.tracking.store import (
    Store,
    experiment_name,
    open_current,
    raising_tracking_errors,
    tracking_uri,
    unix_milliseconds,
    warning_on_failure,
)

if TYPE_CHECKING:
    from mlflow.entities import Run


class RowResult(NamedTuple):
    """One row as MLflow holds it."""

    run_id: str
    metrics: dict[str, float]  # means, spreads as <name>_std, and the row's own numbers
    parameters: dict[str, str]  # flattened: optimizer.lr
    tags: dict[str, str]


@dataclass(frozen=True)
class RowRuns:
    """The runs of a finished row: its own, and those of its seeds with their whole history."""

    store: Store
    logs: Sequence[SeedLog]
    seeds: list[str]  # ids of their runs, in the order of the logs
    row: str  # id of the run above them
    created: list[str]  # ids of the seeds' runs that the store lacked

    @classmethod
    @raising_tracking_errors()
    def of(cls, logs: Sequence[SeedLog]) -> Self:
        """Find the runs of a row's seeds in the store; what it lacks of them is added.

        Raises:
            TrackingError: the store cannot be opened or written.
        """
        store = open_current()
        found = [_ensure_seed_run(store, log) for log in logs]
        ids = [str(run.info.run_id) for run, _ in found]
        (parent,) = {run.data.tags["mlflow.parentRunId"] for run, _ in found}
        created = [run_id for run_id, (_, is_new) in zip(ids, found, strict=True) if is_new]
        return cls(store, logs, ids, str(parent), created)

    @raising_tracking_errors()
    def add_models(self, load_model: Callable[[SeedLog, bool], ServedModel | None]) -> None:
        """Log and register the models that the store lacks.

        Args:
            load_model: gives the classifier of a seed, or the model that explains, which the best
                seed by validation accuracy has; None where its files are not on this machine. It
                is called only for a model that the store lacks.

        Raises:
            TrackingError: the store cannot be written.
        """
        best = max(self.logs, key=lambda log: log.selected_accuracy)
        for log, run_id in zip(self.logs, self.seeds, strict=True):
            for explains in (False, True) if log is best else (False,):
                name = registered_name(log.dataset, explains)
                if find_versions(self.store, name, run_id):
                    continue
                if model := load_model(log, explains):
                    accuracy = log.selected_accuracy
                    log_model(self.store, log, run_id, model, log.selected_epoch, accuracy)

    def log_evaluations(self, evaluations: Sequence[SeedEvaluation]) -> None:
        """Record what was measured of each seed in its run."""
        for run_id, seed in zip(self.seeds, evaluations, strict=True):
            with warning_on_failure(f"the evaluation of {seed.row} seed {seed.seed}"):
                log_numbers(self.store, run_id, seed.metrics)
                details: dict[str, Any] = seed.model_dump(include={"confusion", "prototypes"})
                for name, content in details.items():
                    self.store.client.log_dict(run_id, content, f"{name}.json")

    def log_result(self, numbers: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Record the row's numbers, and what is not a number, in its run."""
        with warning_on_failure(f"the row {self.logs[0].row}"):
            log_numbers(self.store, self.row, numbers)
            for name, value in {**tags, "reported_ms": str(unix_milliseconds())}.items():
                self.store.client.set_tag(self.row, name, value)

    def log_pictures(self, pictures: Iterable[Path]) -> None:
        """Record the row's pictures in its run, under `pictures/`."""
        with warning_on_failure(f"the pictures of {self.logs[0].row}"):
            for picture in pictures:
                self.store.client.log_artifact(self.row, str(picture), "pictures")

    def describe(self, card: str) -> None:
        """Record the row's model card: in its run, as the description of it and of its models."""
        client, text = self.store.client, shortened(card)
        with warning_on_failure(f"the model card of {self.logs[0].row}"):
            client.log_text(self.row, card, "card.md")
            client.set_tag(self.row, NOTE, text)
            for run_id in self.seeds:
                for each in client.search_model_versions(f"run_id = '{run_id}'"):
                    if each.description != text:
                        client.update_model_version(each.name, each.version, text)


def log_evaluations(logs: Sequence[SeedLog], evaluations: Sequence[SeedEvaluation]) -> None:
    """Record what was measured of the seeds of a row; a failure to do so is a warning."""
    with warning_on_failure(f"the evaluation of {logs[0].row}"):
        RowRuns.of(logs).log_evaluations(evaluations)


@raising_tracking_errors()
def read_results(rows: Iterable[str]) -> dict[str, list[RowResult]]:
    """Each row's results as `log_result` recorded them, one for each run of it, the latest first.

    Raises:
        ResultsError: the experiment holds no result of a row.
        TrackingError: the store cannot be opened or read.
    """
    store = open_current()
    results: dict[str, list[RowResult]] = {}
    for row in rows:
        runs = [run for run in find_runs(store, kind="row", row=row) if _reported_ms(run)]
        if not runs:
            raise ResultsError(
                f"{tracking_uri()}: experiment {experiment_name()!r} holds no result of row "
                f"{row!r}; `protodl sync` adds it"
            )
        results[row] = [
            RowResult(run.info.run_id, run.data.metrics, run.data.params, run.data.tags)
            for run in sorted(runs, key=_reported_ms, reverse=True)
        ]
    return results


def _reported_ms(run: "Run") -> int:
    return int(run.data.tags.get("reported_ms", 0))


@raising_tracking_errors()
def set_champions(rows: Iterable[RowRuns]) -> dict[str, str]:
    """Point an alias at each row's best seed, and `champion` at that of the data set's best row.

    The best seed has the highest validation accuracy, the best row the highest mean of it. Aliases
    have the names of the rows, and stand in both registered models, the classifier and the one
    that explains. Seeds whose classifiers are not registered do not count; a row without an
    explaining model has no alias there.

    Returns:
        The champion's row by data set.

    Raises:
        TrackingError: the store cannot be written.
    """
    champions: dict[str, str] = {}
    best: dict[str, float] = defaultdict(lambda: -1.0)  # accuracy, by data set
    for runs in rows:
        row, dataset = runs.logs[0].row, runs.logs[0].dataset
        registered = {explains: _registered(runs, explains) for explains in (False, True)}
        if not registered[False]:
            continue
        mean = fmean(log.selected_accuracy for log, _ in registered[False])
        aliases = [row]
        if mean > best[dataset]:
            best[dataset], champions[dataset] = mean, row
            aliases.append("champion")
        for alias, (explains, seeds) in product(aliases, registered.items()):
            name = registered_name(dataset, explains)
            _set_alias(runs.store, name, alias, [version for _, version in seeds])
    return champions


def _registered(runs: RowRuns, explains: bool) -> list[tuple[SeedLog, str]]:
    """The seeds of a row that have such a model, with its latest version, the best seed first."""
    found = [
        (log, versions[0])
        for log, run_id in zip(runs.logs, runs.seeds, strict=True)
        if (versions := find_versions(runs.store, registered_name(log.dataset, explains), run_id))
    ]
    return sorted(found, key=lambda seed: seed[0].selected_accuracy, reverse=True)


def _set_alias(store: Store, name: str, alias: str, versions: Sequence[str]) -> None:
    """Point an alias of a registered model at the first of these versions."""
    if re.fullmatch(r"latest|v\d+", alias):
        return  # a row's name that MLflow keeps for itself
    if versions:
        store.client.set_registered_model_alias(name, alias, versions[0])
    elif store.client.search_registered_models(f"name = '{name}'"):
        store.client.delete_registered_model_alias(name, alias)  # no other row may stand for it


def _ensure_seed_run(store: Store, log: SeedLog) -> "tuple[Run, bool]":
    """The finished run of a seed with its whole history; True where it had to be created."""
    runs = find_runs(store, kind="seed", fingerprint=log.fingerprint)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    if finished:
        same = [run for run in finished if run.info.run_id == log.run_id]
        run = (same or finished)[0]
        _log_history(store, run.info.run_id, log.history)
        return run, False
    parent = ensure_parent(store, log, log.start_ms)
    run_id = create_seed_run(store, log, parent, log.start_ms, {"synced": "yes"})
    _log_history(store, run_id, log.history)
    for ended in (run_id, parent):
        store.client.set_terminated(ended, "FINISHED", log.end_ms)
    return store.client.get_run(run_id), True


def _log_history(store: Store, run_id: str, history: Sequence[EpochRecord]) -> None:
    """Add the epochs that the run lacks, with their own times."""
    recorded = recorded_epochs(store.client, run_id)
    missing = [record for record in history if record.epoch not in recorded]
    metrics = [metric for record in missing for metric in epoch_metrics(record)]
    for start in range(0, len(metrics), 1000):  # a request takes 1000
        store.client.log_batch(run_id, metrics=metrics[start : start + 1000])
