"""Stage report: accuracy and quality of the table's rows, with and without what explains them."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from protodl.core.config import Params, load_params
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.core.training_log import SeedLog
from protodl.evaluation.uncertainty import seeds_error
from protodl.report.results import read_row
from protodl.report.tables import NONE, SAMPLE_HEADING, format_seconds, hardware, markdown_table
from studies.metrics import StudyMetrics
from studies.pages import headings, meanings, value, write

QUALITY = (  # measures of the second table
    "decode_agreement",
    "cycle_identity",
    "independent_agreement",
    "case_agreement",
    "purity25",
    "duplicates",
)


@dataclass(frozen=True)
class Side:
    """A row, with or without: validation accuracy of each seed, quality as means over them."""

    accuracies: list[float]  # shares
    quality: dict[str, float]
    logs: list[SeedLog]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return fmean(self.accuracies)


@dataclass(frozen=True)
class Pair:
    """One row of the table with what was added for its explanations, and without."""

    row: str
    with_: Side
    without: Side

    @property
    def difference(self) -> float:
        """Mean accuracy with, less that without: negative where the explanations cost some."""
        return self.with_.accuracy - self.without.accuracy

    @property
    def by_seed(self) -> list[float]:
        """The difference of each seed, whose initial weights and images are the same."""
        both = zip(self.with_.accuracies, self.without.accuracies, strict=True)
        return [ours - theirs for ours, theirs in both]

    @property
    def uncertainty(self) -> float | None:
        """Half of the 95 % interval of the difference over seeds; None for a single seed."""
        return None if len(self.by_seed) == 1 else seeds_error(self.by_seed)


def read_pairs(study: Params, project: Params, without: Path, rows: Path) -> list[Pair]:
    """Every row of the study with what was measured on both sides, without and in the table.

    Raises:
        ResultsError: the table's rows are not the results of the project's parameters, or a file is
            missing or damaged.
    """
    pairs = []
    for row in study.experiments:
        table = read_row(row, project, rows)
        accuracies = [seed.metrics["validation_accuracy"] for seed in table.evaluations]
        logs = [
            SeedLog.read(without / row / "training" / f"seed-{seed}.json") for seed in study.seeds
        ]
        metrics = StudyMetrics.read(without / row / "metrics.json").mean
        # Nothing changed the networks after the epoch that was kept.
        plain = Side([log.selected_accuracy for log in logs], metrics, logs)
        pairs.append(Pair(row, Side(accuracies, dict(table.metrics.mean), table.logs), plain))
    return pairs


INTRODUCTION = """\
Each row of the table is compared with the same training without what was added to the published \
method for the sake of its explanations: the classification of decoded prototypes, by the \
network and by the teacher, the cycle term and the diversity term have weight 0 \
(`loss.decoded_prototype_classification`, `.recognition`, `.cycle`, `.diversity`), and no \
prototype is moved afterwards (`model.project: false`). All else of the recipe is the same, \
seeds, epochs and validation images included. Accuracy is that of the {validation:,} validation \
images, which also chose the epoch on both sides; the test split was not read."""
READING = """\
- Difference: mean accuracy with, less without, over seeds {seeds}, in percentage points; ± half \
of its 95 % interval, by Student's t from the differences seed by seed, whose initial weights are \
equal. It holds for these validation images.
- Second table: with → without.
{meanings}
- Command: `make price`. Training time: {seconds} for the rows without, in total. Hardware with: \
{ours}; without: {theirs}."""


def page(pairs: Sequence[Pair], validation: int, seeds: Sequence[int], sample: bool) -> str:
    """The study as a page in Markdown."""
    logs = [log for pair in pairs for log in pair.without.logs]
    words = READING.format(
        seeds=", ".join(str(seed) for seed in seeds),
        meanings=meanings(QUALITY),
        seconds=format_seconds(sum(log.train_seconds for log in logs)),
        ours=hardware(log.environment for pair in pairs for log in pair.with_.logs),
        theirs=hardware(log.environment for log in logs),
    )
    heading = ["# What the explanations cost"] + ([SAMPLE_HEADING] if sample else [])
    parts = [
        INTRODUCTION.format(validation=validation),
        table(pairs),
        verdict(pairs),
        quality(pairs),
    ]
    return "\n\n".join([*heading, *parts, words]) + "\n"


def table(pairs: Sequence[Pair]) -> str:
    """Accuracy of every row, with and without."""
    names = ["row", "validation, with (%)", "without (%)", "difference (points)", "seed by seed"]
    cells = [
        [pair.row, percents(pair.with_), percents(pair.without), points(pair), by_seed(pair)]
        for pair in pairs
    ]
    return markdown_table(names, cells)


def quality(pairs: Sequence[Pair]) -> str:
    """Quality of every row's prototypes, with and without."""
    cells = [
        [
            pair.row,
            *(
                f"{value(name, pair.with_.quality)} → {value(name, pair.without.quality)}"
                for name in QUALITY
            ),
        ]
        for pair in pairs
    ]
    return markdown_table(["row", *headings(QUALITY)], cells)


def percents(side: Side) -> str:
    """The mean, and behind it every seed."""
    seeds = ", ".join(f"{100 * accuracy:.2f}" for accuracy in side.accuracies)
    return f"{100 * side.accuracy:.2f} ({seeds})"


def points(pair: Pair) -> str:
    """`+0.12 ± 0.08`."""
    error = NONE if pair.uncertainty is None else f"{100 * pair.uncertainty:.2f}"
    return f"{100 * pair.difference:+.2f} ± {error}"


def by_seed(pair: Pair) -> str:
    """The difference of each seed, in percentage points."""
    return ", ".join(f"{100 * difference:+.2f}" for difference in pair.by_seed)


def verdict(pairs: Sequence[Pair]) -> str:
    """Which rows differ by more than the uncertainty, and what all rows together say."""
    known = [(pair, pair.uncertainty) for pair in pairs if pair.uncertainty is not None]
    if not known:
        return "One seed each: how certain a difference is cannot be told, so nothing follows."
    differ = [pair for pair, error in known if abs(pair.difference) > error]
    listed = ", ".join(f"{pair.row} ({points(pair)})" for pair in differ)
    which = f"{len(differ)} of {len(pairs)}: {listed}" if differ else f"none of {len(pairs)}"
    together = [fmean(seed) for seed in zip(*(pair.by_seed for pair in pairs), strict=True)]
    mean, error = fmean(together), seeds_error(together)
    certain = "larger" if abs(mean) > error else "not larger"
    return (
        f"Rows whose difference is larger than its uncertainty: {which}. Mean over the rows: "
        f"{100 * mean:+.2f} ± {100 * error:.2f} points, {certain} than its uncertainty."
    )


def record(pair: Pair) -> Mapping[str, object]:
    """A row as it stands in the JSON; accuracies are shares."""
    return {
        "row": pair.row,
        "with": pair.with_.accuracies,
        "without": pair.without.accuracies,
        "difference": pair.difference,
        "uncertainty": pair.uncertainty,
        "quality_with": {name: pair.with_.quality.get(name) for name in QUALITY},
        "quality_without": {name: pair.without.quality.get(name) for name in QUALITY},
    }


def report(options: argparse.Namespace) -> None:
    """Write page and JSON."""
    params = load_params(options.params)
    pairs = read_pairs(params, load_params(options.project), options.without, options.rows)
    sample = params.data.source == "sample"
    text = page(pairs, params.training.validation_size, params.seeds, sample)
    write(text, [record(pair) for pair in pairs], options)
    print(f"{options.markdown}: {verdict(pairs)}", flush=True)


OPTIONS = {
    "--params": "the study's params.yaml",
    "--project": "the table's params.yaml",
    "--without": "the study's results",
    "--rows": "the table's results",
    "--markdown": "page to write",
    "--results": "JSON to write",
}
main = Stage(report, OPTIONS)

if __name__ == "__main__":
    run_script(main)
