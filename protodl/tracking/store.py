"""Where the runs go: an SQLite file in the project root, or the store that the user named."""

import logging
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from protodl.core.errors import ProtodlError
from protodl.core.machine import project_root
from protodl.tracking.client import Client
from protodl.tracking.trouble import TrackingError, is_away, tell, trouble, without_secrets

if TYPE_CHECKING:
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it holds an emoji
    # MLflow's own are 120 s and 7 times, at each call.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
QUIET = {
    "mlflow.utils.environment": logging.ERROR,  # misses pip, which uv leaves out
    "mlflow.store.db.utils": logging.CRITICAL,  # prints what it raises as well
}
LOCK_SECONDS = 5  # until a database that another process keeps locked counts as away
NEEDED = "3.0"  # version of a server that takes models

DEMO_FOLDER, DEMO_EXPERIMENT = ".demo", "protodl-demo"  # as pipeline.demo makes them


class Store(NamedTuple):
    client: "Client | MlflowClient"
    experiment_id: str
    keeps_files: bool = True  # else it has neither pictures nor models
    keeps_models: bool = True


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


def shown_uri() -> str:
    """The store as messages name it."""
    return without_secrets(tracking_uri())


def open_current() -> Store:
    """Open the store with its experiment.

    Raises:
        TrackingError: that is not possible.
    """
    try:
        return _open_store(tracking_uri(), experiment_name())
    except TrackingError:
        raise
    except Exception as error:  # of MLflow, SQLAlchemy, the operating system
        raise TrackingError(trouble(error, shown_uri())) from error


def prepare_store() -> None:
    """Do what needs no answers: import MLflow, create or migrate a database in a file.

    Raises:
        TrackingError: the database cannot be used.
    """
    if _sqlite_file(tracking_uri()):
        open_current()
    else:
        _import_mlflow()


@contextmanager
def raising_tracking_errors() -> Iterator[None]:
    """Turn what a store that was open raises into TrackingError; other errors pass."""
    try:
        yield
    except ProtodlError:
        raise
    except Exception as error:
        is_of_mlflow = type(error).__module__.partition(".")[0] == "mlflow"
        if not (is_of_mlflow or is_away(error) or isinstance(error, OSError)):
            raise
        raise TrackingError(trouble(error, shown_uri())) from error


def run_lock(uri: str) -> "FileLock":
    """What a process of this machine holds while it looks for a run and creates it."""
    from filelock import FileLock

    if database := _sqlite_file(uri):
        return FileLock(f"{database}.lock", timeout=60)  # as long as a migration may take
    name = f"protodl-{os.getuid()}-{sha256(uri.encode()).hexdigest()[:16]}.lock"
    return FileLock(Path(tempfile.gettempdir()) / name, timeout=60)


def _import_mlflow() -> None:
    for variable, value in DEFAULTS.items():
        os.environ.setdefault(variable, value)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    import mlflow  # noqa: F401


@lru_cache(maxsize=8)
def _open_store(uri: str, name: str) -> Store:
    """Open the store and find or create the experiment, one process at a time."""
    _import_mlflow()
    import mlflow

    mlflow.set_tracking_uri(uri)
    database = _sqlite_file(uri)
    if database is None:
        return _open_server(uri, name)
    database.parent.mkdir(parents=True, exist_ok=True)
    with run_lock(uri):  # migrations of a fresh database do not bear company
        # MLflow would try a database that cannot be used for minutes.
        with closing(sqlite3.connect(database, LOCK_SECONDS, isolation_level=None)) as probe:
            probe.execute("PRAGMA journal_mode=WAL")  # stays in the file; ten times faster writes
            probe.execute("BEGIN IMMEDIATE")
        client = mlflow.MlflowClient(uri)
        experiment = _experiment(client, name, artifacts=database.parent / "mlartifacts")
    return Store(Client(client, shown_uri()), str(experiment.experiment_id))


def _open_server(uri: str, name: str) -> Store:
    """A server, of which it is found out what it takes."""
    import mlflow

    host = urlsplit(uri).hostname
    if host in ("localhost", "127.0.0.1", "::1"):
        for variable in ("no_proxy", "NO_PROXY"):  # no proxy finds this machine
            os.environ[variable] = ",".join(filter(None, [os.environ.get(variable), host]))
    client = Client(mlflow.MlflowClient(uri), without_secrets(uri))
    experiment = _experiment(client, name, artifacts=None)
    if not uri.startswith("http"):
        return Store(client, str(experiment.experiment_id))
    files = _keeps_files(uri, str(experiment.artifact_location))
    models = files and _keeps_models(client, str(experiment.experiment_id))
    if not files:
        tell(
            f"the MLflow server {without_secrets(uri)} does not take files (it was started with "
            "--no-serve-artifacts): pictures and models are left out, all else is recorded"
        )
    elif not models:
        tell(
            f"the MLflow server {without_secrets(uri)} is older than MLflow {NEEDED}: models are "
            "left out, all else is recorded"
        )
    return Store(client, str(experiment.experiment_id), files, models)


def _keeps_files(uri: str, location: str) -> bool:
    """Whether files reach a server: by itself, by the cloud, or in a folder that both see."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    where = urlsplit(location)
    if where.scheme in ("", "file"):
        return Path(unquote(where.path)).parent.is_dir()
    try:
        if where.scheme == "mlflow-artifacts":
            get_artifact_repository(location, tracking_uri=uri).list_artifacts()
    except MlflowException as error:
        if "503" not in str(error):
            raise
        return False
    return True


def _keeps_models(client: Client, experiment_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.search_logged_models([experiment_id], max_results=1)
    except MlflowException as error:
        if error.error_code != "ENDPOINT_NOT_FOUND":
            raise
        return False
    return True


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def _experiment(client: "Client | MlflowClient", name: str, artifacts: Path | None) -> "Experiment":
    """The experiment; a deleted one comes back, a missing one is created."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if artifacts is not None:
            if not artifacts.exists():
                artifacts.mkdir()
            location = (artifacts / permitted_name(name)).as_uri()
        try:
            return client.get_experiment(client.create_experiment(name, location))
        except MlflowException as error:  # on a server another process may have been faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise error
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment


def unix_milliseconds() -> int:
    return time.time_ns() // 1_000_000
