"""The store that runs go to: found, opened, and named where it cannot be used."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from protodl.tracking.live import start_seed
from protodl.tracking.served import registered_name
from protodl.tracking.store import TrackingError, TrackingWarning
from protodl.tracking.sync import RowRuns, read_results
from tests.tracking.records import NOWHERE, client, record, seed_log, served, train

pytestmark = pytest.mark.usefixtures("project")


def test_importing_it_imports_neither_mlflow_nor_torch() -> None:
    heavy = "{'mlflow', 'torch', 'numpy', 'matplotlib'}"
    modules = ", ".join(f"protodl.tracking.{name}" for name in ("live", "progress", "sync"))
    code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr


def test_a_store_that_cannot_be_opened_ends_no_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked, log = train(seed_log(seed=0)), seed_log(seed=1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with pytest.warns(TrackingWarning, match=r"start of a seed 1: .*/proc/nope/x.db"):
        tracker = start_seed(log)
    with tracker:  # and no warning more
        tracker.log_epoch(record(1))
        tracker.log_picture("prototypes", np.zeros((4, 4), np.uint8), 1)
        tracker.log_model(served(), step=1, validation_accuracy=0.75)
    assert (tracker.run_id, tracker.parent_run_id) == ("untracked", "untracked")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    ids = {"run_id": tracker.run_id, "parent_run_id": tracker.parent_run_id}
    logs = [log.model_copy(update=ids), tracked]
    (created,) = RowRuns.of(logs).created
    assert RowRuns.of(logs).created == []
    assert client().get_run(created).info.run_name == "a seed 1"
    assert client().get_run(created).data.tags["mlflow.parentRunId"] == tracked.parent_run_id
    RowRuns.of(logs).log_result({"test_accuracy": 0.5}, {})
    (result,) = read_results(["a"])["a"]
    assert result.run_id == tracked.parent_run_id
    assert (project / "mlflow.db").is_file()


def test_trouble_with_the_store_has_one_name(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = train(seed_log())
    with sqlite3.connect(project / "mlflow.db") as database:
        database.execute("DROP TABLE tags")
    database.close()
    with pytest.raises(TrackingError, match=r"mlflow.db cannot be used: .*tags"):
        RowRuns.of([log])  # it was open already
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with pytest.raises(TrackingError, match="check MLFLOW_TRACKING_URI"):
        read_results(["a"])


def test_the_user_s_store_and_experiment_are_honoured(
    project: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project / "mine"
    folder.mkdir()
    shutil.copy(migrated_database, folder / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'runs.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "protodl-demo")
    with start_seed(seed_log()) as tracker:
        tracker.log_picture("prototypes", np.zeros((4, 4), np.uint8), 1)
    experiment = MlflowClient(f"sqlite:///{folder / 'runs.db'}").get_experiment_by_name(
        "protodl-demo"
    )
    assert experiment is not None
    assert experiment.artifact_location == (folder / "mlartifacts" / "protodl-demo").as_uri()
    assert list(folder.rglob("*.png"))
    assert tracker.experiment_name == "protodl-demo"
    assert registered_name("mnist") == "protodl-demo-mnist"


def test_a_deleted_experiment_comes_back(project: Path) -> None:
    store = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    store.delete_experiment(store.create_experiment("protodl"))
    assert train(seed_log()).run_id
