"""Images above their reconstructions, with true and predicted class."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from protodl.report.figures.page import (
    GREY,
    INK,
    LINE,
    MARGIN,
    VERMILION,
    Page,
    break_name,
    require,
    styled,
)
from protodl.report.figures.pixels import Images, to_pixels

COLUMNS = 10  # of samples


@styled
def samples_figure(
    originals: Images,
    reconstructions: Images,
    labels: Sequence[str] = (),
    predictions: Sequence[str] = (),
) -> Figure:
    """Originals (N, C, H, W) above their reconstructions, true class on top, predicted class below.

    A wrong prediction stands out by colour and weight. labels, predictions: N names, or none;
    ValueError where shapes or numbers do not fit together.
    """
    top = to_pixels(originals, "originals")
    bottom = to_pixels(reconstructions, "reconstructions")
    require(top.shape == bottom.shape, f"originals {top.shape} and reconstructions {bottom.shape}")
    count, height, width, _ = top.shape
    for names in (labels, predictions):
        require(len(names) in (0, count), f"{count} images, but {len(names)} labels or predictions")
    scale = max(1, round(84 / width))
    cell, tall, side = width * scale + 4, height * scale, 26
    above = [break_name(name, cell) for name in labels] or [""] * count
    below = [break_name(name, cell) for name in predictions] or [""] * count
    head, foot = (
        LINE * max(name.count("\n") + bool(name) for name in names) + 4 for names in (above, below)
    )
    columns, block = min(COLUMNS, count), head + 2 * tall + 4 + foot + 12
    page = Page(side + columns * cell + MARGIN, MARGIN + -(-count // columns) * block)
    for index in range(count):
        x, y = side + index % columns * cell, MARGIN + index // columns * block + head
        if x == side:
            page.upright(side - 12, y + tall / 2, "original", color=GREY)
            page.upright(side - 12, y + tall / 2 + tall + 4, "decoded", color=GREY)
        page.image(top[index], x, y, scale)
        page.image(bottom[index], x, y + tall + 4, scale)
        wrong = bool(above[index]) and above[index] != below[index]
        colour, weight = (VERMILION, "bold") if wrong else (INK, "normal")
        middle, upper = x + (cell - 4) / 2, y - 3 - LINE * (1 + above[index].count("\n"))
        _write_down(page, middle, upper, above[index])
        _write_down(page, middle, y + 2 * tall + 8, below[index], color=colour, weight=weight)
    return page.figure


def _write_down(page: Page, x: float, y: float, words: str, **style: Any) -> None:
    for number, line in enumerate(words.split("\n")):
        page.text(x, y + LINE * (number + 0.5), line, **style)
