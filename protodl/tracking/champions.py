"""The registered models: which version each alias stands for, and what their pages say."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING

from protodl.core.training_log import SeedLog
from protodl.tracking.descriptions import Alias, link_to_run, registered_note
from protodl.tracking.served import find_versions, registered_name
from protodl.tracking.store import Store, raising_tracking_errors
from protodl.tracking.sync import RowRuns

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@raising_tracking_errors()
def set_champions(rows: Iterable[RowRuns]) -> dict[str, str]:
    """Point an alias at each row's best seed, and `champion` at that of the data set's best row.

    The best seed has the highest validation accuracy, the best row the highest mean of it. Aliases
    have the names of the rows, and stand in both registered models, the classifier and the one
    that explains. Seeds whose classifiers are not registered do not count; a row without an
    explaining model has no alias there.

    Returns:
        The champion's row by data set.

    Raises:
        TrackingError: the store cannot be written.
    """
    champions: dict[str, str] = {}
    best: dict[str, float] = defaultdict(lambda: -1.0)  # accuracy, by data set
    for runs in rows:
        row, dataset = runs.logs[0].row, runs.logs[0].dataset
        registered = {explains: _registered(runs, explains) for explains in (False, True)}
        if not registered[False]:
            continue
        mean = fmean(log.selected_accuracy for log, _ in registered[False])
        aliases = [row]
        if mean > best[dataset]:
            best[dataset], champions[dataset] = mean, row
            aliases.append("champion")
        for alias, (explains, seeds) in product(aliases, registered.items()):
            name = registered_name(dataset, explains)
            _set_alias(runs.store, name, alias, [version for _, version in seeds])
        for explains in registered:
            _describe(runs.store, dataset, explains)
    return champions


def _describe(store: Store, dataset: str, explains: bool) -> None:
    """Say on a registered model's page what it is, and what stands behind its aliases."""
    name = registered_name(dataset, explains)
    found = store.client.search_registered_models(f"name = '{name}'")
    if not found:
        return
    versions = store.client.search_model_versions(f"name = '{name}'")
    by_number = {str(each.version): each for each in versions}
    pointed = {alias: by_number[str(version)] for alias, version in found[0].aliases.items()}
    first = sorted(pointed, key=lambda alias: (alias != "champion", alias))
    text = registered_note(
        dataset, explains, [_alias(store, each, pointed[each]) for each in first]
    )
    if found[0].description != text:
        store.client.update_registered_model(name, text)


def _alias(store: Store, name: str, version: "ModelVersion") -> Alias:
    run = store.client.get_run(str(version.run_id))
    link = link_to_run(store.experiment_id, run.info.run_id, str(run.info.run_name))
    validated = float(version.tags["validation_accuracy"])
    return Alias(name, link, validated, run.data.metrics.get("test_accuracy"))


def _registered(runs: RowRuns, explains: bool) -> list[tuple[SeedLog, str]]:
    """The seeds of a row that have such a model, with its latest version, the best seed first."""
    found = [
        (log, versions[0])
        for log, run_id in zip(runs.logs, runs.seeds, strict=True)
        if (versions := find_versions(runs.store, registered_name(log.dataset, explains), run_id))
    ]
    return sorted(found, key=lambda seed: seed[0].selected_accuracy, reverse=True)


def _set_alias(store: Store, name: str, alias: str, versions: Sequence[str]) -> None:
    """Point an alias of a registered model at the first of these versions."""
    if re.fullmatch(r"latest|v\d+", alias):
        return  # a row's name that MLflow keeps for itself
    if versions:
        store.client.set_registered_model_alias(name, alias, versions[0])
    elif store.client.search_registered_models(f"name = '{name}'"):
        store.client.delete_registered_model_alias(name, alias)  # no other row may stand for it
