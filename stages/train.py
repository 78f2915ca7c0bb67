"""Stage train@<row>: train every seed of a row that is not in the checkpoint store yet."""

import argparse
import csv
import hashlib
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from protodl.core.config import Experiment, TrainingConfig, load_params
from protodl.core.machine import Runtime, environment_facts, project_root, resolve_runtime
from protodl.core.sources import ROOT, closure
from protodl.core.stage import Stage
from protodl.core.training_log import SeedLog
from protodl.data.datasets import DATASETS, Split, load_split, split_validation, to_unit_interval
from protodl.network.checkpoint import save_network
from protodl.network.network import Classifier
from protodl.training import trainer
from protodl.training.fingerprint import fingerprint
from protodl.training.trainer import FitResult, Trainer, build_network, fit

SCRIPT = "stages/train.py"
NUM_SAMPLES = 10  # validation images whose reconstructions are shown while training


@dataclass(frozen=True)
class Row:
    """One row of params.yaml, ready to be trained."""

    name: str
    experiment: Experiment
    settings: TrainingConfig
    runtime: Runtime
    train: Split
    validation: Split
    data_digest: str

    def fingerprint(self, seed: int) -> str:
        """Hash of everything that a seed's outcome depends on."""
        facts: dict[str, Any] = {
            "row": self.name,
            "experiment": self.experiment.model_dump(),
            "data": self.data_digest,
            "validation_size": self.settings.validation_size,
            "split_seed": self.settings.split_seed,
            "device": self.runtime.device.type,
            "precision": str(self.runtime.dtype),
            "memory_format": str(self.runtime.memory_format),
            "torch": torch.__version__,
            "seed": seed,
        }
        return fingerprint(facts, closure(SCRIPT), ROOT)  # a changed source is another training


def load_row(name: str, params_path: Path, data_path: Path) -> tuple[Row, Sequence[int]]:
    """Check the parameters, resolve the machine's, read the data; returns the seeds as well."""
    params = load_params(params_path)
    experiment = params.experiment(name)
    settings = params.training
    train, validation = split_validation(
        load_split(data_path), settings.validation_size, settings.split_seed
    )
    digest = hashlib.md5(data_path.read_bytes(), usedforsecurity=False).hexdigest()  # as DVC's
    resolved = resolve_runtime(settings)
    row = Row(name, experiment, settings, resolved, train, validation, digest)
    return row, params.seeds


def finished_log(store: Path) -> SeedLog | None:
    """The log of a seed that was trained to the end; it is the last that is written."""
    path = store / "log.json"
    return SeedLog.read(path) if path.exists() else None


def train_seed(row: Row, seed: int, store: Path) -> SeedLog:
    """Train one seed into its folder of the checkpoint store, tracked in MLflow."""
    from protodl import tracking  # late: it only observes

    facts: dict[str, Any] = {
        "row": row.name,
        "seed": seed,
        "fingerprint": row.fingerprint(seed),
        "parameters": row.experiment.model_dump(),
        "environment": environment_facts(row.runtime) | tracking.dvc_facts(),
        "data_digest": row.data_digest,
        "num_train": len(row.train),
        "num_validation": len(row.validation),
    }
    start_ms = time.time_ns() // 1_000_000
    with tracking.start_seed(**facts) as tracker:
        title = f"{row.name} seed {seed}"
        samples = to_unit_interval(row.validation.images[:NUM_SAMPLES])
        every = row.settings.pictures_every
        epochs = row.experiment.epochs
        with tracking.watch(tracker, title, samples, every, epochs, len(row.train)) as hooks:
            result = _fit(row, seed, store / "training.pt", hooks)
        save_network(result.network, store / "network.pt")
        if result.unprojected is not None:
            save_network(result.unprojected, store / "unprojected.pt")
        class_names = DATASETS[row.experiment.dataset].class_names
        served = tracking.ServedModel(Classifier(result.network), samples[:2].numpy(), class_names)
        tracker.log_model(served, result.selected.epoch, result.selected.validation["accuracy"])
        log = SeedLog(
            **facts,
            experiment_name=tracker.experiment_name,
            run_id=tracker.run_id,
            parent_run_id=tracker.parent_run_id,
            start_ms=start_ms,
            end_ms=time.time_ns() // 1_000_000,
            train_seconds=result.train_seconds,
            num_epochs=len(result.history),
            selected_epoch=result.selected.epoch,
            history=result.history,
        )
        log.write(store / "log.json")  # last: its presence means finished
    return log


def _fit(row: Row, seed: int, path: Path, hooks: trainer.Hooks) -> FitResult:
    network = build_network(row.experiment, row.train, seed)
    trainer = Trainer(network, row.train, row.validation, row.experiment, row.runtime, seed)
    return fit(trainer, path, row.settings.checkpoint_every, hooks)


def write_curves(logs: Sequence[SeedLog], path: Path) -> None:
    """Write the learning curves, means over the seeds, as a table for `dvc plots`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        first = logs[0].history[0]
        header = [f"train_{name}" for name in first.train]
        header += [f"validation_{name}" for name in first.validation]
        writer.writerow(["epoch", "learning_rate", *header])
        for records in zip(*(log.history for log in logs), strict=True):
            columns = [[record.learning_rate for record in records]]
            columns += [[record.train[name] for record in records] for name in first.train]
            for name in first.validation:
                columns.append([record.validation[name] for record in records])
            writer.writerow([records[0].epoch, *(f"{fmean(column):.6g}" for column in columns)])


def train_row(options: argparse.Namespace) -> None:
    """Train what is not trained yet, then put every seed's results where DVC expects them."""
    row, seeds = load_row(options.row, options.params, options.data)
    logs = []
    for folder in (options.models, options.logs):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        store = project_root() / ".protodl" / "checkpoints" / row.fingerprint(seed)
        logs.append(finished_log(store) or train_seed(row, seed, store))
        shutil.copyfile(store / "network.pt", options.models / f"seed-{seed}.pt")
        shutil.copyfile(store / "log.json", options.logs / f"seed-{seed}.json")
        if row.experiment.model.project:
            before = options.models / f"seed-{seed}-unprojected.pt"
            shutil.copyfile(store / "unprojected.pt", before)
    write_curves(logs, options.curves)


OPTIONS = {
    "row": "key of experiments in params.yaml",
    "--params": "params.yaml",
    "--data": "train.pt of the data set",
    "--models": "folder for seed-<s>.pt",
    "--logs": "folder for seed-<s>.json",
    "--curves": "CSV of the learning curves",
}
main = Stage(train_row, OPTIONS)

if __name__ == "__main__":
    sys.exit(main())
