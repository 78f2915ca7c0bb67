"""RESULTS.md: the tables, what their columns mean, how they were made, and each row's pictures."""

from collections.abc import Sequence
from pathlib import Path

from protodl.core.config import Params
from protodl.core.experiment_config import Experiment
from protodl.core.training_log import ResultsError
from protodl.data.datasets import DATASETS
from protodl.evaluation.measures import measures
from protodl.report.cards import literal, templates
from protodl.report.published import load_published
from protodl.report.results import ResultRow, differences
from protodl.report.tables import (
    below,
    class_accuracies,
    comparable,
    definition,
    format_seconds,
    hardware,
    on_full_data,
    protocol,
    table,
    tables,
)

PICTURES = {  # of each row, with what they show, in the order of the page
    "reasons": "One validation image above its reconstruction, and what prototypes contribute to "
    "its class, each shown below the training case nearest to it (seed {seed})",
    "samples": "One validation image of each class above its reconstruction (seed {seed})",
    "prototypes": "All prototypes, decoded, each below the training case nearest to it, with its "
    "class and its strongest weight (seed {seed})",
    "weights": "The weight of each prototype for each class, the strongest one marked "
    "(seed {seed})",
    "curves": "Learning curves of all seeds",
    "confusion": "Confusion matrix of the test images, as seed {seed} classifies them",
}


def captions(row: ResultRow) -> dict[str, str]:
    """What each picture of a row shows; those of one network show the first seed's."""
    return {name: words.format(seed=row.seeds[0]) for name, words in PICTURES.items()}


def results_page(rows: Sequence[ResultRow], params: Params, pictures: Path, cards: Path) -> str:
    """The page in Markdown; its words stand in templates/results.md.

    Args:
        rows: the table.
        params: params.yaml.
        pictures: folder of the rows (results/rows), relative to the page.
        cards: folder of the model cards, <row>.md, relative to the page.
    """
    return (
        templates()
        .get_template("results.md")
        .render(
            rows=rows,
            protocol=protocol(rows),
            validation_size=params.training.validation_size,
            all_published=all(row.dataset in DATASETS for row in rows),
            tables=tables(rows),
            table=table,
            below=below(rows),
            definition=definition,
            how=how_made(rows),
            captions=captions(rows[0]),
            facts={row.row: row_facts(row, params) for row in rows},
            pictures=pictures.as_posix(),
            cards=cards.as_posix(),
        )
    )


def how_made(rows: Sequence[ResultRow]) -> list[str]:
    """How the numbers were made and where the published ones are from, each thing in Markdown."""
    seconds = sum(row.mean["train_seconds"] * row.num_seeds for row in rows)
    seeds = ", ".join(dict.fromkeys(str(seed) for row in rows for seed in row.seeds))
    published = load_published()
    sources = [
        f"Published numbers: {published.port.source}. The paper's: {published.paper.source}; "
        f"{published.paper.protocol}."
    ]
    if on_full_data(rows) and not comparable(rows):
        sources = []  # there are rows of other data sets only
    return [
        f"Command: `{'make repro' if on_full_data(rows) else 'make demo'}`; seeds: {seeds}.",
        f"Hardware: {hardware(row.environment for row in rows)}.",
        f"Training time: {format_seconds(seconds)} for all rows and seeds together.",
        *sources,
    ]


def row_facts(row: ResultRow, params: Params) -> list[str]:
    """What is to be known of a row beside its pictures, each thing in Markdown."""
    epochs = ", ".join(
        f"{epoch} (seed {seed})" for epoch, seed in zip(row.selected_epochs, row.seeds, strict=True)
    )
    experiment = params.experiment(row.row)
    defaults = {"dataset": experiment.dataset, **params.defaults.model_dump(exclude_unset=True)}
    changed = differences(experiment, Experiment.model_validate(defaults))
    classes = map(literal, class_accuracies(row))
    own = ", ".join(f"{key} `{value}`" for key, value in changed.items())
    return [
        f"Parameters that differ from the defaults: {own or 'none'}.",
        f"Kept epoch of {row.num_epochs}: {epochs}. MLflow run `{row.run_id}`.",
        f"Test accuracy of each class (%), the lowest first: {', '.join(classes)}.",
        *_projection(row),
    ]


def _projection(row: ResultRow) -> list[str]:
    """What moving the prototypes changed; nothing where no shown number changed."""
    changes = []
    for measure in measures("accuracy", "explanations"):
        if measure.name in row.unprojected and not measure.of_worst_seed:
            before, after = (
                measure.text(values[measure.name]) for values in (row.unprojected, row.mean)
            )
            changes += [f"{measure.heading} {before} → {after}"] if before != after else []
    words = "Moving the prototypes towards training cases (`model.project`) changed"
    return [f"{words} {', '.join(changes)}."] if changes else []


def picture_path(folder: Path, row: str, name: str) -> Path:
    """Where a picture of a row is kept below `folder` (results/rows)."""
    return folder / row / "pictures" / f"{name}.png"


def require_pictures(rows: Sequence[ResultRow], folder: Path) -> None:
    """Make sure that everything the page shows is there; raises ResultsError."""
    for row in rows:
        for name in PICTURES:
            path = picture_path(folder, row.row, name)
            if not path.is_file():
                raise ResultsError(f"{path}: missing; run `dvc repro prototypes@{row.row}`")


def overview_pictures(rows: Sequence[ResultRow], folder: Path) -> list[Path]:
    """The reasons of the most accurate row of each data set, on validation images."""
    best: dict[str, ResultRow] = {}
    for row in rows:
        other = best.setdefault(row.dataset, row)
        if row.mean["validation_accuracy"] > other.mean["validation_accuracy"]:
            best[row.dataset] = row
    return [picture_path(folder, row.row, "reasons") for row in best.values()]
