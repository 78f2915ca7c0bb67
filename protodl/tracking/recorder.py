"""A thread that records in MLflow what a training hands to it, so that nobody waits for a store."""

import threading
import time
from collections.abc import Callable
from itertools import count
from queue import PriorityQueue
from typing import NamedTuple

from protodl.core.training_log import SeedFacts
from protodl.tracking.kept_pictures import recorded_pictures
from protodl.tracking.runs import ensure_runs, recorded_epochs
from protodl.tracking.store import Store, open_current, shown_uri, unix_milliseconds
from protodl.tracking.trouble import is_away, tell, trouble

PAUSE = 30.0  # seconds after which a store that was away is tried again
EPOCHS, END, PICTURES, MODEL, LAST = range(5)  # what is done first
LATER = "`protodl sync` or the next stage adds what is missing"


class SeedRun(NamedTuple):
    """The run that is recorded."""

    store: Store
    run_id: str
    parent_run_id: str
    epochs: set[int]  # that it has
    pictures: dict[tuple[str, int], str]  # as recorded_pictures gives them


Job = Callable[[SeedRun], None]


class Recorder(threading.Thread):
    """Finds or creates the run of a seed, and does the jobs it is given, one after the other.

    A job that fails is told once and forgotten. While the store is away no job calls it.
    """

    def __init__(self, facts: SeedFacts) -> None:
        super().__init__(name=f"MLflow: {facts.title}", daemon=True)
        self.seed_run: SeedRun | None = None
        self.opened = threading.Event()  # the run is known, or it is known that it is not
        self.is_away = False
        self._facts = facts
        self._again = 0.0  # when a store that is away is tried again, by time.monotonic
        self._jobs: PriorityQueue[tuple[int, int, Job | None]] = PriorityQueue()
        self._numbers = count()
        self.put(EPOCHS, lambda _: None)  # the run shows from the start of the training on

    def put(self, priority: int, job: Job | None) -> None:
        """Have a job done, before those of higher numbers; None ends the thread."""
        self._jobs.put((priority, next(self._numbers), job))

    def run(self) -> None:
        """Do the jobs until there is None."""
        while job := self._jobs.get()[2]:
            if time.monotonic() >= self._again:
                self._do(job)
            self.opened.set()

    def wait(self, seconds: float) -> None:
        """Wait for all jobs to be done, as long as the store answers."""
        self.join(seconds)
        if self.is_alive():
            tell(f"the MLflow store {shown_uri()} has not yet taken everything: {LATER}")

    def _do(self, job: Job) -> None:
        try:
            self.seed_run = self.seed_run or _start(open_current(), self._facts)
            job(self.seed_run)
            self.is_away = False
        except Exception as error:
            self.is_away = is_away(error)
            if self.is_away:
                self._again = time.monotonic() + PAUSE
            tell(f"{trouble(error, shown_uri())}; the training goes on, and {LATER}")


def _start(store: Store, facts: SeedFacts) -> SeedRun:
    """Take up the unfinished run of the same fingerprint, or create one."""
    run, parent, _ = ensure_runs(
        store,
        facts,
        lambda runs: next((run for run in runs if run.info.status != "FINISHED"), None),
        unix_milliseconds(),
        {},
    )
    run_id = str(run.info.run_id)
    for each in (parent, run_id):
        store.client.update_run(each, status="RUNNING")
    pictures = recorded_pictures(store, run_id)
    return SeedRun(store, run_id, parent, recorded_epochs(store, run_id), pictures)
