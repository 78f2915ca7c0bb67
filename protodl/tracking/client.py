"""MLflow's client, and how long what is done after a stage's own work waits for its answers."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from protodl.tracking.trouble import TrackingError, tell

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What a database says where two clients write the same at once.
CONFLICT = "UniqueViolation|UNIQUE constraint|duplicate key|DeadlockDetected"
PROMPT, SLOW = 0.25, 0.9  # seconds for an answer
PATIENCE = 5.0  # seconds beyond PROMPT that a stage waits in all

_left: ContextVar[list[float] | None] = ContextVar("patience", default=None)


@contextmanager
def patience(seconds: float = PATIENCE) -> Iterator[None]:
    """Raise TrackingError in what is done here once all slow answers took this long together."""
    token = _left.set([seconds])
    try:
        yield
    finally:
        _left.reset(token)


class Client:
    """MLflow's client, which tells once what is waited for and can run out of `patience`."""

    def __init__(self, client: "MlflowClient", store: str) -> None:
        self._client, self._store = client, store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = time.monotonic()
            try:
                answer = method(*arguments, **named)
            except Exception as error:
                if not re.search(CONFLICT, str(error)):
                    raise
                answer = method(*arguments, **named)  # finds what the other client has written
            self._waited(time.monotonic() - start)
            return answer

        return call

    def _waited(self, seconds: float) -> None:
        left = _left.get()
        if left is None:
            if seconds > SLOW and current_thread() is main_thread():
                tell(f"the MLflow store {self._store} is slow, {SLOW} s for an answer and more")
            return
        left[0] -= max(0.0, seconds - PROMPT)
        if left[0] < 0:
            raise TrackingError(f"the MLflow store {self._store} is too slow to be waited for")
