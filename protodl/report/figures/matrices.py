"""Two pictures of tables: head weights and confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from protodl.report.figures.page import (
    BLUE,
    GREY,
    INK,
    LINE,
    MARGIN,
    ORANGE,
    PAGE_WIDTH,
    Floats,
    Ints,
    _fold,
    _lines,
    _Page,
    _require,
    _styled,
    _text_width,
    _tint,
)
from protodl.report.figures.pixels import Images, Pixels, to_pixels
from protodl.report.figures.prototypes import prototype_order


@_styled
def weights_figure(
    weights: Floats,
    class_names: Sequence[str],
    images: Images | None = None,
    by_class: bool = True,
) -> Figure:
    """The head's weights (K, P), transposed: a row for each prototype, its strongest entry filled.

    Strongest: the most negative, since a small distance then speaks for the class. images: decoded
    prototypes (P, C, H, W). More than 25 rows stand in two blocks, more than 50 in several pairs.
    """
    matrix = np.asarray(weights, dtype=np.float64).T
    _require(matrix.ndim == 2 and 0 not in matrix.shape, f"weights (K, P), got {np.shape(weights)}")
    count, num_classes = matrix.shape
    _require(bool(np.isfinite(matrix).all()), "weights: not all values are finite")
    _require(num_classes == len(class_names), f"{num_classes} rows, {len(class_names)} class names")
    pixels = None if images is None else to_pixels(images, "images")
    _require(pixels is None or len(pixels) == count, f"{count} prototypes need as many images")
    order = list(range(count))
    if by_class:
        order = prototype_order(matrix.argmin(axis=1), matrix.min(axis=1))
    table = _WeightTable.plan(matrix, class_names, pixels)
    wide = 1 if count <= 25 else 2
    pairs = -(-count // (25 * wide))
    rows = -(-count // (pairs * wide))
    height = table.head + rows * table.row + 20
    words = "head weight; filled: strongest evidence (most negative)"
    width = max(wide * (table.width + 18) - 18, round(_text_width(words)))
    page = _Page(width + 2 * MARGIN, MARGIN + pairs * height + 8)
    for block in range(-(-count // rows)):
        corner = (MARGIN + block % wide * (table.width + 18), MARGIN + block // wide * height)
        table.draw(page, order[block * rows : (block + 1) * rows], *corner)
    page.text(MARGIN + width / 2, pairs * height + 4, words, color=GREY)
    return page.figure


@dataclass(frozen=True, eq=False)
class _WeightTable:
    """Sizes in pixels that all blocks of a weight matrix share."""

    matrix: Floats  # (P, K)
    names: Sequence[str]
    turned: bool  # class names upright
    pixels: Pixels | None
    scale: int
    cell: int
    row: int
    head: int
    side: int
    words: Sequence[Sequence[str]]

    @classmethod
    def plan(cls, matrix: Floats, names: Sequence[str], pixels: Pixels | None) -> "_WeightTable":
        """Choose the sizes so that one block, or two beside each other, fill the page at most."""
        count, num_classes = matrix.shape
        scale, thumb, row = 1, 0, 30
        if pixels is not None:
            scale = max(1, round((56 if count <= 15 else 28) / pixels.shape[2]))
            thumb, row = pixels.shape[2] * scale + 6, max(26, pixels.shape[1] * scale + 4)
        side = thumb + round(_text_width("#" + "9" * len(str(count - 1)))) + 6
        room = PAGE_WIDTH - 2 * MARGIN if count <= 25 else (PAGE_WIDTH - 2 * MARGIN - 18) // 2
        limit = max(26, (room - side) // num_classes)
        folded = [_fold(name, min(limit, 64) - 4) for name in names]
        wanted = max(64, round(max(_text_width(name) for name in folded)) + 6)
        cell = limit if wanted > limit else wanted
        turned = max(_text_width(name) for name in folded) > cell - 2
        names = names if turned else folded
        head = LINE * _lines(names) + 8
        if turned:
            head = round(max(_text_width(name) for name in names)) + 10
        words = _weight_words(matrix, cell - 5)
        return cls(matrix, names, turned, pixels, scale, cell, row, head, side, words)

    @property
    def width(self) -> int:
        """Of one block."""
        return self.side + self.cell * len(self.names)

    def draw(self, page: _Page, prototypes: Sequence[int], x: int, y: int) -> None:
        """Draw one block with its top left corner at (x, y)."""
        for k, name in enumerate(self.names):
            middle = x + self.side + (k + 0.5) * self.cell
            if self.turned:
                page.upright(middle, y + self.head - 6, name, va="bottom")
            else:
                page.label(middle, y + self.head - 4, name, upwards=True)
        left, top = x + self.side, y + self.head
        shades = _weight_shades(self.matrix)[list(prototypes)]
        size = (self.cell * shades.shape[1], self.row * len(prototypes))
        page.stretch(shades, left, top, *size)
        for place, p in enumerate(prototypes):
            middle, above = top + (place + 0.5) * self.row, top + place * self.row
            page.rule(x, above, self.width)
            page.text(x, middle, f"#{p}", ha="left", color=GREY)
            if self.pixels is not None:
                start = left - 6 - self.pixels.shape[2] * self.scale
                lift = (self.row - self.pixels.shape[1] * self.scale) // 2
                page.image(self.pixels[p], start, above + lift, self.scale)
            strongest = self.matrix[p].argmin()
            for k, number in enumerate(self.words[p]):
                colour = "white" if k == strongest else INK
                page.text(left + (k + 0.5) * self.cell, middle, number, color=colour)
        page.rule(x, top + len(prototypes) * self.row, self.width)


def _weight_words(matrix: Floats, width: float) -> list[list[str]]:
    """Two decimals where they fit into the cell, else one; below 1 the leading zero goes first."""
    small = bool(np.abs(matrix).max() < 0.995)
    for digits, strip in ((2, False), (2, True), (1, False), (0, False)):
        if strip and not small:
            continue
        words = [[_fixed(value, digits, strip) for value in row] for row in matrix]
        if max(_text_width(word) for word in {w for row in words for w in row}) <= width:
            break
    return words


def _fixed(value: float, digits: int, strip: bool) -> str:
    words = f"{value:z.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return words.replace("0.", ".", 1) if strip else words


def _weight_shades(matrix: Floats) -> Pixels:
    """Blue where a small distance speaks for the class, orange where against: (P, K, 3)."""
    rows, strongest = np.arange(len(matrix)), matrix.argmin(axis=1)
    sizes = np.abs(matrix)
    sizes[rows, strongest] = 0  # filled below: the others keep the whole scale for themselves
    # Few steps make a small file, and are told apart more easily than many.
    shares = np.rint(6 * sizes / max(float(sizes.max()), 1e-12)) / 12
    shades: Pixels = np.where((matrix < 0)[..., None], _tint(shares, BLUE), _tint(shares, ORANGE))
    shades[rows, strongest] = _tint(np.ones(()), BLUE)
    return shades


@_styled
def confusion_figure(counts: Ints, class_names: Sequence[str]) -> Figure:
    """Counts (K, K), a row for each true class; shades are shares of the row.

    Errors have a colour and a scale of their own, so that the diagonal does not drown them.
    """
    counts = np.asarray(counts)
    size = len(class_names)
    _require(counts.shape == (size, size), f"{size} classes, counts of shape {counts.shape}")
    _require(
        np.issubdtype(counts.dtype, np.integer) and bool((counts >= 0).all()), "counts: integers"
    )
    share = 100 * int(np.trace(counts)) / max(int(counts.sum()), 1)
    title = f"accuracy {share:.2f} % of {counts.sum():,} images"
    folded = [_fold(name, 64) for name in class_names]
    widest = max(_text_width(name) for name in folded)
    cell, row = max(46, round(_text_width(f"{counts.max():,}")) + 12), 42
    side = round(max(_text_width(name) for name in class_names)) + 38
    if size <= 12:
        cell = max(cell, round(widest) + 2, min(round(widest) + 8, (960 - side) // size))
    turned = widest > cell
    names = list(class_names) if turned else folded
    tall = max(_text_width(name) for name in names) if turned else LINE * _lines(names)
    head = round(tall) + 68
    wide = max(size * cell + 70, round(_text_width(title, 8, "bold")))
    page = _Page(MARGIN + side + wide + MARGIN, head + size * row + MARGIN)
    page.text(MARGIN + side, 20, title, ha="left", size=8, weight="bold")
    page.text(MARGIN + side + size * cell / 2, 46, "predicted", color=GREY)
    page.upright(MARGIN + 12, head + size * row / 2, "true class", color=GREY)
    page.text(MARGIN + side + size * cell + 70, head - 13, "correct", ha="right", color=GREY)
    page.stretch(_confusion_shades(counts), MARGIN + side, head, size * cell, size * row)
    for k, name in enumerate(names):
        middle = MARGIN + side + (k + 0.5) * cell
        if turned:
            page.upright(middle, head - 6, name, va="bottom")
        else:
            page.label(middle, head - 4, name, upwards=True)
    table = (MARGIN + side, head, cell, row)
    for true in range(size):
        _confusion_row(page, counts[true], true, class_names[true], table)
    return page.figure


def _confusion_row(
    page: _Page, counts: Ints, true: int, name: str, table: tuple[int, int, int, int]
) -> None:
    left, head, cell, row = table
    y = head + (true + 0.5) * row
    page.text(left - 8, y, name, ha="right")
    for k, count in enumerate(counts):
        if count:
            colour = "white" if k == true else INK
            page.text(left + (k + 0.5) * cell, y, f"{int(count):,}", color=colour)
    share = f"{100 * counts[true] / counts.sum():.1f} %" if counts.sum() else "no case"
    page.text(left + len(counts) * cell + 70, y, share, ha="right")


def _confusion_shades(counts: Ints) -> Pixels:
    """Blue diagonal, orange errors up to the largest share of errors: (K, K, 3)."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    errors = np.where(np.eye(len(counts), dtype=bool), 0.0, shares)
    # The root lifts rare errors, which would otherwise all look white beside the worst pair.
    shades = _tint(0.85 * np.sqrt(errors / max(float(errors.max()), 1e-12)), ORANGE)
    correct = _tint(0.7 + 0.3 * shares.diagonal(), BLUE)
    shades[np.arange(len(counts)), np.arange(len(counts))] = correct
    return shades
