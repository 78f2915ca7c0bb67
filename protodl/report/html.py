"""The report as one HTML page that needs nothing beside it: no network, no other file."""

import io
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from protodl.core.config import Params
from protodl.core.training_log import ResultsError
from protodl.data.datasets import DATASETS
from protodl.report.cards import templates
from protodl.report.figures.page import to_array
from protodl.report.results import ResultRow
from protodl.report.results_page import captions, how_made, picture_path, row_facts
from protodl.report.sheets import prototypes_of
from protodl.report.tables import SAMPLE_NOTE, below, on_full_data, protocol, tables

OPEN = ("reasons", "samples", "prototypes")  # pictures of a row; the others unfold
KINDS = {  # of explained test images, in the order of the page
    "correct": "Right, by the largest margin",
    "borderline": "A close call, by the smallest margin between two classes",
    "wrong": "Wrong, by the largest margin",
}
SHEET_COLOURS = 64  # of an explained image: the page is to be sent by mail, the files are exact
CARD_LEVEL = 4  # of the headings in a model card, which stands below a heading of level 3

# It escapes HTML and makes no links that run scripts, so what it gives is safe markup.
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Picture:
    """A picture as part of the page; its size in pixels."""

    source: str  # data URI
    width: int
    height: int
    text: str  # what it shows
    caption: str = ""

    @classmethod
    def read(cls, path: Path, text: str, caption: str = "", colours: int | None = None) -> Self:
        """Read a PNG file; the same pixels as WebP take half of the room, fewer colours still less.

        Raises:
            OSError: there is no file.
            ResultsError: it is not a PNG.
        """
        try:
            with Image.open(path, formats=["PNG"]) as image:
                pixels = image.convert("RGB")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ResultsError(f"{path}: is not a PNG; run `dvc repro`") from error
        if colours is not None:
            fewer = pixels.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            pixels = fewer.convert("RGB")
        return cls.of(pixels, text, caption)

    @classmethod
    def of(cls, pixels: Image.Image, text: str, caption: str = "") -> Self:
        """An image in RGB."""
        data = io.BytesIO()
        pixels.save(data, "WEBP", lossless=True)
        source = f"data:image/webp;base64,{b64encode(data.getvalue()).decode()}"
        return cls(source, *pixels.size, text, caption)


def html_report(
    rows: Sequence[ResultRow], params: Params, folder: Path, cards: Path, overview: Path
) -> str:
    """The page.

    Args:
        rows: the table.
        params: params.yaml.
        folder: results/rows; a row's explanations are left out where there are none.
        cards: folder of the model cards, <row>.md; those that are missing are left out.
        overview: the picture at the head of the page.

    Raises:
        ResultsError: a file is not what its name says.
        OSError: a picture is missing.
    """
    head = (
        "One image of each data set above its reconstruction, and the prototypes it was recognised "
        "by, each below the training case nearest to it"
    )
    environment = templates(autoescape=True)
    environment.filters["inline"] = _inline
    return environment.get_template("report.html").render(
        protocol=protocol(rows),
        below=below(rows),
        overview=Picture.read(overview, head),
        sample_note="" if on_full_data(rows) else SAMPLE_NOTE,
        shipped=None if on_full_data(rows) else _shipped(rows),
        tables=tables(rows),
        how=how_made(rows),
        sections=[_section(row, params, folder, cards / f"{row.row}.md") for row in rows],
    )


def _shipped(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """What the weights that come with protodl reach, and a picture where the sample teaches little.

    A row is shown for each data set of which the sample's best row is wrong more often than right.
    """
    from protodl.explanation.loading import shipped_accuracy, shipped_model, shipped_rows

    have = [row for row in rows if row.row in shipped_rows()]
    best: dict[str, ResultRow] = {}
    for row in have:
        better = best.setdefault(row.dataset, row)
        if row.mean["test_accuracy"] > better.mean["test_accuracy"]:
            best[row.dataset] = row
    hopeless = [row for row in best.values() if row.mean["test_accuracy"] < 0.5]
    pictures = []
    for row in hopeless:
        caption = (
            f"{row.row} by the shipped weights: each prototype below the training image nearest to "
            f"it. {shipped_accuracy(row.row):.1f} % of the test images are right."
        )
        figure = prototypes_of(shipped_model(row.row))
        pictures.append(Picture.of(Image.fromarray(to_array(figure)), caption, caption))
    accuracies = [f"{row.row} {shipped_accuracy(row.row):.2f} %" for row in have]
    titles = [DATASETS[row.dataset].title for row in hopeless]
    return {"accuracies": ", ".join(accuracies), "titles": titles, "pictures": pictures}


def _section(row: ResultRow, params: Params, folder: Path, card: Path) -> dict[str, Any]:
    """What the page shows of one row."""
    pictures = {
        name: Picture.read(picture_path(folder, row.row, name), f"{row.row}: {caption}", caption)
        for name, caption in captions(row).items()
    }
    return {
        "row": row,
        "facts": row_facts(row, params),
        "open": [picture for name, picture in pictures.items() if name in OPEN],
        "folded": [picture for name, picture in pictures.items() if name not in OPEN],
        "gallery": list(_gallery(folder / row.row / "explanations")),
        "explanations": (folder / row.row / "explanations").as_posix(),
        "card": _card(card.read_text(encoding="utf-8")) if card.is_file() else None,
    }


def _gallery(folder: Path) -> Iterator[tuple[str, Picture]]:
    """The first explained test image of each kind that has any: <kind>-1.png and .json."""
    for kind, words in KINDS.items():
        path = folder / f"{kind}-1.json"
        if path.is_file():
            yield words, _explained(path)


def _explained(path: Path) -> Picture:
    try:
        caption = str(json.loads(path.read_text(encoding="utf-8"))["caption"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ResultsError(f"{path}: is no explanation ({reason}); run `dvc repro`") from None
    text = f"Explanation: {caption}"
    return Picture.read(path.with_suffix(".png"), text, caption, SHEET_COLOURS)


def _inline(text: str) -> Markup:
    """A line of Markdown as HTML; HTML in it is escaped."""
    return Markup(_markdown.renderInline(text))  # noqa: S704


def _card(text: str) -> Markup:
    """A model card as HTML, its headings below the page's."""
    tokens = _markdown.parse(text)
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{int(token.tag[1]) + CARD_LEVEL - 1}"
    return Markup(_markdown.renderer.render(tokens, _markdown.options, {}))  # noqa: S704
