"""The run of a seed while it is trained."""

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from protodl.core.training_log import UNTRACKED, EpochRecord, SeedFacts
from protodl.tracking.runs import (
    create_seed_run,
    ensure_parent,
    epoch_metrics,
    find_runs,
    recorded_epochs,
    recorded_pictures,
)
from protodl.tracking.served import ServedModel, find_versions, log_model, registered_name
from protodl.tracking.store import (
    Store,
    experiment_name,
    open_current,
    unix_milliseconds,
    warning_on_failure,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Terminated(SystemExit):
    """SIGTERM arrived; raised in place of it so that the stack unwinds before the run is ended."""


class Tracker:
    """The run of one seed while it is trained; a context manager that gives the run its status.

    Without a store it records nothing, and its ids are `untracked`.
    """

    def __init__(
        self,
        facts: SeedFacts,
        store: Store | None = None,
        run_id: str = UNTRACKED,
        parent_run_id: str = UNTRACKED,
    ) -> None:
        self.run_id = run_id
        self.parent_run_id = parent_run_id
        self.experiment_name = experiment_name()
        self._store = store
        self.facts = facts
        self._epochs = recorded_epochs(store.client, run_id) if store else set()
        self._pictures = recorded_pictures(store.client, run_id) if store else set()
        self._previous_handler: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, _raise_terminated)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = "FINISHED" if error is None else "FAILED"
        if isinstance(error, Terminated | KeyboardInterrupt):
            status = "KILLED"
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut this short
        if self._store is not None:
            with warning_on_failure(f"the end of {self.facts.row}"):
                for run_id in (self.run_id, self.parent_run_id):
                    self._store.client.set_terminated(run_id, status)
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)
        if isinstance(error, Terminated):
            signal.raise_signal(signal.SIGTERM)  # to whom it was meant for

    @property
    def ids(self) -> dict[str, str]:
        """Where the run is found, under the names that the log has for it."""
        names = ("experiment_name", "run_id", "parent_run_id")
        return {name: getattr(self, name) for name in names}

    def log_epoch(self, record: EpochRecord) -> None:
        """Record an epoch, as one request; an epoch that the run already has is left as it is."""
        if self._store is None or record.epoch in self._epochs:
            return
        with warning_on_failure(f"epoch {record.epoch}"):
            self._store.client.log_batch(self.run_id, metrics=epoch_metrics(record))

    def log_picture(self, name: str, image: "npt.NDArray[np.uint8]", step: int) -> None:
        """Record a picture, uint8 (H, W) or (H, W, 1 or 3), unless the run already has it.

        The UI gives a step slider.
        """
        if self._store is None or (name, step) in self._pictures:
            return
        with warning_on_failure(f"picture {name} at step {step}"):
            self._store.client.log_image(self.run_id, image, key=name, step=step)

    def log_model(self, model: ServedModel, step: int, validation_accuracy: float) -> None:
        """Record and register the classifier of epoch `step`, unless the run already has one."""
        if self._store is None:
            return
        with warning_on_failure("the model"):
            name = registered_name(self.facts.dataset)
            if not find_versions(self._store, name, self.run_id):
                log_model(self._store, self.facts, self.run_id, model, step, validation_accuracy)


def start_seed(facts: SeedFacts) -> Tracker:
    """Start the run of one seed, or take up the unfinished one of the same fingerprint.

    A store that cannot be used gives a warning and a tracker that records nothing; `sync` creates
    such a run later, from the log.
    """
    with warning_on_failure(f"the start of {facts.title}"):
        return _start(open_current(), facts)
    return Tracker(facts)


def _start(store: Store, facts: SeedFacts) -> Tracker:
    now = unix_milliseconds()
    parent = ensure_parent(store, facts, now)
    store.client.update_run(parent, status="RUNNING")
    runs = find_runs(store, kind="seed", fingerprint=facts.fingerprint)
    unfinished = [run.info.run_id for run in runs if run.info.status != "FINISHED"]
    if unfinished:
        store.client.update_run(unfinished[0], status="RUNNING")
        return Tracker(facts, store, unfinished[0], parent)
    return Tracker(facts, store, create_seed_run(store, facts, parent, now, {}), parent)


def _raise_terminated(signum: int, _frame: FrameType | None) -> None:
    # Ending the run here would use the database in the middle of whatever was interrupted.
    raise Terminated(128 + signum)
