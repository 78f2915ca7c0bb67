"""The end of a process that is told to stop: in order, with a line, by the signal itself."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protodl.core.process import GO_ON, STOP_SIGNALS

pytestmark = pytest.mark.faults

WORK = """
import signal, sys, time
from pathlib import Path
from protodl.core.process import run_script
def main():
    try:
        print("begun", flush=True)
        end = time.monotonic() + float(sys.argv[1])
        while time.monotonic() < end:
            time.sleep(0.02)
            print("working", flush=True)
    finally:
        Path("in-order").touch()
    return 0
run_script(main)
"""
IN_A_DESTRUCTOR = """
import os, sys, time
from protodl.core.process import run_script
class Torn:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.001)
def main():
    torn = Torn()
    del torn
    time.sleep(10)
    return 0
run_script(main)
"""
LATE = """
import atexit, os, signal, sys, threading, time
from protodl.core.process import run_script
number = int(sys.argv[2])
def send():
    os.kill(os.getpid(), number)
def main():
    if sys.argv[1] == "thread":  # one that would go on for a while, as an upload does
        threading.Thread(target=time.sleep, args=[20]).start()
        threading.Timer(0.3, send).start()
    else:
        atexit.register(send)
    print("done")
    return int(sys.argv[3])
run_script(main)
"""


def start(folder: Path, program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_ends_a_process_in_order_with_one_line(
    number: signal.Signals, tmp_path: Path
) -> None:
    with start(tmp_path, WORK, "30") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (-number, f"{GO_ON}\n")
    assert (tmp_path / "in-order").exists()


def test_a_signal_that_comes_in_a_destructor_is_not_lost(tmp_path: Path) -> None:
    """Python ignores what is raised there."""
    with start(tmp_path, IN_A_DESTRUCTOR, str(int(signal.SIGINT))) as process:
        _, errors = process.communicate(timeout=8)
    assert (process.returncode, errors) == (-signal.SIGINT, f"{GO_ON}\n")


@pytest.mark.parametrize("ignored", [False, True])
def test_the_end_of_the_terminal_is_obeyed_unless_it_is_ignored(
    ignored: bool, tmp_path: Path
) -> None:
    """As `nohup` does it, which also turns the output elsewhere."""
    ours, terminal = pty.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        out = subprocess.DEVNULL if ignored else terminal
        attached = f"import fcntl, termios; fcntl.ioctl({terminal}, termios.TIOCSCTTY, 0)\n"
        process = subprocess.Popen(
            [sys.executable, "-c", attached + WORK, "1.5" if ignored else "30"],
            cwd=tmp_path, stdin=terminal, stdout=out, stderr=out,
            start_new_session=True, pass_fds=[terminal],
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGHUP, before)
        os.close(terminal)
    if ignored:
        time.sleep(0.7)
    else:
        os.read(ours, 5)
    os.close(ours)
    assert process.wait(timeout=20) == (0 if ignored else -signal.SIGHUP)
    assert (tmp_path / "in-order").exists()


@pytest.mark.parametrize(
    ("moment", "number"),
    [("thread", signal.SIGTERM), ("atexit", signal.SIGINT), ("atexit", signal.SIGHUP)],
)
def test_a_signal_that_comes_when_the_work_is_done_only_hastens_the_end(
    moment: str, number: signal.Signals, tmp_path: Path
) -> None:
    with start(tmp_path, LATE, moment, str(int(number)), "3") as process:
        output, errors = process.communicate(timeout=15)
    assert (process.returncode, errors) == (3, "")
    assert output in ("", "done\n")  # it stands in a buffer yet, which a stage empties before


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        ("print('done'); return 2", 2, "done\n"),
        ("print('done'); raise SystemExit(4)", 4, "done\n"),
        ("raise SystemExit('wrong')", 1, "wrong\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_a_script_leaves_with_its_status_and_all_that_it_said(
    work: str, status: int, said: str, tmp_path: Path
) -> None:
    """And does not take apart what the system takes back at once."""
    program = f"""
import sys
from protodl.core.process import run_script
class Torn:
    def __del__(self, write=sys.stderr.write):
        write("torn")
sys.torn = Torn()
def main():
    {work}
run_script(main)
"""
    with start(tmp_path, program) as process:
        output, errors = process.communicate(timeout=15)
    assert process.returncode == status
    assert (output + errors).endswith(said)
