"""One record for each row of the table, built from the pipeline's files.

Rows come from params.yaml, in its order; files of a row that is not in there any more are not seen.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import yaml
from pydantic import ConfigDict

from protodl.core.config import Experiment, Params, flatten
from protodl.core.training_log import UNTRACKED, Record, ResultsError, SeedLog

Source = Literal["full", "sample"]


class ResultRow(Record):
    """One row of the table; accuracies, agreement and purity are shares, 1 is all."""

    row: str
    dataset: str
    architecture: str
    decoder: str
    num_prototypes: int
    num_seeds: int
    seeds: tuple[int, ...]
    selected_epochs: tuple[int, ...]  # of each seed, by validation accuracy
    test_accuracy_mean: float
    test_accuracy_std: float  # over seeds; 0 for a single one
    validation_accuracy_mean: float  # of the selected epochs
    published_accuracy: float | None
    difference: float | None  # ours - published; None also on the sample
    decode_agreement_mean: float
    cycle_identity_mean: float
    reconstruction_agreement_mean: float
    independent_agreement_mean: float
    independent_reconstruction_agreement_mean: float  # its ceiling
    case_agreement_mean: float
    purity25_mean: float
    coverage_min: int  # classes with a prototype, in the worst seed
    train_seconds_mean: float  # of one seed
    num_epochs: int
    unprojected: dict[str, float]  # means of the same networks before; empty unless model.project
    run_id: str  # the row's run in MLflow, the parent of its seeds' runs; or UNTRACKED
    data_source: Source
    environment: dict[str, str]  # hardware and versions; several values are separated by " / "

    @property
    def reaches_published(self) -> bool | None:
        """Whether the published number is reached; None where there is none to compare with."""
        # Rounded: a mean over seeds may lie a rounding error below the number it equals.
        return None if self.difference is None else round(self.difference, 9) >= 0


# --- published numbers --------------------------------------------------------------------------


class PublishedTable(Record):
    """Numbers that others published, with where and how."""

    source: str
    protocol: str
    test_accuracy: dict[str, float]


class Published(Record):
    """The content of published.yaml."""

    port: PublishedTable  # by row
    paper: PublishedTable  # by data set


def load_published() -> Published:
    """Read the published numbers."""
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))


# --- from the pipeline's files ------------------------------------------------------------------


class SeedEvaluation(Record):
    """What the evaluation of one seed left behind, as far as it is used here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    row: str
    seed: int
    metrics: dict[str, float]
    confusion: list[list[int]]
    prototypes: dict[str, list[Any]]


class Metrics(Record):
    """A row's metrics.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    num_seeds: int
    mean: dict[str, float]
    std: dict[str, float]
    unprojected: dict[str, float]


@dataclass(frozen=True)
class RowFiles:
    """What the pipeline left of one row, checked against params.yaml; seeds in its order."""

    logs: list[SeedLog]
    evaluations: list[SeedEvaluation]
    metrics: Metrics


def read_rows(params: Params, folder: Path) -> list[ResultRow]:
    """Build the table from the files of all rows below `folder` (results/rows).

    Raises:
        ResultsError: a row has no results, or they belong to other parameters.
    """
    return [result_row(row, params, read_row(row, params, folder)) for row in params.experiments]


def read_row(row: str, params: Params, folder: Path) -> RowFiles:
    """Read what the pipeline left of a row below `folder` (results/rows).

    Raises:
        ResultsError: something is missing, or belongs to other parameters; the message names the
            row, what differs, and what to run.
    """
    own = folder / row
    logs = [SeedLog.read(own / "training" / f"seed-{seed}.json") for seed in params.seeds]
    evaluations = [
        SeedEvaluation.read(own / "evaluation" / f"seed-{seed}.json") for seed in params.seeds
    ]
    files = RowFiles(logs, evaluations, Metrics.read(own / "metrics.json"))
    for problem in _differences(row, params, files):
        raise ResultsError(f"{own}: row {row!r}: {problem}; run `dvc repro`")
    return files


def _differences(row: str, params: Params, files: RowFiles) -> Iterable[str]:
    """What shows that the files are not the results of these parameters."""
    for log, evaluation in zip(files.logs, files.evaluations, strict=True):
        if (log.row, evaluation.row) != (row, row):
            yield f"seed {log.seed} was recorded as row {log.row!r}"
        yield from differing_parameters(log.parameters, params.experiment(row))
        if log.num_validation != params.training.validation_size:
            held, wanted = log.num_validation, params.training.validation_size
            yield f"{held} images were held out, training.validation_size is {wanted}"
        if not _same(evaluation.metrics, log.train_seconds):
            yield f"seed {log.seed} was trained after it was evaluated"
    seconds = fmean(log.train_seconds for log in files.logs)
    if files.metrics.num_seeds != len(files.logs) or not _same(files.metrics.mean, seconds):
        yield "metrics.json is of other seeds or of another training"


def differing_parameters(recorded: Mapping[str, Any], experiment: Experiment) -> Iterable[str]:
    """Parameters of a training, nested or flat, that are not those of params.yaml."""
    theirs, ours = flatten(recorded), flatten(experiment.model_dump())
    for key in {**ours, **theirs}:
        if theirs.get(key) != ours.get(key):
            yield f"it was trained with {key} = {theirs.get(key)}, params.yaml has {ours.get(key)}"


def _same(metrics: Mapping[str, float], train_seconds: float) -> bool:
    """Whether metrics belong to a training: no two trainings take equally long."""
    return math.isclose(metrics.get("train_seconds", math.nan), train_seconds, rel_tol=1e-12)


def result_row(row: str, params: Params, files: RowFiles) -> ResultRow:
    """Sum up what `read_row` has read of a row."""
    model = params.experiment(row).model
    accuracy = _metric(files.metrics.mean, "test_accuracy", row)
    published = load_published().port.test_accuracy.get(row)
    comparable = published if params.data.source == "full" else None
    return ResultRow(
        row=row,
        dataset=params.experiment(row).dataset,
        architecture=model.architecture,
        decoder=model.decoder,
        num_prototypes=model.num_prototypes,
        num_seeds=len(files.logs),
        seeds=tuple(log.seed for log in files.logs),
        selected_epochs=tuple(log.selected_epoch for log in files.logs),
        test_accuracy_mean=accuracy,
        test_accuracy_std=_metric(files.metrics.std, "test_accuracy", row),
        validation_accuracy_mean=_metric(files.metrics.mean, "validation_accuracy", row),
        published_accuracy=published,
        difference=None if comparable is None else accuracy - comparable,
        decode_agreement_mean=_metric(files.metrics.mean, "decode_agreement", row),
        cycle_identity_mean=_metric(files.metrics.mean, "cycle_identity", row),
        reconstruction_agreement_mean=_metric(files.metrics.mean, "reconstruction_agreement", row),
        independent_agreement_mean=_metric(files.metrics.mean, "independent_agreement", row),
        independent_reconstruction_agreement_mean=_metric(
            files.metrics.mean, "independent_reconstruction_agreement", row
        ),
        case_agreement_mean=_metric(files.metrics.mean, "case_agreement", row),
        purity25_mean=_metric(files.metrics.mean, "purity25", row),
        coverage_min=int(min(_metric(seed.metrics, "coverage", row) for seed in files.evaluations)),
        train_seconds_mean=_metric(files.metrics.mean, "train_seconds", row),
        num_epochs=max(log.num_epochs for log in files.logs),
        unprojected=files.metrics.unprojected,
        run_id=_run_id(files.logs),
        data_source=params.data.source,
        environment=_environment(files.logs),
    )


def _run_id(logs: Iterable[SeedLog]) -> str:
    ids = (log.parent_run_id for log in logs)
    return next((run_id for run_id in ids if run_id != UNTRACKED), UNTRACKED)


def _metric(metrics: Mapping[str, float], name: str, row: str) -> float:
    if name not in metrics:
        raise ResultsError(f"row {row!r}: its metrics lack {name}; run `dvc repro`")
    return metrics[name]


def _environment(logs: Iterable[SeedLog]) -> dict[str, str]:
    """Facts of all seeds together; where they differ, each value once."""
    values: dict[str, dict[str, None]] = {}
    for log in logs:
        for name, value in log.environment.items():
            values.setdefault(name, {})[value] = None
    return {name: " / ".join(found) for name, found in sorted(values.items())}
