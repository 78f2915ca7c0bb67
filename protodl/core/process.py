"""What a process owes to others: one at a time in a folder, an end in order when it is told to."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], Any] | signal.Handlers

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal has closed
PARENT = os.getppid()  # read first: whoever is asked later may have inherited this process
POLL_SECONDS = 1.0
AGAIN_SECONDS = 0.02  # by then the destructor has ended
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
    """A stop signal came; what catches Ctrl-C catches this, and `finally` puts things in order."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def interrupt(number: int, _frame: FrameType | None) -> None:
    """A handler of signals that raises Interrupted."""
    raise Interrupted(number)


def interrupt_again(ignored: "sys.UnraisableHookArgs") -> None:
    """A `sys.unraisablehook`: send a signal again that came in a destructor.

    Python lets no exception out of one.
    """
    if isinstance(ignored.exc_value, Interrupted):
        arguments = (os.getpid(), ignored.exc_value.number)
        threading.Timer(AGAIN_SECONDS, os.kill, arguments).start()
    else:
        sys.__unraisablehook__(ignored)


@contextmanager
def answering(handler: Handler) -> Iterator[None]:
    """Inside, stop signals are answered by this handler, but those that are ignored stay so."""
    previous = _answer(handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _answer(handler: Handler) -> dict[int, Any]:
    # One that is ignored stays so: `nohup` means that the end of the terminal is not ours.
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run the main of a script and end this process with its status.

    A stop signal interrupts it: a line says how to go on, and the process ends by that signal,
    which is what its parent looks at. When the work is done, it ends what is left of the process.
    """
    status = 1

    def leave() -> None:
        # Python would yet take torch and MLflow apart, for seconds on a busy machine, and die of
        # Ctrl-C without a word.
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)

    atexit.register(leave)  # first: the last one is called first
    sys.unraisablehook = interrupt_again
    _answer(interrupt)
    try:
        status = main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        raise
    except KeyboardInterrupt as error:
        _end_by(error)
    finally:
        _answer(lambda *_: os._exit(status))
    sys.exit(status)


def print_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A `sys.excepthook` for which a stop by signal is no error."""
    if isinstance(error, KeyboardInterrupt):
        print(GO_ON, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _end_by(error: KeyboardInterrupt) -> None:
    number = error.number if isinstance(error, Interrupted) else signal.SIGINT
    with suppress(OSError):  # of a terminal that is no more
        print(GO_ON, file=sys.stderr)
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
