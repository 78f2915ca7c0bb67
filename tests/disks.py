"""Full and read-only disks: real ones where they may be mounted, else what comes close."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 2**20  # bytes


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """`folder` takes a megabyte; gives what the system says when there is no more.

    Only root may mount a disk; for others no file can be larger than that.
    """
    if mounted(folder, f"size={SIZE}"):
        yield from _until_unmounted(folder, "No space left on device")
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, before[1]))
    try:
        yield "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only_disk(folder: Path) -> Iterator[str]:
    """Nothing can be written into `folder`; gives what the system says then."""
    if mounted(folder, "ro"):
        yield from _until_unmounted(folder, "Read-only file system")
        return
    folder.chmod(0o500)
    try:
        yield "Permission denied"
    finally:
        folder.chmod(0o700)


def mounted(folder: Path, options: str) -> bool:
    """Whether an empty disk could be mounted there."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:  # another system has no such command
        return False


def _until_unmounted(folder: Path, words: str) -> Iterator[str]:
    try:
        yield words
    finally:
        subprocess.run(["umount", str(folder)], check=True)
