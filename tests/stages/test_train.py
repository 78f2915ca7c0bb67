"""The train stage as a process: kept seeds, a kill and what comes after it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from protodl.core.training_log import SeedLog
from protodl.data.datasets import Split, save_split
from protodl.network.checkpoint import load_network

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


class Stage:
    """A folder with nothing but training images, in which the stage runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (240, 1, 28, 28), dtype=torch.uint8, generator=generator)
        save_split(Split(images, torch.arange(240) % 10), folder / "train.pt")

    def start(self, seeds: str) -> subprocess.Popen[str]:
        (self.folder / "params.yaml").write_text(PARAMS.format(seeds=seeds))
        paths = ["--params", "params.yaml", "--data", "train.pt", "--models", "models"]
        paths += ["--logs", "logs", "--curves", "curves.csv"]
        environment = {**os.environ, "DVC_ROOT": str(self.folder), "PYTHONPATH": str(ROOT)}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "PROTODL_THREADS"):
            environment.pop(name, None)
        return subprocess.Popen(
            [sys.executable, "-m", "stages.train", "a-row", *paths],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, seeds: str) -> str:
        process = self.start(seeds)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def model(self, seed: int) -> bytes:
        return (self.folder / "models" / f"seed-{seed}.pt").read_bytes()

    def log(self, seed: int) -> SeedLog:
        return SeedLog.read(self.folder / "logs" / f"seed-{seed}.json")


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """After an uninterrupted training of one seed."""
    stage = Stage(tmp_path_factory.mktemp("whole"))
    stage.run("0")
    return stage


def test_a_finished_seed_is_kept_when_another_is_added(whole: Stage) -> None:
    log, model = whole.log(0), whole.model(0)
    output = whole.run("0, 1")
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


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_where_it_was(
    whole: Stage, tmp_path: Path, kill: signal.Signals
) -> None:
    stage = Stage(tmp_path)
    with stage.start("0") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2/3" in line:
                process.send_signal(kill)
    assert process.returncode == -kill
    assert not (tmp_path / "logs" / "seed-0.json").exists()
    output = stage.run("0")
    assert "epoch 1/3" not in output
    assert stage.model(0) == whole.model(0)
    history, expected = stage.log(0).history, whole.log(0).history
    assert [r.train for r in history] == [r.train for r in expected]
    assert [r.validation for r in history] == [r.validation for r in expected]
    assert stage.log(0).fingerprint == whole.log(0).fingerprint


def test_bad_input_is_one_line_before_any_work(whole: Stage) -> None:
    process = whole.start("0, 0")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "each seed may stand once" in output
    assert "Traceback" not in output
