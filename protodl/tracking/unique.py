"""Things of which a server shall have one each, though several machines may make them at once."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import uniform
from typing import TypeVar

T = TypeVar("T")


def found_or_made(
    find: Callable[[], Mapping[str, T]],
    choose: Callable[[Sequence[T]], T | None],
    make: Callable[[], str],
    remove: Callable[[str], None],
) -> tuple[T, bool]:
    """What is chosen of all that is found, else something new; and whether it is new.

    Whoever finds, after making something, that it would have chosen another machine's, removes its
    own and looks again: of two that are made at once one stays at most, and never both.

    Args:
        find: gives what there is, by id.
        choose: picks one of it; None where something new is needed.
        make: creates something and gives its id.
        remove: takes back what was made.
    """
    pause = 0.0  # longer than the server takes, and twice as long each time
    while (chosen := choose([*find().values()])) is None:
        start = time.monotonic()
        own = make()
        others = dict(find())
        made = others.pop(own)
        if choose([*others.values()]) is None:
            return made, True
        remove(own)
        pause = 2 * (pause + time.monotonic() - start)
        time.sleep(uniform(0, pause))  # noqa: S311 - both may have removed their own
    return chosen, False


@contextmanager
def unless_forbidden() -> Iterator[None]:
    """Leave undone what this user may not do on the server."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
