"""A row of the table as its training sees it: parameters, images, machine, and a name for each."""

import csv
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from protodl.core.config import Params, TrainingConfig
from protodl.core.experiment_config import Experiment
from protodl.core.machine import Runtime, environment_facts, prepare_machine
from protodl.core.sources import ROOT
from protodl.core.training_log import SeedFacts, SeedLog
from protodl.data.datasets import Split, info_of, load_training
from protodl.network.checkpoint import save_network
from protodl.network.losses import Lesson, asks_teacher
from protodl.network.teacher import load_lesson
from protodl.training.prototypes import build_network
from protodl.training.trainer import FitResult, Hooks, Trainer, fit

# In a seed's folder of the checkpoint store, beside network.pt and unprojected.pt.
CHECKPOINT = "training.pt"  # while it is trained
FINISHED = "log.json"  # written last: its presence means finished


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
    lesson: Lesson | None  # of the data set's teacher, where it is asked
    teacher_digest: str
    sources: Sequence[str]  # files whose change makes another training, relative to the project

    @classmethod
    def load(
        cls, name: str, params: Params, data: Path, teacher: Path, sources: Sequence[str]
    ) -> "Row":
        """Prepare the machine and read the images of the file `data`.

        Args:
            name: key of experiments.
            params: params.yaml.
            data: train.pt of the data set.
            teacher: what its teacher says of them; read by a row that learns from it.
            sources: of a training.

        Raises:
            CheckpointError, DatasetError, ConfigError: a file is damaged, or does not fit.
        """
        settings, experiment = params.training, params.experiment(name)
        train, validation = load_training(data, settings)
        runtime, asked = prepare_machine(settings), asks_teacher(experiment)
        return cls(
            name=name,
            experiment=experiment,
            settings=settings,
            runtime=runtime,
            train=train,
            validation=validation,
            data_digest=_digest(data),
            lesson=load_lesson(teacher, train, runtime.device) if asked else None,
            teacher_digest=_digest(teacher) if asked else "",
            sources=sources,
        )

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
        facts |= {"teacher": self.teacher_digest} if self.teacher_digest else {}
        return fingerprint(facts, self.sources, ROOT)

    def facts(self, seed: int, environment: Mapping[str, str]) -> SeedFacts:
        """What is known of a seed before its training; `environment` is added to the machine's."""
        info = info_of(self.experiment.dataset, self.train)
        return SeedFacts(
            row=self.name,
            seed=seed,
            fingerprint=self.fingerprint(seed),
            parameters=self.experiment.model_dump(),
            environment=environment_facts(self.runtime) | dict(environment),
            num_train=len(self.train),
            num_validation=len(self.validation),
            data_digest=self.data_digest,
            image_shape=info.shape if self.train.class_names else (),
            class_names=self.train.class_names,
        )

    def fit(self, seed: int, folder: Path, hooks: Hooks) -> FitResult:
        """Train a seed in its folder: from the checkpoint that is there, to its networks.

        Raises:
            TrainingError, CheckpointError: as `protodl.training.trainer.fit`.
        """
        network = build_network(self.experiment, self.train, seed, self.lesson)
        trainer = Trainer(
            network, self.train, self.validation, self.experiment, self.runtime, seed, self.lesson
        )
        result = fit(trainer, folder / CHECKPOINT, self.settings.checkpoint_every, hooks)
        save_network(result.network, folder / "network.pt")
        if result.unprojected is not None:
            save_network(result.unprojected, folder / "unprojected.pt")
        return result


def _digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()  # as DVC's


def fingerprint(facts: Mapping[str, Any], sources: Iterable[str], root: Path) -> str:
    """Hash (16 hex digits) of plain facts and source files, by their paths relative to `root`."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sorted(sources):
        digest.update(f"\0{source}\0".encode())
        digest.update((root / source).read_bytes())
    return digest.hexdigest()[:16]


def seed_log(facts: SeedFacts, result: FitResult, start_ms: int, run: Mapping[str, Any]) -> SeedLog:
    """The log of a training that ends now; `run` holds the ids of its MLflow run."""
    return SeedLog(
        **dict(facts),
        **run,
        start_ms=start_ms,
        end_ms=time.time_ns() // 1_000_000,
        train_seconds=result.train_seconds,
        num_epochs=len(result.history),
        selected_epoch=result.selected.epoch,
        history=result.history,
    )


def write_curves(logs: Sequence[SeedLog], path: Path) -> None:
    """Write the learning curves, means over the seeds, as a table for `dvc plots`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(_curves(logs[0])[0]), lineterminator="\n")
        writer.writeheader()
        for epochs in zip(*(_curves(log) for log in logs), strict=True):
            means = {name: f"{fmean(each[name] for each in epochs):.6g}" for name in epochs[0]}
            writer.writerow(means)


def _curves(log: SeedLog) -> list[dict[str, float]]:
    """The columns of each epoch."""
    return [
        {
            "epoch": record.epoch,
            "learning_rate": record.learning_rate,
            **{f"train_{name}": value for name, value in record.train.items()},
            **{f"validation_{name}": value for name, value in record.validation.items()},
        }
        for record in log.history
    ]
