"""The table of results as text: in the terminal, in the README, and as the page RESULTS.md."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from protodl.core.config import Experiment, Params
from protodl.core.files import write_text
from protodl.core.training_log import UNTRACKED, ResultsError
from protodl.report.results import ResultRow, load_published

BEGIN, END = "<!-- results -->", "<!-- /results -->"
SAMPLE_HEADING = "**Made on the embedded sample; NOT comparable with the published numbers.**"
PICTURES = {  # of each row, with what they show, in the order of the page
    "reasons": "One validation image, its nearest prototypes and what each of them contributes",
    "prototypes": "All prototypes, decoded, each with its class and its strongest weight",
    "samples": "One validation image of each class above its reconstruction",
    "weights": "What each prototype says of each class, the strongest entry marked",
    "curves": "Learning curves",
    "confusion": "Confusion matrix of the test images",
}


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, what its cells hold, and what that means."""

    heading: str
    meaning: str
    cell: Callable[[ResultRow], str]


def columns(rows: Sequence[ResultRow]) -> list[Column]:
    """The columns beside the row's name; published numbers only where they compare."""
    return [_ACCURACY, *(_PUBLISHED if _comparable(rows) else []), *MEASURES, _RUN]


def results_table(rows: Sequence[ResultRow]) -> str:
    """The whole table in Markdown, with the sentences that belong to it."""
    shown = columns(rows)
    cells = [[row.row, *(column.cell(row) for column in shown)] for row in rows]
    return _with_words(rows, ["row", *(column.heading for column in shown)], cells)


def short_table(rows: Sequence[ResultRow], page: str = "RESULTS.md") -> str:
    """The README's table in Markdown; each row leads to its section of `page`."""
    names = ["row", "test accuracy (%)"]
    names += ["published (%)", "difference"] if _comparable(rows) else []
    names += ["decode agreement", "independent agreement", "case agreement", "seconds"]
    cells = [
        [
            f"[{row.row}]({page}#{row.row})",
            _accuracy(row),
            *(column.cell(row) for column in _PUBLISHED if _comparable(rows)),
            _share(row.decode_agreement_mean),
            _share(row.independent_agreement_mean),
            _share(row.case_agreement_mean),
            f"{row.train_seconds_mean:.0f}",
        ]
        for row in rows
    ]
    return _with_words(rows, names, cells)


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


def results_page(rows: Sequence[ResultRow], params: Params, pictures: Path, cards: Path) -> str:
    """RESULTS.md: the table, how it was made, and a section for each row.

    Args:
        rows: the table.
        params: params.yaml.
        pictures: folder of the rows (results/rows), relative to the page.
        cards: folder of the model cards, <row>.md, relative to the page.
    """
    how = [*how_made(rows), *(f"{_capital(c.heading)}: {c.meaning}." for c in columns(rows))]
    parts = ["# Results", results_table(rows), "## How it was made", _items(how)]
    parts += [_section(row, params.experiments[row.row], pictures, cards) for row in rows]
    return "\n\n".join(parts) + "\n"


def protocol(rows: Sequence[ResultRow]) -> str:
    """What the numbers are and are not; on the sample, that they compare with nothing."""
    if not _on_full_data(rows):
        return SAMPLE_HEADING
    published = load_published().port.protocol
    return (
        f"The published numbers were selected on the test set ({published}); ours were not: every "
        "choice was made on validation images, and the test set served for this "
        "measurement only."
    )


def shortfall(rows: Sequence[ResultRow]) -> str:
    """Which rows do not reach the published number; empty where there is nothing to compare."""
    compared = [row for row in rows if row.reaches_published is not None]
    short = [row for row in compared if not row.reaches_published]
    if not compared:
        return ""
    listed = ", ".join(f"{row.row} ({_points(row)})" for row in short)
    of = f"of {len(compared)} rows"
    return (
        f"Below the published number: {f'{len(short)} {of}: {listed}' if short else f'none {of}'}."
    )


def _with_words(rows: Sequence[ResultRow], names: list[str], cells: list[list[str]]) -> str:
    # disable_numparse: tabulate would print 99.10 as 99.1.
    align = ["left", *["right"] * (len(names) - 1)]
    # pipe: GitHub's tables, with their alignment.
    table = tabulate(cells, names, "pipe", disable_numparse=True, colalign=align)
    return "\n\n".join(part for part in (protocol(rows), table, shortfall(rows)) if part)


def _on_full_data(rows: Sequence[ResultRow]) -> bool:
    return all(row.data_source == "full" for row in rows)


def _comparable(rows: Sequence[ResultRow]) -> bool:
    return any(row.difference is not None for row in rows)


def _points(row: ResultRow) -> str:
    """Difference in percentage points, signed; -0.00 stands for a number just missed."""
    if row.difference is None:
        return "–"
    points = f"{100 * row.difference:+.2f}"
    return points.replace("-", "+") if row.reaches_published else points


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _accuracy(row: ResultRow) -> str:
    spread = "–" if row.num_seeds == 1 else _percent(row.test_accuracy_std)
    return f"{_percent(row.test_accuracy_mean)} ± {spread} ({row.num_seeds})"


def _published(row: ResultRow) -> str:
    return "–" if row.published_accuracy is None else _percent(row.published_accuracy)


def _run(row: ResultRow) -> str:
    return "–" if row.run_id == UNTRACKED else row.run_id[:8]


def _measure(attribute: str, form: Callable[[Any], str]) -> Callable[[ResultRow], str]:
    return lambda row: form(getattr(row, attribute))


_ACCURACY = Column(
    "test accuracy (%)", "mean ± standard deviation over seeds (number of seeds)", _accuracy
)
_PUBLISHED = [
    Column("published (%)", "the number to compare with", _published),
    Column("difference", "ours less the published one, in percentage points", _points),
]
_RUN = Column(
    "MLflow run",
    "that of the training; in a store refilled by `protodl sync` search for "
    "`tags.trained_run_id = '<id>'`",
    _run,
)
# Attributes of ResultRow with heading, form and meaning.
_MEASURES: list[tuple[str, str, Callable[[Any], str], str]] = [
    (
        "decode_agreement_mean",
        "decode agreement",
        _share,
        "prototypes whose decoded picture the network puts into the prototype's class",
    ),
    (
        "cycle_identity_mean",
        "cycle identity",
        _share,
        "prototypes whose decoded picture, encoded again, is nearest to themselves",
    ),
    (
        "independent_agreement_mean",
        "independent agreement",
        _share,
        "prototypes whose decoded picture a plain classifier, which never saw one, puts into the "
        "prototype's class",
    ),
    (
        "independent_reconstruction_agreement_mean",
        "its ceiling",
        _share,
        "validation images whose reconstruction the plain classifier predicts like the image: "
        "what independent agreement can be expected to reach",
    ),
    (
        "case_agreement_mean",
        "case agreement",
        _share,
        "prototypes whose nearest training case has the prototype's class, by its label and in the "
        "plain classifier's verdict",
    ),
    (
        "reconstruction_agreement_mean",
        "reconstruction agreement",
        _share,
        "validation images whose reconstruction gets the same prediction",
    ),
    (
        "purity25_mean",
        "purity@25",
        "{:.2f}".format,
        "share of a prototype's 25 nearest training cases that have its class",
    ),
    ("coverage_min", "coverage", str, "classes with a prototype, in the worst seed"),
    ("train_seconds_mean", "seconds", "{:.0f}".format, "training of one seed"),
    ("num_epochs", "epochs", str, "training of one seed"),
]
MEASURES = [
    Column(heading, meaning, _measure(attribute, form))
    for attribute, heading, form, meaning in _MEASURES
]


def how_made(rows: Sequence[ResultRow]) -> list[str]:
    """How the numbers were made and where the published ones are from, each thing in Markdown."""
    seconds = sum(row.train_seconds_mean * row.num_seeds for row in rows)
    seeds = ", ".join(_distinct(str(seed) for row in rows for seed in row.seeds))
    names = ("processor", "device", "threads", "precision", "torch", "python")
    facts = {name: _facts(rows, name) for name in names}
    paper = load_published().paper
    numbers = [f"{_percent(share)} on {name}" for name, share in paper.test_accuracy.items()]
    return [
        f"Command: `{'make repro' if _on_full_data(rows) else 'make demo'}`; seeds: {seeds}.",
        f"Hardware: {facts['processor']}; device {facts['device']}, threads {facts['threads']}, "
        f"precision {facts['precision']}; torch {facts['torch']}, Python {facts['python']}.",
        f"Training time: {format_seconds(seconds)} for all rows and seeds together.",
        f"Published: {load_published().port.source}. The paper itself reports "
        f"{', '.join(numbers)} ({paper.source}).",
    ]


def _facts(rows: Sequence[ResultRow], name: str) -> str:
    return "; ".join(_distinct(row.environment.get(name, "unknown") for row in rows))


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(values))


def format_seconds(seconds: float) -> str:
    """`50 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes <= 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def row_facts(row: ResultRow, experiment: Experiment) -> list[str]:
    """What is to be known of a row beside its pictures, each thing in Markdown."""
    chosen = ", ".join(
        f"epoch {epoch} (seed {seed})"
        for epoch, seed in zip(row.selected_epochs, row.seeds, strict=True)
    )
    return [
        f"Test accuracy {_percent(row.test_accuracy_mean)} %, validation "
        f"{_percent(row.validation_accuracy_mean)} %. Selected of {row.num_epochs} epochs: "
        f"{chosen}. MLflow run `{row.run_id}`.",
        *_projection(row),
        *_parameters(experiment.model_dump()),
    ]


def _section(row: ResultRow, experiment: Experiment, pictures: Path, cards: Path) -> str:
    """Facts and pictures of one row."""
    card = f"[Model card]({(cards / row.row).as_posix()}.md)"
    parts = [f"## {row.row}", _items([*row_facts(row, experiment), card])]
    folder = (pictures / row.row / "pictures").as_posix()
    for name, caption in PICTURES.items():
        parts += [f"{caption}:", f"![{caption}]({folder}/{name}.png)"]
    return "\n\n".join(parts)


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _projection(row: ResultRow) -> list[str]:
    """What moving the prototypes onto training cases changed; nothing where they were not moved."""
    changes = {
        "test accuracy": ("test_accuracy", row.test_accuracy_mean),
        "decode agreement": ("decode_agreement", row.decode_agreement_mean),
        "cycle identity": ("cycle_identity", row.cycle_identity_mean),
        "independent agreement": ("independent_agreement", row.independent_agreement_mean),
        "case agreement": ("case_agreement", row.case_agreement_mean),
    }
    if not row.unprojected:
        return []
    words = [
        f"{words} {_percent(row.unprojected[name])} → {_percent(after)} %"
        for words, (name, after) in changes.items()
    ]
    return [f"Prototypes moved towards training cases (model.project): {', '.join(words)}."]


def _parameters(parameters: Mapping[str, Any]) -> list[str]:
    """One for each section of a row's parameters, and one for those outside of sections."""
    sections = {key: value for key, value in parameters.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in parameters.items() if key not in sections}
    return [f"{name}: {_listed(values)}" for name, values in {"row": plain, **sections}.items()]


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} `{value}`" for key, value in values.items() if value is not None)
