"""Finished seeds and rows: their runs completed, refilled and read back."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from protodl.core.training_log import UNTRACKED, ResultsError, SeedEvaluation, SeedLog
from protodl.tracking.client import patience
from protodl.tracking.datasets import test_data
from protodl.tracking.descriptions import NOTE, evaluation_note, picture, shortened
from protodl.tracking.kept_pictures import kept_pictures, log_kept, recorded_pictures
from protodl.tracking.runs import (
    ensure_runs,
    find_runs,
    list_files,
    log_epochs,
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
    shown_uri,
    unix_milliseconds,
)
from protodl.tracking.trouble import tell, telling_failures, trouble
from protodl.tracking.views import POSITION, shown

if TYPE_CHECKING:
    from mlflow.entities import Run


SYNCED = "synced"  # tag of runs that were created from a log


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
        found = [_complete_seed(store, log) for log in logs]
        ids = [run_id for run_id, _, _ in found]
        parent = found[0][1]
        if store.client.get_run(parent).info.status != "FINISHED":
            store.client.set_terminated(parent, "FINISHED", max(log.end_ms for log in logs))
        return cls(store, logs, ids, parent, [run_id for run_id, _, is_new in found if is_new])

    @raising_tracking_errors()
    def add_models(
        self,
        load_model: Callable[[SeedLog, bool], ServedModel | None],
        done: Callable[[SeedLog], None] = lambda log: None,
    ) -> None:
        """Log and register the models that the store lacks.

        Args:
            load_model: gives the classifier of a seed, or the model that explains, which the best
                seed by validation accuracy has; None where its files are not on this machine. It
                is called only for a model that the store lacks.
            done: is called after each seed.

        Raises:
            TrackingError: the store cannot be written.
        """
        best = max(self.logs, key=lambda log: log.selected_accuracy)
        for log, run_id in zip(self.logs, self.seeds, strict=True):
            for explains in (False, True) if log is best else (False,):
                self._add_model(log, run_id, partial(load_model, log, explains), explains)
            done(log)

    def _add_model(
        self, log: SeedLog, run_id: str, load: Callable[[], ServedModel | None], explains: bool
    ) -> None:
        store, name = self.store, registered_name(log.dataset, explains)
        if store.keeps_models and not find_versions(store, name, run_id) and (model := load()):
            with telling_failures(f"the model of {log.title}"):
                log_model(store, log, run_id, model, log.selected_epoch, log.selected_accuracy)

    @raising_tracking_errors()
    def log_evaluations(self, evaluations: Sequence[SeedEvaluation]) -> None:
        """Record what was measured of each seed: in its run, and as metrics of its models."""
        for log, run_id, seed in zip(self.logs, self.seeds, evaluations, strict=True):
            with telling_failures(f"the evaluation of {seed.row} seed {seed.seed}"):
                self._log_evaluation(log, run_id, seed)

    def _log_evaluation(self, log: SeedLog, run_id: str, seed: SeedEvaluation) -> None:
        client = self.store.client
        log_numbers(self.store, run_id, seed.metrics)
        log_model_metrics(self.store, log, run_id, seed.metrics)
        details: dict[str, Any] = seed.model_dump(include={"confusion", "prototypes"})
        for name, content in details.items() if self.store.keeps_files else ():
            client.log_dict(run_id, content, f"{name}.json")
        tested = test_data(log, sum(map(sum, seed.confusion)))
        for each in (run_id, self.row):
            client.log_inputs(each, [tested])
        pictures = self._pictures(run_id, "pictures")
        note = evaluation_note(log, seed, pictures)
        columns = shown({**seed.metrics, "num_epochs": log.num_epochs})
        set_tags(self.store, run_id, {**columns, NOTE: note})

    @raising_tracking_errors()
    def log_result(self, numbers: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Record the row's numbers, and what is not a number, in its run."""
        with telling_failures(f"the row {self.logs[0].row}"):
            log_numbers(self.store, self.row, numbers)
            now = {"reported_ms": str(unix_milliseconds())}
            set_tags(self.store, self.row, {**shown(numbers), **tags, **now})

    @raising_tracking_errors()
    def place(self, position: int) -> None:
        """Give the row its place in the table, from 1 on, and its seeds theirs below it."""
        with telling_failures(f"the place of {self.logs[0].row}"):
            set_tags(self.store, self.row, {POSITION: f"{position:03d}"})
            for index, run_id in enumerate(self.seeds):
                set_tags(self.store, run_id, {POSITION: f"{position:03d}.{index:03d}"})

    @raising_tracking_errors()
    def log_pictures(self, pictures: Iterable[Path]) -> None:
        """Record the row's pictures in its run, under `pictures/`."""
        with telling_failures(f"the pictures of {self.logs[0].row}"):
            for path in pictures if self.store.keeps_files else ():
                self.store.client.log_artifact(self.row, str(path), "pictures")

    @raising_tracking_errors()
    def describe(self, card: str) -> None:
        """Record the row's model card: in its run, as the description of it and of its models."""
        client = self.store.client
        # Cards name the models of the usual experiment.
        card = card.replace("models:/protodl-", f"models:/{own_name()}-")
        text = shortened(card)
        with telling_failures(f"the model card of {self.logs[0].row}"):
            if self.store.keeps_files:
                client.log_text(self.row, card, "card.md")
            pictures = self._pictures(self.row, "pictures/prototypes.png")
            set_tags(self.store, self.row, {NOTE: shortened("\n\n".join([*pictures, card]))})
            for run_id in self.seeds:
                for each in client.search_model_versions(f"run_id = '{run_id}'"):
                    if each.description != text:
                        client.update_model_version(each.name, each.version, text)

    def _pictures(self, run_id: str, wanted: str) -> list[str]:
        """A run's pictures of this path or below it, as Markdown."""
        return [
            picture(run_id, path, Path(path).stem)
            for path in list_files(self.store, run_id, "pictures")
            if path.startswith(wanted)
        ]


def complete_runs(
    logs: Sequence[SeedLog], load_model: Callable[[SeedLog, bool], ServedModel | None]
) -> None:
    """Add what MLflow lacks of seeds that are trained already; a failure to do so is a warning.

    Args:
        logs: of seeds of one row.
        load_model: as for `RowRuns.add_models`.
    """
    if logs:
        with _later("the runs"):
            RowRuns.of(logs).add_models(load_model)


def log_evaluations(logs: Sequence[SeedLog], evaluations: Sequence[SeedEvaluation]) -> None:
    """Record what was measured of the seeds of a row; a failure to do so is a warning."""
    with _later("the evaluation"):
        RowRuns.of(logs).log_evaluations(evaluations)


@contextmanager
def _later(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is a warning that says who adds what is missing."""
    try:
        with patience():
            yield
    except Exception as error:
        tell(f"{trouble(error, shown_uri())}; `protodl sync` or the report stage adds {what}")


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
                f"{shown_uri()}: experiment {experiment_name()!r} holds no result of row "
                f"{row!r}; `protodl sync` adds it"
            )
        results[row] = [
            RowResult(run.info.run_id, run.data.metrics, run.data.params, run.data.tags)
            for run in sorted(runs, key=_reported_ms, reverse=True)
        ]
    return results


def _reported_ms(run: "Run") -> int:
    return int(run.data.tags.get("reported_ms", 0))


def _complete_seed(store: Store, log: SeedLog) -> tuple[str, str, bool]:
    """The run of a trained seed, with all that the log and the kept pictures hold.

    Returns:
        Its id, that of the row's run, and whether it had to be created.
    """
    run, parent, is_new = ensure_runs(
        store, log, partial(_run_of_log, log), log.start_ms, {SYNCED: "yes"}
    )
    run_id = str(run.info.run_id)
    log_epochs(store, run_id, log.history, recorded_epochs(store, run_id))
    if kept := kept_pictures(log):
        recorded = recorded_pictures(store, run_id)
        for path in kept:
            log_kept(store, run_id, path, recorded)
    if run.info.status != "FINISHED":
        store.client.set_terminated(run_id, "FINISHED", log.end_ms)
    return run_id, parent, is_new


def _run_of_log(log: SeedLog, runs: "Sequence[Run]") -> "Run | None":
    """The run that a log is of, else one that ended well, else one that was cut off."""
    own = [run for run in runs if run.info.run_id == log.run_id]
    finished = [run for run in runs if run.info.status == "FINISHED"]
    # Where the log has a run elsewhere, one that goes on here is another training's.
    is_ours = log.run_id == UNTRACKED
    cut = [r for r in runs if is_ours or r.info.status != "RUNNING" or SYNCED in r.data.tags]
    return next(iter(own + finished + cut), None)
