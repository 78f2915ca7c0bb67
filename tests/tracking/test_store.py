"""The store that runs go to: found, opened, and named where it cannot be used."""

import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from protodl.pipeline import demo
from protodl.tracking import store
from protodl.tracking.champions import set_champions
from protodl.tracking.live import start_seed
from protodl.tracking.served import registered_name
from protodl.tracking.store import experiment_name, tracking_uri
from protodl.tracking.sync import RowRuns, read_results
from protodl.tracking.trouble import TrackingError
from tests.tracking.records import NOWHERE, client, evaluation, record, seed_log, served, train

pytestmark = pytest.mark.usefixtures("project")


def test_importing_it_imports_neither_mlflow_nor_torch() -> None:
    heavy = "{'mlflow', 'torch', 'numpy', 'matplotlib'}"
    modules = ", ".join(f"protodl.tracking.{name}" for name in ("live", "progress", "sync"))
    code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr


def test_a_store_that_cannot_be_opened_ends_no_training(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked, log = train(seed_log(seed=0)), seed_log(seed=1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with start_seed(log) as tracker:
        tracker.log_epoch(record(1))
        tracker.log_picture("prototypes", np.zeros((4, 4), np.uint8), 1)
        tracker.log_model(served(), step=1, validation_accuracy=0.75)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("warning: .*/proc/nope/x.db cannot be used: .*the training goes on", line)
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
    opened = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    opened.delete_experiment(opened.create_experiment("protodl"))
    assert train(seed_log()).run_id


@pytest.mark.parametrize(
    "name", ["/Shared/anna's team: vision", "../../escape", "Users/x@y.org/%2"]
)
def test_an_experiment_may_have_any_name(
    name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    log = seed_log()
    with start_seed(log) as tracker:
        for epoch in log.history:
            tracker.log_epoch(epoch)
        tracker.log_model(served(), step=3, validation_accuracy=0.75)
    log = log.model_copy(update={"run_id": tracker.run_id})
    runs = RowRuns.of([log, seed_log(seed=1)])
    runs.add_models(lambda _, explains: None if explains else served())
    runs.log_evaluations([evaluation(each, {"test_accuracy": 0.5}) for each in runs.logs])
    runs.describe("Served as models:/protodl-mnist@a.")
    assert set_champions([runs]) == {"mnist": "a"}
    model = registered_name("mnist")
    assert not set(model) & set("/:'%\"")
    champion = client().get_model_version_by_alias(model, "champion")
    assert champion.run_id in runs.seeds
    assert champion.description == f"Served as models:/{model}@a."
    assert len(client().search_model_versions(f"name = '{model}'")) == 2
    experiment = client().get_experiment_by_name(name)
    assert experiment is not None
    assert experiment.artifact_location.startswith((project / "mlartifacts").as_uri())
    assert list((project / "mlartifacts").rglob("program.pt2"))
    assert RowRuns.of(runs.logs).created == []


def test_the_demo_keeps_to_its_own_experiment_in_the_project_s_store(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (store.DEMO_FOLDER, store.DEMO_EXPERIMENT) == (demo.FOLDER, demo.EXPERIMENT)
    (project / "dvc.yaml").touch()
    inside = project / demo.FOLDER
    monkeypatch.setenv("DVC_ROOT", str(inside))
    RowRuns.of([seed_log()])
    around = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    assert {each.name for each in around.search_experiments()} == {"Default", demo.EXPERIMENT}
    assert not inside.exists()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert experiment_name() == "mine"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    (project / "dvc.yaml").unlink()  # a folder of that name is no demo by itself
    assert experiment_name() == "protodl"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow has set it
    assert tracking_uri() == f"sqlite:///{inside / 'mlflow.db'}"


def test_only_a_database_that_may_be_damaged_is_to_be_moved_away(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "x" * 600)  # MLflow takes 500
    with pytest.raises(TrackingError, match="cannot be used: ") as refused:
        read_results(["a"])
    assert "damaged" not in str(refused.value)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    (project / "mlflow.db").write_text("this is not a database")
    with pytest.raises(TrackingError, match="move a damaged database away"):
        read_results(["a"])
