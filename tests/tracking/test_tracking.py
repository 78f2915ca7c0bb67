"""Runs as MLflow holds them: live, interrupted, refilled and read back, on real stores."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run

from protodl import tracking
from protodl.core.config import ModelConfig
from protodl.core.training_log import EpochRecord, SeedLog
from protodl.network.network import Classifier, PrototypeNetwork

pytestmark = pytest.mark.usefixtures("project")

PARAMETERS = {"dataset": "mnist", "epochs": 3, "optimizer": {"lr": 4e-3, "schedule": "one_cycle"}}
ENVIRONMENT = {"device": "cpu", "git_revision": "abc123+", "dvc_experiment": "noisy-owl"}


def record(epoch: int, accuracy: float = 0.5) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=10 * epoch,
        timestamp_ms=1_700_000_000_000 + 1000 * epoch,
        seconds=1.5,
        images_per_second=800.0,
        learning_rate=4e-3 / epoch,
        train={"accuracy": accuracy, "reconstruction": 1 / epoch},
        validation={"accuracy": accuracy + epoch / 100},
        selected=True,
    )


def seed_log(row: str = "a", seed: int = 0, accuracy: float = 0.5, **changes: Any) -> SeedLog:
    values: dict[str, Any] = {
        "row": row,
        "seed": seed,
        "fingerprint": f"{row}-{seed}",
        "experiment_name": "protodl",
        "run_id": "elsewhere",
        "parent_run_id": "elsewhere",
        "parameters": PARAMETERS,
        "environment": ENVIRONMENT,
        "start_ms": 1_700_000_000_000,
        "end_ms": 1_700_000_009_000,
        "train_seconds": 9.0,
        "num_epochs": 3,
        "selected_epoch": 3,
        "num_train": 55000,
        "num_validation": 5000,
        "data_digest": "0123456789abcdef0123456789abcdef",
        "history": [record(epoch, accuracy) for epoch in (1, 2, 3)],
    }
    return SeedLog(**values | changes)


def start(log: SeedLog) -> tracking.Tracker:
    names = ("row", "seed", "fingerprint", "parameters", "environment")
    data = ("data_digest", "num_train", "num_validation")
    return tracking.start_seed(**{name: getattr(log, name) for name in (*names, *data)})


def train(log: SeedLog) -> SeedLog:
    """Record a whole training live; gives the log as the training stage would write it."""
    with start(log) as tracker:
        for epoch in log.history:
            tracker.log_epoch(epoch)
    ids = {"run_id": tracker.run_id, "parent_run_id": tracker.parent_run_id}
    return log.model_copy(update=ids)


def client() -> MlflowClient:
    return MlflowClient(tracking.tracking_uri())


def all_runs() -> list[Run]:
    experiment = client().get_experiment_by_name(tracking.experiment_name())
    return list(client().search_runs([experiment.experiment_id])) if experiment else []


def contents(run_id: str) -> dict[str, Any]:
    """All that a run holds, except what the store itself assigns."""
    run = client().get_run(run_id)
    history = {
        key: [(m.step, m.timestamp, m.value) for m in client().get_metric_history(run_id, key)]
        for key in run.data.metrics
    }
    own = {"synced", "mlflow.parentRunId"}
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "tags": {key: value for key, value in run.data.tags.items() if key not in own},
        "parameters": run.data.params,
        "history": history,
        "inputs": [(entry.dataset.to_dictionary(), entry.tags) for entry in data_inputs(run)],
    }


def data_inputs(run: Run) -> list[DatasetInput]:
    assert run.inputs is not None
    return list(run.inputs.dataset_inputs)


def served() -> tracking.ServedModel:
    """A real network, untrained."""
    network = PrototypeNetwork(ModelConfig(num_prototypes=4), channels=1, image_size=28)
    images = np.linspace(0, 1, 2 * 28 * 28, dtype=np.float32).reshape(2, 1, 28, 28)
    return tracking.ServedModel(Classifier(network), images, list("0123456789"))


def no_model(_: SeedLog) -> None:
    return None


def test_importing_it_imports_neither_mlflow_nor_torch() -> None:
    heavy = "{'mlflow', 'torch', 'numpy', 'matplotlib'}"
    code = f"import sys, protodl.tracking; print({heavy} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr


def test_a_training_becomes_a_run_below_the_run_of_its_row(project: Path) -> None:
    log = train(seed_log())
    run = client().get_run(log.run_id)
    parent = client().get_run(log.parent_run_id)
    assert (run.info.run_name, run.info.status) == ("a seed 0", "FINISHED")
    assert (parent.info.run_name, parent.info.status) == ("a", "FINISHED")
    expected = {
        "mlflow.parentRunId": log.parent_run_id,
        "row": "a",
        "seed": "0",
        "dataset": "mnist",
        "fingerprint": "a-0",
        "dvc_stage": "train@a",
        "dvc_experiment": "noisy-owl",
        "environment.device": "cpu",
        "mlflow.source.git.commit": "abc123",
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.params["optimizer.lr"] == parent.data.params["optimizer.lr"] == "0.004"
    history = client().get_metric_history(log.run_id, "validation/accuracy")
    times = [1_700_000_000_000 + 1000 * epoch for epoch in (1, 2, 3)]
    assert [(m.step, m.timestamp) for m in history] == list(zip((1, 2, 3), times, strict=True))
    assert run.data.metrics["train/reconstruction"] == 1 / 3
    (dataset,) = [entry.dataset for entry in data_inputs(run)]
    assert (dataset.name, dataset.digest) == ("mnist", log.data_digest)
    assert json.loads(dataset.profile or "") == {"num_train": 55000, "num_validation": 5000}
    assert (project / "mlflow.db").is_file()


def test_seeds_share_their_row_and_other_parameters_make_another() -> None:
    first, second = train(seed_log(seed=0)), train(seed_log(seed=1))
    other = train(seed_log(parameters=PARAMETERS | {"epochs": 4}, fingerprint="other"))
    assert first.parent_run_id == second.parent_run_id != other.parent_run_id
    assert len({first.run_id, second.run_id, other.run_id}) == 3


def test_pictures_have_steps_and_lie_in_the_project_whatever_the_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with start(seed_log()) as tracker:
        for step, shape in ((1, (8, 9)), (2, (8, 9, 1)), (3, (8, 9, 3))):
            tracker.log_picture("prototypes", np.full(shape, 7, np.uint8), step)
    pictures = sorted(path.name for path in (project / "mlartifacts").rglob("*.png"))
    assert [name.split("+")[:3] for name in pictures] == [
        ["prototypes", "step", str(step)] for step in (1, 2, 3)
    ]
    assert not list(elsewhere.iterdir())


def test_an_unfinished_run_is_taken_up_without_repeating_epochs() -> None:
    log = seed_log()
    first = start(log)
    first.log_epoch(log.history[0])
    with pytest.raises(ZeroDivisionError), first:
        1 / 0  # noqa: B018
    assert client().get_run(first.run_id).info.status == "FAILED"
    assert client().get_run(first.parent_run_id).info.status == "FAILED"
    again = log.history[0].model_copy(update={"timestamp_ms": 1_800_000_000_000})
    with start(log) as second:
        assert client().get_run(second.run_id).info.status == "RUNNING"
        for epoch in (again, *log.history[1:]):
            second.log_epoch(epoch)
    assert (second.run_id, second.parent_run_id) == (first.run_id, first.parent_run_id)
    history = client().get_metric_history(second.run_id, "train/accuracy")
    assert [(m.step, m.timestamp) for m in history] == [
        (r.epoch, r.timestamp_ms) for r in log.history
    ]
    assert client().get_run(second.run_id).info.status == "FINISHED"
    assert start(log).run_id != first.run_id  # finished: trained once more is another run


def test_what_a_cut_left_out_of_the_last_epoch_is_added_once(project: Path) -> None:
    picture = np.zeros((4, 4), np.uint8)

    def train(names: list[str], cut: bool) -> str:
        with start(seed_log()) as tracker:
            tracker.log_epoch(record(1))
            for name in names:
                tracker.log_picture(name, picture, 1)
            if len(names) == 2:
                tracker.log_model(served(), step=1, validation_accuracy=0.75)
            if cut:
                raise ZeroDivisionError
        return tracker.run_id

    with pytest.raises(ZeroDivisionError):
        train(["reconstructions"], cut=True)
    with pytest.raises(ZeroDivisionError):
        train(["reconstructions", "prototypes"], cut=True)
    run_id = train(["reconstructions", "prototypes"], cut=False)
    assert [run.info.run_id for run in all_runs() if run.data.tags["kind"] == "seed"] == [run_id]
    names = sorted(path.name.split("+")[0] for path in project.rglob("images/*.png"))
    assert names == ["prototypes", "reconstructions"]
    assert len(client().get_metric_history(run_id, "learning_rate")) == 1
    assert len(client().search_model_versions("name = 'protodl-mnist'")) == 1


NOWHERE = "sqlite:////proc/nope/x.db"


def test_a_store_that_cannot_be_opened_ends_no_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked, log = train(seed_log(seed=0)), seed_log(seed=1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with pytest.warns(tracking.TrackingWarning, match=r"start of a seed 1: .*/proc/nope/x.db"):
        tracker = start(log)
    with tracker:  # and no warning more
        tracker.log_epoch(record(1))
        tracker.log_picture("prototypes", np.zeros((4, 4), np.uint8), 1)
        tracker.log_model(served(), step=1, validation_accuracy=0.75)
    assert (tracker.run_id, tracker.parent_run_id) == ("untracked", "untracked")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    ids = {"run_id": tracker.run_id, "parent_run_id": tracker.parent_run_id}
    logs = [log.model_copy(update=ids), tracked]
    (created,) = tracking.sync_seeds(logs, {}, no_model)
    assert tracking.sync_seeds(logs, {}, no_model) == []
    assert contents(created)["name"] == "a seed 1"
    assert client().get_run(created).data.tags["mlflow.parentRunId"] == tracked.parent_run_id
    tracking.log_row(logs, {"test_accuracy": 0.5}, {}, {})
    (result,) = tracking.read_results(["a"])["a"]
    assert result.run_id == tracked.parent_run_id
    assert (project / "mlflow.db").is_file()


def test_termination_passes_a_tracker_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    try:
        with pytest.warns(tracking.TrackingWarning):
            tracker = start(seed_log())
        with pytest.raises(tracking.Terminated), tracker:
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_trouble_with_the_store_has_one_name(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = train(seed_log())
    with sqlite3.connect(project / "mlflow.db") as database:
        database.execute("DROP TABLE tags")
    database.close()
    with pytest.raises(tracking.TrackingError, match=r"mlflow.db cannot be used: .*tags"):
        tracking.sync_seeds([log], {}, no_model)  # it was open already
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with pytest.raises(tracking.TrackingError, match="check MLFLOW_TRACKING_URI"):
        tracking.read_results(["a"])


def test_termination_reaches_the_handler_that_was_there() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(tracking.Terminated), start(seed_log()) as tracker:
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert client().get_run(tracker.run_id).info.status == "KILLED"


ENDINGS = {"finish": "pass", "fail": "1 / 0", "term": "time.sleep(60)", "kill": "time.sleep(60)"}

PROCESS = """
import json, sys, time
from protodl import tracking
with tracking.start_seed(**json.loads(sys.argv[1])) as tracker:
    print(tracker.run_id, flush=True)
    exec(sys.argv[2])
"""


@pytest.fixture(scope="module")
def four_processes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, dict[str, str], dict[str, int]]]:
    """Four trainings start at once where there is no database, and end in four ways."""
    root = tmp_path_factory.mktemp("fresh")
    dropped = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"DVC_ROOT": str(root)}
    names = ("seed", "parameters", "environment", "data_digest", "num_train", "num_validation")
    processes = {}
    for row, ending in ENDINGS.items():
        facts = seed_log(row).model_dump(include={*names, "row", "fingerprint"})
        processes[row] = subprocess.Popen(
            [sys.executable, "-c", PROCESS, json.dumps(facts), ending],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        run_ids = {row: _first_line(process) for row, process in processes.items()}
        processes["term"].terminate()
        processes["kill"].kill()
        codes = {row: _finish(process) for row, process in processes.items()}
        yield root, run_ids, codes
    finally:
        for process in processes.values():
            process.kill()


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _finish(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=60)
    return process.returncode


def test_processes_that_start_together_on_no_database_all_succeed(
    four_processes: tuple[Path, dict[str, str], dict[str, int]],
) -> None:
    root, run_ids, codes = four_processes
    assert all(run_ids.values())
    assert codes == {"finish": 0, "fail": 1, "term": -signal.SIGTERM, "kill": -signal.SIGKILL}
    store = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    status = {row: store.get_run(run_id).info.status for row, run_id in run_ids.items()}
    # Nobody can speak for a process ended by SIGKILL.
    assert status == {"finish": "FINISHED", "fail": "FAILED", "term": "KILLED", "kill": "RUNNING"}


@pytest.mark.parametrize("row", ["fail", "term", "kill"])
def test_an_interrupted_process_is_resumed_under_its_run_id(
    row: str,
    four_processes: tuple[Path, dict[str, str], dict[str, int]],
    project: Path,
) -> None:
    root, run_ids, _ = four_processes
    shutil.copytree(root, project, dirs_exist_ok=True)
    with start(seed_log(row)) as tracker:
        pass
    assert tracker.run_id == run_ids[row]
    assert client().get_run(tracker.run_id).info.status == "FINISHED"


def test_the_model_answers_any_batch_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = served()
    with start(seed_log()) as tracker:
        tracker.log_epoch(record(1))
        tracker.log_model(model, step=1, validation_accuracy=0.75)
    (version,) = client().search_model_versions("name = 'protodl-mnist'")
    assert version.run_id == tracker.run_id
    expected = {"row": "a", "seed": "0", "validation_accuracy": "0.75"}
    assert expected.items() <= version.tags.items()
    copied = mlflow.artifacts.download_artifacts("models:/protodl-mnist/1", dst_path=str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for address in ("models:/protodl-mnist/1", copied):
        loaded = mlflow.pyfunc.load_model(address)
        for size in (1, 100):
            images = np.random.default_rng(size).random((size, 1, 28, 28), dtype=np.float32)
            scores = model.module(torch.from_numpy(images)).detach().numpy()
            np.testing.assert_allclose(loaded.predict(images), scores, rtol=1e-5, atol=1e-5)
    assert loaded.metadata.metadata["class_names"] == list("0123456789")
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 28, 28)
    requirements = (Path(copied) / "requirements.txt").read_text()
    assert f"mlflow=={mlflow.__version__}" in requirements
    assert "+cpu" not in requirements


def test_an_emptied_store_is_refilled_as_it_was(
    project: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"test_accuracy": 0.875}
    logs = [train(seed_log(row, seed)) for row, seed in (("a", 0), ("a", 1), ("b", 0))]
    for log in logs:
        tracking.log_evaluation(log, metrics)
    live = [contents(log.run_id) for log in logs]
    parents = [contents(log.parent_run_id) for log in logs]
    assert tracking.sync_seeds(logs, {("a", 0): metrics}, no_model) == []

    shutil.copy(migrated_database, project / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'other.db'}")
    evaluations = {(log.row, log.seed): metrics for log in logs}
    created = tracking.sync_seeds(logs, evaluations, no_model)
    times = {"test_accuracy"}  # evaluated when it was recorded
    assert [_without_times(contents(run), times) for run in created] == [
        _without_times(run, times) for run in live
    ]
    refilled = [client().get_run(run) for run in created]
    assert [contents(run.data.tags["mlflow.parentRunId"]) for run in refilled] == parents
    assert {run.data.tags["synced"] for run in refilled} == {"yes"}
    assert [(run.info.start_time, run.info.end_time) for run in refilled] == [
        (log.start_ms, log.end_ms) for log in logs
    ]
    before = [contents(run.info.run_id) for run in all_runs()]
    assert tracking.sync_seeds(logs, evaluations, no_model) == []
    assert [contents(run.info.run_id) for run in all_runs()] == before
    assert len(before) == 5


def _without_times(run: dict[str, Any], names: set[str]) -> dict[str, Any]:
    history = {
        key: [(step, value) for step, _, value in points] if key in names else points
        for key, points in run["history"].items()
    }
    return run | {"history": history}


def test_a_row_trained_further_after_a_refill_keeps_its_parent() -> None:
    (run_id,) = tracking.sync_seeds([seed_log(seed=0)], {}, no_model)
    parent = client().get_run(run_id).data.tags["mlflow.parentRunId"]
    assert train(seed_log(seed=1)).parent_run_id == parent


def test_sync_adds_lost_epochs_and_a_missing_model_once() -> None:
    with start(seed_log()) as tracker:
        tracker.log_epoch(record(1))
    asked: list[str] = []

    def load(log: SeedLog) -> tracking.ServedModel:
        asked.append(log.row)
        return served()

    for _ in range(2):
        assert tracking.sync_seeds([seed_log()], {}, load) == []
    steps = [m.step for m in client().get_metric_history(tracker.run_id, "learning_rate")]
    assert steps == [1, 2, 3]
    assert asked == ["a"]
    assert len(client().search_model_versions("name = 'protodl-mnist'")) == 1


def test_evaluation_is_written_without_stretching_the_run() -> None:
    log = train(seed_log())
    before = client().get_run(log.run_id).info
    time.sleep(0.01)
    tracking.log_evaluation(log, {"test_accuracy": 0.9}, {"confusion.json": [[1, 0], [0, 1]]})
    tracking.log_evaluation(log, {"test_accuracy": 0.8})  # evaluated anew: the latest counts
    tracking.log_evaluation(log, {"test_accuracy": 0.8})
    after = client().get_run(log.run_id)
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.end_time)
    assert after.data.metrics["test_accuracy"] == 0.8
    assert len(client().get_metric_history(log.run_id, "test_accuracy")) == 2
    assert [f.path for f in client().list_artifacts(log.run_id)] == ["confusion.json"]


def test_results_are_read_as_they_were_recorded(tmp_path: Path) -> None:
    picture = tmp_path / "weights.png"
    picture.write_bytes(b"png")
    old = train(seed_log(parameters=PARAMETERS | {"epochs": 9}, fingerprint="old"))
    logs = [train(seed_log("a", 0)), train(seed_log("a", 1))]
    mean = {"test_accuracy": 0.1 + 0.2, "purity25": 1 / 3}
    tracking.log_row([old], {"test_accuracy": 0.4}, {"test_accuracy": 0.0}, {"num_seeds": 1})
    tracking.log_row(logs, mean, {"test_accuracy": 1e-17}, {"num_seeds": 2})
    tracking.log_pictures(logs, [picture])
    results = tracking.read_results(["a"])
    assert list(results) == ["a"]
    latest, earlier = results["a"]
    assert (latest.run_id, earlier.run_id) == (logs[0].parent_run_id, old.parent_run_id)
    assert latest.metrics == {**mean, "test_accuracy_std": 1e-17, "num_seeds": 2}
    assert latest.parameters["epochs"] == "3"
    assert earlier.metrics == {"test_accuracy": 0.4, "test_accuracy_std": 0.0, "num_seeds": 1}
    artifacts = client().list_artifacts(latest.run_id, "pictures")
    assert [f.path for f in artifacts] == ["pictures/weights.png"]
    with pytest.raises(LookupError, match="no result of row 'b'"):
        tracking.read_results(["a", "b"])


def test_the_champion_has_the_best_held_out_mean_of_its_data_set() -> None:
    fashion = {"parameters": PARAMETERS | {"dataset": "fashion-mnist"}}
    logs = [
        seed_log("steady", 0, 0.80),
        seed_log("steady", 1, 0.81),
        seed_log("lucky", 0, 0.90),
        seed_log("lucky", 1, 0.50),
        seed_log("clothes", 0, 0.10, **fashion),
    ]
    tracking.sync_seeds(logs, {}, lambda _: served())
    assert tracking.set_champions(logs) == {"mnist": "steady", "fashion-mnist": "clothes"}
    version = client().get_model_version_by_alias("protodl-mnist", "champion")
    assert (version.tags["row"], version.tags["seed"]) == ("steady", "1")
    assert tracking.set_champions(logs[2:4]) == {"mnist": "lucky"}


def test_the_user_s_store_and_experiment_are_honoured(
    project: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project / "mine"
    folder.mkdir()
    shutil.copy(migrated_database, folder / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'runs.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "protodl-demo")
    with start(seed_log()) as tracker:
        tracker.log_picture("prototypes", np.zeros((4, 4), np.uint8), 1)
    experiment = MlflowClient(f"sqlite:///{folder / 'runs.db'}").get_experiment_by_name(
        "protodl-demo"
    )
    assert experiment is not None
    assert experiment.artifact_location == (folder / "mlartifacts" / "protodl-demo").as_uri()
    assert list(folder.rglob("*.png"))
    assert tracker.experiment_name == "protodl-demo"
    assert tracking.registered_name("mnist") == "protodl-demo-mnist"


def test_a_failure_to_record_is_a_warning(project: Path) -> None:
    (project / "mlartifacts").write_text("a file where the folder should be")
    with start(seed_log()) as tracker, pytest.warns(tracking.TrackingWarning, match="picture"):
        tracker.log_picture("prototypes", np.zeros((4, 4), np.uint8), 1)
    assert client().get_run(tracker.run_id).info.status == "FINISHED"


def test_the_experiment_s_page_is_prepared() -> None:
    tracking.describe_experiment("| row |\n|---|\n" + "| a |\n" * 2000)
    experiment = client().get_experiment_by_name("protodl")
    assert experiment is not None
    description = experiment.tags["mlflow.note.content"]
    assert description.startswith("| row |\n|---|\n| a |\n")
    assert description.endswith("| a |\n\n(…)")
    view = json.loads(experiment.tags["mlflow.sharedViewState.results"])
    assert "metrics.`test_accuracy`" in view["selectedColumns"]
    assert tracking.link("http://127.0.0.1:5000/") == (
        f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs"
        "?workflowType=machine_learning&viewStateShareKey=results"
    )


def test_a_deleted_experiment_comes_back(project: Path) -> None:
    store = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    store.delete_experiment(store.create_experiment("protodl"))
    assert train(seed_log()).run_id


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(tracking.TrackingError, match=f"port {port} is taken"):
            tracking.serve_ui(port)


def test_the_server_shows_the_store_and_records_for_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = train(seed_log())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from protodl import tracking; tracking.serve_ui({port})"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert _first_line(server) == tracking.link(f"http://127.0.0.1:{port}")
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        assert client().get_run(log.run_id).info.run_name == "a seed 0"
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from-afar")
        remote = train(seed_log("b"))
        assert client().get_run(remote.run_id).data.metrics["train/accuracy"] == 0.5
        tracking.serve_ui(port)  # the store is a server already: prints its link and returns
        assert f"http://127.0.0.1:{port}/#/experiments/" in capfd.readouterr().out
    finally:
        server.terminate()
        server.communicate(timeout=30)


def _wait_for(address: str, server: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)
