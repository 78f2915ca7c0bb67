"""Seeds as the tests of tracking record them, and the store they look into."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run

from protodl.core.experiment_config import ModelConfig
from protodl.core.training_log import EpochRecord, SeedEvaluation, SeedLog
from protodl.network.network import Classifier, PrototypeNetwork
from protodl.tracking.live import start_seed
from protodl.tracking.runs import list_files
from protodl.tracking.served import ServedModel, own_name
from protodl.tracking.store import experiment_name, open_current, tracking_uri

PARAMETERS = {"dataset": "mnist", "epochs": 3, "optimizer": {"lr": 4e-3, "schedule": "one_cycle"}}


ENVIRONMENT = {"device": "cpu", "git_revision": "abc123+", "dvc_experiment": "noisy-owl"}


def record(epoch: int, accuracy: float = 0.5) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=10 * epoch,
        timestamp_ms=1_700_000_000_000 + 1000 * epoch,
        seconds=1.5,
        images_per_second=800.0,
        learning_rate=4e-3 / epoch,
        train={"accuracy": accuracy, "loss": 2 / epoch, "reconstruction": 1 / epoch},
        validation={"accuracy": accuracy + epoch / 100},
        selected=True,
    )


def seed_log(row: str = "a", seed: int = 0, accuracy: float = 0.5, **changes: Any) -> SeedLog:
    values: dict[str, Any] = {
        "row": row,
        "seed": seed,
        "fingerprint": f"{row}-{seed}",
        "experiment_name": "protodl",
        "run_id": "elsewhere",
        "parent_run_id": "elsewhere",
        "parameters": PARAMETERS,
        "environment": ENVIRONMENT,
        "start_ms": 1_700_000_000_000,
        "end_ms": 1_700_000_009_000,
        "train_seconds": 9.0,
        "num_epochs": 3,
        "selected_epoch": 3,
        "num_train": 55000,
        "num_validation": 5000,
        "data_digest": "0123456789abcdef0123456789abcdef",
        "history": [record(epoch, accuracy) for epoch in (1, 2, 3)],
    }
    return SeedLog(**values | changes)


def train(log: SeedLog) -> SeedLog:
    """Record a whole training live; gives the log as the training stage would write it."""
    with start_seed(log) as tracker:
        for epoch in log.history:
            tracker.log_epoch(epoch)
    ids = {"run_id": tracker.run_id, "parent_run_id": tracker.parent_run_id}
    return log.model_copy(update=ids)


def evaluation(log: SeedLog, metrics: Mapping[str, int | float]) -> SeedEvaluation:
    confusion = [[1, 0], [0, 1]]
    return SeedEvaluation(
        row=log.row,
        seed=log.seed,
        metrics=dict(metrics),
        unprojected={},
        confusion=confusion,
        prototypes={},
    )


def contents(run_id: str) -> dict[str, Any]:
    """All that a run holds, except what the store itself assigns."""
    run = client().get_run(run_id)
    history = {
        key: [(m.step, m.timestamp, m.value) for m in client().get_metric_history(run_id, key)]
        for key in run.data.metrics
    }
    own = {"synced", "mlflow.parentRunId"}
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "tags": {key: value for key, value in run.data.tags.items() if key not in own},
        "parameters": run.data.params,
        "history": history,
        "inputs": [(entry.dataset.to_dictionary(), entry.tags) for entry in data_inputs(run)],
        "pictures": pictures(run_id),
        "models": [
            (version.name.removeprefix(own_name()), version.tags, version.status)
            for version in client().search_model_versions(f"run_id = '{run_id}'")
        ],
    }


def pictures(run_id: str) -> list[tuple[str, ...]]:
    """Name, step and kind of each file of the pictures with a slider."""
    files = list_files(open_current(), run_id, "images")
    parts = [[*Path(file).name.split("+")[:3], Path(file).suffix] for file in files]
    return sorted((name, step, ending) for name, _, step, ending in parts)


def client() -> MlflowClient:
    return MlflowClient(tracking_uri())


def all_runs() -> list[Run]:
    experiment = client().get_experiment_by_name(experiment_name())
    return list(client().search_runs([experiment.experiment_id])) if experiment else []


def data_inputs(run: Run) -> list[DatasetInput]:
    assert run.inputs is not None
    return list(run.inputs.dataset_inputs)


def served(**model: Any) -> ServedModel:
    """A real network, untrained."""
    config = ModelConfig(num_prototypes=4, **model)
    network = PrototypeNetwork(config, channels=1, image_size=28).eval()
    images = np.linspace(0, 1, 2 * 28 * 28, dtype=np.float32).reshape(2, 1, 28, 28)
    return ServedModel(Classifier(network), images, list("0123456789"))


NOWHERE = "sqlite:////proc/nope/x.db"


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
