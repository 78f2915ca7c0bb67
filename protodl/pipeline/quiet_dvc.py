"""`python -m protodl.pipeline.quiet_dvc`: DVC's command without lines that say nothing here.

What it runs, warns of and fails with is shown as ever, in the same terminal.
"""

import logging
import re
import sys
from collections.abc import Sequence
from typing import Any

from protodl.core.process import end_with_parent

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


def tells_of_lock(record: logging.LogRecord) -> bool:
    """Whether a message is that another process has locked what is needed."""
    from dvc.lock import LockError

    error = record.exc_info[1] if record.exc_info else None
    while error is not None and not isinstance(error, LockError):
        error = error.__cause__
    return error is not None


def main(arguments: Sequence[str]) -> int:
    """Run DVC with these arguments; returns its exit status."""
    import dvc.cli
    from dvc.ui import ui

    end_with_parent()
    locked: list[bool] = []

    def keep(record: logging.LogRecord) -> bool:
        locked.append(tells_of_lock(record))
        return not is_noise(record.getMessage())

    for handler in logging.getLogger("dvc").handlers:
        handler.addFilter(keep)
    write = ui.write

    def write_unless_noise(*objects: Any, **options: Any) -> None:
        if not objects or not is_noise(str(objects[0])):
            write(*objects, **options)

    ui.write = write_unless_noise
    status: int = dvc.cli.main(list(arguments))
    if any(locked):
        print(LOCKED, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
