"""The train stage with a clock in it: `python -m benchmarks.watched_stage <its arguments>`.

The last line it prints is JSON: the time of day when the first optimizer step was done (Unix
seconds), and the seconds spent in the hooks that show the training in MLflow.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

from protodl import tracking
from protodl.training.trainer import Hooks, Trainer
from stages import train


class Clock:
    """What was seen of one training."""

    def __init__(self) -> None:
        self.first_step_at = 0.0
        self.hook_seconds = 0.0

    def stepping(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step, which notes when it was done for the first time."""

        def watched(*arguments: Any) -> Any:
            result = step(*arguments)
            self.first_step_at = self.first_step_at or time.time()
            return result

        return watched

    def watching(self, watch: Callable[..., Any]) -> Callable[..., Any]:
        """`tracking.watch` with hooks whose time is taken."""

        @contextmanager
        def watched(*arguments: Any) -> Iterator[Hooks]:
            with watch(*arguments) as hooks:
                names = [field.name for field in fields(hooks)]
                yield replace(hooks, **{name: self.timed(getattr(hooks, name)) for name in names})

        return watched

    def timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook, with its seconds added up."""

        def watched(*arguments: Any) -> None:
            start = time.perf_counter()
            hook(*arguments)
            self.hook_seconds += time.perf_counter() - start

        return watched


def main() -> int:
    """Run the stage."""
    clock = Clock()
    with (
        patch.object(Trainer, "train_step", clock.stepping(Trainer.train_step)),
        patch.object(tracking, "watch", clock.watching(tracking.watch)),
    ):
        status = train.main()
    print(json.dumps(vars(clock)))
    return status


if __name__ == "__main__":
    sys.exit(main())
