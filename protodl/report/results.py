"""One record for each row of the table, built from the pipeline's files.

Rows come from params.yaml, in its order; files of a row that is not in there any more are not seen.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from protodl.core.config import Params, flatten
from protodl.core.experiment_config import Experiment
from protodl.core.training_log import (
    UNTRACKED,
    Metrics,
    Record,
    ResultsError,
    SeedEvaluation,
    SeedLog,
)
from protodl.data.datasets import recorded_info
from protodl.evaluation.measures import MEASURES, Measure, Place, measures, select
from protodl.evaluation.uncertainty import Interval, images_interval, seeds_interval
from protodl.report.published import load_published

DataSource = Literal["full", "sample"]
MEASURES_BEFORE: dict[str, tuple[Place, ...]] = {  # where measures stand among a row's other facts
    "published_accuracy": ("accuracy", "certainty"),
    "num_epochs": ("explanations", "training"),
}


class ResultRow(Record):
    """One row of the table; `mean`, `std` and `min` are over the seeds, by name of the measure."""

    row: str
    dataset: str
    architecture: str
    decoder: str
    num_prototypes: int
    num_seeds: int
    seeds: tuple[int, ...]
    selected_epochs: tuple[int, ...]  # of each seed, by validation accuracy
    mean: dict[str, float]
    std: dict[str, float]  # 0 for a single seed
    min: dict[str, int]  # of the counts of which the worst seed is shown
    published_accuracy: float | None  # a share
    difference: float | None  # ours - published; None also on the sample
    paper_accuracy: float | None  # a share, as the paper itself has it
    num_test: int | None  # images; None in MLflow's older runs
    judge_accuracy: float | None  # share of validation images; None where it was not recorded
    class_accuracy: dict[str, float]  # share of each class's test images, mean over the seeds
    num_epochs: int
    unprojected: dict[str, float]  # means of the same networks before; empty unless model.project
    run_id: str  # the row's run in MLflow, the parent of its seeds' runs; or UNTRACKED
    data_source: DataSource
    environment: dict[str, str]  # hardware and versions; several values are separated by " / "

    def text(self, measure: Measure) -> str | None:
        """What is shown of a measure, its mean over the seeds or the worst seed's; None without."""
        summary: dict[str, float] = getattr(self, measure.over_seeds[0])
        if measure.name not in summary:
            return None
        of = f" of {self.num_prototypes}" if measure.of_prototypes else ""
        return measure.text(summary[measure.name]) + of

    def record(self) -> dict[str, Any]:
        """The row as it stands in results.json."""
        facts = self.model_dump(mode="json", exclude={"mean", "std", "min"})
        record: dict[str, Any] = {}
        for name, value in facts.items():
            record |= self._numbers(*MEASURES_BEFORE.get(name, ()))
            record[name] = value
        intervals = {"seeds": self.seeds_interval, "images": self.images_interval}
        return record | {
            f"test_accuracy_ci95_{name}": each and list(each) for name, each in intervals.items()
        }

    def _numbers(self, *places: Place) -> dict[str, float]:
        return {
            f"{measure.name}_{summary}": getattr(self, summary)[measure.name]
            for measure in measures(*places)
            for summary in measure.over_seeds
            if measure.name in getattr(self, summary)
        }

    @property
    def seeds_interval(self) -> Interval | None:
        """Where the mean test accuracy of all seeds lies; None for a single seed."""
        if self.num_seeds == 1:
            return None
        mean, std = (each["test_accuracy"] for each in (self.mean, self.std))
        return seeds_interval(mean, std, self.num_seeds)

    @property
    def images_interval(self) -> Interval | None:
        """Where these networks' mean accuracy on other such images lies; None where unknown."""
        if not self.num_test:
            return None
        return images_interval(self.mean["test_accuracy"], self.num_test)

    @property
    def reaches_published(self) -> bool | None:
        """Whether the published number is reached; None where there is none to compare with."""
        # Rounded: a mean over seeds may lie a rounding error below the number it equals.
        return None if self.difference is None else round(self.difference, 9) >= 0


# --- from the pipeline's files ------------------------------------------------------------------


@dataclass(frozen=True)
class RowFiles:
    """What the pipeline left of one row, checked against params.yaml; seeds in its order."""

    logs: list[SeedLog]
    evaluations: list[SeedEvaluation]
    metrics: Metrics
    judge_accuracy: float | None = None  # of the data set's judge, on validation images


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
    judge = folder.parent / "judges" / f"{params.experiment(row).dataset}.json"
    metrics = Metrics.read(own / "metrics.json")
    files = RowFiles(logs, evaluations, metrics, _judge_accuracy(judge))
    for problem in _differences(row, params, files):
        raise ResultsError(f"{own}: row {row!r}: {problem}; run `dvc repro`")
    return files


def _judge_accuracy(path: Path) -> float | None:
    """What the judge stage has written down; None without it."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["validation_accuracy"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path}: is damaged ({error!r}); run `dvc repro`") from error


def _differences(row: str, params: Params, files: RowFiles) -> Iterable[str]:
    """What shows that the files are not the results of these parameters."""
    for log, evaluation in zip(files.logs, files.evaluations, strict=True):
        if (log.row, evaluation.row) != (row, row):
            yield f"seed {log.seed} was recorded as row {log.row!r}"
        yield from differing_parameters(log.parameters, params.experiment(row))
        total, wanted = log.num_train + log.num_validation, params.training.validation_size
        if log.num_validation != params.training.num_validation(total, not log.class_names):
            held = log.num_validation
            yield f"{held} images were kept for validation, training.validation_size is {wanted}"
        if not _same(evaluation.metrics, log.train_seconds):
            yield f"seed {log.seed} was trained after it was evaluated"
    seconds = fmean(log.train_seconds for log in files.logs)
    if files.metrics.num_seeds != len(files.logs) or not _same(files.metrics.mean, seconds):
        yield "metrics.json is of other seeds or of another training"


def differing_parameters(recorded: Mapping[str, Any], experiment: Experiment) -> Iterable[str]:
    """Parameters of a training, nested or flat, that are not those of params.yaml.

    One that a training of an earlier version did not know had its default.
    """
    defaults = Experiment(dataset=experiment.dataset).model_dump()
    theirs, ours = flatten(defaults) | flatten(recorded), flatten(experiment.model_dump())
    for key in {**ours, **theirs}:
        if theirs.get(key) != ours.get(key):
            yield f"it was trained with {key} = {theirs.get(key)}, params.yaml has {ours.get(key)}"


def differences(experiment: Experiment, base: Experiment) -> dict[str, str]:
    """The parameters of an experiment that are not those of another one, flat."""
    theirs = flatten(base.model_dump())
    ours = flatten(experiment.model_dump())
    return {key: value for key, value in ours.items() if value != theirs.get(key)}


def _same(metrics: Mapping[str, float], train_seconds: float) -> bool:
    """Whether metrics belong to a training: no two trainings take equally long."""
    return math.isclose(metrics.get("train_seconds", math.nan), train_seconds, rel_tol=1e-12)


def result_row(row: str, params: Params, files: RowFiles) -> ResultRow:
    """Sum up what `read_row` has read of a row.

    Raises:
        ResultsError: a measure of the table was not taken.
    """
    experiment = params.experiment(row)
    try:
        mean, std = select(files.metrics.mean), select(files.metrics.std)
        seeds = [select(seed.metrics) for seed in files.evaluations]
    except KeyError as error:
        raise ResultsError(f"row {row!r}: its metrics lack {error}; run `dvc repro`") from error
    published, paper = load_published().port.test_accuracy.get(row), load_published().paper
    confusions = [seed.confusion for seed in files.evaluations]
    comparable = published if params.data.source == "full" else None
    return ResultRow(
        row=row,
        dataset=experiment.dataset,
        architecture=experiment.model.architecture,
        decoder=experiment.model.decoder,
        num_prototypes=experiment.model.num_prototypes,
        num_seeds=len(files.logs),
        seeds=tuple(log.seed for log in files.logs),
        selected_epochs=tuple(log.selected_epoch for log in files.logs),
        mean=mean,
        std=std,
        min={
            name: int(min(seed[name] for seed in seeds))
            for name in mean
            if MEASURES[name].of_worst_seed
        },
        published_accuracy=published,
        difference=None if comparable is None else mean["test_accuracy"] - comparable,
        paper_accuracy=paper.test_accuracy.get(row),
        num_test=sum(map(sum, confusions[0])),
        judge_accuracy=files.judge_accuracy,
        class_accuracy=_class_accuracy(confusions, recorded_info(files.logs[0]).class_names),
        num_epochs=max(log.num_epochs for log in files.logs),
        unprojected=files.metrics.unprojected,
        run_id=_run_id(files.logs),
        data_source=params.data.source,
        environment=_environment(files.logs),
    )


def _class_accuracy(
    confusions: Sequence[Sequence[Sequence[int]]], class_names: Sequence[str]
) -> dict[str, float]:
    """By class that has test images: the share of them that is right, mean over the seeds."""
    return {
        class_names[true]: round(fmean(lines[true] / sum(lines) for lines in seeds), 6)
        for true, seeds in enumerate(zip(*confusions, strict=True))
        if sum(seeds[0])
    }


def _run_id(logs: Iterable[SeedLog]) -> str:
    ids = (log.parent_run_id for log in logs)
    return next((run_id for run_id in ids if run_id != UNTRACKED), UNTRACKED)


def _environment(logs: Sequence[SeedLog]) -> dict[str, str]:
    """Facts of all seeds together; where they differ, each value once."""
    found = [log.environment for log in logs]
    return {
        name: " / ".join(dict.fromkeys(each[name] for each in found if name in each))
        for name in sorted({name for each in found for name in each})
    }
