"""Stage report: what prototypes cost, and whether they decide, published and modern networks."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from protodl.core.config import Params, load_params
from protodl.core.files import read_tensors
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.core.training_log import SeedLog
from protodl.data.datasets import recorded_info
from protodl.report.figures.page import save
from protodl.report.results import read_row
from protodl.report.tables import SAMPLE_HEADING, hardware, markdown_table
from studies.metrics import StudyMetrics
from studies.modern.picture import Shown, modern_figure
from studies.pages import headings, meanings, value, write

ACCURACY = ("validation_accuracy", "plain_accuracy")
PICTURES = (
    "independent_accuracy",
    "decode_agreement",
    "independent_agreement",
    "independent_reconstruction_agreement",
    "exchange_network",
    "exchange_judge",
    "exchange_appearance",
)
REASONS = (
    "keep_1_accuracy",
    "keep_3_accuracy",
    "removal_share",
    "removal_changes",
    "deletion",
    "deletion_random",
    "insertion",
    "insertion_random",
)


@dataclass(frozen=True)
class Found:
    """What is known of a row of the table and of the plain classifier beside it."""

    row: str  # of the table
    dataset: str
    values: Mapping[str, float]  # means over the study's seeds
    logs: list[SeedLog]  # of the plain classifier
    shown: Shown

    def record(self) -> dict[str, object]:
        """The row as it stands in the JSON; shares are 0 to 1."""
        names = [name for name in (*ACCURACY, *PICTURES, *REASONS) if name in self.values]
        return {"row": self.row, **{name: self.values[name] for name in names}}


def read_found(study: Params, project: Params, results: Path, rows: Path) -> list[Found]:
    """Every row of the study, with what the table knows of the same seeds.

    Raises:
        ResultsError: the table's rows are not the results of the project's parameters, or a file is
            missing or damaged.
        CheckpointError: the pictures of a row are missing or damaged.
    """
    found = []
    for row, experiment in study.experiments.items():
        of_table = read_row(row, project, rows)
        table = {each.seed: each.metrics for each in of_table.evaluations}
        plain = StudyMetrics.read(results / row / "metrics.json")
        seeds = [table[seed] for seed in study.seeds]
        values = plain.mean | {key: fmean(each[key] for each in seeds) for key in seeds[0]}
        values["plain_accuracy"] = plain.mean["validation_accuracy"]
        if of_table.judge_accuracy is not None:
            values["independent_accuracy"] = of_table.judge_accuracy
        logs = [SeedLog.read(results / row / "training" / f"seed-{s}.json") for s in study.seeds]
        shown = read_tensors(results / row / "pictures.pt", "pictures", "run `dvc repro`", _shown)
        found.append(Found(row, experiment.dataset, values, logs, shown))
    return found


def _shown(data: Mapping[str, Any]) -> Shown:
    prototypes, cases = (data[name].numpy() for name in ("prototypes", "cases"))
    return Shown(data["classes"].tolist(), prototypes, cases)


INTRODUCTION = """\
What do prototypes cost, and do they decide? For each data set a network of the published \
architecture stands beside a modern one. Each is compared with a plain classifier: the same \
encoder, a fully connected layer in place of the prototypes, no decoder, all else of the recipe \
the same, epochs included. Numbers are of the {validation:,} validation images, which also chose \
the epochs, and of seed{plural} {seeds}; the test split was not read. What a decoded prototype \
shows and what it does not: [modern networks](../../docs/modern.md)."""
SECTIONS = {
    "What prototypes cost": (ACCURACY, ""),
    "What the pictures show": (
        PICTURES,
        "Exchanged: every prototype is decoded with the appearance of every one of another class, "
        "which only a code of two parts has.",
    ),
    "Whether the reasons decide": (
        REASONS,
        "A prototype is taken away by making its contribution 0: its distance becomes the usual "
        "one. A prediction is the sum of the contributions, so these figures say how it is divided "
        "among prototypes, few or many, and that those named first weigh most. They do not say "
        "that the distances are right, for which there is the accuracy.",
    ),
}
CAPTION = "One prototype of each class, the one that speaks most for it, below its nearest image"


def page(found: Sequence[Found], params: Params, picture: str) -> str:
    """The study as a page in Markdown."""
    seeds = ", ".join(map(str, params.seeds))
    parts = ["# Modern networks"] + ([SAMPLE_HEADING] if params.data.source == "sample" else [])
    parts.append(
        INTRODUCTION.format(
            validation=params.training.validation_size,
            plural="s" * (len(params.seeds) > 1),
            seeds=seeds,
        )
    )
    for title, (names, words) in SECTIONS.items():
        cells = [[each.row, *(value(name, each.values) for name in names)] for each in found]
        table = markdown_table(["row", *headings(names)], cells)
        parts += [f"## {title}", *([words] if words else []), table, meanings(names)]
    used = hardware(log.environment for each in found for log in each.logs)
    parts += [
        f"![{CAPTION}]({picture})",
        f"{CAPTION}.",
        f"Command: `make modern`. Hardware: {used}.",
    ]
    return "\n\n".join(parts) + "\n"


def report(options: argparse.Namespace) -> None:
    """Write page, JSON and picture."""
    params, project = load_params(options.params), load_params(options.project)
    found = read_found(params, project, options.study, options.rows)
    groups: dict[str, dict[str, Shown]] = {}
    for each in found:
        groups.setdefault(each.dataset, {})[each.row] = each.shown
    names = {each.dataset: recorded_info(each.logs[0]).class_names for each in found}
    save(modern_figure(groups, names), options.picture)
    text = page(found, params, options.picture.name)
    write(text, [each.record() for each in found], options)
    print(f"{options.markdown}: {len(found)} rows", flush=True)


OPTIONS = {
    "--params": "the study's params.yaml",
    "--project": "the table's params.yaml",
    "--study": "the study's results",
    "--rows": "the table's results",
    "--markdown": "page to write",
    "--picture": "PNG to write, beside the page",
    "--results": "JSON to write",
}
main = Stage(report, OPTIONS)

if __name__ == "__main__":
    run_script(main)
