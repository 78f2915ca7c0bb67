"""The tables of results in Markdown: in the terminal, in the README, in RESULTS.md, in MLflow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from protodl.core.files import write_text
from protodl.core.training_log import UNTRACKED, ResultsError
from protodl.evaluation.measures import MEASURES, Measure, measures
from protodl.evaluation.uncertainty import Interval
from protodl.report.published import load_published
from protodl.report.results import ResultRow

BEGIN, END = "<!-- results -->", "<!-- /results -->"
SAMPLE_HEADING = "**Made on the embedded sample; NOT comparable with the published numbers.**"
SELECTION = (
    "every choice was made on validation images, and the test set served for this measurement only."
)
SAMPLE_NOTE = (
    "This is a sample run: short trainings on a small part of each data set. Its accuracies and "
    "its pictures are not those of the table in the README; they show that everything works. "
    "`make repro` makes the table."
)
NONE = "–"  # in a cell: there is no such number


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, what its cells hold, and what that means."""

    heading: str
    meaning: str
    cell: Callable[[ResultRow], str]


def tables(rows: Sequence[ResultRow]) -> dict[str, list[Column]]:
    """The columns beside the row's name, by table; published numbers only where they compare."""
    test, *others = (_column(each) for each in measures("accuracy", "training"))
    published = _PUBLISHED if comparable(rows) else []
    return {
        "Accuracy": [test, *published, *others, _EPOCHS, _RUN],
        "Certainty": [
            *_INTERVALS,
            *(_column(each) for each in measures("certainty")),
            _WEAKEST_CLASS,
        ],
        "Explanations": [*(_column(each) for each in measures("explanations")), _JUDGE],
    }


def results_table(rows: Sequence[ResultRow]) -> str:
    """All tables in Markdown, with the sentences that belong to them."""
    accuracy, *others = (table(rows, columns) for columns in tables(rows).values())
    return _paragraphs(protocol(rows), accuracy, below(rows), *others)


def table(rows: Sequence[ResultRow], columns: Sequence[Column], page: str = "") -> str:
    """One table in Markdown; each row leads to its section of `page` if there is one."""
    cells = [
        [
            f"[{row.row}]({page}#{row.row})" if page else row.row,
            *(each.cell(row) for each in columns),
        ]
        for row in rows
    ]
    return markdown_table(["row", *(column.heading for column in columns)], cells)


def short_table(rows: Sequence[ResultRow], page: str = "RESULTS.md") -> str:
    """The README's table in Markdown; each row leads to its section of `page`."""
    test, seconds = (_column(MEASURES[name]) for name in ("test_accuracy", "train_seconds"))
    columns = [test, *(_PUBLISHED[:1] if comparable(rows) else []), seconds]
    return _paragraphs(protocol(rows), table(rows, columns, page), below(rows))


def markdown_table(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table with its first column to the left and the others to the right."""
    align = ["left", *["right"] * (len(names) - 1)]
    # disable_numparse: tabulate would print 99.10 as 99.1. pipe: GitHub's format.
    return tabulate(cells, names, "pipe", disable_numparse=True, colalign=align)


def update_readme(path: Path, rows: Sequence[ResultRow]) -> None:
    """Replace what stands between the marks of a file by the short table.

    Raises:
        ResultsError: the file does not hold each mark once, the first before the second.
        OSError: the file cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end or BEGIN in old + after or END in before + after:
        raise ResultsError(
            f"{path}: needs the line {BEGIN} and below it the line {END}, each once; "
            "the table is put between them"
        )
    new = f"{before}{BEGIN}\n{short_table(rows)}\n{END}{after}"
    if new != text:
        write_text(new, path)


# --- sentences ----------------------------------------------------------------------------------


def protocol(rows: Sequence[ResultRow]) -> str:
    """What the numbers are and are not; on the sample, that they compare with nothing."""
    if not on_full_data(rows):
        return SAMPLE_HEADING
    if not comparable(rows):
        return SELECTION[0].upper() + SELECTION[1:]
    published = load_published().port.protocol
    return (
        f"The published numbers were selected on the test set ({published}). Ours were not: "
        f"{SELECTION}"
    )


def below(rows: Sequence[ResultRow]) -> str:
    """What stands below the table of accuracies: the number of seeds, and the shortfall."""
    seeds = rows[0].num_seeds
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return f"Test accuracy: {spread}. {shortfall(rows)}".rstrip()


def shortfall(rows: Sequence[ResultRow]) -> str:
    """Which rows do not reach the published number; empty where there is nothing to compare."""
    compared = [row for row in rows if row.reaches_published is not None]
    short = [row for row in compared if not row.reaches_published]
    if not compared:
        return ""
    listed = ", ".join(f"{row.row} ({_points(row)})" for row in short)
    of = f"of {len(compared)} {'row' if len(compared) == 1 else 'rows'}"
    return (
        f"Below the published number: {f'{len(short)} {of}: {listed}' if short else f'none {of}'}."
    )


def definition(heading: str, meaning: str) -> str:
    """What a column means, as a line: `Coverage: classes that have ... .`"""
    return f"{heading[0].upper()}{heading[1:]}: {meaning}."


def hardware(environments: Iterable[Mapping[str, str]]) -> str:
    """Where trainings ran, each place once."""
    names = ("processor", "device", "threads", "precision", "torch", "python")
    facts = ({name: each.get(name, "unknown") for name in names} for each in environments)
    words = "{processor}, device {device}, threads {threads}, {precision}, torch {torch}, Python "
    return "; ".join(dict.fromkeys((words + "{python}").format(**each) for each in facts))


def format_seconds(seconds: float) -> str:
    """`50 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes <= 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def on_full_data(rows: Sequence[ResultRow]) -> bool:
    """Whether no row was made on the embedded sample."""
    return all(row.data_source == "full" for row in rows)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


# --- columns ------------------------------------------------------------------------------------


def _column(measure: Measure) -> Column:
    return Column(measure.heading, measure.meaning, lambda row: _cell(measure, row))


def _cell(measure: Measure, row: ResultRow) -> str:
    text = row.text(measure)
    if text is None:
        return NONE
    spread = "std" in measure.over_seeds and row.num_seeds > 1
    return f"{text} ± {measure.text(row.std[measure.name])}" if spread else text


def comparable(rows: Sequence[ResultRow]) -> bool:
    """Whether some row has a published number to compare with."""
    return any(row.difference is not None for row in rows)


def percent(share: float | None) -> str:
    """An accuracy as the tables show it: `99.02`."""
    return NONE if share is None else MEASURES["test_accuracy"].text(share)


def interval_text(interval: Interval | None) -> str:
    """An interval of accuracies: `99.20 to 99.47`."""
    return NONE if interval is None else " to ".join(map(percent, interval))


def class_accuracies(row: ResultRow) -> list[str]:
    """Test accuracy of each class in per cent, the lowest first: `9: 98.9`."""
    shares = sorted(row.class_accuracy.items(), key=lambda item: item[1])
    return [f"{name}: {100 * share:.1f}" for name, share in shares]


def _points(row: ResultRow) -> str:
    """Difference in percentage points, signed; -0.00 stands for a number just missed."""
    if row.difference is None:
        return NONE
    points = f"{100 * row.difference:+.2f}"
    return points.replace("-", "+") if row.reaches_published else points


_PUBLISHED = [
    Column(
        "published (%)",
        "the port's test accuracy, with which the row is compared",
        lambda row: percent(row.published_accuracy),
    ),
    Column("difference", "test accuracy minus the published one, in percentage points", _points),
    Column(
        "paper (%)",
        "the test accuracy that the paper itself reports for this network",
        lambda row: percent(row.paper_accuracy),
    ),
]
_INTERVALS = [
    Column(
        "95 %, seeds (%)",
        "95 % interval for the mean test accuracy of all seeds, on these images: mean ± "
        "t(0.975; n − 1) · s / √n, Student's t, s the standard deviation over n seeds",
        lambda row: interval_text(row.seeds_interval),
    ),
    Column(
        "95 %, images (%)",
        "the same for all images of the kind, of these networks: Wilson's interval for a share of "
        "so many test images",
        lambda row: interval_text(row.images_interval),
    ),
]
_WEAKEST_CLASS = Column(
    "weakest class (%)",
    "the lowest test accuracy of a class, mean over the seeds",
    lambda row: percent(min(row.class_accuracy.values(), default=None)),
)
_JUDGE = Column(
    "independent classifier (%)",
    "validation images that the independent classifier itself puts into their class",
    lambda row: NONE if row.judge_accuracy is None else f"{100 * row.judge_accuracy:.1f}",
)
_EPOCHS = Column("epochs", "length of the training of one seed", lambda row: str(row.num_epochs))
_RUN = Column(
    "MLflow run",
    "beginning of the id of the row's run; in a store refilled by `protodl sync` search for "
    "`tags.trained_run_id = '<id>'`, the whole id",
    lambda row: NONE if row.run_id == UNTRACKED else row.run_id[:8],
)
