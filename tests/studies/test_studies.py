"""What is true of every study's pipeline, and each of them run on the sample."""

import hashlib
import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from protodl.core.config import ConfigError, load_params
from protodl.pipeline.run import ROWS
from studies import run
from tests.pipeline.project import Project

ROOT = Path(__file__).parents[2]


def test_every_study_can_be_run() -> None:
    assert set(run.STUDIES) == {path.parent.name for path in (ROOT / "studies").glob("*/dvc.yaml")}


# The SHA-256 of all that a study's params.yaml means: changed on purpose only, as with the rows.
WHOLE = {
    "ablation": "c188c15ea3c7554a22c7f2b29e9a5c3eef64823d8de896071761fe73007a56ba",
    "long": "bc0ade394f241f28717a3d75d215fc8aa08445fb7ba9bf56beb39947798652d3",
    "modern": "bf8d0ec53bfa95de31ca371409da76d487e7550aea420c94d40fd5ad0520e167",
    "price": "5ab75040e3588e003d4b57e1b3e68c25933be7a55b9b6fd9b59192dc5f797362",
}


@pytest.mark.parametrize("study", run.STUDIES)
def test_overrides_mean_what_they_meant(study: str) -> None:
    data = load_params(ROOT / "studies" / study / "params.yaml").model_dump(
        mode="json", include={"seeds", "data", "training", "experiments"}
    )
    text = json.dumps([list(data["experiments"]), data], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == WHOLE[study]


def test_the_studies_say_only_what_they_change() -> None:
    files = (ROOT / "studies").glob("*/params.yaml")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) < 150


@pytest.mark.parametrize("study", run.STUDIES)
def test_a_training_tracks_what_its_row_is_made_of(study: str) -> None:
    project = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["train"]
    whole = set(project["do"]["params"]) - {"experiments.${key}"} | {"experiments.${item.row}"}
    own, base = stages(study)["train"]["params"]
    (own,), (base,) = own.values(), base.values()
    assert {"overrides", "experiments.${key}"} <= set(own)
    assert set(own) | set(base) == whole | {"overrides", "experiments.${key}"}


def stages(study: str) -> dict[str, dict[str, Any]]:
    path = ROOT / "studies" / study / "dvc.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in found.items()}


@pytest.mark.parametrize("study", run.STUDIES)
def test_a_training_depends_on_what_the_projects_depend_on(study: str) -> None:
    project = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["train"][
        "do"
    ]
    checked = f"studies/{study}/params.ok"
    deps = [dep.replace("data/params.ok", checked) for dep in project["deps"]]
    assert stages(study)["train"]["deps"] == deps


@pytest.mark.parametrize("study", run.STUDIES)
def test_no_stage_reads_the_test_split(study: str) -> None:
    for stage in stages(study).values():
        read = [dep for dep in stage["deps"] if dep.startswith("data/")]
        assert all(dep.endswith("/train.pt") for dep in read)
        assert "test.pt" not in stage["cmd"]


@pytest.mark.parametrize("study", run.STUDIES)
def test_rows_are_looked_for_where_dvc_puts_them(study: str) -> None:
    rows = f"studies/{study}/{ROWS}/${{key}}"
    assert f"{rows}/training" in stages(study)["train"]["outs"]
    assert f"{rows}/metrics.json" in stages(study)["measure"]["outs"]
    text = (ROOT / "studies" / study / "dvc.yaml").read_text(encoding="utf-8")
    of_rows = {name for name, stage in yaml.safe_load(text)["stages"].items() if "foreach" in stage}
    assert of_rows == set(run.ROW_STAGES)


@pytest.mark.parametrize("study", run.STUDIES)
def test_trainings_of_a_study_are_an_experiment_of_their_own(study: str) -> None:
    assert f"env MLFLOW_EXPERIMENT_NAME=protodl-{study} " in stages(study)["train"]["cmd"]


def test_a_wrong_params_file_stops_a_study_before_any_work(tmp_path: Path) -> None:
    text = "seeds: [0]\nexperiments: {mnist-a: {dataset: mnist, epoch: 3}}\n"
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        run.run_study(tmp_path, 1, needs_table=False)


def test_a_study_of_another_table_stops_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = yaml.safe_load((ROOT / "studies" / "price" / "params.yaml").read_text(encoding="utf-8"))
    data["base"] = str(ROOT / "params.yaml")
    data["experiments"]["mnist-small-deconv"]["row"] = "mnist-small-decnov"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setattr(run, "run_pipeline", lambda *_, **_options: pytest.fail("it started"))
    with pytest.raises(ConfigError, match="row = 'mnist-small-decnov': not a valid choice"):
        run.run_study(tmp_path, 1, needs_table=True)


@pytest.mark.parametrize("study", run.STUDIES)
def test_the_table_comes_first_where_a_study_compares_with_it(
    study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def noted(name: str) -> Callable[..., None]:
        return lambda folder, *_, cluster="": called.append((name, folder, cluster))

    monkeypatch.setattr(run, "run_pipeline", noted("pipeline"))
    monkeypatch.setattr(run, "reproduce", noted("stages"))
    monkeypatch.setattr(sys, "argv", ["run", study, "--on", "auto"])
    assert run.main() == 0
    first = ("pipeline", ROOT, "auto") if run.STUDIES[study] else ("stages", ROOT, "")
    assert called == [first, ("pipeline", ROOT / "studies" / study, "auto")]


STUDY_ROWS = {"ablation": "mnist-default", "price": "grey", "long": "grey", "modern": "grey"}


@pytest.fixture(name="studies", scope="module")
def _studies(computed: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The computed project with its studies, one row each."""
    project = computed.copy(tmp_path_factory.mktemp("studies") / "copy")
    add_studies(project)
    return project


def add_studies(project: Project) -> None:
    """Studies of one row each, of which nothing is computed."""
    ignored = shutil.ignore_patterns("__pycache__", "models", "results", "*.lock", "params.ok")
    shutil.copytree(ROOT / "studies", project.folder / "studies", ignore=ignored)
    for study, row in STUDY_ROWS.items():
        path = project.folder / "studies" / study / "params.yaml"
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        data |= {"experiments": {row: {"dataset": "mnist", "row": "grey"}}}
        path.write_text(yaml.safe_dump(data | {"overrides": {"epochs": 1}}))
    project.commit()


def tracked(project: Project) -> str:
    """Names of the studies' files that git would keep."""
    project.git("add", "-A")
    return project.git_output("ls-files", "studies")


def experiments(project: Project) -> set[str]:
    """Names of those in the MLflow store."""
    connection = sqlite3.connect(project.folder / "mlflow.db")
    names = {name for (name,) in connection.execute("SELECT name FROM experiments")}
    connection.close()
    return names


def rows_of_table(project: Project) -> dict[Path, bytes]:
    """Each file of the rows of the project's own table."""
    folder = project.folder / ROWS
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_the_ablation_runs_on_the_sample(studies: Project, computed: Project) -> None:
    done = studies.run("studies.run", "ablation", "-j", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validation accuracy" in done.stdout
    text = (studies.folder / "studies" / "ablation" / "ABLATION.md").read_text()
    assert "NOT comparable" in text
    assert len(re.findall(r"^\| mnist-", text, re.MULTILINE)) == 1
    assert (studies.folder / "studies" / "ablation" / "ablation.png").is_file()
    assert "protodl-ablation" in experiments(studies)
    assert rows_of_table(studies) == rows_of_table(computed)
    assert json.loads(studies.dvc("status", "--json", "studies/ablation/dvc.yaml")) == {}
    assert "ABLATION.md" in tracked(studies)
    assert "seed-0" not in tracked(studies)


@pytest.mark.parametrize(("study", "tables"), [("price", 2), ("long", 1), ("modern", 3)])
def test_a_study_is_reported_beside_the_rows_of_the_table(
    studies: Project, study: str, tables: int
) -> None:
    names = ("check", "train@grey", "measure@grey", "report")
    targets = [f"studies/{study}/dvc.yaml:{name}" for name in names]
    studies.dvc("repro", "--single-item", *targets)
    page = f"{study.upper()}.md"
    text = (studies.folder / "studies" / study / page).read_text()
    assert "NOT comparable" in text
    assert len(re.findall(r"^\| grey", text, re.MULTILINE)) == tables
    assert f"protodl-{study}" in experiments(studies)
    assert page in tracked(studies)
    assert "seed-0" not in tracked(studies)
