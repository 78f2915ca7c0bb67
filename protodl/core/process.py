"""What a process owes to others: one at a time in a folder, and no life after its parent's."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

PARENT = os.getppid()  # read first: whoever is asked later may have inherited this process
POLL_SECONDS = 1.0
GO_ON = "stopped; the same command goes on from what is done"


@contextmanager
def alone_in(folder: Path, what: str) -> Iterator[None]:
    """Inside, no other process is in this folder, which is created; waits for one that is.

    The operating system holds the lock, so that it ends with its process, however that ends.

    Args:
        folder: what is worked on.
        what: what is done in it, for the line that says which process is waited for.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = Path(lock.lock_file).read_text() or "that just began"
        print(f"{what}: waiting for process {holder}, which is at it already", flush=True)
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        Path(lock.lock_file).write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def end_with_parent() -> None:
    """Let SIGTERM end this process soon after its parent has ended in whatever way."""

    def wait() -> None:
        while os.getppid() == PARENT:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end_with_parent", daemon=True).start()


class Interrupted(KeyboardInterrupt):
    """SIGTERM arrived; what catches Ctrl-C catches this, and `finally` puts things in order."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Inside, SIGTERM raises Interrupted."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise Interrupted


def print_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A `sys.excepthook` for which a stop by signal is no error."""
    if isinstance(error, KeyboardInterrupt):
        print(GO_ON, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def end_by(error: KeyboardInterrupt) -> None:
    """End this process as if the signal had not been caught, which is what its parent looks at."""
    number = signal.SIGTERM if isinstance(error, Interrupted) else signal.SIGINT
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
