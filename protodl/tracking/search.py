"""A recipe search in MLflow: the search as a run, its trials below it, made from its records."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from statistics import fmean
from typing import TYPE_CHECKING

from protodl.core.config import flatten
from protodl.core.search import SearchRecord, TrialRecord
from protodl.report.search_page import conclusion
from protodl.tracking.descriptions import NOTE
from protodl.tracking.runs import (
    PARENT,
    find_runs,
    log_epochs,
    log_numbers,
    recorded_epochs,
    set_tags,
)
from protodl.tracking.store import (
    Store,
    open_current,
    run_lock,
    shown_uri,
    tracking_uri,
    unix_milliseconds,
)
from protodl.tracking.trouble import tell, trouble

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENT = "protodl-search"
ENDING = 20.0  # seconds that are waited for all to be recorded, when all trainings are over
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
LATER = "the same command adds what is missing"


@contextmanager
def tracked_search() -> Iterator[Callable[[SearchRecord], None]]:
    """Gives what records a search as it is now; a thread does it, and trouble is a warning."""
    os.environ["MLFLOW_EXPERIMENT_NAME"] = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    recorder = _Recorder()
    recorder.start()
    try:
        yield recorder.records.put
    finally:
        recorder.records.put(None)
        recorder.join(ENDING)
        if recorder.is_alive():
            tell(f"the MLflow store {shown_uri()} has not yet taken everything: {LATER}")


class _Recorder(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="MLflow: search", daemon=True)
        self.records: SimpleQueue[SearchRecord | None] = SimpleQueue()

    def run(self) -> None:
        """Record what comes until there is None; what is not at its end then was stopped."""
        last: SearchRecord | None = None
        while record := self.records.get():
            _try_record(record)
            last = record
        if last and not last.ended:
            _try_record(last, stopped=True)


def _try_record(record: SearchRecord, stopped: bool = False) -> None:
    try:
        record_search(record, stopped)
    except Exception as error:
        tell(f"{trouble(error, shown_uri())}; the search goes on, and {LATER}")


def record_search(record: SearchRecord, stopped: bool = False) -> None:
    """Make MLflow hold a search as far as it is; a second call adds nothing.

    Args:
        record: the search.
        stopped: whether its process ends before it does.

    Raises:
        TrackingError: the store cannot be opened or written.
    """
    store = open_current()
    tags = {"kind": "search", "fingerprint": record.fingerprint}
    source = {"row": record.row, "mlflow.source.name": f"protodl search {record.name}"}
    start = min((trial.start_ms for trial in record.trials), default=unix_milliseconds())
    parent = _run(store, f"search {record.name}", start, tags, source)
    below = {PARENT: str(parent.info.run_id), **source}
    held = {
        run.data.tags["trial"]
        for run in find_runs(store, kind="trial", fingerprint=record.fingerprint)
        if run.info.status in STATUS.values()
    }
    for trial in record.trials:
        if str(trial.number) not in held:
            own = {"kind": "trial", "fingerprint": record.fingerprint, "trial": str(trial.number)}
            _record_trial(store, trial, own, below)
    _record_state(store, record, parent, stopped)


def _run(store: Store, name: str, start: int, tags: dict[str, str], more: dict[str, str]) -> "Run":
    """The run with these tags, created with all of them where it is missing."""
    with run_lock(tracking_uri()):
        found = find_runs(store, **tags)
        if found:
            return found[0]
        return store.client.create_run(
            store.experiment_id, start_time=start, tags={**tags, **more}, run_name=name
        )


def _record_trial(
    store: Store, trial: TrialRecord, tags: dict[str, str], more: dict[str, str]
) -> None:
    """One trial, its run ended last: then nothing of it is missing."""
    from mlflow.entities import Param

    outcome = trial.outcome
    run = _run(store, f"trial {trial.number}", trial.start_ms, tags, more)
    run_id = str(run.info.run_id)
    values = flatten(trial.parameters)
    held = run.data.params
    missing = [Param(key, value) for key, value in values.items() if key not in held]
    store.client.log_batch(run_id, params=missing)
    log_epochs(store, run_id, outcome.history, recorded_epochs(store, run_id))
    measured = {
        "validation_accuracy": outcome.accuracy,
        "decode_agreement": outcome.decode_agreement,
        "train_seconds": outcome.seconds,
    }
    log_numbers(store, run_id, {k: value for k, value in measured.items() if value is not None})
    searched = ", ".join(f"{key} = {value}" for key, value in trial.values.items())
    note = f"{trial.state}: {outcome.reason or searched}"
    trainings = " ".join(outcome.fingerprints)
    set_tags(store, run_id, {"state": trial.state, "trainings": trainings, NOTE: note})
    store.client.set_terminated(run_id, STATUS[trial.state], trial.end_ms)


def _record_state(store: Store, record: SearchRecord, parent: "Run", stopped: bool) -> None:
    """How far the search is: counts, the best accuracy, and at its end what it found."""
    run_id = str(parent.info.run_id)
    states = Counter[str](trial.state for trial in record.trials)
    numbers = {f"trials_{state}": float(states[state]) for state in STATUS}
    numbers["train_seconds"] = record.seconds
    if best := record.ranked()[:1]:
        numbers["best_validation_accuracy"] = best[0].outcome.accuracy or 0.0
    for side, found in record.comparison.items():
        if found:
            numbers[f"{side}_validation_accuracy"] = fmean(each.accuracy for each in found)
    log_numbers(store, run_id, numbers)
    if record.ended:
        set_tags(store, run_id, {NOTE: f"{conclusion(record)}\n\n```yaml\n{record.block}```"})
        end = max((trial.end_ms for trial in record.trials), default=0)
        store.client.set_terminated(run_id, "FINISHED", end)
    elif stopped:
        store.client.set_terminated(run_id, "KILLED")
    elif parent.info.status != "RUNNING":  # it goes on, or more trials were asked for
        store.client.update_run(run_id, status="RUNNING")
