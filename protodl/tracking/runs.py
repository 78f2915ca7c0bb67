"""Runs and what is written in them; live and refilled runs are made by the same functions."""

import json
import math
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protodl.core.config import flatten
from protodl.core.training_log import EpochRecord, SeedFacts
from protodl.tracking.datasets import training_data
from protodl.tracking.descriptions import NOTE, training_note
from protodl.tracking.store import Store, unix_milliseconds

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DVC_TAGS = ("dvc_experiment", "dvc_baseline")  # facts of the environment that are tags of their own


def _row_fingerprint(facts: SeedFacts) -> str:
    """Hash of what all seeds of a row share: it names their parent run."""
    shared = json.dumps([facts.row, facts.parameters, facts.data_digest], sort_keys=True)
    return sha256(shared.encode()).hexdigest()[:16]


def ensure_parent(store: Store, facts: SeedFacts, start_ms: int) -> str:
    """Id of the run of the row, created where it is missing."""
    runs = find_runs(store, kind="row", row_fingerprint=_row_fingerprint(facts))
    if runs:
        return str(runs[0].info.run_id)
    return _create_run(store, facts, facts.row, start_ms, {"kind": "row"})


def create_seed_run(
    store: Store, facts: SeedFacts, parent: str, start_ms: int, tags: Mapping[str, str]
) -> str:
    own = {
        "kind": "seed",
        "seed": str(facts.seed),
        "fingerprint": facts.fingerprint,
        "mlflow.parentRunId": parent,
        NOTE: training_note(facts),
    }
    own |= {
        f"environment.{key}": value
        for key, value in facts.environment.items()
        if key not in DVC_TAGS
    }
    return _create_run(store, facts, facts.title, start_ms, {**own, **tags})


def _create_run(
    store: Store, facts: SeedFacts, name: str, start_ms: int, tags: Mapping[str, str]
) -> str:
    """Create a run with its tags, parameters and data set, still running."""
    from mlflow.entities import Param

    common = {
        "row": facts.row,
        "dataset": facts.dataset,
        "row_fingerprint": _row_fingerprint(facts),
        "dvc_stage": f"train@{facts.row}",
        "mlflow.source.name": f"train@{facts.row}",
        "mlflow.source.type": "LOCAL",
    }
    common |= {key: facts.environment[key] for key in DVC_TAGS if key in facts.environment}
    if revision := facts.environment.get("git_revision", "").rstrip("+"):
        common["mlflow.source.git.commit"] = revision
    run = store.client.create_run(
        store.experiment_id, start_time=start_ms, tags={**common, **tags}, run_name=name
    )
    run_id = str(run.info.run_id)
    parameters = [Param(key, value) for key, value in flatten(facts.parameters).items()]
    for start in range(0, len(parameters), 100):  # a request takes 100
        store.client.log_batch(run_id, params=parameters[start : start + 100])
    store.client.log_inputs(run_id, [training_data(facts)])
    return run_id


def find_runs(store: Store, **tags: str) -> "list[Run]":
    """Runs with these tags, the latest first."""
    terms = [f"tags.{key} = '{value}'" for key, value in tags.items()]
    return list(store.client.search_runs([store.experiment_id], " and ".join(terms)))


def recorded_epochs(client: "MlflowClient", run_id: str) -> set[int]:
    return {metric.step for metric in client.get_metric_history(run_id, "learning_rate")}


def recorded_pictures(client: "MlflowClient", run_id: str) -> set[tuple[str, int]]:
    """Names and steps of a run's pictures, as MLflow puts them into the names of the files."""
    names = (Path(file.path).name for file in client.list_artifacts(run_id, "images"))
    parts = (re.match(r"(.+)[+%]step[+%](\d+)[+%]", name) for name in names)
    return {(re.sub("[~#]", "/", found[1]), int(found[2])) for found in parts if found}


def epoch_metrics(record: EpochRecord) -> list[Any]:
    from mlflow.entities import Metric

    values = {
        **{f"train/{name}": value for name, value in record.train.items()},
        **{f"validation/{name}": value for name, value in record.validation.items()},
        "learning_rate": record.learning_rate,
        "images_per_second": record.images_per_second,
        "epoch_seconds": record.seconds,
    }
    return [Metric(key, value, record.timestamp_ms, record.epoch) for key, value in values.items()]


def log_numbers(store: Store, run_id: str, numbers: Mapping[str, float]) -> None:
    """Record final numbers; those that the run already holds are not recorded again."""
    from mlflow.entities import Metric

    held = store.client.get_run(run_id).data.metrics
    now = unix_milliseconds()
    new = [Metric(k, v, now, 0) for k, v in numbers.items() if not is_same(held.get(k), v)]
    if new:
        store.client.log_batch(run_id, metrics=new)


def set_tags(store: Store, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags, as one request; those that the run already has are left as they are."""
    from mlflow.entities import RunTag

    held = store.client.get_run(run_id).data.tags
    new = [RunTag(name, value) for name, value in tags.items() if held.get(name) != value]
    if new:
        store.client.log_batch(run_id, tags=new)


def is_same(held: float | None, value: float) -> bool:
    """Whether a number is held already; one that is no number is like another one."""
    return held is not None and (held == value or (math.isnan(held) and math.isnan(value)))
