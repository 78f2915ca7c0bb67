"""All decoded prototypes of a network, by class, with the training images nearest to them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from protodl.report.figures.page import (
    GREY,
    MARGIN,
    PAGE_WIDTH,
    VERMILION,
    Floats,
    Ints,
    Page,
    number_words,
    require,
    styled,
    text_width,
)
from protodl.report.figures.pixels import Images, Pixels, to_pixels

GAP = 2  # pixels between a case and the prototype below it


def prototype_order(classes: Ints, weights: Floats) -> list[int]:
    """Prototypes of a class beside each other, the one with the most negative weight first."""
    return [int(index) for index in np.lexsort((np.asarray(weights), np.asarray(classes)))]


@styled
def prototypes_figure(
    images: Images,
    classes: Ints,
    weights: Floats,
    class_names: Sequence[str],
    cases: Images,
) -> Figure:
    """Decoded prototypes, each below its nearest training case and above class, number and weight.

    Sorted as `prototype_order` says; classes without a prototype are named below.

    Args:
        images: the decoded prototypes (P, C, H, W).
        classes: (P,) class of each.
        weights: (P,) of the head, for that class.
        class_names: K of them.
        cases: the training images (P, C, H, W) nearest to the prototypes.

    Raises:
        ValueError: shapes do not fit together.
    """
    pixels, above = to_pixels(images, "images"), to_pixels(cases, "cases")
    count, height, width, _ = pixels.shape
    require(
        len(classes) == len(weights) == count, f"{count} images need as many classes and weights"
    )
    require(above.shape == pixels.shape, f"images {pixels.shape} and cases {above.shape}")
    order = prototype_order(classes, weights)
    scale = max(1, round((84 if count <= 15 else 70 if count <= 60 else 56) / width))
    numbers = [f"#{p} {number_words(float(weights[p]))}" for p in range(count)]
    labels = max(text_width(words) for words in [*class_names, *numbers])
    cell = round(max(width * scale, labels)) + 6
    columns = _columns(count, cell)
    row = 2 * height * scale + GAP + 52
    rows = -(-count // columns)
    caption = _coverage_lines(classes, class_names)
    wide = max(columns * cell - 6, *(round(text_width(words)) for words, _ in caption))
    page = Page(wide + 2 * MARGIN, MARGIN + rows * row + 10 + 20 * len(caption))
    left = (wide - columns * cell + 6) // 2 + MARGIN
    for place, p in enumerate(order):
        x, y = left + place % columns * cell, MARGIN + place // columns * row
        words = class_names[int(classes[p])], numbers[p]
        _draw_prototype(page, (above[p], pixels[p]), words, x + (cell - 6) / 2, y, scale)
    for index, (line, colour) in enumerate(caption):
        y = MARGIN + rows * row + 12 + 20 * index
        page.text(wide / 2 + MARGIN, y, line, color=colour)
    return page.figure


def _draw_prototype(
    page: Page,
    pictures: tuple[Pixels, Pixels],
    words: tuple[str, str],
    x: float,
    y: int,
    scale: int,
) -> None:
    """Draw a case, the decoded prototype (H, W, C) below it, and words, their middle at x."""
    for pixels in pictures:
        height, width, _ = pixels.shape
        page.image(pixels, round(x - width * scale / 2), y, scale)
        y += height * scale + GAP
    page.text(x, y + 13 - GAP, words[0])
    page.text(x, y + 31 - GAP, words[1], color=GREY)


def _columns(count: int, cell: int) -> int:
    """As many columns as the page takes, rows as even as can be; up to 15 stand in fives."""
    fitting = max(1, (PAGE_WIDTH - 2 * MARGIN) // cell)
    fitting = min(fitting, 5 if count <= 15 else 10 if count <= 60 else 20)
    return -(-count // -(-count // fitting))


def _coverage_lines(classes: Ints, class_names: Sequence[str]) -> list[tuple[str, str]]:
    covered = {int(c) for c in classes}
    missing = [name for index, name in enumerate(class_names) if index not in covered]
    count = f"{len(classes)} prototype{'' if len(classes) == 1 else 's'}"
    lines = [
        (f"{count}: the nearest training case, and below it the prototype, decoded", GREY),
        ("#number and head weight (most negative: most evidence)", GREY),
    ]
    for start in range(0, len(missing), 5):
        names = ", ".join(missing[start : start + 5])
        end = "," if start + 5 < len(missing) else ""
        lines.append((f"{'' if start else 'without a prototype: '}{names}{end}", VERMILION))
    return lines
