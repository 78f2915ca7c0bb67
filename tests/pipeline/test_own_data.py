"""A row on a folder of images, through every stage; what a change in the folder runs again."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest

from protodl.core.training_log import SeedLog
from tests.factories import write_images
from tests.pipeline.project import Project, stages_run

COLOURS = {"rose": (200, 0, 0), "tulip": (0, 200, 0), "water lily": (0, 0, 200)}
ROW = "my-flowers"
PARAMS = f"""
seeds: [0]
data: {{source: full}}
training: {{pictures_every: 1}}
judge: {{epochs: 2, batch_size: 5}}
datasets:
  mnist: {{torchvision: MNIST}}
  flowers: {{folder: my flowers, size: 12, channels: 3}}
defaults: {{epochs: 3}}
recipes: {{mnist: {{}}, flowers: {{augment: {{flip: true}}}}, paper: {{}}, port: {{}}}}
experiments:
  {ROW}:
    dataset: flowers
    epochs: 2
    batch_size: 6
    model: {{num_prototypes: 2, project: partly}}
"""
DATA_STAGES = {"download@flowers", "judge@flowers"}


@pytest.fixture(name="project", scope="module")
def _project(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Project:
    """Three classes of twelve images each in a folder of the project, and nothing computed."""
    project = Project.create(tmp_path_factory.mktemp("own") / "project")
    project.write_params(PARAMS)
    shutil.copy(migrated_database, project.folder / "mlflow.db")
    for name, colour in COLOURS.items():
        write_images(project.folder / "my flowers" / name, colour, 12)
    project.commit()
    return project


def test_a_row_goes_through_every_stage_and_fetches_only_its_data_set(project: Project) -> None:
    done = project.run("protodl.cli", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {f"{stage}@{ROW}" for stage in ("train", "evaluate", "prototypes")}
    assert stages_run(done.stdout) == {*DATA_STAGES, *rows, "report"}

    (row,) = project.read("results/results.json")
    assert (row["row"], row["dataset"], row["published_accuracy"]) == (ROW, "flowers", None)
    folder = project.folder / "results" / "rows" / ROW
    log = SeedLog.read(folder / "training" / "seed-0.json")
    assert (log.image_shape, log.class_names) == ((3, 12, 12), tuple(COLOURS))
    assert (log.num_train, log.num_validation) == (24, 6)
    details = project.read(f"results/rows/{ROW}/evaluation/seed-0.json")
    assert [sum(line) for line in details["confusion"]] == [2, 2, 2]
    assert (folder / "pictures" / "confusion.png").is_file()
    assert list((folder / "explanations").glob("*.json"))
    card = (project.folder / "results" / "cards" / f"{ROW}.md").read_text()
    assert "flowers images into 3 classes" in card
    assert "rose, tulip, water lily" in card
    assert "published" not in (project.folder / "RESULTS.md").read_text().lower()

    client = mlflow.MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    names = {model.name for model in client.search_registered_models()}
    assert names == {"protodl-flowers", "protodl-flowers-explained"}
    run = client.get_run(log.run_id)
    assert run.inputs is not None
    assert "rose, tulip, water lily" in str(run.inputs.dataset_inputs[0].dataset.schema)


def test_a_picture_is_explained_in_the_words_of_the_folder(project: Project) -> None:
    picture = "my flowers/tulip/3.png"
    done = project.run("protodl.cli", "explain", ROW, picture, "--test", "0", "--json")
    assert done.returncode == 0, done.stderr
    for explanation in json.loads(done.stdout):
        told = {explanation["prediction"]["class"], explanation["runner_up"]["class"]}
        assert len(told & set(COLOURS)) == 2


def test_a_change_in_the_folder_reads_it_again(project: Project) -> None:
    folder = project.folder / "my flowers"
    for path in folder.rglob("*.png"):
        path.touch()
    assert stages_run(project.dvc("repro", "judge@flowers")) == set()
    shutil.copy(folder / "rose" / "0.png", folder / "rose" / "another.png")
    try:
        assert stages_run(project.dvc("repro", "judge@flowers")) == DATA_STAGES
        (folder / "tulip" / "0.png").write_bytes(b"no picture")
        done = project.run_dvc("repro", "judge@flowers")
    finally:
        shutil.rmtree(folder / "tulip")
        write_images(folder / "tulip", COLOURS["tulip"], 12)
        (folder / "rose" / "another.png").unlink()
    assert done.returncode != 0
    assert "datasets.flowers.folder = 'my flowers': 1 of the files cannot be read" in done.stderr


def test_a_data_set_without_a_recipe_stops_before_any_work(project: Project) -> None:
    project.write_params(PARAMS.replace("flowers: {augment: {flip: true}}, ", ""))
    try:
        done = project.run_dvc("repro", f"train@{ROW}")
    finally:
        project.write_params(PARAMS)
    assert done.returncode != 0
    assert "recipes.flowers: is missing; add `flowers: {}` to recipes" in done.stderr
    assert stages_run(done.stdout) == set()
