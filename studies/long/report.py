"""Stage report: rows at many times their epochs, beside the table's: page, JSON and picture."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from protodl.core.config import Params, load_params
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.core.training_log import SeedLog
from protodl.report.figures.page import save
from protodl.report.results import read_row
from protodl.report.tables import SAMPLE_HEADING, format_seconds, hardware, markdown_table
from studies.long import picture
from studies.metrics import StudyMetrics
from studies.pages import headings, meanings, value, write

QUALITY = ("decode_agreement", "cycle_identity", "independent_agreement", "case_agreement")


@dataclass(frozen=True)
class Stretch:
    """A row of the table and the same row, trained longer."""

    row: str
    table: list[SeedLog]
    table_accuracy: float  # on validation images, mean over the table's seeds
    table_quality: Mapping[str, float]
    long: list[SeedLog]
    long_accuracy: float
    long_quality: Mapping[str, float]

    def record(self) -> dict[str, object]:
        """The row as it stands in the JSON; accuracies are shares."""
        return {
            "row": self.row,
            "epochs": [self.table[0].num_epochs, self.long[0].num_epochs],
            "validation_accuracy": [self.table_accuracy, self.long_accuracy],
            "selected_epochs": [log.selected_epoch for log in self.long],
            "train_seconds": [_seconds(self.table), _seconds(self.long)],
            "quality": {name: self.long_quality.get(name) for name in QUALITY},
        }


def read_stretches(study: Params, project: Params, long: Path, rows: Path) -> list[Stretch]:
    """Every row of the study with what was measured of it there and in the table.

    Raises:
        ResultsError: the table's rows are not the results of the project's parameters, or a file is
            missing or damaged.
    """
    found = []
    for row in study.experiments:
        table = read_row(row, project, rows)
        logs = [SeedLog.read(long / row / "training" / f"seed-{s}.json") for s in study.seeds]
        measured = StudyMetrics.read(long / row / "metrics.json").mean
        means = table.metrics.mean
        both = (means["validation_accuracy"], means, logs, measured["validation_accuracy"])
        found.append(Stretch(row, table.logs, *both, measured))
    return found


INTRODUCTION = """\
What do the architectures reach with more time? Rows of the table were trained for about ten times \
as many epochs; all else of their recipes is the same, the learning rate's rise and fall stretched \
with the epochs. Accuracy is that of the {validation:,} validation images, which also chose the \
epoch; the test split was not read. Long trainings: {seeds}, which is too few to say how certain \
the difference is; the spread over the table's seeds stands in RESULTS.md."""
READING = """\
- Each cell: table → long.
{meanings}
- Command: `make long`. Hardware: {hardware}."""


def page(stretches: Sequence[Stretch], params: Params, picture: str) -> str:
    """The study as a page in Markdown."""
    count = len(params.seeds)
    introduction = INTRODUCTION.format(
        validation=params.training.validation_size, seeds=f"{count} seed{'s' * (count > 1)} each"
    )
    words = READING.format(
        meanings=meanings(("validation_accuracy", *QUALITY)),
        hardware=hardware(log.environment for stretch in stretches for log in stretch.long),
    )
    heading = ["# Longer training"] + ([SAMPLE_HEADING] if params.data.source == "sample" else [])
    drawn = f"![Validation accuracy by epoch, at the table's length and longer]({picture})"
    return "\n\n".join([*heading, introduction, table(stretches), drawn, words]) + "\n"


def table(stretches: Sequence[Stretch]) -> str:
    """Epochs, time, accuracy and quality of every row, in the table and long."""
    names = ["row", "epochs", "training of one seed", "validation accuracy (%)"]
    cells = []
    for each in stretches:
        epochs = f"{each.table[0].num_epochs} → {each.long[0].num_epochs}"
        times = " → ".join(format_seconds(_seconds(logs)) for logs in (each.table, each.long))
        accuracy = f"{100 * each.table_accuracy:.2f} → {100 * each.long_accuracy:.2f}"
        quality = [
            f"{value(name, each.table_quality)} → {value(name, each.long_quality)}"
            for name in QUALITY
        ]
        cells.append([each.row, epochs, times, accuracy, *quality])
    return markdown_table([*names, *headings(QUALITY)], cells)


def _seconds(logs: Sequence[SeedLog]) -> float:
    return fmean(log.train_seconds for log in logs)


def report(options: argparse.Namespace) -> None:
    """Write page, JSON and picture."""
    params = load_params(options.params)
    stretches = read_stretches(params, load_params(options.project), options.long, options.rows)
    curves = {each.row: (each.table, each.long) for each in stretches}
    save(picture.lengths_figure(curves), options.picture)
    text = page(stretches, params, options.picture.name)
    write(text, [each.record() for each in stretches], options)
    print(f"{options.markdown}: {len(stretches)} rows", flush=True)


OPTIONS = {
    "--params": "the study's params.yaml",
    "--project": "the table's params.yaml",
    "--long": "the study's results",
    "--rows": "the table's results",
    "--markdown": "page to write",
    "--picture": "PNG to write, beside the page",
    "--results": "JSON to write",
}
main = Stage(report, OPTIONS)

if __name__ == "__main__":
    run_script(main)
