"""Stage report: the study's table, the same as JSON, and its picture."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from protodl.core.config import Params, load_params
from protodl.core.experiment_config import Experiment
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.core.training_log import SeedLog
from protodl.data.datasets import recorded_info
from protodl.evaluation.measures import MEASURES
from protodl.evaluation.uncertainty import difference_error
from protodl.network.checkpoint import load_network
from protodl.network.head import prototype_classes
from protodl.network.network import PrototypeNetwork
from protodl.report.figures.page import save
from protodl.report.results import differences as differing
from protodl.report.tables import NONE, SAMPLE_HEADING, format_seconds, hardware, markdown_table
from studies.ablation import picture
from studies.metrics import StudyMetrics
from studies.pages import headings, meanings, value, write

ACCURACY = "validation_accuracy"
BASES = (
    "fashion-mnist-small-deconv",
    "cifar10-small-deconv",
)  # the project's rows that are the defaults

COLUMNS = (  # measures beside the accuracy
    "decode_agreement",
    "independent_agreement",
    "case_agreement",
    "cycle_identity",
    "reconstruction_agreement",
    "purity25",
    "manifold_ratio",
    "duplicates",
    "coverage",
    "keep_1_accuracy",
)
CONCLUDED = (  # of these, those that the page draws conclusions from
    "decode_agreement",
    "independent_agreement",
    "case_agreement",
    "cycle_identity",
    "duplicates",
)


class Variant(NamedTuple):
    """One row of the study's table."""

    name: str
    experiment: Experiment
    changes: dict[str, str]  # what it has otherwise than the default of its data set
    metrics: dict[str, float]  # means over the seeds, or of the worst
    seeds: list[dict[str, float]]  # metrics of each
    logs: list[SeedLog]

    @property
    def dataset(self) -> str:
        """Name of the data set, with which the variant's name begins."""
        return str(self.experiment.dataset)

    @property
    def short(self) -> str:
        """The name without the data set."""
        return self.name.removeprefix(f"{self.dataset}-")

    @property
    def accuracy(self) -> float:
        """Validation accuracy, a share."""
        return self.metrics[ACCURACY]

    def record(self) -> dict[str, Any]:
        """The row as it stands in the JSON."""
        return {
            "variant": self.name,
            "dataset": self.dataset,
            "changes": self.changes,
            "metrics": self.metrics,
            "validation_accuracies": [seed[ACCURACY] for seed in self.seeds],
            "selected_epochs": [log.selected_epoch for log in self.logs],
            "train_seconds": sum(log.train_seconds for log in self.logs),
            "environment": self.logs[0].environment,
        }


def read_variants(params: Params, rows: Path) -> list[Variant]:
    """Every variant of params.yaml with what was measured of it.

    Raises:
        ConfigError: a data set has no default to compare with.
        ResultsError: a file is missing or damaged.
    """
    variants = []
    for name, experiment in params.experiments.items():
        default = params.experiment(f"{experiment.dataset}-default")
        measured = StudyMetrics.read(rows / name / "metrics.json")
        worst = [name for name in COLUMNS if MEASURES[name].of_worst_seed and name in measured.mean]
        metrics = measured.mean | {name: min(s[name] for s in measured.seeds) for name in worst}
        logs = [SeedLog.read(rows / name / "training" / f"seed-{s}.json") for s in params.seeds]
        changes = differences(default, experiment)
        variants.append(Variant(name, experiment, changes, metrics, measured.seeds, logs))
    return variants


def differences(default: Experiment, experiment: Experiment) -> dict[str, str]:
    """Keys of an experiment that differ from the default's; a preset stands for all of its keys."""
    if experiment.preset:
        return {"preset": experiment.preset}
    return differing(experiment, default)


# --- the page ---------------------------------------------------------------------------------


def page(variants: Sequence[Variant], params: Params, picture: str) -> str:
    """The study as a page in Markdown."""
    heading = ["# Ablation"] + ([SAMPLE_HEADING] if params.data.source == "sample" else [])
    parts = [*heading, introduction(variants, params), table(variants), *verdicts(variants)]
    parts += words(variants)
    parts += [f"![Prototypes of each variant, the strongest one of each class]({picture})", CAPTION]
    return "\n\n".join(parts) + "\n"


CAPTION = """\
For each class the prototype with the strongest weight, decoded. A bar below: the network itself \
puts this picture into another class. Empty: no prototype stands for the class."""
ONE_SEED = (
    "One seed each: how certain a difference is cannot be told, so nothing follows from it beyond "
    "these networks."
)
ERRORS = """\
A row ± holds half of the 95 % interval of a difference between two rows above it: Student's t and \
the spread over seeds within all variants of the data set. It holds for these validation images."""
PORT = """\
- `port` is the published port's recipe (Adam with a constant learning rate, batches of 250, all \
of each batch decoded), made for 1,500 epochs and cut to the same {epochs} here: its row says what \
equally long training gives, not what that recipe reaches. Its elastic deformation is off, as in \
the other rows."""


def introduction(variants: Sequence[Variant], params: Params) -> str:
    """What was compared, and how far a difference can be trusted."""
    bases = " and ".join(BASES)
    validation, seeds = params.training.validation_size, len(params.seeds)
    certain = ONE_SEED if seeds == 1 else f"Means over {seeds} seeds. {ERRORS}"
    return (
        f"Each row differs from the default of its data set in what is listed below the table, and "
        f"in nothing else; the defaults are the recipes {bases}, cut to {_epochs(variants)} "
        f"epochs. Accuracy is that of the {validation:,} validation images, which also chose "
        f"each variant's epoch; the test split was not read. {certain}"
    )


def _epochs(variants: Sequence[Variant]) -> str:
    return " to ".join(str(count) for count in sorted({v.experiment.epochs for v in variants}))


def table(variants: Sequence[Variant]) -> str:
    """All variants, below those of a data set how far they can be told apart.

    A dash where a number has no meaning.
    """
    names = ["variant", "validation accuracy (%)", "difference", *headings(COLUMNS)]
    cells = []
    for group in by_dataset(variants):
        default = group[0].accuracy
        for v in group:
            difference = NONE if v is group[0] else f"{100 * (v.accuracy - default):+.2f}"
            shown = [value(name, v.metrics) for name in COLUMNS]
            cells.append([v.name, value(ACCURACY, v.metrics), difference, *shown])
        if errors := uncertainties(group):
            shown = [value(name, errors) for name in (ACCURACY, *COLUMNS)]
            cells.append([f"± {group[0].dataset}", NONE, *shown])
    return markdown_table(names, cells)


def by_dataset(variants: Sequence[Variant]) -> list[list[Variant]]:
    """The variants of each data set, its default first."""
    groups: dict[str, list[Variant]] = {}
    for variant in sorted(variants, key=lambda v: v.short != "default"):
        groups.setdefault(variant.dataset, []).append(variant)
    return list(groups.values())


def uncertainties(group: Sequence[Variant]) -> dict[str, float]:
    """By measure half of the 95 % interval of a difference; empty for a single seed."""
    if len(group[0].seeds) == 1:
        return {}
    names = [name for name in (ACCURACY, *COLUMNS) if not MEASURES[name].of_worst_seed]
    known = {name: [v.seeds for v in group if name in v.metrics] for name in names}
    return {
        name: difference_error([[seed[name] for seed in seeds] for seeds in some])
        for name, some in known.items()
        if some
    }


def verdicts(variants: Sequence[Variant]) -> Iterator[str]:
    """By data set and measure the variants whose difference is larger than its uncertainty."""
    if len(variants[0].seeds) == 1:
        return
    yield "## What follows"
    yield (
        "Differences from the default that are larger than their uncertainty, and no others. Of "
        "those that mean nothing, one in twenty is larger too:"
    )
    lines = []
    for group in by_dataset(variants):
        default, errors = group[0], uncertainties(group)
        title = recorded_info(default.logs[0]).title
        for name in (ACCURACY, *CONCLUDED):
            found = [
                f"`{v.short}` {MEASURES[name].text(v.metrics[name])}"
                for v in group[1:]
                if name in v.metrics and abs(v.metrics[name] - default.metrics[name]) > errors[name]
            ]
            heading, usual = MEASURES[name].heading, value(name, default.metrics)
            listed = ", ".join(found) if found else "no variant"
            lines.append(f"- {title}, {heading}, default {usual}: {listed}.")
    yield "\n".join(lines)


def words(variants: Sequence[Variant]) -> Iterator[str]:
    """What each variant changes, what was measured, and how it was made."""
    changes: dict[str, str] = {}
    for variant in variants:
        listed = ", ".join(f"{key} `{value}`" for key, value in variant.changes.items())
        changes.setdefault(variant.short, listed or "nothing")
    yield "## What each variant changes"
    yield "\n".join(f"- `{name}`: {listed}" for name, listed in changes.items())
    yield "## How to read it"
    port = PORT.format(epochs=_epochs(variants))
    dash = f"- {NONE}: there are no prototypes to measure."
    yield "\n".join([port, meanings(COLUMNS), dash, _how(variants)])


def _how(variants: Sequence[Variant]) -> str:
    logs = [log for variant in variants for log in variant.logs]
    seconds = format_seconds(sum(log.train_seconds for log in logs))
    return (
        f"- Command: `make ablation`. Training time: {seconds} in total. Hardware: "
        f"{hardware(log.environment for log in logs)}."
    )


# --- the picture ------------------------------------------------------------------------------


@torch.inference_mode()
def strongest(network: PrototypeNetwork, name: str, note: str) -> picture.Compared:
    """For each class that has a prototype the one with the most negative weight, decoded."""
    weight = network.head.weight
    classes = prototype_classes(weight)
    shown = torch.stack(
        [weight[k].masked_fill(classes != k, torch.inf).argmin() for k in classes.unique()]
    )
    pictures = network.decode(network.prototypes[shown])
    meant = network(pictures, decode=False).logits.argmax(dim=1)
    return picture.Compared(
        name=name,
        note=note,
        images=pictures.numpy(),
        classes=classes[shown].numpy(),
        agrees=(meant == classes[shown]).numpy(),
    )


def compared(
    variants: Sequence[Variant], models: Path, seed: int
) -> dict[str, list[picture.Compared]]:
    """By title of the data set: the prototypes of each variant that has some."""
    groups: dict[str, list[picture.Compared]] = {}
    for variant in variants:
        if variant.experiment.model.distance != "none":
            network = load_network(models / variant.name / f"seed-{seed}.pt")
            row = strongest(network, variant.short, f"validation {100 * variant.accuracy:.2f} %")
            groups.setdefault(recorded_info(variant.logs[0]).title, []).append(row)
    return groups


def class_names(variants: Iterable[Variant]) -> Mapping[str, Sequence[str]]:
    """Names of the classes by title of the data set."""
    infos = [recorded_info(variant.logs[0]) for variant in variants]
    return {info.title: info.class_names for info in infos}


def report(options: argparse.Namespace) -> None:
    """Write page, JSON and picture."""
    params = load_params(options.params)
    variants = read_variants(params, options.rows)
    groups = compared(variants, options.models, params.seeds[0])
    save(picture.comparison_figure(groups, class_names(variants)), options.picture)
    text = page(variants, params, options.picture.name)
    write(text, [variant.record() for variant in variants], options)
    print(f"{options.markdown}: {len(variants)} variants", flush=True)


OPTIONS = {
    "--params": "the study's params.yaml",
    "--rows": "folder with each one's results",
    "--models": "folder with <row>/seed-<s>.pt",
    "--markdown": "page to write",
    "--picture": "PNG to write, beside the page",
    "--results": "JSON to write",
}
main = Stage(report, OPTIONS)

if __name__ == "__main__":
    run_script(main)
