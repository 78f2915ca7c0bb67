"""`python -m protodl.pipeline.quiet_dvc`: DVC's command without lines that say nothing here.

What it runs, warns of and fails with is shown as ever, in the same terminal. What it would only
call an unexpected error, or wait for without end, is mended or named before it starts.
"""

import errno
import fcntl
import getpass
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from protodl.core.process import end_with_parent
from protodl.core.stage import let_output_pass
from protodl.pipeline.workers import end_in_words

NOISE = re.compile(
    r"\s*((Stage )?'[^']*' didn't change, skipping"
    r"|(Updating|Generating) lock file"
    r"|To track the changes with git, run:"
    r"|To enable auto staging, run:"
    r"|Use `dvc push` to send your updates)"
)

LOCKED = "That process is at work here: wait for its end, or end it, and repeat this command."


def is_noise(message: str) -> bool:
    """Whether a message tells nothing to somebody who has not called DVC himself."""
    return NOISE.match(message) is not None


def explanations(record: logging.LogRecord) -> Iterator[str]:
    """What to add to a message of DVC's: to wait for another process, or what killed a stage."""
    from dvc.lock import LockError

    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        if isinstance(error, LockError):
            yield LOCKED
        if ended := re.search(r"exited with (-\d+|1[3-9]\d)$", str(error)):
            yield f"The stage was {end_in_words(int(ended[1]))}; repeat the command to go on."
            return
        error = error.__cause__


def give_what_is_missing() -> None:
    """Set the variables by which DVC does without a user's name and without its usual caches."""
    from dvc.dirs import site_cache_dir
    from dvc.env import DVC_SITE_CACHE_DIR

    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user is often a number only
        os.environ["USER"] = f"user-{os.getuid()}"
    place = Path(site_cache_dir(), "repo")
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    if not os.access(there, os.W_OK | os.X_OK):
        os.environ[DVC_SITE_CACHE_DIR] = str(Path(".dvc/tmp/site-cache").absolute())


def obstacle(root: Path) -> str | None:
    """Why DVC cannot work in a folder, with the remedy; None where it can."""
    from dvc.config import Config

    core = Config(str(root / ".dvc"))["core"]
    in_git = any((folder / ".git").exists() for folder in (root, *root.parents))
    if not (in_git or core.get("no_scm")):
        return (
            f"{root} is no git repository, which DVC asks for; say `git init` here, or "
            "`dvc config --local core.no_scm true` to do without (DVC's experiments need git)"
        )
    if not (core.get("hardlink_lock") or _has_locks(root / ".dvc")):
        return (
            f"the file system of {root} has no locks, which DVC asks for; say `dvc config --local "
            "core.hardlink_lock true`, or move the project to another disk"
        )
    return None


def _has_locks(folder: Path) -> bool:
    try:
        with folder.joinpath("config").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # EAGAIN: another process has it
        return error.errno in (errno.EAGAIN, errno.ENOENT)
    return True


def main(arguments: Sequence[str]) -> int:
    """Run DVC with these arguments; returns its exit status."""
    import dvc.cli
    from dvc.ui import ui

    end_with_parent()
    let_output_pass()
    give_what_is_missing()
    if trouble := obstacle(Path.cwd()):
        print(f"error: {trouble}", file=sys.stderr)
        return 1
    added: dict[str, None] = {}

    def keep(record: logging.LogRecord) -> bool:
        added.update(dict.fromkeys(explanations(record)))
        return not is_noise(record.getMessage())

    for handler in logging.getLogger("dvc").handlers:
        handler.addFilter(keep)
    write = ui.write

    def write_unless_noise(*objects: Any, **options: Any) -> None:
        if not objects or not is_noise(str(objects[0])):
            write(*objects, **options)

    ui.write = write_unless_noise
    status: int = dvc.cli.main(list(arguments))
    for line in added:
        print(line, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
