"""The run of a seed while it is trained."""

import atexit
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import TYPE_CHECKING, Self

from protodl.core.process import answering
from protodl.core.training_log import UNTRACKED, EpochRecord, SeedFacts
from protodl.tracking.kept_pictures import keep_picture, kept_pictures, log_kept
from protodl.tracking.recorder import END, EPOCHS, LAST, MODEL, PICTURES, Recorder, SeedRun
from protodl.tracking.runs import log_epochs
from protodl.tracking.served import (
    ServedModel,
    find_versions,
    log_prepared,
    prepare_model,
    registered_name,
)
from protodl.tracking.store import experiment_name, prepare_store
from protodl.tracking.trouble import TrackingError, telling_failures

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Seconds that are waited: for the run's id; with these until all is recorded; after a signal.
OPENING, ENDING, STOPPING = 3.0, 5.0, 1.0


class Tracker:
    """The run of one seed while it is trained; a context manager that gives the run its status.

    No method waits for the store: a thread records what they are given, and what it has not
    recorded by the end `sync` adds from the log and the kept pictures.
    """

    def __init__(self, facts: SeedFacts, row_fails: bool = False) -> None:
        self.experiment_name = experiment_name()
        self.facts = facts
        self._row_fails = row_fails
        self._records: list[EpochRecord] = []
        self._waited = 0.0  # seconds
        self._recorder = Recorder(facts)
        self._recorder.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            with answering(signal.SIG_IGN):  # a second signal must not cut this short
                self._end("KILLED", STOPPING)
        else:
            self._end("FAILED" if error else "FINISHED", ENDING - self._waited)

    def _end(self, status: str, seconds: float) -> None:
        def end(run: SeedRun) -> None:
            log_epochs(run.store, run.run_id, self._records, run.epochs)
            of_row = "FAILED" if self._row_fails and status == "FINISHED" else status
            run.store.client.set_terminated(run.run_id, status)
            run.store.client.set_terminated(run.parent_run_id, of_row)

        self._recorder.put(END, end)
        for path in kept_pictures(self.facts):  # that were given while the store was away
            self._put_picture(path)
        self._recorder.put(END if status == "KILLED" else LAST, None)
        self._recorder.wait(seconds)

    @property
    def ids(self) -> dict[str, str]:
        """Where the run is found, under the names that the log has for it.

        The ids are `untracked` where the store does not tell them in time.
        """
        start = time.monotonic()
        self._recorder.opened.wait(OPENING - self._waited)
        self._waited += time.monotonic() - start
        run = self._recorder.seed_run
        return {
            "experiment_name": self.experiment_name,
            "run_id": run.run_id if run else UNTRACKED,
            "parent_run_id": run.parent_run_id if run else UNTRACKED,
        }

    @property
    def run_id(self) -> str:
        """The id of the seed's run."""
        return self.ids["run_id"]

    @property
    def parent_run_id(self) -> str:
        """The id of the row's run."""
        return self.ids["parent_run_id"]

    def log_epoch(self, record: EpochRecord) -> None:
        """Record an epoch; one that the run already has is left as it is."""
        self._records.append(record)
        self._recorder.put(
            EPOCHS, lambda run: log_epochs(run.store, run.run_id, [*self._records], run.epochs)
        )

    def log_picture(self, name: str, image: "npt.NDArray[np.uint8]", step: int) -> None:
        """Record a picture, uint8 (H, W) or (H, W, 3); the UI gives a step slider."""
        with telling_failures(f"picture {name} at step {step}"):
            self._put_picture(keep_picture(self.facts, name, image, step))

    def _put_picture(self, path: Path) -> None:
        self._recorder.put(
            PICTURES, lambda run: log_kept(run.store, run.run_id, path, run.pictures)
        )

    def log_model(self, model: ServedModel, step: int, validation_accuracy: float) -> None:
        """Record and register the classifier of epoch `step`, unless the run already has one."""
        run = self._recorder.seed_run
        if self._recorder.is_away or (run and not run.store.keeps_models):
            return

        def log(run: SeedRun) -> None:
            name = registered_name(self.facts.dataset)
            if run.store.keeps_models and not find_versions(run.store, name, run.run_id):
                log_prepared(run.store, self.facts, run.run_id, prepared, validation_accuracy)

        with telling_failures("the model"):
            folder = Path(mkdtemp())
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            prepared = prepare_model(self.facts, model, step, folder)
            self._recorder.put(MODEL, log)


def start_seed(facts: SeedFacts, row_fails: bool = False) -> Tracker:
    """Start the run of one seed, or take up the unfinished one of the same fingerprint.

    `row_fails`: another seed has failed and so the row has, however this one ends. A store that
    cannot be used costs a line; `sync` creates such a run later, from the log.
    """
    with suppress(TrackingError):  # the recorder tells
        prepare_store()
    return Tracker(facts, row_fails)
