"""What goes wrong with a store, told in one line and without secrets."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

from protodl.core.errors import ProtodlError


class TrackingError(ProtodlError):
    """The MLflow store cannot be used; the message names it, the reason and what to do."""


class Trouble(NamedTuple):
    """A kind of failure, by what MLflow says of it."""

    said: str  # regular expression
    reason: str  # empty: MLflow's own words; `\\1` is the group of `said`
    advice: str = "check MLFLOW_TRACKING_URI"


TROUBLES = (
    Trouble("Invalid Host header", "the server refuses this host name",
            "name it in MLFLOW_SERVER_ALLOWED_HOSTS where the server is started"),
    Trouble(r"error code 401|[Uu]nauthenticated|not authenticated", "it wants to know who asks",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"),
    Trouble("ProxyError|to proxy", "the proxy cannot be reached",
            "check HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"),
    Trouble(r"too many (\d+) error responses", r"the server answers with error \1"),
    Trouble("Connection refused", "connection refused",
            "start the server, or check MLFLOW_TRACKING_URI"),
    Trouble("Connection aborted|Connection broken", "the server hung up"),
    Trouble("timed out|timeout", "no answer in time",
            "MLFLOW_HTTP_REQUEST_TIMEOUT is that time in seconds"),
    Trouble("database is locked", "another process keeps the database locked", "end that one"),
    Trouble("database or disk is full|No space left", "the disk is full", "make space"),
    Trouble("readonly database", "it is read-only", "make it writable"),
    Trouble("malformed|not a database|no such table|no such column", "",
            "move a damaged database away: `protodl sync` fills a new one"),
    Trouble("", ""),
)  # fmt: skip


def trouble(error: Exception, store: str) -> str:
    """What is wrong with a store: its name, the reason and what to do."""
    if isinstance(error, TrackingError):
        return str(error)
    said = " ".join(str(error).split()).partition(" [SQL:")[0] or type(error).__name__
    found, kind = next((found, kind) for kind in TROUBLES if (found := re.search(kind.said, said)))
    reason = found.expand(kind.reason) or said
    return without_secrets(f"the MLflow store {store} cannot be used: {reason}; {kind.advice}")


def without_secrets(text: str) -> str:
    """A text in which addresses have neither user and password nor a query."""
    return re.sub(r"(\w+://)(?:[^\s/]*@)?([^\s?;,'\"]*)(?:\?[^\s;,'\"]*)?", r"\1\2", text)


def is_away(error: Exception) -> bool:
    """Whether the store failed as a whole, so that another call would fail too."""
    if isinstance(error, TrackingError):
        return True
    library = type(error).__module__.partition(".")[0]
    if library == "mlflow":
        status = int(getattr(error, "get_http_status_code", lambda: 500)())
        return status >= 500 or status in (401, 403)
    return library in ("sqlalchemy", "sqlite3", "requests", "urllib3", "filelock")


@lru_cache
def tell(line: str) -> None:
    """Print a warning, each line once; a progress display on the terminal stays whole."""
    from tqdm import tqdm

    tqdm.write(f"warning: {without_secrets(line)}", file=sys.stderr)


@contextmanager
def telling_failures(what: str) -> Iterator[None]:
    """Leave out what the store does not take, with a line.

    Raises:
        Exception: the store is away.
    """
    try:
        yield
    except Exception as error:
        if is_away(error):
            raise
        reason = " ".join(str(error).split())
        tell(f"MLflow did not record {what}: {reason}; `protodl sync` adds what the files hold")
