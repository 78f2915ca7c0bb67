"""What one process of pytest computes for all of them, and how long they may go on."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

MINUTES = float(os.environ.get("PROTODL_MINUTES", "inf"))  # after which no long run begins
BEGUN = time.monotonic()


def time_is_up() -> bool:
    """Whether these minutes are over."""
    return time.monotonic() - BEGUN > 60 * MINUTES


def computed_once(
    factory: pytest.TempPathFactory, name: str, compute: Callable[[Path], object]
) -> Path:
    """A folder that `compute` has filled, in whichever process came first; to be read only."""
    base = factory.getbasetemp()  # with pytest-xdist each process has its own below a common one
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    finished = folder.with_suffix(".finished")
    with FileLock(folder.with_suffix(".lock")):
        if not finished.exists():
            folder.mkdir()  # fails where another process has failed: it is not tried again
            compute(folder)
            finished.touch()
    return folder
