"""Finished seeds and rows: their runs completed, refilled and read back."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from protodl.core.training_log import EpochRecord, SeedEvaluation, SeedLog
from protodl.tracking.experiment_page import NOTE, shortened
from protodl.tracking.runs import (
    create_seed_run,
    ensure_parent,
    epoch_metrics,
    find_runs,
    log_numbers,
    recorded_epochs,
)
from protodl.tracking.served import (
    ServedModel,
    find_versions,
    log_model,
    registered_name,
)
from protodl.tracking.store import (
    Store,
    experiment_name,
    open_current,
    raising_tracking_errors,
    tracking_uri,
    unix_milliseconds,
    warning_on_failure,
)

if TYPE_CHECKING:
    from mlflow.entities import Run


class RowResult(NamedTuple):
    """One row as MLflow holds it."""

    run_id: str
    metrics: dict[str, float]  # means, spreads as <name>_std, and the extra numbers
    parameters: dict[str, str]  # flattened: optimizer.lr
    tags: dict[str, str]


@raising_tracking_errors()
def sync_seeds(
    logs: Iterable[SeedLog],
    evaluations: Mapping[tuple[str, int], Mapping[str, float]],
    load_model: Callable[[SeedLog], ServedModel | None],
) -> list[str]:
    """Add to the store whatever it lacks of these seeds; a second call adds nothing.

    Args:
        logs: the seeds.
        evaluations: metrics by (row, seed); a seed may be missing.
        load_model: gives the model of a seed, None where its weights are not on this machine; it
            is called only for a run that has no model.

    Returns:
        Ids of the seed runs that were created.

    Raises:
        TrackingError: the store cannot be opened or written.
    """
    store = open_current()
    created: list[str] = []
    for log in logs:
        run, is_new = _ensure_seed_run(store, log)
        if is_new:
            created.append(run.info.run_id)
        if metrics := evaluations.get((log.row, log.seed)):
            log_numbers(store, run.info.run_id, metrics)
        _ensure_model(store, log, run.info.run_id, False, load_model)
    return created


@raising_tracking_errors()
def sync_explained(
    logs: Sequence[SeedLog], load_model: Callable[[SeedLog], ServedModel | None]
) -> None:
    """Add the explaining model of a row's best seed by validation accuracy, unless it is there.

    Args:
        logs: the seeds of the row.
        load_model: gives the model of a seed, None where its files are not on this machine; it is
            called only where the store has none.

    Raises:
        TrackingError: the store cannot be opened or written.
    """
    store = open_current()
    log = max(logs, key=lambda log: log.selected_accuracy)
    run, _ = _ensure_seed_run(store, log)
    _ensure_model(store, log, run.info.run_id, True, load_model)


def _ensure_model(
    store: Store,
    log: SeedLog,
    run_id: str,
    explains: bool,
    load_model: Callable[[SeedLog], ServedModel | None],
) -> None:
    """Log and register a seed's model unless its run has it or its files are not here."""
    there = find_versions(store, registered_name(log.dataset, explains), run_id)
    if not there and (model := load_model(log)) is not None:
        log_model(store, log, run_id, model, log.selected_epoch, log.selected_accuracy)


def log_evaluation(log: SeedLog, evaluation: SeedEvaluation) -> None:
    """Record the evaluation of a seed in its run."""
    with warning_on_failure(f"the evaluation of {log.row} seed {log.seed}"):
        store = open_current()
        run_id = _ensure_seed_run(store, log)[0].info.run_id
        log_numbers(store, run_id, evaluation.metrics)
        details: dict[str, Any] = evaluation.model_dump(include={"confusion", "prototypes"})
        for name, content in details.items():
            store.client.log_dict(run_id, content, f"{name}.json")


def log_row(
    logs: Sequence[SeedLog],
    mean: Mapping[str, float],
    std: Mapping[str, float],
    extra: Mapping[str, float],
    tags: Mapping[str, str] | None = None,
) -> None:
    """Record a row's numbers in its run.

    Args:
        logs: the seeds of the row.
        mean: means over the seeds, recorded under their names.
        std: spreads over the seeds, recorded as <name>_std.
        extra: numbers of the row itself, such as published_accuracy.
        tags: what is not a number, such as the seeds.
    """
    with warning_on_failure(f"the row {logs[0].row}"):
        store = open_current()
        parent = _parent(store, logs)
        spreads = {f"{name}_std": value for name, value in std.items()}
        log_numbers(store, parent, {**mean, **spreads, **extra})
        for name, value in {**(tags or {}), "reported_ms": str(unix_milliseconds())}.items():
            store.client.set_tag(parent, name, value)


def log_pictures(logs: Sequence[SeedLog], pictures: Iterable[Path]) -> None:
    """Record a row's pictures in its run, under `pictures/`."""
    with warning_on_failure(f"the pictures of {logs[0].row}"):
        store = open_current()
        parent = _parent(store, logs)
        for picture in pictures:
            store.client.log_artifact(parent, str(picture), "pictures")


def describe_row(logs: Sequence[SeedLog], card: str) -> None:
    """Record a row's model card: in its run, and as the description of it and of its models."""
    with warning_on_failure(f"the model card of {logs[0].row}"):
        store = open_current()
        parent, text = _parent(store, logs), shortened(card)
        store.client.log_text(parent, card, "card.md")
        store.client.set_tag(parent, NOTE, text)
        for run in (_ensure_seed_run(store, log)[0] for log in logs):
            for each in store.client.search_model_versions(f"run_id = '{run.info.run_id}'"):
                if each.description != text:
                    store.client.update_model_version(each.name, each.version, text)


def _parent(store: Store, logs: Sequence[SeedLog]) -> str:
    """Id of the run that the seeds of one row share."""
    runs = [_ensure_seed_run(store, log)[0] for log in logs]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    return str(parent)


@raising_tracking_errors()
def read_results(rows: Iterable[str]) -> dict[str, list[RowResult]]:
    """Each row's results as `log_row` recorded them, one for each parent run, the latest first.

    Raises:
        LookupError: the experiment holds no result of a row.
        TrackingError: the store cannot be opened or read.
    """
    store = open_current()
    results: dict[str, list[RowResult]] = {}
    for row in rows:
        runs = [run for run in find_runs(store, kind="row", row=row) if _reported_ms(run)]
        if not runs:
            raise LookupError(
                f"{tracking_uri()}: experiment {experiment_name()!r} holds no result of row "
                f"{row!r}; `protodl sync` adds it"
            )
        results[row] = [
            RowResult(run.info.run_id, run.data.metrics, run.data.params, run.data.tags)
            for run in sorted(runs, key=_reported_ms, reverse=True)
        ]
    return results


def _reported_ms(run: "Run") -> int:
    return int(run.data.tags.get("reported_ms", 0))


class _Registered(NamedTuple):
    """A seed and its latest versions in the registry."""

    accuracy: float  # validation
    versions: dict[bool, str]  # of the classifier (False), of the explaining model (True)


@raising_tracking_errors()
def set_champions(logs: Iterable[SeedLog]) -> dict[str, str]:
    """Point an alias at each row's best seed, and `champion` at that of the data set's best row.

    The best seed has the highest validation accuracy, the best row the highest mean of it. Aliases
    have the names of the rows, and stand in both registered models, the classifier and the one
    that explains. Rows whose classifiers are not registered stay out.

    A row without an explaining model has no alias there.

    Returns:
        The champion's row by data set.

    Raises:
        TrackingError: the store cannot be opened or written.
    """
    store = open_current()
    seeds: dict[str, dict[str, list[_Registered]]] = defaultdict(lambda: defaultdict(list))
    for log in logs:
        run_id, dataset = _ensure_seed_run(store, log)[0].info.run_id, log.dataset
        found = {
            explains: find_versions(store, registered_name(dataset, explains), run_id)
            for explains in (False, True)
        }
        if found[False]:
            latest = {explains: versions[0] for explains, versions in found.items() if versions}
            seeds[dataset][log.row].append(_Registered(log.selected_accuracy, latest))
    champions: dict[str, str] = {}
    for dataset, rows in seeds.items():
        for row, of_row in rows.items():
            _set_alias(store, dataset, row, of_row)
        best = max(rows, key=lambda row: fmean(seed.accuracy for seed in rows[row]))
        _set_alias(store, dataset, "champion", rows[best])
        champions[dataset] = best
    return champions


def _set_alias(store: Store, dataset: str, alias: str, seeds: Sequence[_Registered]) -> None:
    """Point an alias at the best of these seeds, in both of the data set's registered models."""
    if re.fullmatch(r"latest|v\d+", alias):
        return  # a row's name that MLflow keeps for itself
    ranked = sorted(seeds, key=lambda seed: seed.accuracy, reverse=True)
    for explains in (False, True):
        name = registered_name(dataset, explains)
        versions = [seed.versions[explains] for seed in ranked if explains in seed.versions]
        if versions:
            store.client.set_registered_model_alias(name, alias, versions[0])
        elif store.client.search_registered_models(f"name = '{name}'"):
            store.client.delete_registered_model_alias(name, alias)  # no other row may stand for it


def _ensure_seed_run(store: Store, log: SeedLog) -> "tuple[Run, bool]":
    """The finished run of a seed with its whole history; True where it had to be created."""
    runs = find_runs(store, kind="seed", fingerprint=log.fingerprint)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    if finished:
        same = [run for run in finished if run.info.run_id == log.run_id]
        run = (same or finished)[0]
        _log_history(store, run.info.run_id, log.history)
        return run, False
    parent = ensure_parent(store, log, log.start_ms)
    run_id = create_seed_run(store, log, parent, log.start_ms, {"synced": "yes"})
    _log_history(store, run_id, log.history)
    for ended in (run_id, parent):
        store.client.set_terminated(ended, "FINISHED", log.end_ms)
    return store.client.get_run(run_id), True


def _log_history(store: Store, run_id: str, history: Sequence[EpochRecord]) -> None:
    """Add the epochs that the run lacks, with their own times."""
    recorded = recorded_epochs(store.client, run_id)
    missing = [record for record in history if record.epoch not in recorded]
    metrics = [metric for record in missing for metric in epoch_metrics(record)]
    for start in range(0, len(metrics), 1000):  # a request takes 1000
        store.client.log_batch(run_id, metrics=metrics[start : start + 1000])
