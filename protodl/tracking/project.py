"""The table's side in MLflow: runs refilled from the pipeline's files, and the table read back."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from protodl.core.config import Params, load_params
from protodl.core.training_log import ResultsError, SeedLog
from protodl.evaluation.measures import MEASURES, select
from protodl.report.cards import model_card
from protodl.report.results import (
    ResultRow,
    RowFiles,
    differing_parameters,
    read_row,
    result_row,
)
from protodl.report.tables import results_table
from protodl.tracking.champions import set_champions
from protodl.tracking.client import patience
from protodl.tracking.descriptions import MAX_LENGTH
from protodl.tracking.experiment_page import describe_experiment
from protodl.tracking.served import ServedModel
from protodl.tracking.store import dvc_facts
from protodl.tracking.sync import RowResult, RowRuns, read_results
from protodl.tracking.trouble import tell

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from protodl.network.network import PrototypeNetwork

UNPROJECTED = "unprojected_"  # begins the names of metrics from before the projection
ENVIRONMENT_TAG = "environment."
COMPARED = ("published_accuracy", "difference", "paper_accuracy")
MAY_LACK = ("num_test", "judge_accuracy", *COMPARED)  # numbers of a row, not of every one
NETWORK = ("architecture", "decoder", "num_prototypes")  # parameters that stand in the table
T = TypeVar("T")


class Synced(NamedTuple):
    """What a synchronisation did."""

    created: list[str]  # ids of seed runs that MLflow lacked
    left_out: list[str]  # why, for each row without valid results


def sync_project(
    params: Params, rows: Path, models: Path, show: Callable[[str], None] = lambda line: None
) -> Synced:
    """Make MLflow hold what the pipeline's files hold; a second call creates nothing.

    One row after the other is completed, so that a call that was cut off is taken up by the next.

    Inside a DVC experiment the champions and MLflow's description stay those of the project.

    Args:
        params: params.yaml.
        rows: folder with what was measured of each row (results/rows).
        models: folder of the networks, <row>/seed-<s>.pt, and of what explanations compare with,
            references/<row>/seed-<s>.pt; those that are missing are left out.
        show: is given a line for each run that is recorded.

    Raises:
        ResultsError, CheckpointError: one of those files is damaged.
        protodl.tracking.TrackingError: the store cannot be opened or written.
    """
    files, left_out = _read(params, rows)
    if not files:
        return Synced([], left_out)
    results = [result_row(name, params, row) for name, row in files.items()]
    order, numbers = list(params.experiments), count(1)
    total = sum(len(row.logs) for row in files.values())
    recorded: list[RowRuns] = []
    for result, row in zip(results, files.values(), strict=True):
        recorded.append(runs := RowRuns.of(row.logs))
        runs.add_models(
            partial(load_model, models),
            lambda log: show(f"run {next(numbers)} of {total}: {log.title}"),
        )
        runs.log_evaluations(row.evaluations)
        runs.log_result(*_facts(result, row))
        runs.place(order.index(result.row) + 1)
        runs.log_pictures(sorted((rows / result.row / "pictures").glob("*.png")))
        runs.describe(model_card(result, row, params))
    if not dvc_facts():
        set_champions(recorded)
        describe_experiment(results_table(results))
    return Synced([run_id for runs in recorded for run_id in runs.created], left_out)


def try_sync(params: Path, rows: Path, models: Path) -> None:
    """Bring MLflow up to date after or before other work; whatever goes wrong is a warning.

    Args:
        params: params.yaml.
        rows: as for `sync_project`.
        models: as for `sync_project`.
    """
    try:
        with patience():
            created = sync_project(load_params(params), rows, models).created
    except Exception as error:
        tell(f"MLflow was not brought up to date: {error}; `protodl sync` does it later")
        return
    if created:
        print(f"{len(created)} runs created in MLflow", flush=True)


def _read(params: Params, folder: Path) -> tuple[dict[str, RowFiles], list[str]]:
    """The rows that have results, and why others have none."""
    files: dict[str, RowFiles] = {}
    left_out: list[str] = []
    for row in params.experiments:
        try:
            files[row] = read_row(row, params, folder)
        except ResultsError as error:
            left_out.append(str(error))
    return files, left_out


def load_model(models: Path, log: SeedLog, explains: bool = False) -> ServedModel | None:
    """The classifier of a seed, or the model that explains.

    Returns:
        None where a file is not on this machine, or a network without prototypes is to explain.

    Raises:
        CheckpointError: a file is damaged.
    """
    path = models / log.row / f"seed-{log.seed}.pt"
    compared = models / "references" / log.row / f"seed-{log.seed}.pt"
    has_prototypes = log.parameters["model"]["distance"] != "none"
    if not path.exists() or (explains and not (has_prototypes and compared.exists())):
        return None
    from protodl.data.datasets import recorded_info
    from protodl.explanation.serving import Explainer, explainer_facts
    from protodl.network.cases import load_case_base
    from protodl.network.checkpoint import load_network
    from protodl.network.network import Classifier

    network = load_network(path)
    class_names = recorded_info(log).class_names
    if not explains:
        return ServedModel(Classifier(network), _example(network), class_names)
    case_base = load_case_base(compared)
    reasons = explainer_facts(network, case_base, class_names)
    explainer = Explainer(network, case_base)
    return ServedModel(explainer, _example(network), class_names, reasons)


def _example(network: "PrototypeNetwork") -> "npt.NDArray[np.float32]":
    """Two decoded prototypes (2, C, H, W): images that need no data set on this machine."""
    import torch

    with torch.inference_mode():
        decoded: npt.NDArray[np.float32] = network.decode_prototypes().numpy()
    return decoded[[0, -1]]  # the same one twice where there is only one


def _facts(result: ResultRow, files: RowFiles) -> tuple[dict[str, float], dict[str, str]]:
    """What MLflow holds of a row: numbers, and tags."""
    own = ("num_seeds", "num_epochs", *MAY_LACK)
    numbers = {
        **files.metrics.mean,
        **{f"{name}_std": value for name, value in files.metrics.std.items()},
        **{name: getattr(result, name) for name in own},
        **{f"{name}_min": value for name, value in result.min.items()},
        **{f"{UNPROJECTED}{name}": value for name, value in result.unprojected.items()},
    }
    tags = {
        "seeds": " ".join(map(str, result.seeds)),
        "selected_epochs": " ".join(map(str, result.selected_epochs)),
        "data_source": result.data_source,
        "trained_run_id": result.run_id,  # finds the run of RESULTS.md in a store refilled later
        **{f"{ENVIRONMENT_TAG}{name}": value for name, value in result.environment.items()},
    }
    if len(classes := json.dumps(result.class_accuracy)) <= MAX_LENGTH:  # else it would be cut
        tags["class_accuracy"] = classes
    return {name: value for name, value in numbers.items() if value is not None}, tags


def tracked_rows(params: Params) -> list[ResultRow]:
    """Build the table from MLflow alone: of each row in params.yaml its latest result.

    Results of other parameters, such as those of an experiment, are passed over.

    Raises:
        ResultsError: MLflow holds no result of a row, or only such of other parameters.
        protodl.tracking.TrackingError: the store cannot be opened or read.
    """
    recorded = read_results(params.experiments).items()
    return [_recorded_row(row, _latest_match(row, results, params)) for row, results in recorded]


def _latest_match(row: str, recorded: Sequence[RowResult], params: Params) -> RowResult:
    """The first of these results, the latest coming first, that is one of params.yaml."""
    problems = [next(_differences(result, params, row), None) for result in recorded]
    if None not in problems:
        raise ResultsError(
            f"MLflow's latest result of row {row!r}: {problems[0]}, and no other one fits; "
            "`protodl sync` adds the result of params.yaml"
        )
    return recorded[problems.index(None)]


def _differences(recorded: RowResult, params: Params, row: str) -> Iterator[str]:
    """What shows that a result is not one of params.yaml."""
    yield from differing_parameters(recorded.parameters, params.experiment(row))
    source = recorded.tags.get("data_source", params.data.source)
    if source != params.data.source:
        yield f"it was trained on the {source} data, data.source is {params.data.source!r}"


def _recorded_row(row: str, recorded: RowResult) -> ResultRow:
    metrics, tags, parameters = recorded.metrics, recorded.tags, recorded.parameters
    try:
        mean = select(metrics)
        worst = [name for name in mean if MEASURES[name].of_worst_seed]
        facts = {
            "row": row,
            "dataset": parameters["dataset"],
            **{name: parameters[f"model.{name}"] for name in NETWORK},
            **{name: metrics[name] for name in ("num_seeds", "num_epochs")},
            **{name: metrics.get(name) for name in MAY_LACK},
            **{name: tags[name].split() for name in ("seeds", "selected_epochs")},
            "mean": mean,
            "std": select(metrics, "_std"),
            "min": {name: metrics[f"{name}_min"] for name in worst},
            "unprojected": _starting(UNPROJECTED, metrics),
            "run_id": tags["trained_run_id"],  # the same in a refilled store
            "data_source": tags["data_source"],
            "class_accuracy": json.loads(tags.get("class_accuracy", "{}")),
            "environment": _starting(ENVIRONMENT_TAG, dict(sorted(tags.items()))),
        }
    except KeyError as error:
        raise ResultsError(
            f"MLflow's run {recorded.run_id} of row {row!r} lacks {error}; `protodl sync` adds it"
        ) from error
    return ResultRow.model_validate(facts)  # also of numbers that are texts there


def _starting(prefix: str, values: Mapping[str, T]) -> dict[str, T]:
    """The values whose names start like this, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
