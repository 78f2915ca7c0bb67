"""What tests are run on: files of invented trainings, and a small project with a trained row."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from protodl.core.config import Params, load_params
from protodl.core.dataset_config import PresetName
from protodl.core.files import write_json
from protodl.core.machine import Runtime
from protodl.core.training_log import EpochRecord, SeedEvaluation, SeedLog
from protodl.data.datasets import load_split, split_validation
from protodl.data.download import download
from protodl.evaluation.examiner import summarise
from protodl.network.cases import measure_case_base, save_case_base
from protodl.network.checkpoint import save_network
from protodl.network.usual import Usual
from protodl.report.results_page import PICTURES
from protodl.training.prototypes import build_network
from protodl.training.trainer import Trainer, fit

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "processor": "Abacus, 2 cores",
    "device": "cpu",
    "threads": "2",
    "precision": "float32",
    "torch": "2.15.0",
    "python": "3.11",
}


def usual(
    mean_distances: torch.Tensor, prototype_limit: float, case_limit: float, num_classes: int = 10
) -> Usual:
    """What is usual, with these means (P,) and limits; no image is unusual otherwise."""
    return Usual(
        mean_distances=mean_distances,
        prototype_limit=prototype_limit,
        case_limit=case_limit,
        class_logits=torch.zeros(num_classes, num_classes),
        class_precisions=torch.eye(num_classes).repeat(num_classes, 1, 1),
        errors=torch.full((3,), 1e9),
        deviations=torch.full((3,), 1e9),
        surprises=torch.full((3,), 1e9),
    )


def write_params(
    root: Path, rows: Mapping[str, Any], seeds: Sequence[int] = (0,), source: str = "full"
) -> Params:
    """Write params.yaml with these experiments and read it."""
    own = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    presets = {name: own["recipes"][name] for name in get_args(PresetName)}
    data = {"seeds": [*seeds], "data": {"source": source}, "recipes": presets}
    data |= {"experiments": dict(rows)}
    path = root / "params.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return load_params(path)


def training(params: Params, row: str, seed: int, **changes: Any) -> SeedLog:
    """The log of a seed that was trained for two epochs, the second one being the better."""
    history = [
        EpochRecord(
            epoch=epoch,
            step=10 * epoch,
            timestamp_ms=1_700_000_000_000 + 1000 * epoch,
            seconds=1.5,
            images_per_second=800.0,
            learning_rate=4e-3 / epoch,
            train={"accuracy": 0.5, "loss": 1 / 3},
            validation={"accuracy": 0.6 + epoch / 100 + seed / 1000, "loss": 1 / 7},
            selected=True,
        )
        for epoch in (1, 2)
    ]
    full = params.data.source == "full"
    values: dict[str, Any] = {
        "row": row,
        "seed": seed,
        "fingerprint": f"{row}-{seed}",
        "experiment_name": "protodl",
        "run_id": f"{seed}" * 32,
        "parent_run_id": "0123456789abcdef" * 2,
        "parameters": params.experiment(row).model_dump(),
        "environment": ENVIRONMENT,
        "start_ms": 1_700_000_000_000,
        "end_ms": 1_700_000_009_000,
        "train_seconds": 100 / 3 + seed,
        "num_epochs": 2,
        "selected_epoch": 2,
        "num_train": 55_000 if full else 600,
        "num_validation": params.training.validation_size,
        "data_digest": "0123456789abcdef" * 2,
        "history": history,
    }
    return SeedLog(**values | changes)


def evaluation(log: SeedLog, accuracy: float, coverage: int = 10) -> SeedEvaluation:
    """What the evaluation stage says of a seed."""
    return SeedEvaluation(
        row=log.row,
        seed=log.seed,
        metrics={
            "test_accuracy": accuracy,
            "validation_accuracy": log.history[-1].validation["accuracy"],
            "calibration_error": 0.0125 * (1 + log.seed),
            "decode_agreement": 14 / 15,
            "cycle_identity": 13 / 15,
            "reconstruction_agreement": 0.875,
            "independent_agreement": 12 / 15,
            "independent_reconstruction_agreement": 0.75,
            "case_agreement": 11 / 15,
            "purity25": 0.1 + 0.2,
            "duplicates": 0,
            "distinct_prototypes": 8 + log.seed,
            "coverage": coverage,
            "train_seconds": log.train_seconds,
            "num_epochs": log.num_epochs,
        },
        unprojected={},
        confusion=[[3, 1], [0, 4]],
        prototypes={"class": [0, 1], "purity25": [1.0, 0.96]},
    )


def write_row(folder: Path, trained: Sequence[tuple[SeedLog, float]], coverage: int = 10) -> None:
    """Write the files of a row below `folder`, given each seed's log and test accuracy."""
    own = folder / trained[0][0].row
    evaluations: list[SeedEvaluation] = []
    for log, accuracy in trained:
        log.write(own / "training" / f"seed-{log.seed}.json")
        # Coverage falls from seed to seed, so that the least one is not the first.
        evaluations.append(evaluation(log, accuracy, coverage - len(evaluations)))
        evaluations[-1].write(own / "evaluation" / f"seed-{log.seed}.json")
    summarise(evaluations).write(own / "metrics.json")
    judge = folder.parent / "judges" / f"{trained[0][0].parameters['dataset']}.json"
    write_json({"validation_accuracy": 0.97}, judge)
    for index, name in enumerate(PICTURES):
        picture = np.full((60 + index, 30, 3), 40 * index, np.uint8)
        picture[3:9] = (index, 200, 100)
        path = own / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)


def write_rows(folder: Path, params: Params, accuracies: Mapping[str, Sequence[float]]) -> None:
    """Write the files of several rows, given the test accuracy of each of their seeds."""
    for row, values in accuracies.items():
        logs = [training(params, row, seed) for seed in params.seeds]
        write_row(folder, list(zip(logs, values, strict=True)))


def run_main(main: Callable[[], int], folder: Path, paths: Mapping[str, str]) -> int:
    """Call a stage's main with these options, each a path below `folder`; its exit status."""
    arguments = [part for key, name in paths.items() for part in (f"--{key}", str(folder / name))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stage", *arguments])
        return main()


def write_images(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    """Write noisy pictures of one colour: `0.png`, `1.jpg`, `2.png`, ... of several sizes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(sum(colour) + 7 * count)
    for number in range(count):
        noise = random.integers(0, 50, (14 + number % 5, 16, 3))
        picture = Image.fromarray((noise + np.array(colour)).astype(np.uint8))
        picture.save(folder / f"{number}.{'jpg' if number % 3 == 1 else 'png'}")


ROW = "tiny-row"
TRAINED = """
seeds: [0, 1]
data: {source: sample}
training: {validation_size: 400, threads: 1}
experiments:
  tiny-row:
    dataset: mnist
    model: {num_prototypes: 12, encoder_init: he, prototype_init: data, head_init: class}
    epochs: 3
    batch_size: 50
    optimizer: {lr: 4e-3}
"""


def write_project(folder: Path) -> None:
    """Write params.yaml, the sample, and the network and case base of a trained row (seed 0)."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(TRAINED, encoding="utf-8")
    params = load_params(folder / "params.yaml")
    data = folder / "data" / "mnist"
    sample = ROOT / "data" / "sample"
    download("mnist", data, raw=folder, sample=sample, source="sample")
    train, validation = split_validation(
        load_split(data / "train.pt"), params.training.validation_size
    )
    cpu = Runtime(torch.device("cpu"), torch.float32, torch.contiguous_format, 1)
    experiment = params.experiment(ROW)
    trainer = Trainer(build_network(experiment, train, 0), train, validation, experiment, cpu, 0)
    network = fit(trainer, folder / "training.pt", 10).network.eval()
    save_network(network, folder / "models" / ROW / "seed-0.pt")
    case_base = measure_case_base(network, train, validation)
    save_case_base(case_base, folder / "models" / "references" / ROW / "seed-0.pt")
