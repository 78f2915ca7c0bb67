"""Finished seeds and rows in MLflow: refilled, completed and read back."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from protodl.core.config import Params
from protodl.core.training_log import ResultsError, SeedLog
from protodl.tracking.champions import set_champions
from protodl.tracking.live import start_seed
from protodl.tracking.project import sync_project
from protodl.tracking.served import ServedModel
from protodl.tracking.sync import RowRuns, log_evaluations, read_results
from tests.tracking.records import (
    PARAMETERS,
    all_runs,
    client,
    contents,
    data_inputs,
    evaluation,
    record,
    seed_log,
    served,
    train,
)

pytestmark = pytest.mark.usefixtures("project")


def test_an_emptied_store_is_refilled_as_it_was(
    project: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics: dict[str, int | float] = {"test_accuracy": 0.875}
    logs = [train(seed_log(row, seed)) for row, seed in (("a", 0), ("a", 1), ("b", 0))]
    for log in logs:
        log_evaluations([log], [evaluation(log, metrics)])
    live = [contents(log.run_id) for log in logs]
    parents = [contents(log.parent_run_id) for log in logs]
    assert refill(logs, metrics) == []

    shutil.copy(migrated_database, project / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'other.db'}")
    created = refill(logs, metrics)
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
    assert refill(logs, metrics) == []
    assert [contents(run.info.run_id) for run in all_runs()] == before
    assert len(before) == 5


def refill(logs: list[SeedLog], metrics: dict[str, int | float]) -> list[str]:
    """Record rows `a` and `b`; gives the seeds' runs that were missing."""
    created = []
    for own in (logs[:2], logs[2:]):
        runs = RowRuns.of(own)
        runs.log_evaluations([evaluation(log, metrics) for log in own])
        created += runs.created
    return created


def _without_times(run: dict[str, Any], names: set[str]) -> dict[str, Any]:
    history = {
        key: [(step, value) for step, _, value in points] if key in names else points
        for key, points in run["history"].items()
    }
    return run | {"history": history}


def test_a_row_trained_further_after_a_refill_keeps_its_parent() -> None:
    (run_id,) = RowRuns.of([seed_log(seed=0)]).created
    parent = client().get_run(run_id).data.tags["mlflow.parentRunId"]
    assert train(seed_log(seed=1)).parent_run_id == parent


def test_sync_adds_lost_epochs_and_a_missing_model_once() -> None:
    with start_seed(seed_log()) as tracker:
        tracker.log_epoch(record(1))
    asked: list[bool] = []

    def load(_: SeedLog, explains: bool) -> ServedModel | None:
        asked.append(explains)
        return None if explains else served()

    for _ in range(2):
        runs = RowRuns.of([seed_log()])
        runs.add_models(load)
        assert runs.created == []
    steps = [m.step for m in client().get_metric_history(tracker.run_id, "learning_rate")]
    assert steps == [1, 2, 3]
    assert asked == [False, True, True]
    assert len(client().search_model_versions("name = 'protodl-mnist'")) == 1


def test_a_row_of_which_a_seed_failed_stays_failed_while_that_seed_is_missing(
    project: Path,
) -> None:
    with pytest.raises(ZeroDivisionError), start_seed(seed_log(seed=7)):
        1 / 0  # noqa: B018
    with start_seed(seed_log(seed=8), row_fails=True) as tracker:
        tracker.log_epoch(record(1))
    row = tracker.parent_run_id
    folder = project / "rows"
    seed_log(seed=8).write(folder / "a" / "training" / "seed-8.json")
    params = Params.model_validate({"seeds": [7, 8], "experiments": {"a": {"dataset": "mnist"}}})
    synced = sync_project(params, folder, project / "models")
    assert "seed-7.json" in synced.left_out[0]
    assert client().get_run(tracker.run_id).info.status == "FINISHED"
    assert client().get_run(row).info.status == "FAILED"
    RowRuns.of([seed_log(seed=7), seed_log(seed=8)])  # both are there
    assert client().get_run(row).info.status == "FINISHED"


def test_evaluation_is_written_without_stretching_the_run() -> None:
    log = train(seed_log())
    before = client().get_run(log.run_id).info
    time.sleep(0.01)
    for accuracy in (0.9, 0.8, 0.8):  # evaluated anew: the latest counts
        log_evaluations([log], [evaluation(log, {"test_accuracy": accuracy})])
    after = client().get_run(log.run_id)
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.end_time)
    assert after.data.metrics["test_accuracy"] == 0.8
    assert len(client().get_metric_history(log.run_id, "test_accuracy")) == 2
    names = ["confusion.json", "prototypes.json"]
    assert [f.path for f in client().list_artifacts(log.run_id)] == names


def test_live_and_refilled_models_have_metrics_data_and_descriptions(
    project: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"test_accuracy": 0.875, "validation_accuracy": 0.53, "decode_agreement": 1.0}
    log = seed_log()
    with start_seed(log) as tracker:
        for epoch in log.history:
            tracker.log_epoch(epoch)
        tracker.log_model(served(), step=3, validation_accuracy=0.53)
    log = log.model_copy(update={"run_id": tracker.run_id})
    log_evaluations([log], [evaluation(log, metrics)])
    live = shown_of_model(tracker.run_id)
    dataset, tested = ("mnist", log.data_digest), ("mnist-test", log.data_digest)
    expected = {("test_accuracy", *tested, 0.875), ("decode_agreement", *dataset, 1.0)}
    assert expected <= live["metrics"]
    assert live["inputs"] == [("mnist", "training"), ("mnist-test", "test")]
    assert "test accuracy **87.50 %**" in live["description"]
    assert (
        "![prototypes](get-artifact?path=pictures%2Fprototypes.png&run_uuid=RUN)"
        in (live["description"])
    )

    shutil.copy(migrated_database, project / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'other.db'}")
    for _ in range(2):
        runs = RowRuns.of([log])
        runs.add_models(lambda _, explains: None if explains else served())
        runs.log_evaluations([evaluation(log, metrics)])
        set_champions([runs])
        assert shown_of_model(runs.seeds[0]) == live
        parent = client().get_run(runs.row)
        assert [tag.value for entry in data_inputs(parent) for tag in entry.tags] == [
            "training",
            "test",
        ]
    for name in metrics:
        assert len(client().get_metric_history(runs.seeds[0], name)) == 1
    model = client().get_registered_model("protodl-mnist")
    assert "[MNIST](http" in model.description
    assert "| `champion` | [a seed 0](#/experiments/" in model.description
    assert "| 53.00 % | 87.50 % |" in model.description


def shown_of_model(run_id: str) -> dict[str, Any]:
    """What the pages of a seed's run and of its model show, without the store's own ids."""
    run = client().get_run(run_id)
    (model,) = client().search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run_id}'"
    )
    return {
        "metrics": {
            (each.key, each.dataset_name, each.dataset_digest, each.value)
            for each in model.metrics or []
        },
        "tags": {key: model.tags[key] for key in ("row", "seed", "dataset")},
        "inputs": [(each.dataset.name, each.tags[0].value) for each in data_inputs(run)],
        "description": run.data.tags["mlflow.note.content"].replace(run_id, "RUN"),
    }


def test_results_are_read_as_they_were_recorded(tmp_path: Path) -> None:
    picture = tmp_path / "weights.png"
    picture.write_bytes(b"png")
    old = train(seed_log(parameters=PARAMETERS | {"epochs": 9}, fingerprint="old"))
    logs = [train(seed_log("a", 0)), train(seed_log("a", 1))]
    mean = {"test_accuracy": 0.1 + 0.2, "purity25": 1 / 3}
    RowRuns.of([old]).log_result({"test_accuracy": 0.4, "num_seeds": 1}, {})
    runs = RowRuns.of(logs)
    runs.log_result({**mean, "test_accuracy_std": 1e-17, "num_seeds": 2}, {"seeds": "0 1"})
    runs.log_pictures([picture])
    results = read_results(["a"])
    assert list(results) == ["a"]
    latest, earlier = results["a"]
    assert (latest.run_id, earlier.run_id) == (logs[0].parent_run_id, old.parent_run_id)
    assert latest.metrics == {**mean, "test_accuracy_std": 1e-17, "num_seeds": 2}
    assert latest.parameters["epochs"] == "3"
    assert earlier.metrics == {"test_accuracy": 0.4, "num_seeds": 1}
    assert latest.tags["seeds"] == "0 1"
    artifacts = client().list_artifacts(latest.run_id, "pictures")
    assert [f.path for f in artifacts] == ["pictures/weights.png"]
    with pytest.raises(ResultsError, match="no result of row 'b'"):
        read_results(["a", "b"])


def test_the_champion_has_the_best_validation_mean_of_its_data_set() -> None:
    fashion = {"parameters": PARAMETERS | {"dataset": "fashion-mnist"}}
    rows = [
        RowRuns.of(logs)
        for logs in (
            [seed_log("steady", 0, 0.80), seed_log("steady", 1, 0.81)],
            [seed_log("lucky", 0, 0.90), seed_log("lucky", 1, 0.50)],
            [seed_log("clothes", 0, 0.10, **fashion)],
        )
    ]
    for row in rows:
        row.add_models(lambda _, explains: None if explains else served())
    assert set_champions(rows) == {"mnist": "steady", "fashion-mnist": "clothes"}
    version = client().get_model_version_by_alias("protodl-mnist", "champion")
    assert (version.tags["row"], version.tags["seed"]) == ("steady", "1")
    assert set_champions(rows[1:2]) == {"mnist": "lucky"}
