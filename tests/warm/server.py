"""The warm process: imports what commands import, and forks itself for each that is asked for."""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

# What stages, commands and DVC spend their first seconds on; nothing of protodl, since a project
# in a test may be a copy with another text.
MODULES = (
    "torch", "torch._dynamo", "torchvision", "mlflow", "mlflow.pytorch", "alembic", "sqlalchemy",
    "matplotlib.pyplot", "scipy.ndimage", "scipy.stats", "PIL.Image", "pydantic", "yaml", "psutil",
    "safetensors.torch", "tqdm", "requests", "filelock", "jinja2", "tabulate", "dvc.cli",
    "dvc.repo",
)  # fmt: skip
# Read once, when a library is loaded.
EARLY = ("ATEN_", "CUDA_", "KMP_", "LD_", "MKL_", "MPL", "OMP_", "ONEDNN_", "PYTHON", "TORCH")
OBEYED = ("PYTHONPATH", "PYTHONUNBUFFERED")  # by the fork itself
OTHER_KIND = 256


def serve(folder: Path) -> None:
    """Fork for each caller, until the standard input ends."""
    inherited = early(os.environ)  # some libraries set theirs
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # garbage is not looked for among them, which would copy their pages
    assert threading.active_count() == 1, "a fork would lack a thread"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener.fileno(), 0], [], [])
            if listener.fileno() not in ready:
                return
            caller, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    keep(caller, inherited)
                except BaseException:
                    traceback.print_exc()
                os._exit(70)
            caller.close()


def keep(caller: socket.socket, inherited: Mapping[str, str]) -> None:
    """Fork the command, pass signals on to it and its end to the caller."""
    size, streams, _, _ = socket.recv_fds(caller, 4, 3)
    text = b""
    while len(text) < int.from_bytes(size, "big"):
        text += caller.recv(2**20)
    request = json.loads(text)
    if early(request["variables"]) != inherited:
        caller.sendall(OTHER_KIND.to_bytes(4, "big", signed=True))
        os._exit(0)
    command = os.fork()
    if command == 0:
        caller.close()
        become(request, streams)
        return
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(command)
    while True:
        ready, _, _ = select.select([caller.fileno(), ended], [], [])
        if ended in ready:
            _, status = os.waitpid(command, 0)
            caller.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
            os._exit(0)
        number = caller.recv(1)
        if number:
            os.kill(command, number[0])
        else:  # the caller was killed
            os.killpg(command, signal.SIGKILL)
            os._exit(0)


def early(variables: Any) -> dict[str, str]:
    """The variables that a fork obeys only if it has inherited them."""
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(EARLY) and name not in OBEYED
    }


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Run the module as `python -m` would, and end."""
    os.setsid()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # DVC has wrapped them
    for written in (sys.stdout, sys.stderr):
        assert isinstance(written, TextIOWrapper)
        written.reconfigure(write_through="PYTHONUNBUFFERED" in os.environ)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(request["folder"])
    sys.executable = request["executable"]
    module, *arguments = request["arguments"]
    sys.argv = [module, *arguments]
    more = os.environ.get("PYTHONPATH")
    sys.path[:0] = [request["folder"], *(more.split(os.pathsep) if more else [])]
    os._exit(ended_with(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)))


def ended_with(work: Callable[[], object]) -> int:
    """What Python does at its end, but for taking half a million objects apart; its status."""
    status: Any = None
    try:
        work()
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status or 0


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
