"""One image beside its nearest prototypes and what each of them contributes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from protodl.core.files import write_bytes
from protodl.report.figures.page import (
    BLUE,
    BOX,
    GREEN,
    GREY,
    INK,
    MARGIN,
    STEP,
    VERMILION,
    Floats,
    _boxed,
    _number,
    _Page,
    _png,
    _require,
    _signed,
    _styled,
)
from protodl.report.figures.pixels import Images, to_pixels

HEAD = 46  # height of the words above the first case
VERDICT, REASONS = MARGIN + 2 * STEP + 79, MARGIN + 2 * STEP + 178  # middle of one, left of other


@dataclass(frozen=True, eq=False)
class Case:
    """One image, what the network made of it, and the k prototypes that it is closest to."""

    title: str  # the data set
    image: Images  # (C, H, W)
    reconstruction: Images  # (C, H, W)
    label: str  # names, not numbers
    prediction: str
    prototypes: Images  # (k, C, H, W), decoded, nearest first
    prototype_classes: Sequence[str]
    distances: Floats  # (k,)
    contributions: Floats  # (k,), positive: speaks for the predicted class


@_styled
def reasons_figure(cases: Sequence[Case]) -> Figure:
    """A row for each case, read as a sentence: this is a 7 because it looks like those."""
    _require(bool(cases), "reasons_figure: no case")
    shown = max(len(case.prototypes) for case in cases)
    _require(shown > 0, "reasons_figure: a case without a prototype")
    page = _Page(REASONS + shown * STEP + 8, HEAD + len(cases) * 236)
    heads = (
        (MARGIN + BOX / 2, "This image"),
        (MARGIN + STEP + BOX / 2, "(reconstructed)"),
        (VERDICT, "is classified as"),
        (REASONS + (shown * STEP - STEP + BOX) / 2, "because it looks like these prototypes"),
    )
    for middle, words in heads:
        page.text(middle, 20, words, size=8, weight="normal" if "(" in words else "bold")
    for index, case in enumerate(cases):
        y = HEAD + index * 236
        if index:
            page.rule(MARGIN, y - 9, REASONS + shown * STEP - 20)
        _draw_case(page, case, y + 6)
    return page.figure


def stack_reasons(pictures: Sequence[Path], output: Path) -> None:
    """Put saved reasons figures below each other, the words at their head once."""
    opened = [Image.open(path).convert("RGB") for path in pictures]
    parts = [
        picture.crop((0, HEAD if index else 0, picture.width, picture.height))
        for index, picture in enumerate(opened)
    ]
    size = (max(part.width for part in parts), sum(part.height for part in parts))
    page = Image.new("RGB", size, "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(_png(page), output)


def _draw_case(page: _Page, case: Case, y: int) -> None:
    pair = to_pixels(np.stack([case.image, case.reconstruction]), case.title)
    _boxed(page, pair[0], MARGIN, y)
    _boxed(page, pair[1], MARGIN + STEP, y)
    page.text(MARGIN + BOX / 2, y + BOX + 17, case.title, color=GREY)
    right = case.label == case.prediction
    size = 28 if len(case.prediction) <= 2 else 12
    page.text(
        VERDICT, y + BOX / 2, case.prediction, size=size, weight="bold",
        color=INK if right else VERMILION,
    )  # fmt: skip
    truth = "correct" if right else f"true class: {case.label}"
    page.text(VERDICT, y + BOX + 17, truth, color=GREEN if right else VERMILION)
    pixels = to_pixels(case.prototypes, case.title)
    largest = max(float(np.abs(case.contributions).max()), 1e-12)
    for k in range(len(pixels)):
        x, middle = REASONS + k * STEP, REASONS + k * STEP + BOX / 2
        _boxed(page, pixels[k], x, y)
        same = case.prototype_classes[k] == case.prediction
        name, weight = case.prototype_classes[k], "bold" if same else "normal"
        page.text(middle, y + BOX + 17, name, weight=weight)
        page.text(middle, y + BOX + 36, f"distance {_number(float(case.distances[k]))}", color=GREY)
        share = float(case.contributions[k])
        words = f"contribution {_signed(share)}"
        page.text(middle, y + BOX + 54, words, color=BLUE if share > 0 else VERMILION)
        page.bar(x + 2, y + BOX + 66, (BOX - 4) * abs(share) / largest, share > 0)
