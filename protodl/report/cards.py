"""Model cards: of each row what it is, how it was made, what was measured and where it ends.

After Mitchell et al. 2019, "Model Cards for Model Reporting"; every number comes from the files,
the words stand in templates/card.md.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from protodl.core.config import Params
from protodl.data.datasets import recorded_info
from protodl.evaluation.measures import TABLES, Measure, measures
from protodl.report.published import load_published
from protodl.report.results import ResultRow, RowFiles, read_row
from protodl.report.tables import (
    NONE,
    SAMPLE_HEADING,
    class_accuracies,
    format_seconds,
    interval_text,
)

RECOGNISABLE = 0.9  # share from which pictures count as what they are said to be
CONFUSIONS = 3  # pairs of classes that are named


def templates(autoescape: bool = False) -> Environment:
    """The templates of cards and HTML page; an unknown name in one of them is an error."""
    environment = Environment(
        loader=PackageLoader("protodl.report"),
        autoescape=autoescape,  # noqa: S701  Markdown is escaped by `literal`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["literal"] = literal
    return environment


def literal(text: str) -> str:
    """Markdown that shows this text as it is: no markup, link, HTML or end of a table's cell."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", " ".join(text.split()))


def write_cards(rows: Iterable[ResultRow], params: Params, folder: Path, cards: Path) -> None:
    """Write the model card of each row as <row>.md, from its files below `folder`."""
    cards.mkdir(parents=True, exist_ok=True)
    for row in rows:
        card = model_card(row, read_row(row.row, params, folder), params)
        (cards / f"{row.row}.md").write_text(card, encoding="utf-8")


def model_card(row: ResultRow, files: RowFiles, params: Params) -> str:
    """The card of one row, as Markdown.

    Args:
        row: its line of the table.
        files: what `read_row` has read of it.
        params: params.yaml.
    """
    shown = [each for each in measures(*TABLES, "card") if each.place != "training"]
    ended = max(log.end_ms for log in files.logs) / 1000
    info = recorded_info(files.logs[0])
    return (
        templates()
        .get_template("card.md")
        .render(
            row=row,
            mean=row.mean,
            log=files.logs[0],
            evaluations=files.evaluations,
            info=info,
            sample_heading=SAMPLE_HEADING,
            split_seed=params.training.split_seed,
            experiment=params.experiment(row.row),
            listed=_listed,
            results=[(each, _value(each, row)) for each in shown if each.name in row.mean],
            published=load_published().port,
            interval_text=interval_text,
            classes=", ".join(map(literal, class_accuracies(row))),
            recognisable=RECOGNISABLE,
            confused=_confused(files, info.class_names),
            limits=_limits(files),
            environment=defaultdict(lambda: "unknown", row.environment),
            time=format_seconds(row.mean["train_seconds"]),
            ended=datetime.fromtimestamp(ended, UTC).date(),
        )
    )


def _listed(config: BaseModel, *without: str) -> str:
    """What is not switched off, without some values."""
    values = config.model_dump(exclude=set(without))
    on = [name if value is True else f"{name} {value:g}" for name, value in values.items() if value]
    return ", ".join(on) or "none"


def _value(measure: Measure, row: ResultRow) -> str:
    """What is shown of a measure, shares with their spread over the seeds."""
    if measure.unit != "%":
        return row.text(measure) or NONE
    numbers = [row.mean[measure.name], *([row.std[measure.name]] if row.num_seeds > 1 else [])]
    return " ± ".join(measure.text(number, ".2f") for number in numbers) + " %"


def _confused(files: RowFiles, class_names: Sequence[str]) -> str:
    """The most frequent errors, over all seeds."""
    counts = [
        [sum(cells) for cells in zip(*lines, strict=True)]
        for lines in zip(*(seed.confusion for seed in files.evaluations), strict=True)
    ]
    errors = [
        (
            count / sum(line),
            f"{literal(class_names[true])} taken for {literal(class_names[predicted])}",
        )
        for true, line in enumerate(counts)
        for predicted, count in enumerate(line)
        if count and predicted != true
    ]
    worst = sorted(errors, key=lambda error: -error[0])[:CONFUSIONS]
    return ", ".join(f"{words} ({100 * share:.1f} %)" for share, words in worst)


def _limits(files: RowFiles) -> list[str]:
    """Of each seed the distances beyond which an image counts as out of distribution."""
    return [
        f"seed {seed.seed}: {seed.metrics['prototype_limit']:.3f} and "
        f"{seed.metrics['case_limit']:.3f}"
        for seed in files.evaluations
        if {"prototype_limit", "case_limit"} <= set(seed.metrics)
    ]
