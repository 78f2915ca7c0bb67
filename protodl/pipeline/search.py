"""`protodl search`: which values of a row's parameters validate best, found by Optuna."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from protodl.core.check import check_params
from protodl.core.config import Params
from protodl.core.experiment_config import Experiment
from protodl.core.files import write_text
from protodl.core.limits import free_memory
from protodl.core.params_file import merge, read_file
from protodl.core.search import (
    FOLDER,
    Search,
    SearchRecord,
    as_in,
    load_search,
    nested,
    value_of,
    with_values,
)
from protodl.pipeline.dispatch import Listener, train_seeds
from protodl.pipeline.forecast import epoch_seconds, makespan
from protodl.pipeline.journal import Journal, alone, require_optuna
from protodl.pipeline.local import train_seeds_here
from protodl.pipeline.run import reproduce
from protodl.pipeline.seeds import Seed
from protodl.pipeline.shares import worker_environments, workers_in_memory
from protodl.pipeline.trials import Train, Trials, row_seeds
from protodl.report.search_page import search_page
from protodl.report.tables import format_seconds
from protodl.training.row import fingerprint

JOURNALS = Path(".protodl/search")
RESULT = FOLDER / "RESULT.md"


def run_search(
    root: Path,
    name: str,
    number: int | None = None,
    jobs: int = 1,
    cluster: str | None = None,
    changed: Callable[[SearchRecord], None] = lambda record: None,
) -> str:
    """Search, go on with a search, or tell again what an ended one found.

    Args:
        root: the project's folder.
        name: of the search: its file below `studies/search/`, without .yaml.
        number: of trials in all; default: what the file says.
        jobs: trainings at once on this machine.
        cluster: address of a Ray cluster that trains instead, or `auto`.
        changed: receives the search whenever a trial is over, and at its end.

    Returns:
        The page that was written as `studies/search/RESULT.md`.

    Raises:
        ConfigError: params.yaml or the search's file is wrong; nothing was started.
        SearchError: the search cannot go on, or another process is at it.
        PipelineError: the data cannot be delivered.
        ClusterError: the cluster cannot be used.
    """
    require_optuna()
    params, search = load(root, name)
    row = params.experiment(search.row)
    with alone(root / JOURNALS / f"{name}.log", name):
        reproduce(root, [f"download@{row.dataset}"])
        seconds = epoch_seconds(root, search.row) or 0.0
        train = _on(cluster, {search.row: seconds}) if cluster else _here(params, jobs)
        wanted, places = number or search.trials, 0 if cluster else jobs
        print(_expectation(search, row.epochs, wanted, seconds, places), flush=True)
        record = search_recipes(root, name, params, search, train, number, changed)
    options = {"--trials": number, "-j": jobs if jobs > 1 else None, "--on": cluster}
    given = [f" {option} {value}" for option, value in options.items() if value]
    page = search_page(record, f"protodl search {name}{''.join(given)}")
    write_text(page, root / RESULT)
    return page


def load(root: Path, name: str) -> tuple[Params, Search]:
    """The project's params.yaml and a search's file, both checked.

    Raises:
        ConfigError: one of them is wrong.
    """
    params = check_params(Path(os.path.relpath(root / "params.yaml")))
    return params, load_search(Path(os.path.relpath(root / FOLDER / f"{name}.yaml")), params)


def search_recipes(
    root: Path,
    name: str,
    params: Params,
    search: Search,
    train: Train,
    number: int | None = None,
    changed: Callable[[SearchRecord], None] = lambda record: None,
) -> SearchRecord:
    """Make the trials that are missing, and train the best one and the default on fresh seeds.

    Args:
        root: the project's folder, with the row's data.
        name: of the search and its journal, in which no other process is.
        params: the project's.
        search: its file.
        train: trains seeds.
        number: of trials in all; default: what the file says.
        changed: receives the search whenever a trial is over, and at its end.

    Raises:
        SearchError: the search cannot go on.
    """
    number, row = number or search.trials, _of_trials(params, search)
    study = _fingerprint(root, params, search)
    journal = Journal(root / JOURNALS / f"{name}.log", f"{name} {study}", search, row)
    record = SearchRecord(
        name=name,
        row=search.row,
        epochs=params.experiment(search.row).epochs,
        fingerprint=study,
        settings=search.model_dump(),
        default={key: as_in(row, key, value_of(row, key)) for key in search.space},
        trials=journal.records(),
    )
    if record.trials:
        print(f"{len(record.trials)} of {number} trials are over already", flush=True)
    changed(record)

    def told() -> None:
        nonlocal record
        record = record.model_copy(update={"trials": journal.records()})
        print(_line(record, number), flush=True)
        changed(record)

    trials = Trials(root, params, search, journal, told)
    trials.run(number, train)
    record = record.model_copy(update=_end(root, record, trials, train))
    changed(record)
    return record


def _end(root: Path, record: SearchRecord, trials: Trials, train: Train) -> dict[str, Any]:
    """What follows the trials: the best one, as a block, and beside the default."""
    end: dict[str, Any] = {"ended": True}
    if ranked := record.ranked():
        values = ranked[0].values
        end |= {"best": ranked[0].number, "block": _block(root, record.row, values)}
        if values != record.default:
            end["comparison"], end["failures"] = trials.compare(values, train)
    return end


def _of_trials(params: Params, search: Search) -> Experiment:
    """The row with its own values, and the epochs of a trial."""
    return with_values(params.experiment(search.row), {"epochs": search.epochs})


def _fingerprint(root: Path, params: Params, search: Search) -> str:
    """Hash of all that the trials depend on but how many there are."""
    default = row_seeds(root, params, search, _of_trials(params, search), search.seeds)
    beside = {"trials", "minutes", "fresh_seeds"}
    facts = {
        "search": search.model_dump(exclude=beside),
        "default": [seed.request.fingerprint for seed in default],
    }
    return fingerprint(facts, [], root)


def _here(params: Params, jobs: int) -> Train:
    count = workers_in_memory(jobs, params.data.source, free_memory() / 2**30)
    environments = worker_environments(count, params.training.device)
    return lambda seeds, listener: train_seeds_here(seeds, environments, listener)


def _on(cluster: str, seconds: Mapping[str, float]) -> Train:
    def train(seeds: Iterable[Seed], listener: Listener) -> None:
        train_seeds(seeds, cluster, listener, seconds)

    return train


def _expectation(search: Search, epochs: int, number: int, seconds: float, places: int) -> str:
    """What is done and, where an epoch's time and the places are known, how long that takes."""
    fresh = 2 * len(search.fresh_seeds)
    what = f"{number} trials of {search.epochs} epochs, then {fresh} trainings of {epochs}"
    if not (seconds and places):
        return f"{what}; expected time: not known, nothing is recorded yet of such a run"
    trials = makespan(number * [seconds * search.epochs * len(search.seeds)], places)
    total = format_seconds(trials + makespan(fresh * [seconds * epochs], places))
    return f"{what}; expected time: at most {total}, {places} at a time"


def _line(record: SearchRecord, number: int) -> str:
    """What is said of the trial that has just ended."""
    trial = max(record.trials, key=lambda each: each.end_ms)
    outcome, best = trial.outcome, record.ranked()[:1]
    words = {
        "pruned": f"pruned after epoch {len(outcome.history)}",
        "failed": f"failed: {outcome.reason}",
        "complete": f"{_percent(outcome.accuracy)} of the validation images, "
        f"decode agreement {_percent(outcome.decode_agreement)}",
    }[trial.state]
    ahead = f"; best: trial {best[0].number}" if best else ""
    return f"[{len(record.trials)}/{number}] trial {trial.number}: {words}{ahead}"


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.2f} %"


def _block(root: Path, row: str, values: Mapping[str, Any]) -> str:
    """The row as params.yaml has it, with these values."""
    written = read_file(root / "params.yaml")["experiments"][row]
    block = {"experiments": {row: merge(written, nested(values))}}
    return yaml.safe_dump(block, sort_keys=False, default_flow_style=None, width=100)
