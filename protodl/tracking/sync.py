"""Finished seeds and rows: their runs completed, refilled and read back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from protodl.core.training_log import EpochRecord, ResultsError, SeedEvaluation, SeedLog
from protodl.tracking.datasets import test_data
from protodl.tracking.descriptions import NOTE, evaluation_note, picture, shortened
from protodl.tracking.runs import (
    create_seed_run,
    ensure_parent,
    epoch_metrics,
    find_runs,
    log_numbers,
    recorded_epochs,
    set_tags,
)
from protodl.tracking.served import (
    ServedModel,
    find_versions,
    log_model,
    log_model_metrics,
    own_name,
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
from protodl.tracking.views import POSITION, shown

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
                    with warning_on_failure(f"the model of {log.title}"):
                        log_model(self.store, log, run_id, model, log.selected_epoch, accuracy)

    def log_evaluations(self, evaluations: Sequence[SeedEvaluation]) -> None:
        """Record what was measured of each seed: in its run, and as metrics of its models."""
        for log, run_id, seed in zip(self.logs, self.seeds, evaluations, strict=True):
            with warning_on_failure(f"the evaluation of {seed.row} seed {seed.seed}"):
                self._log_evaluation(log, run_id, seed)

    def _log_evaluation(self, log: SeedLog, run_id: str, seed: SeedEvaluation) -> None:
        client = self.store.client
        log_numbers(self.store, run_id, seed.metrics)
        log_model_metrics(self.store, log, run_id, seed.metrics)
        details: dict[str, Any] = seed.model_dump(include={"confusion", "prototypes"})
        for name, content in details.items():
            client.log_dict(run_id, content, f"{name}.json")
        tested = test_data(log, sum(map(sum, seed.confusion)))
        for each in (run_id, self.row):
            client.log_inputs(each, [tested])
        pictures = self._pictures(run_id, "pictures")
        note = evaluation_note(log, seed, pictures)
        columns = shown({**seed.metrics, "num_epochs": log.num_epochs})
        set_tags(self.store, run_id, {**columns, NOTE: note})

    def log_result(self, numbers: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Record the row's numbers, and what is not a number, in its run."""
        with warning_on_failure(f"the row {self.logs[0].row}"):
            log_numbers(self.store, self.row, numbers)
            now = {"reported_ms": str(unix_milliseconds())}
            set_tags(self.store, self.row, {**shown(numbers), **tags, **now})

    def place(self, position: int) -> None:
        """Give the row its place in the table, from 1 on, and its seeds theirs below it."""
        with warning_on_failure(f"the place of {self.logs[0].row}"):
            set_tags(self.store, self.row, {POSITION: f"{position:03d}"})
            for index, run_id in enumerate(self.seeds):
                set_tags(self.store, run_id, {POSITION: f"{position:03d}.{index:03d}"})

    def log_pictures(self, pictures: Iterable[Path]) -> None:
        """Record the row's pictures in its run, under `pictures/`."""
        with warning_on_failure(f"the pictures of {self.logs[0].row}"):
            for path in pictures:
                self.store.client.log_artifact(self.row, str(path), "pictures")

    def describe(self, card: str) -> None:
        """Record the row's model card: in its run, as the description of it and of its models."""
        client = self.store.client
        # Cards name the models of the usual experiment.
        card = card.replace("models:/protodl-", f"models:/{own_name()}-")
        text = shortened(card)
        with warning_on_failure(f"the model card of {self.logs[0].row}"):
            client.log_text(self.row, card, "card.md")
            pictures = self._pictures(self.row, "pictures/prototypes.png")
            set_tags(self.store, self.row, {NOTE: shortened("\n\n".join([*pictures, card]))})
            for run_id in self.seeds:
                for each in client.search_model_versions(f"run_id = '{run_id}'"):
                    if each.description != text:
                        client.update_model_version(each.name, each.version, text)

    def _pictures(self, run_id: str, wanted: str) -> list[str]:
        """A run's pictures of this path or below it, as Markdown."""
        files = self.store.client.list_artifacts(run_id, "pictures")
        return [
            picture(run_id, file.path, Path(file.path).stem)
            for file in files
            if file.path.startswith(wanted)
        ]


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
