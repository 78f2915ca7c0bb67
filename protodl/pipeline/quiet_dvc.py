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


def is_noise(message: str) -> bool:
    """Whether a message tells nothing to somebody who has not called DVC himself."""
    return NOISE.match(message) is not None


def main(arguments: Sequence[str]) -> int:
    """Run DVC with these arguments; returns its exit status."""
    import dvc.cli
    from dvc.ui import ui

    end_with_parent()
    for handler in logging.getLogger("dvc").handlers:
        handler.addFilter(lambda record: not is_noise(record.getMessage()))
    write = ui.write

    def write_unless_noise(*objects: Any, **options: Any) -> None:
        if not objects or not is_noise(str(objects[0])):
            write(*objects, **options)

    ui.write = write_unless_noise
    status: int = dvc.cli.main(list(arguments))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
