"""Grids of images: reconstructions below their originals, and all decoded prototypes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from protodl.report.figures.page import (
    GREY,
    INK,
    LINE,
    MARGIN,
    PAGE_WIDTH,
    VERMILION,
    Floats,
    Ints,
    Page,
    break_name,
    number_words,
    require,
    styled,
    text_width,
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


def prototype_order(classes: Ints, weights: Floats) -> list[int]:
    """Prototypes of a class beside each other, the one with the most negative weight first."""
    return [int(index) for index in np.lexsort((np.asarray(weights), np.asarray(classes)))]


@styled
def prototypes_figure(
    images: Images,
    classes: Ints,
    weights: Floats,
    class_names: Sequence[str],
) -> Figure:
    """Decoded prototypes (P, C, H, W), each with its class, number and head weight for that class.

    classes, weights: (P,). Sorted as `prototype_order` says; classes without a prototype are named
    below.
    """
    pixels = to_pixels(images, "images")
    count, height, width, _ = pixels.shape
    require(
        len(classes) == len(weights) == count, f"{count} images need as many classes and weights"
    )
    order = prototype_order(classes, weights)
    scale = max(1, round((112 if count <= 15 else 84 if count <= 60 else 56) / width))
    numbers = [f"#{p} {number_words(float(weights[p]))}" for p in range(count)]
    labels = max(text_width(words) for words in [*class_names, *numbers])
    cell = round(max(width * scale, labels)) + 6
    columns = _columns(count, cell)
    row = height * scale + 48
    rows = -(-count // columns)
    caption = _coverage_lines(classes, class_names)
    wide = max(columns * cell - 6, *(round(text_width(words)) for words, _ in caption))
    page = Page(wide + 2 * MARGIN, MARGIN + rows * row + 10 + 20 * len(caption))
    left = (wide - columns * cell + 6) // 2 + MARGIN
    for place, p in enumerate(order):
        x, y = left + place % columns * cell, MARGIN + place // columns * row
        middle, end = x + (cell - 6) / 2, y + height * scale
        page.image(pixels[p], x + (cell - 6 - width * scale) // 2, y, scale)
        page.text(middle, end + 13, class_names[int(classes[p])])
        page.text(middle, end + 31, numbers[p], color=GREY)
    for index, (words, colour) in enumerate(caption):
        y = MARGIN + rows * row + 12 + 20 * index
        page.text(wide / 2 + MARGIN, y, words, color=colour)
    return page.figure


def _columns(count: int, cell: int) -> int:
    """As many columns as the page takes, rows as even as can be; up to 15 stand in fives."""
    fitting = max(1, (PAGE_WIDTH - 2 * MARGIN) // cell)
    fitting = min(fitting, 5 if count <= 15 else 10 if count <= 60 else 20)
    return -(-count // -(-count // fitting))


def _coverage_lines(classes: Ints, class_names: Sequence[str]) -> list[tuple[str, str]]:
    covered = {int(c) for c in classes}
    missing = [name for index, name in enumerate(class_names) if index not in covered]
    count = f"{len(classes)} prototype{'' if len(classes) == 1 else 's'}"
    lines = [(f"{count}; #number and head weight (most negative: most evidence)", GREY)]
    for start in range(0, len(missing), 5):
        names = ", ".join(missing[start : start + 5])
        end = "," if start + 5 < len(missing) else ""
        lines.append((f"{'' if start else 'without a prototype: '}{names}{end}", VERMILION))
    return lines
