"""What an edit of params.yaml runs again: asked of DVC for many edits, carried out for some."""

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml

from protodl.core.config import load_params
from protodl.core.dataset_config import PresetName
from protodl.core.files import CheckpointError
from protodl.core.training_log import SeedLog
from protodl.data.datasets import DATASETS, load_training
from protodl.data.download import download
from protodl.network.teacher import Teacher, save_lesson
from protodl.training.row import Row
from tests.pipeline.project import PARAMS as SHARED_PARAMS
from tests.pipeline.project import ROOT, ROWS, Project, stages_run


def row(dataset: str) -> dict[str, Any]:
    """A row with what is swept most often; a dictionary of its own, or YAML would share it."""
    return {
        "dataset": dataset,
        "epochs": 2,
        "model": {"decoder": "deconv", "num_prototypes": 4},
        "optimizer": {"lr": 5e-3},
    }


PARAMS: dict[str, Any] = {
    "seeds": [0],
    "data": {"source": "sample"},
    "training": {"validation_size": 400},
    "judge": {"epochs": 1},
    "teacher": {"epochs": 1, "width": 4},
    "datasets": {"mnist": {"torchvision": "MNIST"}, "cifar10": {"torchvision": "CIFAR10"}},
    "defaults": {"epochs": 1, "loss": {"r1": 1.0}},
    "recipes": {
        name: {"loss": {"r2": 1.0}} for name in ("mnist", "cifar10", *get_args(PresetName))
    },
    "experiments": {
        "one": row("mnist"),
        "two": row("mnist"),
        "colour": row("cifar10"),
    },
}


def changed(path: str, value: object) -> str:
    """The file with another value of one key, which is given as parts between slashes."""
    data = copy.deepcopy(PARAMS)
    *sections, key = path.split("/")
    section = data
    for name in sections:
        section = section[name]
    assert section[key] != value
    section[key] = value
    return yaml.safe_dump(data)


@pytest.fixture(name="project", scope="module")
def _project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Each train stage is recorded in dvc.lock with an output that nothing has computed."""
    project = Project.create(tmp_path_factory.mktemp("granular"))
    project.write_params(yaml.safe_dump(PARAMS))
    (project.folder / "data" / "params.ok").write_text("valid\n")
    (project.folder / "models" / "teachers").mkdir(parents=True)
    for dataset in ("mnist", "cifar10"):
        (project.folder / "models" / "teachers" / f"{dataset}.pt").write_text("answers")
        (project.folder / "data" / dataset).mkdir()
        (project.folder / "data" / dataset / "train.pt").write_text("images")
    for row in PARAMS["experiments"]:
        for name in (f"models/{row}/seed-0.pt", f"results/rows/{row}/training/seed-0.json"):
            (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / name).write_text(row)
        (project.folder / "results" / "rows" / row / "curves.csv").write_text("epoch\n1\n")
    project.dvc("commit", "--force", *(f"train@{row}" for row in PARAMS["experiments"]))
    project.commit()
    return project


def stale(project: Project, text: str) -> set[str]:
    """Rows whose train stage would run."""
    project.write_params(text)
    try:
        stages = [f"train@{row}" for row in PARAMS["experiments"]]
        status = json.loads(project.run_dvc("status", "--json", *stages).stdout)
    finally:
        project.write_params(yaml.safe_dump(PARAMS))
    return {stage.removeprefix("train@") for stage in status if stage.startswith("train@")}


@pytest.mark.parametrize(
    ("path", "value", "rows"),
    [
        ("judge/epochs", 2, set()),
        ("teacher/epochs", 2, set()),  # whether it answers otherwise shows when it has answered
        ("experiments/one/optimizer/lr", 1e-3, {"one"}),
        ("recipes/mnist/loss/r2", 2.0, {"one", "two"}),
        ("recipes/cifar10/loss/r2", 2.0, {"colour"}),
        ("defaults/loss/r1", 2.0, {"one", "two", "colour"}),
    ],
)
def test_an_edit_starts_the_rows_that_it_may_concern(
    project: Project, path: str, value: object, rows: set[str]
) -> None:
    assert stale(project, changed(path, value)) == rows


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images of MNIST's sample."""
    folder, sample = tmp_path_factory.mktemp("mnist"), ROOT / "data" / "sample"
    download("mnist", folder, source="sample", raw=folder, sample=sample)
    return folder / "train.pt"


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("defaults/epochs", 9, True),  # every row says its own
        ("recipes/paper/loss/r2", 9.0, True),  # no row takes it
        ("recipes/cifar10/loss/r2", 9.0, True),
        ("defaults/loss/r2", 9.0, True),  # the recipe says it otherwise
        ("defaults/loss/r1", 9.0, False),
        ("recipes/mnist/loss/r2", 9.0, False),
        ("experiments/one/epochs", 9, False),
    ],
)
def test_a_seed_is_trained_again_only_where_its_row_resolves_to_something_else(
    path: str, value: object, same: bool, images: Path, tmp_path: Path
) -> None:
    """A finished seed lies in the checkpoint store under its fingerprint."""
    data = copy.deepcopy(PARAMS)
    data["defaults"]["loss"]["r2"] = 3.0
    found = []
    for changes in ({}, {path: value}):
        for place, new in changes.items():
            *sections, key = place.split("/")
            section = data
            for name in sections:
                section = section[name]
            section[key] = new
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
        params = load_params(tmp_path / "params.yaml")
        loaded = Row.load("one", params, images, images, sources=[])
        found.append(loaded.fingerprint(0))
    assert (found[0] == found[1]) == same


def test_other_answers_concern_the_rows_that_learn_from_them(images: Path, tmp_path: Path) -> None:
    data = copy.deepcopy(PARAMS)
    data["experiments"]["one"].setdefault("loss", {})["distillation"] = 2.0
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    params, teacher = load_params(tmp_path / "params.yaml"), tmp_path / "teacher.pt"
    count = len(load_training(images, params.training)[0])
    found = []
    for value in (0.0, 1.0):
        save_lesson(Teacher(DATASETS["mnist"], 4), torch.full((count, 10), value), teacher)
        rows = [Row.load(name, params, images, teacher, sources=[]) for name in ("one", "two")]
        found.append([row.fingerprint(0) for row in rows])
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]
    teacher.unlink()
    with pytest.raises(CheckpointError, match="dvc repro teacher@"):
        Row.load("one", params, images, teacher, sources=[])


# --- carried out ------------------------------------------------------------------------------


LOG = "results/rows/{}/training/seed-0.json"


def test_an_edit_of_a_recipe_runs_the_rows_of_its_data_set(
    computed: Project, project_copy: Project
) -> None:
    edited = SHARED_PARAMS.replace("mnist: {}", "mnist: {loss: {r2: 2.0}}", 1)
    project_copy.write_params(edited)
    output = project_copy.dvc("repro", "train@grey", "train@colour")
    assert stages_run(output) == {"train@grey"}
    assert "grey seed 0: epoch 2/2" in output
    log = SeedLog.read(project_copy.folder / LOG.format("grey"))
    assert log.parameters["loss"]["r2"] == 2.0
    assert project_copy.model("grey") != computed.model("grey")
    assert project_copy.model("colour") == computed.model("colour")


def test_a_default_that_every_row_overrides_trains_nothing(
    computed: Project, project_copy: Project
) -> None:
    """DVC cannot know that, and starts the trainings; these find their seeds finished."""
    project_copy.write_params(
        SHARED_PARAMS.replace("defaults: {epochs: 3}", "defaults: {epochs: 4}")
    )
    output = project_copy.dvc("repro", "train@grey", "train@colour")
    assert stages_run(output) == {"train@grey", "train@colour"}
    assert "epoch 1/" not in output
    for row in ROWS:
        assert project_copy.model(row) == computed.model(row)
        logs = [(p.folder / LOG.format(row)).read_bytes() for p in (computed, project_copy)]
        assert logs[0] == logs[1]
