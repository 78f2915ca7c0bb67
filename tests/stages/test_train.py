"""The train stage: kept seeds, a kill of its process and what comes after it."""

import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from protodl.core.training_log import SeedLog
from protodl.data.datasets import Split, save_split
from protodl.network.checkpoint import load_network
from protodl.training.trainer import Trainer
from stages.train import main
from tests.disks import small_disk

ROOT = Path(__file__).parents[2]
PARAMS = """
seeds: [{seeds}]
training: {{validation_size: 40, threads: 1}}
experiments:
  a-row:
    dataset: mnist
    model: {{project: true}}
    epochs: 3
    batch_size: 20
    augment: {{elastic_alpha: 20, shift: 1}}
    optimizer: {{averaging: 0.9}}
"""


OPTIONS = ["a-row", "--params", "params.yaml", "--data", "train.pt", "--models", "models"]
OPTIONS += ["--teacher", "teacher.pt"]
OPTIONS += ["--logs", "logs", "--curves", "curves.csv"]
LEFT_OUT = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "PROTODL_THREADS")


class Stage:
    """A folder with training images and an empty MLflow store, in which the stage runs."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (240, 1, 28, 28), dtype=torch.uint8, generator=generator)
        save_split(Split(images, torch.arange(240) % 10), folder / "train.pt")
        shutil.copy(database, folder / "mlflow.db")

    @classmethod
    def trained(cls, folder: Path, database: Path, seeds: str) -> "Stage":
        """After an uninterrupted training of these seeds."""
        stage = cls(folder, database)
        status, output = stage.run(seeds)
        assert status == 0, output
        return stage

    def write_params(self, seeds: str) -> None:
        (self.folder / "params.yaml").write_text(PARAMS.format(seeds=seeds))

    def start(self, seeds: str, *before: str) -> subprocess.Popen[str]:
        """Start the stage, by the command `before` if there is one, as a process of its own."""
        self.write_params(seeds)
        environment = {**os.environ, "DVC_ROOT": str(self.folder), "PYTHONPATH": str(ROOT)}
        environment["DVC_STAGE"] = "train@a-row"
        for name in LEFT_OUT:
            environment.pop(name, None)
        return subprocess.Popen(
            [*before, sys.executable, "-m", "stages.train", *OPTIONS],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, seeds: str) -> tuple[int, str]:
        """Run the stage in this process; its exit status and what it printed."""
        self.write_params(seeds)
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
            patch.chdir(self.folder)
            for name in LEFT_OUT:
                patch.setenv(name, "")  # MLflow writes its own, and only then is that undone
                patch.delenv(name)
            patch.setenv("DVC_ROOT", str(self.folder))
            with redirect_stderr(printed):
                status = main(OPTIONS)
        return status, printed.getvalue()

    def model(self, seed: int) -> bytes:
        return (self.folder / "models" / f"seed-{seed}.pt").read_bytes()

    def log(self, seed: int) -> SeedLog:
        return SeedLog.read(self.folder / "logs" / f"seed-{seed}.json")

    def assert_trained_as(self, other: "Stage", seed: int) -> None:
        """To the same bytes, by the same way."""
        assert self.model(seed) == other.model(seed)
        log, expected = self.log(seed), other.log(seed)
        assert [r.train for r in log.history] == [r.train for r in expected.history]
        assert [r.validation for r in log.history] == [r.validation for r in expected.history]
        assert log.fingerprint == expected.fingerprint


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Stage:
    return Stage.trained(tmp_path_factory.mktemp("whole"), migrated_database, "0")


def test_a_finished_seed_is_kept_when_another_is_added(whole: Stage) -> None:
    log, model = whole.log(0), whole.model(0)
    status, output = whole.run("0, 1")
    assert status == 0
    assert "seed 0: epoch" not in output
    assert "seed 1: epoch 3/3" in output
    assert whole.log(0) == log
    assert whole.model(0) == model != whole.model(1)
    assert whole.log(1).parent_run_id == log.parent_run_id
    before = load_network(whole.folder / "models" / "seed-0-unprojected.pt")
    after = load_network(whole.folder / "models" / "seed-0.pt")
    assert torch.equal(before.head.weight, after.head.weight)
    assert not torch.equal(before.prototypes, after.prototypes)
    lines = (whole.folder / "curves.csv").read_text().splitlines()
    assert len(lines) == 1 + 3
    first = lines[0].split(",").index("validation_accuracy")
    seeds = [whole.log(seed).history[-1].validation["accuracy"] for seed in (0, 1)]
    assert float(lines[-1].split(",")[first]) == pytest.approx(sum(seeds) / 2, abs=1e-5)


@pytest.mark.faults
def test_a_seed_that_diverges_in_its_last_step_stops_no_other(
    whole: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = len(checkpoints := list((whole.folder / ".protodl").rglob("log.json")))
    step = Trainer.train_step

    def diverging(trainer: Trainer, batch: torch.Tensor, number: int) -> torch.Tensor:
        found = step(trainer, batch, number)
        if trainer.seed == 5 and number == trainer.total_steps - 1:
            next(trainer.network.decoder.parameters()).data.fill_(torch.inf)
        return found

    monkeypatch.setattr(Trainer, "train_step", diverging)
    status, output = whole.run("5, 6")
    assert status == 1
    (line,) = [line for line in output.splitlines() if line.startswith("error")]
    assert "a-row diverged: seed 5 in epoch 3 (weights not finite); lower" in line
    assert "experiments.a-row.optimizer.lr (now 0.004) in params.yaml" in line
    assert "the 1 finished ones are kept" in line
    now = list((whole.folder / ".protodl").rglob("log.json"))
    (new,) = set(now) - set(checkpoints)
    assert (SeedLog.read(new).seed, len(now)) == (6, kept + 1)
    assert statuses(whole.folder) == {"a-row": "FAILED", "5": "FAILED", "6": "FINISHED"}


def statuses(folder: Path) -> dict[str, str]:
    """How the last runs of MLflow ended: the row's, and each seed's of the last three."""
    ask = (
        "SELECT coalesce(seed.value, run.name), run.status FROM runs run LEFT JOIN tags seed"
        " ON seed.run_uuid = run.run_uuid AND seed.key = 'seed'"
    )
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        found = dict(database.execute(ask).fetchall())
    return {name: found[name] for name in found if name not in ("0", "1")}


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGHUP])
def test_a_killed_training_goes_on_where_it_was(
    whole: Stage, tmp_path: Path, migrated_database: Path, kill: signal.Signals
) -> None:
    stage = Stage(tmp_path, migrated_database)
    with stage.start("0") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2/3" in line:
                process.send_signal(kill)
                sent = time.monotonic()
        ended = time.monotonic() - sent
    assert line.startswith("stopped; the same command goes on") == (kill == signal.SIGHUP)
    assert ended < 4  # 2 where nothing else is at work
    assert process.returncode == -kill
    assert not (tmp_path / "logs" / "seed-0.json").exists()
    status, output = stage.run("0")
    assert status == 0
    assert "epoch 1/3" not in output
    stage.assert_trained_as(whole, 0)


@pytest.mark.faults
def test_two_processes_of_one_seed_train_it_once(
    whole: Stage, tmp_path: Path, migrated_database: Path
) -> None:
    stage = Stage(tmp_path, migrated_database)
    with stage.start("0") as first, stage.start("0") as second:
        outputs = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert sum("epoch 1/3" in output for output in outputs) == 1
    assert sum("a-row seed 0: waiting for process" in output for output in outputs) == 1
    assert stage.model(0) == whole.model(0)
    assert {path.name for path in (tmp_path / ".protodl").rglob("*") if path.is_file()} == {
        "lock", "log.json", "network.pt", "unprojected.pt"
    }  # fmt: skip


@pytest.mark.faults
def test_a_training_ends_soon_after_the_dvc_that_started_it(
    tmp_path: Path, migrated_database: Path
) -> None:
    stage = Stage(tmp_path, migrated_database)
    dvc = "import os, subprocess, sys; subprocess.Popen(sys.argv[1:]); sys.stdin.read()"
    with stage.start("0", sys.executable, "-c", dvc) as process:
        assert process.stdout is not None
        for line in process.stdout:  # ends when the training has, which holds the other end
            if "epoch 1/3" in line:
                process.kill()
        assert "stopped; the same command goes on" in line
    assert not (tmp_path / "logs" / "seed-0.json").exists()


def test_bad_input_is_one_line_before_any_work(whole: Stage) -> None:
    status, output = whole.run("0, 0")
    assert status == 1
    assert "each seed may stand once" in output
    assert "Traceback" not in output


@pytest.mark.faults
def test_a_full_disk_at_a_checkpoint_is_one_line(tmp_path: Path, migrated_database: Path) -> None:
    stage = Stage(tmp_path, migrated_database)
    with small_disk(tmp_path / ".protodl" / "checkpoints") as words:
        status, output = stage.run("0")
    assert status == 1
    assert "Traceback" not in output
    assert re.search(rf"error: .*{words}: '{tmp_path}/.*/training\.pt'$", output.strip())


@pytest.mark.faults
def test_a_kept_seed_gets_what_mlflow_lacks_of_it(
    whole: Stage, tmp_path: Path, migrated_database: Path
) -> None:
    """As after a kill between the log's last byte and MLflow's last answer."""
    stage = Stage(tmp_path, migrated_database)
    shutil.copytree(whole.folder / ".protodl", tmp_path / ".protodl")
    status, output = stage.run("0")
    assert status == 0, output
    assert "seed 0: epoch" not in output
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        ask = (
            "SELECT run.status, (SELECT group_concat(step) FROM metrics WHERE"
            " key = 'learning_rate' AND run_uuid = run.run_uuid), (SELECT count(*)"
            " FROM model_versions WHERE run_id = run.run_uuid) FROM runs run"
        )
        found = sorted(database.execute(ask).fetchall(), key=str)
    assert found == [("FINISHED", "1,2,3", 1), ("FINISHED", None, 0)]


@pytest.mark.faults
@pytest.mark.parametrize("name", ["log.json", "network.pt", "unprojected.pt"])
def test_a_kept_seed_that_is_damaged_is_not_handed_on(
    whole: Stage, tmp_path: Path, name: str
) -> None:
    stage = Stage(tmp_path, whole.folder / "mlflow.db")
    shutil.copytree(whole.folder / ".protodl", tmp_path / ".protodl")
    kept = (tmp_path / ".protodl" / "checkpoints").glob("*/log.json")
    file = next(path.with_name(name) for path in kept if SeedLog.read(path).seed == 0)
    content = bytearray(file.read_bytes())
    content[content.index(b"0.") + 3 if file.suffix == ".json" else len(content) // 2] ^= 1
    file.write_bytes(content)
    status, output = stage.run("0")
    assert status == 1
    assert f"error: {file}: cannot be read" in output
    assert f"delete the folder {file.parent}" in output
    assert not (tmp_path / "models" / f"seed-0{'-unprojected' * (name[0] == 'u')}.pt").exists()
