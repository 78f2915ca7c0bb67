"""Processes that train for some seconds, and what a store then holds of them."""

import json
import subprocess
import sys
import time
from typing import Any

from protodl.core.training_log import SeedLog
from protodl.tracking.sync import RowRuns
from tests.tracking.records import all_runs, contents, first_line, record, seed_log, served

EPOCHS, SECONDS = 8, 0.3  # of a training; of an epoch
HISTORY = [record(epoch) for epoch in range(1, EPOCHS + 1)]
LOG = seed_log(history=HISTORY, num_epochs=EPOCHS)
# Seconds that a process may wait after its work, on a machine that is idle or not; after SIGTERM.
ENDING, STOPPING = 9.0, 2.0

TRAINING = """
import json, sys, time
import numpy as np
from protodl.core.process import run_script
from protodl.core.training_log import SeedLog
from protodl.tracking.live import start_seed
from tests.tracking.records import served
log = SeedLog.model_validate_json(sys.argv[1])
def main():
    waited = 0
    with start_seed(log) as tracker:
        print("start", flush=True)
        for epoch in log.history:
            time.sleep(float(sys.argv[2]))
            start = time.monotonic()
            tracker.log_epoch(epoch)
            tracker.log_picture("prototypes", np.full((9, 9, 3), 7, np.uint8), epoch.epoch)
            waited = max(waited, time.monotonic() - start)
            if epoch.epoch == 3:
                print("middle", flush=True)
                sys.stdin.readline()
        tracker.log_model(served(), log.selected_epoch, log.selected_accuracy)
        print("done", flush=True)
        ids = tracker.ids
    print(json.dumps({"waited": waited, **ids}), flush=True)
    return 0
run_script(main)
"""

BUSY = "has not yet taken everything"

STARTED: list[subprocess.Popen[str]] = []


def end_trainings() -> None:
    """End those that a failed test has left running."""
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


class Training:
    """A process that trains for some seconds."""

    def __init__(self, log: SeedLog = LOG, seconds: float = SECONDS) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, log.model_dump_json(), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = log
        STARTED.append(self.process)
        self.warnings: list[str] = []

    def reach(self, place: str) -> None:
        while (line := first_line(self.process)) != place:
            assert line, self.process.communicate()[1]

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self, within: float = ENDING) -> SeedLog:
        """Let it come to its end, for which it waits so many seconds at most; gives its log."""
        self.reach("done")
        done, last = time.monotonic(), first_line(self.process)
        _, errors = self.process.communicate()
        ended = time.monotonic() - done  # of the process, with all that is left of its threads
        print(f"ended {ended:.1f} s after its work")
        assert self.process.returncode == 0, errors
        told: dict[str, Any] = json.loads(last)
        assert told.pop("waited") < 1  # for the file of a picture, beside a busy thread
        assert ended < within
        self.warnings = [line for line in errors.splitlines() if line.startswith("warning")]
        return self.log.model_copy(update=told)


def synced(log: SeedLog) -> list[dict[str, Any]]:
    """What the store holds of the training after `protodl sync`: of its run, and of its row's."""
    for _ in range(2):  # a second one changes nothing
        runs = RowRuns.of([log])
        runs.add_models(lambda _, explains: None if explains else served())
    assert len(all_runs()) == 2
    return [contents(run_id) for run_id in (*runs.seeds, runs.row)]
