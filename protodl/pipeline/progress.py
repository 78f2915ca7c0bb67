"""What is said while trainings run elsewhere: in a terminal one line that stays, else one now and
then."""

import sys
import time
from collections.abc import Mapping, Sequence

from protodl.pipeline.forecast import makespan
from protodl.pipeline.seeds import Seed
from protodl.report.tables import format_seconds

SAY_SECONDS = 30.0  # between two lines on what is running, outside of a terminal
SHOWN = 4  # of those that are running


def say(text: str) -> None:
    """Print a line, above the one that stays."""
    from tqdm import tqdm

    tqdm.write(text)
    sys.stdout.flush()


class Progress:
    """How far a queue of trainings is, and when it will be over."""

    def __init__(self, epoch_seconds: Mapping[str, float]) -> None:
        """`epoch_seconds`: of an epoch of a row, from earlier records."""
        from tqdm import tqdm

        self.epoch_seconds = dict(epoch_seconds)
        self._bar = tqdm(bar_format="{desc}", disable=not sys.stderr.isatty())
        self._said = time.monotonic()

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()

    def tell(
        self, over: int, running: Sequence[Seed], waiting: Sequence[Seed], room: Mapping[str, int]
    ) -> None:
        """Say what is running: in a terminal always, else now and then.

        Args:
            over: how many trainings have ended.
            running: on a node, and `waiting` for one.
            room: how many run at once, by node.
        """
        terminal = not self._bar.disable
        if not terminal and time.monotonic() - self._said < SAY_SECONDS:
            return
        self._said = time.monotonic()
        left = [*running, *waiting]
        rows = self.epoch_seconds
        seconds = [
            rows[each.request.row] * (each.epochs - each.epoch)
            for each in left
            if each.request.row in rows
        ]
        eta = f", ETA {format_seconds(makespan(seconds, sum(room.values())))}" if seconds else ""
        now = [f"{each.request.title} {each.epoch}/{each.epochs}" for each in running[:SHOWN]]
        more = f" and {len(running) - SHOWN} more" if len(running) > SHOWN else ""
        text = (
            f"{over} of {over + len(left)} trainings over, {len(running)} running on {len(room)} "
            f"nodes{eta}" + (f": {', '.join(now)}{more}" if now else "")
        )
        if terminal:
            self._bar.set_description_str(text)
        else:
            say(text)
