"""The pipeline as a whole: its deps are its imports; a real `dvc repro` on the sample."""

import copy
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from protodl.core.machine import THREADS_VARIABLE, available_cpus
from protodl.core.sources import closure, pipelines, with_sources
from protodl.core.training_log import SeedLog

ROOT = Path(__file__).parents[1]


def stage_definitions() -> dict[str, dict[str, Any]]:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


@pytest.mark.parametrize("path", pipelines(), ids=str)
def test_deps_of_a_stage_are_exactly_the_modules_it_runs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert with_sources(text) == text, "run `python -m protodl.core.sources --write`"


def test_only_evaluation_reads_the_test_split_and_never_augments_it() -> None:
    """Selection on the test set is the first defect of the published numbers."""
    assert "protodl/data/augment.py" in closure("stages/train.py")
    assert "protodl/data/augment.py" not in closure("stages/evaluate.py")
    for name, stage in stage_definitions().items():
        reads = [dep for dep in stage["deps"] if dep.startswith("data/${")]
        whole = [dep for dep in reads if not dep.endswith("/train.pt")]
        assert bool(whole) == (name == "evaluate"), name


PARAMS = """
seeds: [0]
data: {source: sample}
training: {validation_size: 400, pictures_every: 1}
judge: {epochs: 1}
defaults: {}
recipes: {mnist: {}, fashion-mnist: {}, cifar10: {}, paper: {}, port: {}}
experiments:
  grey: {dataset: mnist, model: {num_prototypes: 4}, epochs: 2, optimizer: {lr: 4e-3}}
  colour: {dataset: cifar10, model: {decoder: upconv}, epochs: 1, optimizer: {lr: 5e-3}}
"""


class Project:
    """A copy of this project, a git and DVC repository of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("protodl", "stages", "data/sample"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("dvc.yaml", ".gitignore", ".dvcignore", "data/.gitignore", ".dvc/config"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
        self.write_params(PARAMS)
        self.git("init", "-q")
        self.commit()

    def write_params(self, text: str) -> None:
        (self.folder / "params.yaml").write_text(text)

    def git_output(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True)

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
        left_out = {"DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"}
        environment = {k: v for k, v in os.environ.items() if k not in left_out}
        environment[THREADS_VARIABLE] = str(max(1, available_cpus() // 2))
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def would_run(self) -> set[str]:
        """Stages that `dvc repro` would run now, as far as they are known beforehand."""
        done = self.run_dvc("repro", "--dry")
        # A dry run ends with an error where a new row's model is not there yet to be looked at.
        assert done.returncode == 0 or "models/new" in done.stderr, done.stderr
        lines = done.stdout.splitlines()
        return {line.split("'")[1] for line in lines if line.startswith("Running stage")}

    def git_show(self, experiment: str, name: str) -> str:
        """A file as a DVC experiment left it."""
        list_refs = ["git", "for-each-ref", "--format=%(refname)", "refs/exps"]
        found = subprocess.run(
            list_refs, cwd=self.folder, capture_output=True, text=True, check=True
        ).stdout.split()
        (ref,) = [each for each in found if each.endswith(f"/{experiment}")]
        show = ["git", "show", f"{ref}:{name}"]
        return subprocess.run(
            show, cwd=self.folder, capture_output=True, text=True, check=True
        ).stdout

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


@pytest.fixture(name="project", scope="module")
def _project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After one whole `dvc repro`."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.dvc("repro")
    project.commit()
    return project


def test_repro_makes_table_models_curves_and_pictures(project: Project) -> None:
    rows = project.read("results/results.json")
    assert [row["row"] for row in rows] == ["grey", "colour"]
    assert all(0 <= row["test_accuracy_mean"] <= 1 for row in rows)
    for page in ("RESULTS.md", "report/index.html"):
        assert "not comparable" in (project.folder / page).read_text().lower()
    for row, prototypes in (("grey", 4), ("colour", 15)):
        folder = project.folder / "results" / "rows" / row
        pictures = {path.stem for path in (folder / "pictures").glob("*.png")}
        expected = {"samples", "prototypes", "curves", "weights", "confusion", "reasons"}
        assert pictures == expected
        sheets = {path.stem for path in (folder / "explanations").glob("*.png")}
        assert {"correct-1", "borderline-1", "borderline-2", "wrong-1"} <= sheets
        assert sheets == {path.stem for path in (folder / "explanations").glob("*.json")}
        assert (project.folder / "models" / row / "seed-0.pt").is_file()
        log = SeedLog.read(folder / "training" / "seed-0.json")
        with (folder / "curves.csv").open() as file:
            curves = list(csv.DictReader(file))
        assert len(curves) == log.num_epochs == len(log.history)
        details = project.read(f"results/rows/{row}/evaluation/seed-0.json")
        assert len(details["prototypes"]["class"]) == prototypes
        assert sum(map(sum, details["confusion"])) == (500 if row == "grey" else 400)


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert "Running stage" not in project.dvc("repro")


def test_rows_side_by_side_give_the_same_bits(
    project: Project, tmp_path: Path, migrated_database: Path
) -> None:
    """The repro before ran one row after another, with the threads that each of two workers has."""
    computed = shutil.ignore_patterns(".protodl", "models", "results", "mlflow.db*", "mlartifacts")
    other = copy.copy(project)
    other.folder = Path(shutil.copytree(project.folder, tmp_path / "again", ignore=computed))
    shutil.copy(migrated_database, other.folder / "mlflow.db")
    shutil.rmtree(other.folder / ".dvc" / "cache")
    done = other.run("protodl.cli", "run", "-j", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    for row in ("grey", "colour"):
        model = f"models/{row}/seed-0.pt"
        assert (other.folder / model).read_bytes() == (project.folder / model).read_bytes()
        metrics = f"results/rows/{row}/metrics.json"
        means = [each.read(metrics)["mean"] for each in (project, other)]
        seconds = [mean.pop("train_seconds") for mean in means]
        assert means[0] == means[1]
        assert seconds[0] != seconds[1]  # it was trained again


GREY = {"train@grey", "evaluate@grey"}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (("lr: 4e-3", "lr: 1e-3"), {"check", "report", *GREY}),
        (("num_prototypes: 4", "num_prototypes: 5"), {"check", "report", *GREY}),
        (("  grey:", "  # a comment\n  grey:"), set()),
        (("  grey:", "  new: {dataset: mnist, epochs: 1}\n  grey:"), {"check", "train@new"}),
    ],
    ids=["one lr", "one width", "a comment", "a row more"],
)
def test_an_edit_runs_what_it_changes(
    project: Project, change: tuple[str, str], stages: set[str]
) -> None:
    """The pictures of a changed row follow once its model is another: no dry run knows that."""
    project.write_params(PARAMS.replace(*change))
    try:
        assert project.would_run() == stages
    finally:
        project.write_params(PARAMS)


def test_a_removed_row_leaves_the_table(project: Project) -> None:
    kept = "\n".join(line for line in PARAMS.splitlines() if not line.startswith("  colour"))
    project.write_params(kept)
    try:
        output = project.dvc("repro")
        assert "Running stage 'train@" not in output
        assert [row["row"] for row in project.read("results/results.json")] == ["grey"]
        assert "colour" not in (project.folder / "RESULTS.md").read_text()
    finally:
        project.write_params(PARAMS)


def test_a_wrong_params_file_stops_before_any_work(project: Project) -> None:
    project.write_params(PARAMS.replace("epochs: 2", "epoch: 2"))
    try:
        done = project.run_dvc("repro")
    finally:
        project.write_params(PARAMS)
    assert done.returncode != 0
    assert "did you mean 'epochs'" in done.stderr
    started = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert started == ["Running stage 'check':"]


def test_an_experiment_in_a_temporary_copy_is_linked_to_its_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.git("checkout", "-q", ".")
    change = "experiments.grey.optimizer.lr=1e-3"  # a string to PyYAML
    project.dvc("exp", "run", "--temp", "--name", "slower", "-S", change)
    shown = json.loads(project.dvc("exp", "show", "--json"))
    assert '"slower"' in json.dumps(shown)
    monkeypatch.setenv("DVC_ROOT", str(project.folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # the project's own store, not a copy's
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("protodl")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.dvc_experiment = 'slower'")
    assert {run.data.tags["row"] for run in runs} == {"grey"}
    assert {run.data.params["optimizer.lr"] for run in runs} == {"0.001"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    ids = {run.info.run_id for run in runs}
    log = project.git_show("slower", "results/rows/grey/training/seed-0.json")
    assert SeedLog.model_validate_json(log).run_id in ids


def test_dvc_metrics_and_plots_show_the_rows(project: Project) -> None:
    shown = project.dvc("metrics", "show", "--md")
    assert "mean.test_accuracy" in shown
    assert "results/rows/grey/metrics.json" in shown.replace("\\", "/")
    project.dvc("plots", "show", "-o", str(project.folder / "dvc_plots"))
    assert "validation_accuracy" in (project.folder / "dvc_plots" / "index.html").read_text()
