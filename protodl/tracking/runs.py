"""Runs and what is written in them; live and refilled runs are made by the same functions."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from protodl.core.config import flatten
from protodl.core.training_log import EpochRecord, SeedFacts
from protodl.tracking.datasets import training_data
from protodl.tracking.descriptions import NOTE, training_note
from protodl.tracking.store import Store, run_lock, tracking_uri
from protodl.tracking.unique import found_or_made, unless_forbidden

if TYPE_CHECKING:
    from mlflow.entities import Run

    Choice: TypeAlias = Callable[[Sequence[Run]], Run | None]

DVC_TAGS = ("dvc_experiment", "dvc_baseline")  # facts of the environment that are tags of their own
PARENT, ROW = "mlflow.parentRunId", {"kind": "row"}  # tags


def _row_fingerprint(facts: SeedFacts) -> str:
    """Hash of what all seeds of a row share: it names their parent run."""
    shared = json.dumps([facts.row, facts.parameters, facts.data_digest], sort_keys=True)
    return sha256(shared.encode()).hexdigest()[:16]


def ensure_runs(
    store: Store, facts: SeedFacts, choose: "Choice", start_ms: int, tags: Mapping[str, str]
) -> "tuple[Run, str, bool]":
    """The run of a seed and the id of its row's, created where they are missing.

    Args:
        choose: picks one of the runs of the same fingerprint; None where a new one is needed.
        start_ms: of the runs that are created.
        tags: of the seed's run where it is created.

    Returns:
        The seed's run, the id of the row's run, and whether the first is new.
    """

    def ensure(
        choose: "Choice", name: str, own: Mapping[str, str], **wanted: str
    ) -> "tuple[Run, bool]":
        return found_or_made(
            lambda: {str(run.info.run_id): run for run in find_runs(store, **wanted)},
            choose,
            lambda: _create_run(store, facts, name, start_ms, own),
            partial(_give_up, store),
        )

    with run_lock(tracking_uri()):
        shared = _row_fingerprint(facts)
        parent, _ = ensure(_latest, facts.row, ROW, kind="row", row_fingerprint=shared)
        own = _seed_tags(facts) | {PARENT: parent.info.run_id} | dict(tags)
        run, is_new = ensure(choose, facts.title, own, kind="seed", fingerprint=facts.fingerprint)
    for each in (parent, run):
        _complete_run(store, facts, each)
    return run, str(parent.info.run_id), is_new


def _seed_tags(facts: SeedFacts) -> dict[str, str]:
    own = {"kind": "seed", "seed": str(facts.seed), "fingerprint": facts.fingerprint}
    environment = {
        f"environment.{key}": value
        for key, value in facts.environment.items()
        if key not in DVC_TAGS
    }
    return own | {NOTE: training_note(facts)} | environment


def _latest(runs: "Sequence[Run]") -> "Run | None":
    return next(iter(runs), None)


def _give_up(store: Store, run_id: str) -> None:
    """Remove a run that was just created, or take it out of everything where that is forbidden."""
    store.client.set_tag(run_id, "kind", "given up")
    store.client.set_terminated(run_id, "KILLED")
    with unless_forbidden():
        store.client.delete_run(run_id)


def _create_run(
    store: Store, facts: SeedFacts, name: str, start_ms: int, tags: Mapping[str, str]
) -> str:
    """Create a run with its tags, still running; gives its id."""
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
    return str(run.info.run_id)


def _complete_run(store: Store, facts: SeedFacts, run: "Run") -> None:
    """Give a run its parameters and its data set, as far as it lacks them."""
    from mlflow.entities import Param

    run_id, held = run.info.run_id, run.data.params
    parameters = [
        Param(name, value) for name, value in flatten(facts.parameters).items() if name not in held
    ]
    for start in range(0, len(parameters), 100):  # a request takes 100
        store.client.log_batch(run_id, params=parameters[start : start + 100])
    if run.inputs is None or not run.inputs.dataset_inputs:
        store.client.log_inputs(run_id, [training_data(facts)])


def log_epochs(
    store: Store, run_id: str, records: Iterable[EpochRecord], recorded: set[int]
) -> None:
    """Add the epochs that are not among the `recorded` ones, with their own times."""
    missing = [record for record in records if record.epoch not in recorded]
    metrics = [metric for record in missing for metric in epoch_metrics(record)]
    for start in range(0, len(metrics), 1000):  # a request takes 1000
        store.client.log_batch(run_id, metrics=metrics[start : start + 1000])
    recorded.update(record.epoch for record in missing)


def find_runs(store: Store, **tags: str) -> "list[Run]":
    """Runs with these tags, the latest first."""
    terms = [f"tags.{key} = '{value}'" for key, value in tags.items()]
    return list(store.client.search_runs([store.experiment_id], " and ".join(terms)))


def list_files(store: Store, run_id: str, folder: str) -> list[str]:
    """Paths of a run's files in a folder; none where the store keeps no files.

    MlflowClient.list_artifacts asks for models, too, which older servers do not know.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if not store.keeps_files:
        return []
    where = store.client.get_run(run_id).info.artifact_uri
    files = get_artifact_repository(where, tracking_uri=tracking_uri()).list_artifacts(folder)
    return [str(file.path) for file in files]


def recorded_epochs(store: Store, run_id: str) -> set[int]:
    return {metric.step for metric in store.client.get_metric_history(run_id, "learning_rate")}


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
    """Record final numbers; those that the run already holds are not recorded again.

    Their time is the run's end, and 1 ms later for what replaces a number: two machines that record
    the same make one point of it.
    """
    from mlflow.entities import Metric

    run = store.client.get_run(run_id)
    end = run.info.end_time or run.info.start_time
    held = {each.key: each for each in run.to_proto().data.metrics}
    new = [
        Metric(name, value, held[name].timestamp + 1 if name in held else end, 0)
        for name, value in numbers.items()
        if not (name in held and is_same(held[name].value, value))
    ]
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
