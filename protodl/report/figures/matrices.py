"""Two matrices as coloured cells with their numbers: head weights and confusion of classes.

Shapes: P prototypes, K classes, R rows and C columns of any matrix.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from protodl.report.figures.page import (
    BLUE,
    DPI,
    GREY,
    INK,
    LINE,
    MARGIN,
    MINUS,
    ORANGE,
    PAGE_WIDTH,
    RULE,
    Floats,
    Ints,
    Page,
    break_name,
    number_words,
    require,
    styled,
    text_width,
    tint,
)
from protodl.report.figures.pixels import Images, Pixels, to_pixels
from protodl.report.figures.prototypes import prototype_order

BLOCK_ROWS = 25  # prototypes below each other at most; more stand in blocks beside each other
BLOCK_GAP = 18  # pixels between two blocks
CONFUSION_ROW = 42  # height in pixels
DARK = 150  # brightness (0 to 255) of a cell below which its number is white


def _draw_matrix(
    page: Page,
    shades: Pixels,
    words: Sequence[Sequence[str]],
    names: tuple[Sequence[str], Sequence[str]],
    corner: tuple[int, int],
    cell: tuple[int, int],
) -> Axes:
    """Draw one cell for each entry, with its words as large as fit, and names beside and above.

    Args:
        page: what to draw on.
        shades: colours (R, C, 3).
        words: R lists of C texts.
        names: R of rows and C of columns.
        corner: left and upper edge of the cells, in pixels of the page.
        cell: width and height in pixels.

    Returns:
        Axes in which the centre of row r, column c is the point (c, r).
    """
    height, width, _ = shades.shape
    axes = page.inset(*corner, width * cell[0], height * cell[1])
    axes.imshow(shades, aspect="auto", interpolation="nearest")
    axes.set_autoscale_on(False)
    columns, upright, _ = _above(names[1], cell[0])
    axes.set_xticks(range(width), columns, rotation=90 * upright)
    axes.set_yticks(range(height), names[0])
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    widest = text_width("\n".join({number for row in words for number in row}))
    size = 7 * min(1, (cell[0] - 5) / max(widest, 1))
    for (r, c), brightness in np.ndenumerate(shades @ np.array([0.299, 0.587, 0.114])):
        colour = "white" if brightness < DARK else INK
        axes.text(c, r, words[r][c], ha="center", va="center_baseline", color=colour, size=size)
    return axes


def _column_width(names: Sequence[str], smallest: int, largest: int) -> int:
    """As wide as names above need, within limits; in pixels."""
    widest = text_width("\n".join(break_name(name, 60) for name in names))
    return min(max(smallest, round(widest) + 6), largest)


def _above(names: Sequence[str], width: int) -> tuple[Sequence[str], bool, int]:
    """Names as written above columns, whether upright as wider than these, height in pixels."""
    broken = [break_name(name, 60) for name in names]
    if text_width("\n".join(broken)) > width:
        return names, True, round(max(text_width(name) for name in names)) + 10
    return broken, False, LINE * max(name.count("\n") + 1 for name in broken) + 8


@styled
def weights_figure(
    weights: Floats, class_names: Sequence[str], images: Images | None = None
) -> Figure:
    """Draw the head's weights, a row for each prototype, its strongest entry in full colour.

    Strongest: the most negative weight, with which a small distance speaks for the class.

    Args:
        weights: (K, P), as the head has them.
        class_names: K of them.
        images: decoded prototypes (P, C, H, W), shown beside their rows.

    Raises:
        ValueError: shapes do not fit together.
    """
    size, count = weights.shape
    require(size == len(class_names), f"{size} rows, {len(class_names)} class names")
    pixels = np.zeros((count, 0, 0, 1), np.uint8) if images is None else to_pixels(images, "images")
    require(len(pixels) == count, f"{count} prototypes need as many images")
    scale = max(1, round((56 if count <= 15 else 28) / max(pixels.shape[2], 1)))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    side = pixels.shape[2] + round(text_width("#" + "9" * len(str(count - 1)))) + 14
    beside = 1 if count <= BLOCK_ROWS else 2
    room = (PAGE_WIDTH - 2 * MARGIN - BLOCK_GAP * (beside - 1)) // beside - side
    cell = _column_width(class_names, 64, max(26, room // size)), max(30, pixels.shape[1] + 4)
    head, step = _above(class_names, cell[0])[2], side + size * cell[0] + BLOCK_GAP
    bottom = MARGIN + head + -(-count // beside) * cell[1]
    legend = "head weight; filled: strongest evidence (most negative)"
    width = max(beside * step - BLOCK_GAP, round(text_width(legend)))
    page = Page(width + 2 * MARGIN, bottom + 28)
    page.text(MARGIN + width / 2, bottom + 14, legend, color=GREY)
    order = prototype_order(weights.argmin(axis=0), weights.min(axis=0))
    for block, shown in enumerate(np.array_split(order, beside)):
        left, top = MARGIN + block * step + side, MARGIN + head
        words = [[_weight_words(value, beside) for value in weights[:, p]] for p in shown]
        names, shades = ([f"#{p}" for p in shown], class_names), _weight_shades(weights.T)[shown]
        axes = _draw_matrix(page, shades, words, names, (left, top), cell)
        _draw_prototypes(page, pixels[shown], axes, left, top, side)
    return page.figure


def _weight_words(value: float, beside: int) -> str:
    """A weight; with one digit where blocks stand beside each other, whose cells are narrow."""
    return number_words(value) if beside == 1 else f"{value:z.1f}".replace("-", MINUS)


def _draw_prototypes(
    page: Page, pixels: Pixels, axes: Axes, left: int, top: int, side: int
) -> None:
    """Make room left of the cells for decoded prototypes (R, H, W, C), and draw them there."""
    rows, high, wide, _ = pixels.shape
    axes.tick_params(axis="y", pad=(wide + 8) * 72 / DPI, labelcolor=GREY)
    box, (start, end) = axes.bbox, axes.get_xlim()
    start -= side / box.width * (end - start)
    edges = np.arange(rows + 1) - 0.5
    axes.hlines(edges, start, end, RULE, linewidth=0.6, clip_on=False)
    step = round(box.height / rows)
    for row in range(rows if wide else 0):
        page.image(pixels[row], left - 6 - wide, top + row * step + (step - high) // 2, 1)


def _weight_shades(matrix: Floats) -> Pixels:
    """Blue where a small distance speaks for the class, orange where against: (P, K, 3)."""
    rows, strongest = np.arange(len(matrix)), matrix.argmin(axis=1)
    sizes = np.abs(matrix)
    sizes[rows, strongest] = 0  # filled below: the others keep the whole scale for themselves
    # Six steps make a small file, and differ more visibly than a smooth scale.
    shares = np.rint(6 * sizes / max(float(sizes.max()), 1e-12)) / 12
    shades: Pixels = np.where((matrix < 0)[..., None], tint(shares, BLUE), tint(shares, ORANGE))
    shades[rows, strongest] = tint(np.ones(()), BLUE)
    return shades


@styled
def confusion_figure(counts: Ints, class_names: Sequence[str], seed: int) -> Figure:
    """Draw how often images of each class were taken for each class by one seed's network.

    Shades are shares of the row. Errors have a colour and a scale of their own, so that the
    diagonal does not drown them.

    Args:
        counts: (K, K), a row for each true class, a column for each predicted one.
        class_names: K of them.
        seed: named in the title.

    Raises:
        ValueError: counts are not K x K.
    """
    size, totals = len(class_names), counts.sum(axis=1)
    require(counts.shape == (size, size), f"{size} classes, counts of shape {counts.shape}")
    share = 100 * int(np.trace(counts)) / max(int(counts.sum()), 1)
    title = f"seed {seed}: accuracy {share:.2f} % of {counts.sum():,} test images"
    left = MARGIN + 38 + round(text_width("\n".join(class_names)))
    smallest = max(46, round(text_width(f"{counts.max():,}")) + 12)
    column = _column_width(class_names, smallest, max(smallest, (970 - left) // size))
    right, head = left + size * column, _above(class_names, column)[2] + 60
    width = max(right + 70, left + round(text_width(title, 8, "bold")))
    page = Page(width + MARGIN, head + size * CONFUSION_ROW + MARGIN)
    words = [[f"{count:,}" if count else "" for count in row] for row in counts]
    names, cell = (class_names, class_names), (column, CONFUSION_ROW)
    axes = _draw_matrix(page, _confusion_shades(counts), words, names, (left, head), cell)
    axes.tick_params(axis="y", pad=4)
    page.text(left, 20, title, ha="left", size=8, weight="bold")
    page.text((left + right) / 2, 46, "predicted", color=GREY)
    page.upright(MARGIN + 12, head + size * CONFUSION_ROW / 2, "true class", color=GREY)
    page.text(right + 70, head - 13, "correct", ha="right", color=GREY)
    for true, (count, total) in enumerate(zip(counts.diagonal(), totals, strict=True)):
        correct = f"{100 * count / total:.1f} %" if total else "no image"
        page.text(right + 70, head + (true + 0.5) * CONFUSION_ROW, correct, ha="right")
    return page.figure


def _confusion_shades(counts: Ints) -> Pixels:
    """Blue diagonal, orange errors up to the largest share of errors: (K, K, 3)."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    errors = np.where(np.eye(len(counts), dtype=bool), 0.0, shares)
    # The root lifts rare errors, which would otherwise all look white beside the worst pair.
    shades = tint(0.85 * np.sqrt(errors / max(float(errors.max()), 1e-12)), ORANGE)
    correct = tint(0.7 + 0.3 * shares.diagonal(), BLUE)
    shades[np.arange(len(counts)), np.arange(len(counts))] = correct
    return shades
