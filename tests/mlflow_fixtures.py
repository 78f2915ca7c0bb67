"""A real MLflow store for each test: the migrated database is made once and copied (0.06 s)."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from protodl.tracking.trouble import tell
from tests.shared import computed_once

VARIABLES = ("MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables and no experiment of ours."""
    return computed_once(tmp_path_factory, "migrated", _migrate) / "mlflow.db"


def _migrate(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    connection = sqlite3.connect(folder / "mlflow.db")
    connection.execute("PRAGMA journal_mode=DELETE")  # so that the one file is the whole database
    connection.close()


@pytest.fixture
def project(tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root with an MLflow store of its own, found through DVC_ROOT."""
    root = tmp_path / "project"
    root.mkdir()
    empty_project(root, migrated_database, monkeypatch)
    return root


def empty_project(root: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this folder an empty MLflow store, and make it the project root."""
    shutil.copy(migrated_database, root / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(root))
    # Set, not deleted: MLflow writes this variable itself, and only then is that undone.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    tell.cache_clear()  # a line is told once in a process
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
