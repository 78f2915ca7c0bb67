"""Commands in processes that have torch, MLflow and DVC imported already: seconds less for each.

A folder with a `python` (and a `protodl`, a `dvc`) for the front of PATH: its `python -m MODULE`,
of this project or of DVC, is run by a fork of one process that has imported what such commands
need, with the caller's folder, variables, open files and signals. Other commands, and all of them
with PROTODL_TESTS=cold (`make test-all`), get a Python of their own.
"""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOCKET, PYTHON = "PROTODL_TESTS_SOCKET", "PROTODL_TESTS_PYTHON"
COLD = os.environ.get("PROTODL_TESTS") == "cold" or not hasattr(os, "pidfd_open")
COMMANDS = {"dvc": "dvc", "protodl": "protodl.cli"}


@functools.cache
def environment() -> dict[str, str]:
    """The variables by which the commands of a process, and all that they start, are warm."""
    own = Path(sys.executable).parent
    if COLD:
        return {"PATH": f"{own}{os.pathsep}{os.environ['PATH']}"}
    folder = Path(tempfile.mkdtemp(prefix="protodl-warm-"))
    _write(folder / "python", f"#!{sys.executable} -IS\n{(FOLDER / 'client.py').read_text()}")
    for name, module in COMMANDS.items():
        _write(folder / name, f'#!/bin/sh\nexec "{folder}/python" -m {module} "$@"\n')
    server = subprocess.Popen(
        [sys.executable, "-P", FOLDER / "server.py", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(_end, server, folder)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return {
        "PATH": os.pathsep.join((str(folder), str(own), os.environ["PATH"])),
        SOCKET: str(folder / "socket"),
        PYTHON: sys.executable,
    }


def python() -> str:
    """The warm `python`, or this one."""
    return str(Path(environment()["PATH"].partition(os.pathsep)[0], "python"))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _end(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    assert server.stdin is not None
    server.stdin.close()  # which is its end
    server.wait()
    shutil.rmtree(folder)
