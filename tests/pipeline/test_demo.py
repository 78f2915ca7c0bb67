"""What the demo runs on: a copy of the project, without anything computed, on the sample."""

import subprocess
from pathlib import Path

import pytest
import yaml

from protodl.core.config import load_params
from protodl.pipeline.demo import copy_project, deep_rows, demo_params, demo_table
from protodl.report.results import ResultRow

ROOT = Path(__file__).parents[2]


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with files of every kind, among them results, and some that nobody may copy."""
    project = tmp_path / "project"
    own = dict.fromkeys(OWN, "old")
    computed = {"dvc.lock": "", "RESULTS.md": "", "results/rows/a/metrics.json": "{}"}
    computed |= {"report/index.html": "", "report/.gitignore": "", "mlflow.db": "runs"}
    computed |= {"models/a/seed-0.pt": "", ".venv/bin/python": "", "data/mnist/train.pt": ""}
    foreign = {".env": "secret", "credentials/key.pem": "secret", ".demo/params.yaml": "earlier"}
    foreign |= {".dvc/config.local": "secret", "protodl/__pycache__/models.pyc": ""}
    write(project, **own, **computed, **foreign, **{".dvc/cache/files/md5/aa": "", "mlruns/0": ""})
    return project


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


OWN = {"params.yaml", "protodl/models.py", "data/sample/mnist.gz", ".gitignore", ".dvc/config"}


@pytest.mark.faults
@pytest.mark.parametrize("around", ["nothing", "its own repository", "another repository"])
def test_the_copy_is_the_work_tree_and_nothing_beside_it(
    project: Path, tmp_path: Path, around: str
) -> None:
    if around != "nothing":
        git(project if around == "its own repository" else tmp_path, "init", "-q")
    if around == "its own repository":
        git(project, "add", "-A")
        git(project, "commit", "-q", "-m", "first")
    write(project, **{"protodl/models.py": "changed", "protodl/new.py": "not yet in git"})

    copy_project(project, tmp_path / "copy")

    assert files_in(tmp_path / "copy") == OWN | {"protodl/new.py"}
    assert (tmp_path / "copy" / "protodl" / "models.py").read_text() == "changed"


def test_the_demo_has_the_rows_of_the_project_on_the_sample(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    (tmp_path / "params.yaml").write_text(demo_params(params))
    demo = load_params(tmp_path / "params.yaml")

    assert demo.data.source == "sample"
    others = [row for row in params.experiments if row not in deep_rows(params)]
    assert list(demo.experiments) == others
    for row, experiment in demo.experiments.items():
        original = params.experiments[row]
        assert experiment.model == original.model
        assert experiment.optimizer == original.optimizer
        assert experiment.epochs <= 20
    # DVC tracks both sections.
    written = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert written["defaults"] == params.defaults.model_dump()
    project = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert written["recipes"] == project["recipes"]
    smallest = 1200  # training images of CIFAR-10 in the sample
    assert demo.training.validation_size < smallest / 2


def test_deep_networks_are_left_out_unless_there_are_no_others(tmp_path: Path) -> None:
    deep = {"dataset": "mnist", "model": {"architecture": "resnet", "decoder": "resnet"}}
    for rows, expected in [({"a": {"dataset": "mnist"}, "b": deep}, ["a"]), ({"b": deep}, ["b"])]:
        source = {"seeds": [0], "experiments": rows}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(source))
        (tmp_path / "demo.yaml").write_text(demo_params(load_params(tmp_path / "params.yaml")))
        assert list(load_params(tmp_path / "demo.yaml").experiments) == expected


def test_presets_survive(tmp_path: Path) -> None:
    row = {"dataset": "mnist", "preset": "paper", "optimizer": {"lr": 0.5}}
    recipes = {"paper": {"model": {"distance": "squared_euclidean"}, "optimizer": {"lr": 0.1}}}
    source = {"seeds": [3, 4], "recipes": recipes, "experiments": {"a": row}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(source))
    params = load_params(tmp_path / "params.yaml")

    (tmp_path / "params.yaml").write_text(demo_params(params))

    demo = load_params(tmp_path / "params.yaml")
    assert demo.seeds == [3]
    assert demo.experiments["a"].optimizer == params.experiments["a"].optimizer
    assert demo.experiments["a"].model.distance == "squared_euclidean"


def test_own_folders_are_taken_and_what_the_sample_lacks_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    own = {"folder": "pictures", "size": 20, "channels": 1}
    sets = {"mnist": {"torchvision": "MNIST"}, "own": own, "signs": {"torchvision": "KMNIST"}}
    rows = {name: {"dataset": name} for name in sets}
    source = {"seeds": [0], "datasets": sets, "recipes": {name: {} for name in sets}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**source, "experiments": rows}))
    (tmp_path / "demo.yaml").write_text(demo_params(load_params(tmp_path / "params.yaml")))

    demo = load_params(tmp_path / "demo.yaml")
    assert list(demo.datasets) == list(demo.experiments) == ["mnist", "own"]
    assert demo.dataset("own").folder == str(tmp_path / "pictures")  # the demo runs elsewhere


def test_the_demo_s_table_fits_a_terminal_and_names_what_is_shipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("protodl.explanation.loading.shipped_rows", lambda: ["a-row"])
    monkeypatch.setattr("protodl.explanation.loading.shipped_accuracy", lambda row: 99.25)
    row = ResultRow.model_construct(
        row="a-row",
        mean={"test_accuracy": 0.925, "decode_agreement": 1.0, "independent_agreement": 0.8},
    )
    other = row.model_copy(update={"row": "a-row-whose-name-is-long-enough"})
    lines = demo_table([row, other]).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-2].split() == ["a-row", "92.5", "100", "80", "99.25"]
    assert lines[-1].split() == ["a-row-whose-name-is-long-enough", "92.5", "100", "80"]
