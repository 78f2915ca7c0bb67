"""A copy of this project on its sample: a git and DVC repository with two short rows."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run

from protodl.core.config import load_params
from protodl.core.experiment_config import Experiment
from protodl.core.limits import THREADS_VARIABLE, available_cpus
from protodl.core.training_log import SeedLog
from tests import warm

ROOT = Path(__file__).parents[2]
PARAMS = """
seeds: [0]
data: {source: sample}
training: {validation_size: 400, pictures_every: 1}
judge: {epochs: 1}
teacher: {epochs: 1, width: 4}
defaults: {epochs: 3}
datasets: {mnist: {torchvision: MNIST}, cifar10: {torchvision: CIFAR10}}
recipes: {mnist: {}, cifar10: {}, paper: {}, port: {}, resnet-gpu: {}}
experiments:
  grey:
    dataset: mnist
    model: {decoder: deconv, num_prototypes: 4}
    epochs: 2
    optimizer: {lr: 4e-3}
    loss: {distillation: 5, recognition: 1, decoded_prototype_classification: 1}
  colour:
    dataset: cifar10
    model: {decoder: upconv, num_prototypes: 6}
    epochs: 1
    optimizer: {lr: 5e-3}
"""
ROWS = ("grey", "colour")


class Project:
    """The folder, and the commands that are run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> "Project":
        """A project in which nothing is computed; two data sets, a third would add nothing."""
        for name in ("protodl", "stages", "data/sample"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in (".gitignore", ".dvcignore", "data/.gitignore", ".dvc/config", "dvc.yaml"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
        project = cls(folder)
        project.write_params(PARAMS)
        project.git("init", "-q")
        project.commit()
        return project

    def copy(self, folder: Path) -> "Project":
        """With all that is computed; MLflow's store knows absolute paths, which become its own."""
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(self.folder, folder, symlinks=True, ignore=ignored)
        connection = sqlite3.connect(folder / "mlflow.db")
        with connection:
            _replace_everywhere(connection, str(self.folder), str(folder))
        connection.close()
        return Project(folder)

    def write_params(self, text: str) -> None:
        (self.folder / "params.yaml").write_text(text)

    def git_output(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout

    def git(self, *arguments: str) -> None:
        self.git_output("-c", "user.name=test", "-c", "user.email=test@example.org", *arguments)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "state")

    def dvc(self, *arguments: str) -> str:
        done = self.run_dvc(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def run_dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("dvc", *arguments)

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm.python(), "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment() | warm.environment(),
            capture_output=True,
            text=True,
        )

    def start(self, output: Path, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command as a terminal does, in a group of processes of its own."""
        with output.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def environment(self) -> dict[str, str]:
        left_out = {"DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"}
        environment = {k: v for k, v in os.environ.items() if k not in left_out}
        environment[THREADS_VARIABLE] = str(max(1, available_cpus() // 2))
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return environment

    def experiment_file(self, experiment: str, name: str) -> str:
        """A file as a DVC experiment left it."""
        found = self.git_output("for-each-ref", "--format=%(refname)", "refs/exps").split()
        (ref,) = [each for each in found if each.endswith(f"/{experiment}")]
        return self.git_output("show", f"{ref}:{name}")

    def own_runs(self, experiment: str) -> list[Run]:
        """Runs of a DVC experiment in the project's own store, not in that of a copy of it."""
        client = mlflow.MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        found = client.get_experiment_by_name("protodl")
        assert found is not None
        where = f"tags.dvc_experiment = '{experiment}'"
        return list(client.search_runs([found.experiment_id], where))

    def changed_row(self, experiment: str) -> Experiment:
        """The row grey in a DVC experiment's params.yaml; the other one is what it was."""
        before = load_params(self.folder / "params.yaml").experiments
        path = self.folder / f"{experiment}.yaml"
        path.write_text(self.experiment_file(experiment, "params.yaml"))
        after = load_params(path).experiments
        assert after["colour"] == before["colour"]
        return after["grey"]

    def trained(self, experiment: str) -> SeedLog:
        """How a DVC experiment trained the row grey."""
        name = "results/rows/grey/training/seed-0.json"
        return SeedLog.model_validate_json(self.experiment_file(experiment, name))

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def model(self, row: str) -> bytes:
        return (self.folder / "models" / row / "seed-0.pt").read_bytes()


def _replace_everywhere(database: sqlite3.Connection, old: str, new: str) -> None:
    """Replace a text in each column of each table."""
    columns = database.execute(
        "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c"
        " WHERE t.type = 'table'"
    ).fetchall()
    for table, column in columns:
        change = f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?)'
        database.execute(f'{change} WHERE instr("{column}", ?)', (old, new, old))


def stages_run(output: str) -> set[str]:
    """The stages that DVC ran, by what it printed, without those that look after its input."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage")]
    return {line.split("'")[1] for line in lines} - {"check", "folders"}
