"""The whole pipeline in a few minutes: a copy of the project, the embedded sample, few epochs."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from protodl.core.config import Params, load_params
from protodl.core.experiment_config import Experiment
from protodl.core.limits import available_cpus
from protodl.core.machine import own_folder
from protodl.pipeline.run import ROWS, run_pipeline
from protodl.report.results import ResultRow, read_rows

FOLDER = ".demo"
EXPERIMENT = "protodl-demo"
VALIDATION_SIZE = 400
MAX_WORKERS = 4
PROCESSOR_MINUTES = 6  # two processors take three minutes
# What a run needs of the project; what else lies beside it, secrets among it, is left alone.
NEEDED = [".dvc/config", ".dvcignore", ".gitignore", "data/.gitignore", "data/sample", "dvc.yaml"]
NEEDED += ["params.yaml", "protodl", "stages"]


def run_demo(root: Path) -> str:
    """Run all rows in a fresh copy of the project under `.demo/`; return a short table.

    The runs go to the project's own MLflow store, under the experiment `protodl-demo`.

    Raises:
        ConfigError, PipelineError, protodl.core.process.Interrupted: as run_pipeline.
    """
    params = load_params(Path(os.path.relpath(root / "params.yaml")))
    folder = root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    copy_project(root, folder)
    (folder / "params.yaml").write_text(demo_params(params), encoding="utf-8")
    if others := params.datasets.keys() - _usable(params):
        print(f"left out, as the sample has nothing of them: {', '.join(sorted(others))}")
    if deep := deep_rows(params):
        print(f"left out, as their networks take minutes more: {', '.join(deep)}")
    # Without git DVC neither needs a repository there nor touches the one around it.
    (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    os.environ.pop("DVC_ROOT", None)
    os.environ["MLFLOW_EXPERIMENT_NAME"] = EXPERIMENT
    workers = min(MAX_WORKERS, available_cpus())
    minutes = max(2, round(PROCESSOR_MINUTES / workers))
    expected = f"expected time: about {minutes} min, {workers} rows at a time"
    run_pipeline(folder, [], workers, expected=expected, fresh=True)
    return demo_table(read_rows(load_params(folder / "params.yaml"), folder / ROWS))


def demo_table(rows: Sequence[ResultRow]) -> str:
    """What the short trainings reached, beside what the weights do that come with the clone."""
    from protodl.explanation.loading import shipped_accuracy, shipped_rows  # late: imports torch

    shipped = shipped_rows()
    lines = [
        [
            row.row,
            f"{100 * row.mean['test_accuracy']:.1f}",
            f"{100 * row.mean['decode_agreement']:.0f}",
            f"{100 * row.mean['independent_agreement']:.0f}",
            f"{shipped_accuracy(row.row):.2f}" if row.row in shipped else "",
        ]
        for row in rows
    ]
    heads = [
        "in per cent", "test\naccuracy", "prototypes\nrecognised", "by independent\nclassifier",
        "shipped:\ntest accuracy",
    ]  # fmt: skip
    sides = ["left"] + ["right"] * (len(heads) - 1)
    return tabulate(lines, heads, "simple", colalign=sides, disable_numparse=True)


def demo_params(params: Params) -> str:
    """params.yaml for the demo: the same rows on the sample, trained briefly.

    Folders of images are taken as they are. Data sets that the sample has nothing of are left out
    with their rows, and so are `deep_rows`.
    """
    data = params.model_dump(mode="json")
    data["datasets"] = _usable(params)
    lacking = params.datasets.keys() - data["datasets"]
    recipes = params.model_dump(mode="json", exclude_unset=True).get("recipes", {})
    recipes = {name: recipe for name, recipe in recipes.items() if name not in lacking}
    data["recipes"] = {name: {} for name in data["datasets"]} | recipes
    left_out = deep_rows(params)
    data["experiments"] = {
        row: each
        for row, each in data["experiments"].items()
        if each["dataset"] not in lacking and row not in left_out
    }
    data["seeds"] = params.seeds[:1]
    data["data"]["source"] = "sample"
    data["training"]["validation_size"] = VALIDATION_SIZE
    data["teacher"] |= {"epochs": 1, "width": 4}  # of so few images it would learn too little
    for row, short in data["experiments"].items():
        _shorten(short, params.experiments[row])
    return yaml.safe_dump(data, sort_keys=False)


def deep_rows(params: Params) -> list[str]:
    """Rows whose networks are too deep for the demo, unless there are no others."""
    deep = [row for row, each in params.experiments.items() if each.model.architecture == "resnet"]
    return deep if len(deep) < len(params.experiments) else []


def _shorten(row: dict[str, Any], experiment: Experiment) -> None:
    """Make a row's training as short as it may be for its pictures to be recognised.

    Elastic deformation only blurs what is decoded after so few steps, and CIFAR-10 cannot be
    learned from a few hundred images anyway.
    """
    hopeless = experiment.dataset == "cifar10"
    large = experiment.model.architecture == "large"
    row["epochs"] = min(experiment.epochs, 1 if large else 2 if hopeless else 20)
    row["batch_size"] = min(experiment.batch_size, 40)
    row["augment"]["elastic_alpha"] = 0
    row["loss"]["distillation"] = row["loss"]["recognition"] = 0.0
    row["loss"]["classification"] = 20.0
    if experiment.dataset == "mnist":
        row["loss"]["reconstruction"] = 1.0


def _usable(params: Params) -> dict[str, Any]:
    """The data sets that need nothing but the sample and this machine's folders, as written."""
    usable = {}
    for name, config in params.datasets.items():
        if config.folder or config.in_sample:
            usable[name] = config.model_dump(exclude_unset=True)
        if config.folder:
            usable[name]["folder"] = str(own_folder(config))
    return usable


def copy_project(root: Path, target: Path) -> None:
    """Copy what a run needs, as it is in the work tree; without git too."""
    target.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for source in (path for name in NEEDED if (path := root / name).exists()):
        copy = target / source.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=ignored)
        else:
            shutil.copy2(source, copy)
