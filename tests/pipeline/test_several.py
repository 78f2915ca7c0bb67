"""Several at once, again and again: nothing is lost, nothing is there twice."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from protodl.core.training_log import SeedLog
from protodl.tracking.sync import RowRuns
from tests.pipeline.test_workers import DVC_YAML
from tests.stages.test_train import Stage
from tests.tracking.records import record, seed_log, train

ROOT = Path(__file__).parents[2]
ROWS = ("a", "b", "c", "d")
TRAIN = "python -m stages.train ${key} --params params.yaml --data data/mnist --teacher none"
TRAIN += " --models models/${key} --logs results/rows/${key}/training --curves curves/${key}.csv"
IGNORED = ("*.db*", "/mlartifacts", "/train.pt", "/.protodl", "/data", "/models", "/pictures")
Seeds = Counter[tuple[str, str, str, str]]  # row, experiment of DVC, status, epochs in MLflow
PARAMS = """
seeds: [0]
data: {source: sample}
training: {validation_size: 40, threads: 1}
experiments:
"""

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture(autouse=True, params=range(int(os.environ.get("PROTODL_REPEATS", "20"))))
def _again() -> None:
    """Repeats each test of this module."""


class Small:
    """A git and DVC repository whose rows are real trainings of a second, of invented images."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = Stage(folder, database).folder
        dvc_yaml = DVC_YAML.replace("python stage.py ${key} ${item.epochs}", TRAIN)
        dvc_yaml = dvc_yaml.replace("echo ${item} > data/${item}", "cp train.pt data/${item}")
        (folder / "dvc.yaml").write_text(dvc_yaml)
        rows = [f"  {row}: {{dataset: mnist, epochs: 2, batch_size: 50}}\n" for row in ROWS]
        (folder / "params.yaml").write_text(PARAMS + "".join(rows))
        (folder / ".gitignore").write_text("\n".join(IGNORED))
        commit = "git -c user.name=t -c user.email=t@example.org commit -q -m state"
        for command in ("git init -q", "dvc init -q", "git add -A", commit):
            self.finish(*command.split())

    def start(self, *command: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROTODL_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            environment.pop(name, None)
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def finish(self, *command: str) -> str:
        process = self.start(*command)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return said


def seed_runs(database: Path) -> Seeds:
    """How often MLflow has each seed."""
    connection = sqlite3.connect(database)
    ask = (
        "SELECT run.status, row.value, coalesce(experiment.value, ''), (SELECT group_concat(step)"
        " FROM metrics WHERE key = 'learning_rate' AND run_uuid = run.run_uuid) FROM runs run"
        " JOIN tags kind ON kind.run_uuid = run.run_uuid AND kind.key = 'kind'"
        " JOIN tags row ON row.run_uuid = run.run_uuid AND row.key = 'row'"
        " LEFT JOIN tags experiment ON experiment.run_uuid = run.run_uuid"
        " AND experiment.key = 'dvc_experiment' WHERE kind.value = 'seed'"
    )
    found = Counter(
        (row, name, status, steps) for status, row, name, steps in connection.execute(ask)
    )
    connection.close()
    return found


def once_each(*experiments: str, rows: Sequence[str] = ROWS) -> Seeds:
    names = experiments or ("",)
    return Counter((row, name, "FINISHED", "1,2") for row in rows for name in names)


def read_meanwhile(database: Path, processes: Sequence["subprocess.Popen[str]"]) -> list[str]:
    """Read MLflow's store as its pages do until all processes have ended; what they said."""
    while any(process.poll() is None for process in processes):
        seed_runs(database)
        time.sleep(0.05)
    return [process.communicate()[0] for process in processes]


def test_two_dvc_at_once(tmp_path: Path, migrated_database: Path) -> None:
    """One of them is refused where both want the same; the next one ends what is left."""
    small = Small(tmp_path, migrated_database)
    command = ("dvc", "repro", "train@a", "train@b")
    both = [small.start(*command) for _ in range(2)]
    said = read_meanwhile(tmp_path / "mlflow.db", both)
    assert "MLflow did not record" not in "".join(said)
    for process, words in zip(both, said, strict=True):
        refused = "is being blocked by" in words or "Unable to acquire lock" in words
        assert (process.returncode == 0) != refused, words
    small.finish(*command)
    assert "Running" not in small.finish(*command)
    assert seed_runs(tmp_path / "mlflow.db") == once_each(rows=["a", "b"])


def test_four_rows_at_once(tmp_path: Path, migrated_database: Path) -> None:
    small = Small(tmp_path, migrated_database)
    run = small.start(sys.executable, "-m", "protodl.cli", "run", "-j", "4", *ROWS)
    (said,) = read_meanwhile(tmp_path / "mlflow.db", [run])
    assert run.returncode == 0, said
    assert "did not record" not in said
    assert seed_runs(tmp_path / "mlflow.db") == once_each()


def test_two_stages_of_one_seed(tmp_path: Path, migrated_database: Path) -> None:
    """Started by hand; one trains it, the other waits and takes what has come of it."""
    stage = Stage(tmp_path, migrated_database)
    both = [stage.start("0") for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "did not record" not in "".join(said)
    found = seed_runs(tmp_path / "mlflow.db")
    assert found == Counter([("a-row", "", "FINISHED", "1,2,3")])


def test_queue_with_two_workers(tmp_path: Path, migrated_database: Path) -> None:
    small = Small(tmp_path, migrated_database)
    small.finish("dvc", "repro", "download@mnist")
    names = ["slow", "slower"]
    for name, rate in zip(names, ("1e-3", "1e-4"), strict=True):
        change = f"+experiments.a.optimizer.lr={rate}"
        small.finish("dvc", "exp", "run", "--queue", "-n", name, "-S", change, "train@a")
    small.finish("dvc", "queue", "start", "-j", "2")
    end = time.monotonic() + 240
    while (status := small.finish("dvc", "queue", "status")).count("Success") < 2:
        assert time.monotonic() < end, status
        seed_runs(tmp_path / "mlflow.db")
        time.sleep(1)
    assert seed_runs(tmp_path / "mlflow.db") == once_each(*names, rows=["a"])


def record_seed(seed: int, folder: Path) -> None:
    """Train nothing, but record it as a training does, in the store of the current project."""
    epochs = [record(epoch) for epoch in range(1, 21)]
    trained = train(seed_log(row=f"row-{seed}", environment={}, num_epochs=20, history=epochs))
    trained.write(folder / f"{seed}.json")


def test_eight_processes_on_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever finds the store still being made, longer than a training waits, is added later."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    import mlflow  # noqa: F401  # here, not eight times: the processes are copies of this one

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=record_seed, args=(seed, tmp_path)) for seed in range(8)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        time.sleep(0.1)
    assert [process.exitcode for process in processes] == [0] * 8
    assert "locked" not in capfd.readouterr().err
    logs = [SeedLog.read(tmp_path / f"{seed}.json") for seed in range(8)]
    for log in logs:
        RowRuns.of([log])
    found = seed_runs(tmp_path / "mlflow.db")
    steps = ",".join(map(str, range(1, 21)))
    assert found == Counter((f"row-{seed}", "", "FINISHED", steps) for seed in range(8))
