"""The tutorial: every command and every line of it is run, in a copy of the project.

What holds of a row on a folder of images, through every stage, is shown on what it leaves behind.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest
import yaml

from protodl.core.limits import THREADS_VARIABLE
from protodl.core.training_log import SeedLog
from tests import warm
from tests.factories import ROOT
from tests.pipeline.project import Project, stages_run

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
ROW, SHAPES = "my-shapes", ("circle", "square", "triangle")
DATA_STAGES = {"download@shapes", "judge@shapes", "teacher@shapes"}


class Followed(NamedTuple):
    """The project after the last step."""

    project: Project
    printed: Mapping[str, str]  # by each block of commands

    def printed_by(self, command: str) -> str:
        (output,) = (text for block, text in self.printed.items() if command in block)
        return output


def steps() -> Iterator[tuple[str, str, str]]:
    """Kind, words before it and text of each block."""
    end = 0
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL):
        yield found[1], TUTORIAL[end : found.start()], found[2]
        end = found.end()


@pytest.fixture(name="followed", scope="module")
def _followed(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Followed:
    """As the tutorial says, but for one seed instead of three and a tenth of the epochs."""
    project = Project.create(tmp_path_factory.mktemp("tutorial") / "project")
    (project.folder / "mlflow.db").write_bytes(migrated_database.read_bytes())
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    project.write_params(re.sub(r"^seeds: \[.*\]", "seeds: [0]", text, flags=re.MULTILINE))
    project.commit()
    printed = {}
    for kind, before, block in steps():
        if kind == "yaml":
            section = re.findall(r"elow `(\w+:)`", before)[-1]
            add_below(project.folder / "params.yaml", section, block.replace("hs: 30", "hs: 3"))
        else:
            printed[block] = run_block(project.folder, block)
    return Followed(project, printed)


def add_below(params: Path, section: str, text: str) -> None:
    """Add lines to a section of a YAML file."""
    line = re.compile(rf"^({section}.*\n)", re.MULTILINE)
    head, title, rest = line.split(params.read_text(), maxsplit=1)
    params.write_text(head + title + text + rest)


def run_block(folder: Path, block: str) -> str:
    commands = block.replace(". .venv/bin/activate\n", "")  # the tests' own is active
    commands = re.sub(r"^protodl ", "python -m protodl.cli ", commands, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-eu", "-c", commands],
        cwd=folder,
        env={**os.environ, **warm.environment(), "PYTHONPATH": str(folder), THREADS_VARIABLE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_tutorial_ends_where_it_says(followed: Followed) -> None:
    answer = followed.printed_by("protodl explain mnist-small-deconv seven.jpg")
    assert "7 (" in answer
    assert "weights shipped with protodl" in answer
    folder = followed.project.folder
    assert (folder / "explained" / "summary.csv").read_text().count("\n") == 12
    assert (folder / "my-shapes-for-others" / "model.safetensors").is_file()


def test_a_row_fetches_only_its_data_set(followed: Followed) -> None:
    stages = {f"{stage}@{ROW}" for stage in ("train", "evaluate", "prototypes")}
    assert stages_run(followed.printed_by(f"protodl run {ROW}")) == {*DATA_STAGES, *stages}
    changed = stages_run(followed.printed_by("dvc exp run"))
    assert changed == {f"train@{ROW}", f"evaluate@{ROW}"}


def test_its_images_are_split_and_measured_by_their_own_classes(followed: Followed) -> None:
    folder = followed.project.folder / "results" / "rows" / ROW
    log = SeedLog.read(folder / "training" / "seed-0.json")
    assert (log.image_shape, log.class_names) == ((1, 28, 28), SHAPES)
    assert (log.num_train, log.num_validation) == (116, 28)
    details = followed.project.read(f"results/rows/{ROW}/evaluation/seed-0.json")
    assert [sum(line) for line in details["confusion"]] == [12, 12, 12]
    assert (folder / "pictures" / "confusion.png").is_file()
    assert list((folder / "explanations").glob("*.json"))


def test_a_picture_is_explained_in_the_words_of_the_folder(followed: Followed) -> None:
    arguments = ("explain", ROW, "shapes/square/3.png", "--test", "0", "--json")
    (followed.project.folder / "shapes" / "square" / "03.png").rename(
        followed.project.folder / "shapes" / "square" / "3.png"
    )
    done = followed.project.run("protodl.cli", *arguments)
    assert done.returncode == 0, done.stderr
    for explanation in json.loads(done.stdout):
        told = {explanation["prediction"]["class"], explanation["runner_up"]["class"]}
        assert len(told & set(SHAPES)) == 2


@pytest.fixture(name="alone", scope="module")
def _alone(followed: Followed) -> Project:
    """The project with this one row, all of whose pages are made."""
    params = followed.project.folder / "params.yaml"
    data = yaml.safe_load(params.read_text())
    data["experiments"] = {ROW: data["experiments"][ROW]}
    params.write_text(yaml.safe_dump(data, sort_keys=False))
    done = followed.project.run("protodl.cli", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    return followed.project


def test_a_table_of_own_data_claims_nothing_published(alone: Project) -> None:
    (row,) = alone.read("results/results.json")
    assert (row["row"], row["dataset"], row["published_accuracy"]) == (ROW, "shapes", None)
    card = (alone.folder / "results" / "cards" / f"{ROW}.md").read_text()
    assert "shapes images into 3 classes" in card
    assert ", ".join(SHAPES) in card
    assert "published" not in (alone.folder / "RESULTS.md").read_text().lower()


def test_mlflow_names_models_and_data_by_the_folder(alone: Project) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{alone.folder / 'mlflow.db'}")
    names = {model.name for model in client.search_registered_models()}
    assert names == {"protodl-shapes", "protodl-shapes-explained"}
    log = SeedLog.read(alone.folder / "results" / "rows" / ROW / "training" / "seed-0.json")
    run = client.get_run(log.run_id)
    assert run.inputs is not None
    assert ", ".join(SHAPES) in str(run.inputs.dataset_inputs[0].dataset.schema)


def test_a_change_in_the_folder_reads_it_again(alone: Project) -> None:
    folder = alone.folder / "shapes"
    for path in folder.rglob("*.png"):
        path.touch()
    assert stages_run(alone.dvc("repro", "download@shapes")) == set()
    shutil.copy(folder / "circle" / "00.png", folder / "circle" / "another.png")
    assert stages_run(alone.dvc("repro", "download@shapes")) == {"download@shapes"}
    (folder / "triangle" / "00.png").write_bytes(b"no picture")
    done = alone.run_dvc("repro", "download@shapes")
    assert done.returncode != 0
    assert "datasets.shapes.folder = 'shapes': 1 of the files cannot be read" in done.stderr


def test_a_data_set_without_a_recipe_stops_before_any_work(alone: Project) -> None:
    params = alone.folder / "params.yaml"
    params.write_text(params.read_text().replace("  shapes: {}\n", ""))
    done = alone.run_dvc("repro", f"train@{ROW}")
    assert done.returncode != 0
    assert "recipes.shapes: is missing; add `shapes: {}` to recipes" in done.stderr
    assert stages_run(done.stdout) == set()
