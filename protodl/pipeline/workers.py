"""Commands in parallel: a queue, its workers, and no process left behind."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from protodl.core.process import Interrupted, answering

POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0  # for a training that is told to stop to leave things in order


@dataclass(frozen=True)
class Job:
    """A command with the name it is reported under."""

    name: str
    command: tuple[str, ...]


@dataclass
class _Child:
    job: Job
    slot: int
    process: subprocess.Popen[str]
    reader: threading.Thread | None


@dataclass
class Workers:
    """One worker for each entry of `environments` (variables on top of this process's own).

    With `prefix` each line of a child's output starts with the job's name; without it the children
    share this process's terminal.
    """

    folder: Path
    environments: Sequence[Mapping[str, str]]
    prefix: bool = False
    _running: list[_Child] = field(default_factory=list)

    def run(self, jobs: Sequence[Job], ended: Callable[[Job, int], None]) -> None:
        """Run all jobs in this order; `ended` receives each job with its exit status.

        Raises:
            Interrupted: on SIGINT, SIGTERM or SIGHUP, after the children were ended.
        """
        waiting = deque(jobs)
        received: list[int] = []
        # Noted, instead of interrupting, so that no child is forgotten in between.
        with answering(lambda number, _frame: received.append(number)):
            try:
                while (waiting or self._running) and not received:
                    self._fill(waiting)
                    self._reap(ended)
                    time.sleep(POLL_SECONDS)
            finally:
                end_groups([child.process for child in self._running])
                self._running.clear()
            if received:
                raise Interrupted(received[0])

    def _fill(self, waiting: deque[Job]) -> None:
        """Start waiting jobs on the workers that are free."""
        busy = {child.slot for child in self._running}
        for slot in range(len(self.environments)):
            if slot not in busy and waiting:
                self._running.append(self._start(waiting.popleft(), slot))

    def _start(self, job: Job, slot: int) -> _Child:
        pipe = subprocess.PIPE if self.prefix else None
        process = subprocess.Popen(
            job.command,
            cwd=self.folder,
            env={**os.environ, **self.environments[slot]},
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.STDOUT if self.prefix else None,
            text=True,
            errors="replace",
            start_new_session=True,  # so that its own children are ended with it
        )
        reader = None
        if process.stdout is not None:
            arguments = (process.stdout, job.name)
            reader = threading.Thread(target=_print_lines, args=arguments, daemon=True)
            reader.start()
        return _Child(job, slot, process, reader)

    def _reap(self, ended: Callable[[Job, int], None]) -> None:
        """Take the children that have ended off the list and report them."""
        for child in [child for child in self._running if child.process.poll() is not None]:
            self._running.remove(child)
            if child.reader is not None:
                child.reader.join(timeout=GRACE_SECONDS)
            ended(child.job, child.process.returncode)


def _print_lines(stream: IO[str], name: str) -> None:
    with stream:
        for line in stream:
            if text := line.rstrip():
                text = text if text.startswith(name) else f"{name} | {text}"
                print(text, flush=True)


def end_in_words(status: int) -> str:
    """What the exit status of a process, or a shell's of its command, tells of its end."""
    number = -status if status < 0 else status - 128
    if number not in set(signal.Signals):
        return f"exit status {status}"
    often = " (often for lack of memory: run fewer rows at a time, or lower batch_size)"
    return f"killed by {signal.Signals(number).name}{often * (number == signal.SIGKILL)}"


def end_groups(processes: Sequence[subprocess.Popen[str]], grace: float = GRACE_SECONDS) -> None:
    """End processes that lead their own group, with all their descendants.

    They receive SIGTERM, and SIGKILL after `grace` seconds.
    """
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(_group_lives(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for process in processes:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _group_lives(process: subprocess.Popen[str]) -> bool:
    process.poll()  # a dead leader that nobody waited for would still count
    return _signal_group(process, 0)


def _signal_group(process: subprocess.Popen[str], signum: int) -> bool:
    """Signal a group; whether there was still one."""
    try:
        os.killpg(process.pid, signum)
    except (ProcessLookupError, PermissionError):  # macOS answers the latter for dead members
        return False
    return True
