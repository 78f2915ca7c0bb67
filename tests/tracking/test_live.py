"""The runs of seeds while they are trained: whole, interrupted and resumed, on real stores."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from protodl.core.process import STOP_SIGNALS, Interrupted, answering, interrupt
from protodl.core.training_log import SeedFacts
from protodl.tracking.live import Tracker, start_seed
from tests.tracking.records import (
    NOWHERE,
    PARAMETERS,
    all_runs,
    client,
    data_inputs,
    first_line,
    record,
    seed_log,
    served,
    train,
)

pytestmark = pytest.mark.usefixtures("project")


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
    with start_seed(seed_log()) as tracker:
        for step, shape in ((1, (8, 9)), (2, (8, 9, 3)), (10, (8, 9, 3))):
            tracker.log_picture("prototypes", np.full(shape, 7, np.uint8), step)
    pictures = sorted(path.name for path in (project / "mlartifacts").rglob("*.png"))
    assert [name.split("+")[:3] for name in pictures] == [
        ["prototypes", "step", step] for step in ("1", "10", "2")
    ]
    assert not list((project / ".protodl").rglob("*.png"))  # they are kept until they are recorded
    assert not list(elsewhere.iterdir())


def test_an_unfinished_run_is_taken_up_without_repeating_epochs() -> None:
    log = seed_log()
    first = start_seed(log)
    first.log_epoch(log.history[0])
    with pytest.raises(ZeroDivisionError), first:
        1 / 0  # noqa: B018
    assert client().get_run(first.run_id).info.status == "FAILED"
    assert client().get_run(first.parent_run_id).info.status == "FAILED"
    again = log.history[0].model_copy(update={"timestamp_ms": 1_800_000_000_000})
    with start_seed(log) as second:
        assert client().get_run(second.run_id).info.status == "RUNNING"
        for epoch in (again, *log.history[1:]):
            second.log_epoch(epoch)
    assert (second.run_id, second.parent_run_id) == (first.run_id, first.parent_run_id)
    history = client().get_metric_history(second.run_id, "train/accuracy")
    assert [(m.step, m.timestamp) for m in history] == [
        (r.epoch, r.timestamp_ms) for r in log.history
    ]
    assert client().get_run(second.run_id).info.status == "FINISHED"
    assert start_seed(log).run_id != first.run_id  # finished: trained once more is another run


def test_what_a_cut_left_out_of_the_last_epoch_is_added_once(project: Path) -> None:
    picture = np.zeros((4, 4), np.uint8)

    def train(names: list[str], cut: bool) -> str:
        with start_seed(seed_log()) as tracker:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_is_killed_by_the_signal_that_stops_its_training(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_and_hear_more(tracker: Tracker, status: str, seconds: float) -> None:
        for each in STOP_SIGNALS:  # as DVC, the terminal and the user may send one each
            signal.raise_signal(each)
        end(tracker, status, seconds)

    end = Tracker._end
    monkeypatch.setattr(Tracker, "_end", end_and_hear_more)
    one = start_seed(seed_log())
    one._recorder.opened.wait(60)  # on a busy machine it takes longer than a training waits
    with pytest.raises(Interrupted) as stopped, answering(interrupt), one:
        signal.raise_signal(number)
    assert stopped.value.number == number
    assert client().get_run(one.run_id).info.status == "KILLED"


def test_a_stop_passes_a_tracker_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    with pytest.raises(Interrupted), answering(interrupt), start_seed(seed_log()):
        signal.raise_signal(signal.SIGTERM)


ENDINGS = {"finish": "pass", "fail": "1 / 0", "term": "time.sleep(60)", "kill": "time.sleep(60)"}


PROCESS = """
import json, sys, time
from protodl.core.process import run_script
from protodl.core.training_log import SeedFacts
from protodl.tracking.live import start_seed
def main():
    with start_seed(SeedFacts.model_validate_json(sys.argv[1])) as tracker:
        tracker._recorder.opened.wait(60)  # longer than a training would wait
        print(tracker.run_id, flush=True)
        exec(sys.argv[2])
    return 0
run_script(main)
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
    processes = {}
    for row, ending in ENDINGS.items():
        facts = seed_log(row).model_dump_json(include={*SeedFacts.model_fields})
        processes[row] = subprocess.Popen(
            [sys.executable, "-c", PROCESS, facts, ending],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        run_ids = {row: first_line(process) for row, process in processes.items()}
        processes["term"].terminate()
        processes["kill"].kill()
        codes = {row: _finish(process) for row, process in processes.items()}
        yield root, run_ids, codes
    finally:
        for process in processes.values():
            process.kill()


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
    with start_seed(seed_log(row)) as tracker:
        pass
    assert tracker.run_id == run_ids[row]
    assert client().get_run(tracker.run_id).info.status == "FINISHED"


def test_a_failure_to_record_is_a_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "mlartifacts").write_text("a file where the folder should be")
    with start_seed(seed_log()) as tracker:
        tracker.log_picture("prototypes", np.zeros((4, 4), np.uint8), 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("warning: .*mlartifacts.* the training goes on", line)
    assert client().get_run(tracker.run_id).info.status == "FINISHED"
