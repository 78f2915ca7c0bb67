"""Where the runs go: an SQLite file in the project root, or the store that the user named."""

import logging
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from protodl.core.errors import ProtodlError
from protodl.core.machine import project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


DEMO_FOLDER, DEMO_EXPERIMENT = ".demo", "protodl-demo"  # as pipeline.demo makes them


class TrackingWarning(UserWarning):
    """Something was not recorded in MLflow; the computation itself went on."""


class TrackingError(ProtodlError):
    """The MLflow store cannot be used; the message names it, the reason and what to do."""


class Store(NamedTuple):
    client: "MlflowClient"
    experiment_id: str


def tracking_uri() -> str:
    """The store named by MLFLOW_TRACKING_URI, else mlflow.db in the project root.

    The demo has none of its own: its runs are in the store of the project around it.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    database = str((_project_around_demo() or project_root()) / "mlflow.db")
    if unquote(database) != database or "?" in database:  # SQLAlchemy would read another path
        database = os.path.relpath(database)
    return f"sqlite:///{database}"


def experiment_name() -> str:
    """MLFLOW_EXPERIMENT_NAME, or protodl; protodl-demo in the demo's folder."""
    if name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return name
    return DEMO_EXPERIMENT if _project_around_demo() else "protodl"


def permitted_name(name: str) -> str:
    """An experiment's name as models and folders may have it: `Shared-anna-s protodl`."""
    return re.sub(r"[^\w .-]+", "-", name).strip(" .-") or "protodl"


def _project_around_demo() -> Path | None:
    """The project that this one is the demo of."""
    try:
        root = project_root()
    except FileNotFoundError:  # outside of any project the store may still be named
        return None
    is_demo = root.name == DEMO_FOLDER and (root.parent / "dvc.yaml").is_file()
    return root.parent if is_demo else None


def dvc_facts() -> dict[str, str]:
    """Name and baseline of the DVC experiment this process runs in; empty outside of one."""
    names = {"dvc_experiment": "DVC_EXP_NAME", "dvc_baseline": "DVC_EXP_BASELINE_REV"}
    return {fact: os.environ[name] for fact, name in names.items() if os.environ.get(name)}


def open_current() -> Store:
    """Open the store with its experiment.

    Raises:
        TrackingError: that is not possible.
    """
    try:
        return _open_store(tracking_uri(), experiment_name())
    except Exception as error:  # of MLflow, SQLAlchemy, the operating system
        raise TrackingError(_trouble(error)) from error


@contextmanager
def raising_tracking_errors() -> Iterator[None]:
    """Turn what a store that was open raises into TrackingError; other errors pass."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("mlflow", "sqlalchemy"):
            raise
        raise TrackingError(_trouble(error)) from error


def _trouble(error: Exception) -> str:
    reason = " ".join(str(error).split()).partition(" [SQL:")[0] or type(error).__name__
    advice = "check MLFLOW_TRACKING_URI"
    if "sqlite3." in reason:
        advice += ", or move a damaged database away: `protodl sync` fills a new one"
    return f"the MLflow store {tracking_uri()} cannot be used: {reason}; {advice}"


@lru_cache(maxsize=8)
def _open_store(uri: str, name: str) -> Store:
    """Open the store and find or create the experiment, one process at a time."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    # It misses pip, which environments made by uv do not have and nobody needs here.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    import mlflow

    mlflow.set_tracking_uri(uri)
    database = _sqlite_file(uri)
    if database is None:
        client = mlflow.MlflowClient(uri)
        return Store(client, _experiment(client, name, artifacts=None))
    from filelock import FileLock

    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):  # migrations of a fresh database do not bear company
        client = mlflow.MlflowClient(uri)
        experiment_id = _experiment(client, name, artifacts=database.parent / "mlartifacts")
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA journal_mode=WAL")  # stays in the file; ten times faster writes
        connection.close()
    return Store(client, experiment_id)


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def _experiment(client: "MlflowClient", name: str, artifacts: Path | None) -> str:
    """Id of the experiment; a deleted one comes back, a missing one is created."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None if artifacts is None else (artifacts / permitted_name(name)).as_uri()
        try:
            return str(client.create_experiment(name, location))
        except MlflowException as error:  # on a server another process may have been faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise error
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


@contextmanager
def warning_on_failure(what: str) -> Iterator[None]:
    """Turn a failure to record into a warning."""
    try:
        yield
    except Exception as error:
        warnings.warn(
            f"MLflow did not record {what}: {error}; `protodl sync` adds what the logs hold",
            TrackingWarning,
            stacklevel=4,
        )


def unix_milliseconds() -> int:
    return time.time_ns() // 1_000_000
