"""Two matrices as coloured cells with their numbers: head weights and confusion of classes.

Shapes: P prototypes, K classes, R rows and C columns of any matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

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


@dataclass(frozen=True)
class _Columns:
    """The columns of a matrix: their names, how these are written, and the width in pixels."""

    names: Sequence[str]
    upright: bool
    width: int

    @classmethod
    def fitting(cls, names: Sequence[str], smallest: int, largest: int) -> Self:
        """As wide as the names need, within limits; names that are still wider stand upright."""
        broken = [break_name(name, 60) for name in names]
        widest = text_width("\n".join(broken))
        width = min(max(smallest, round(widest) + 6), largest)
        upright = widest > width
        return cls(names if upright else broken, upright, width)

    @property
    def height(self) -> int:
        """Height in pixels of the names above the cells."""
        if self.upright:
            return round(max(text_width(name) for name in self.names)) + 10
        return LINE * max(name.count("\n") + 1 for name in self.names) + 8


def _draw_matrix(
    page: Page,
    shades: Pixels,
    words: Sequence[Sequence[str]],
    row_names: Sequence[str],
    columns: _Columns,
    corner: tuple[int, int],
    row_height: int,
) -> Axes:
    """Draw one cell for each entry, with its words, below and beside the names.

    Args:
        page: what to draw on.
        shades: colours (R, C, 3).
        words: R lists of C texts.
        row_names: R names.
        columns: the C columns.
        corner: left and upper edge of the cells, in pixels of the page.
        row_height: in pixels.

    Returns:
        Axes in which the centre of row r, column c is the point (c, r).
    """
    height, width, _ = shades.shape
    axes = page.inset(*corner, width * columns.width, height * row_height)
    axes.imshow(shades, aspect="auto", interpolation="nearest")
    axes.set_autoscale_on(False)
    axes.set_xticks(range(width), columns.names, rotation=90 if columns.upright else 0)
    axes.set_yticks(range(height), row_names)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    brightness = shades @ np.array([0.299, 0.587, 0.114])
    for (r, c), value in np.ndenumerate(brightness):
        colour = "white" if value < DARK else INK
        axes.text(c, r, words[r][c], ha="center", va="center_baseline", color=colour)
    return axes


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
        ValueError: shapes do not fit together, or a weight is not finite.
    """
    matrix = np.asarray(weights, dtype=np.float64).T
    require(matrix.ndim == 2 and 0 not in matrix.shape, f"weights (K, P), got {np.shape(weights)}")
    count, num_classes = matrix.shape
    require(bool(np.isfinite(matrix).all()), "weights: not all values are finite")
    require(num_classes == len(class_names), f"{num_classes} rows, {len(class_names)} class names")
    pixels = np.zeros((count, 0, 0, 1), np.uint8) if images is None else to_pixels(images, "images")
    require(len(pixels) == count, f"{count} prototypes need as many images")
    table = _WeightTable.fitting(matrix, class_names, pixels)
    order = prototype_order(matrix.argmin(axis=1), matrix.min(axis=1))
    beside = 1 if count <= BLOCK_ROWS else 2
    bands = -(-count // (BLOCK_ROWS * beside))
    rows = -(-count // (bands * beside))
    high = table.columns.height + rows * table.row_height + 20
    legend = "head weight; filled: strongest evidence (most negative)"
    width = max(beside * (table.width + BLOCK_GAP) - BLOCK_GAP, round(text_width(legend)))
    page = Page(width + 2 * MARGIN, MARGIN + bands * high + 8)
    for start in range(0, count, rows):
        band, block = divmod(start // rows, beside)
        corner = (MARGIN + block * (table.width + BLOCK_GAP), MARGIN + band * high)
        table.draw_block(page, order[start : start + rows], corner)
    page.text(MARGIN + width / 2, bands * high + 4, legend, color=GREY)
    return page.figure


@dataclass(frozen=True, eq=False)
class _WeightTable:
    """What all blocks of a weight matrix share."""

    matrix: Floats  # (P, K)
    columns: _Columns
    pixels: Pixels  # (P, H, W, C), enlarged; H and W are 0 where there are no pictures
    side: int  # pixels left of the cells: a prototype's number and picture
    row_height: int

    @classmethod
    def fitting(cls, matrix: Floats, names: Sequence[str], pixels: Pixels) -> Self:
        """Choose sizes with which one block, or two beside each other, fill the page at most."""
        count, num_classes = matrix.shape
        scale = max(1, round((56 if count <= 15 else 28) / max(pixels.shape[2], 1)))
        pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
        row_height = max(26, pixels.shape[1] + 4) if pixels.size else 30
        side = pixels.shape[2] + round(text_width("#" + "9" * len(str(count - 1)))) + 14
        room = PAGE_WIDTH - 2 * MARGIN
        if count > BLOCK_ROWS:
            room = (room - BLOCK_GAP) // 2
        columns = _Columns.fitting(names, 64, max(26, (room - side) // num_classes))
        return cls(matrix, columns, pixels, side, row_height)

    @property
    def width(self) -> int:
        """Width of a block in pixels."""
        return self.side + self.columns.width * len(self.columns.names)

    def draw_block(self, page: Page, prototypes: Sequence[int], corner: tuple[int, int]) -> None:
        """Draw the rows of these prototypes, the block's left upper corner at `corner`."""
        left, top = corner[0] + self.side, corner[1] + self.columns.height
        numbers = _weight_words(self.matrix, self.columns.width - 5)
        axes = _draw_matrix(
            page,
            _weight_shades(self.matrix)[prototypes],
            [numbers[p] for p in prototypes],
            [f"#{p}" for p in prototypes],
            self.columns,
            (left, top),
            self.row_height,
        )
        _, high, wide, _ = self.pixels.shape
        axes.tick_params(axis="y", pad=(wide + 8) * 72 / DPI, labelcolor=GREY)
        start, end = -0.5 - self.side / self.columns.width, self.matrix.shape[1] - 0.5
        edges = np.arange(len(prototypes) + 1) - 0.5
        axes.hlines(edges, start, end, color=RULE, linewidth=0.6, clip_on=False)
        for place, p in enumerate(prototypes if wide else []):
            y = top + place * self.row_height + (self.row_height - high) // 2
            page.image(self.pixels[p], left - 6 - wide, y, 1)


def _weight_words(matrix: Floats, width: float) -> list[list[str]]:
    """Weights with as many digits as fit into `width` pixels: -0.12, or -.12, or -0.1, or -0."""
    small = bool(np.abs(matrix).max() < 0.995)
    for digits, zero in ((2, "0."), (2, "."), (1, "0."), (0, "0.")):
        if zero == "." and not small:
            continue
        words = [
            [f"{value:z.{digits}f}".replace("-", MINUS).replace("0.", zero, 1) for value in row]
            for row in matrix
        ]
        if text_width("\n".join({word for row in words for word in row})) <= width:
            break
    return words


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
        ValueError: counts are not K x K integers of 0 or more.
    """
    counts = np.asarray(counts)
    size = len(class_names)
    require(counts.shape == (size, size), f"{size} classes, counts of shape {counts.shape}")
    require(
        np.issubdtype(counts.dtype, np.integer) and bool((counts >= 0).all()), "counts: integers"
    )
    share = 100 * int(np.trace(counts)) / max(int(counts.sum()), 1)
    title = f"seed {seed}: accuracy {share:.2f} % of {counts.sum():,} test images"
    side = MARGIN + 38 + round(text_width("\n".join(class_names)))
    smallest = max(46, round(text_width(f"{counts.max():,}")) + 12)
    columns = _Columns.fitting(class_names, smallest, max(smallest, (970 - side) // size))
    width, head = size * columns.width, columns.height + 60
    right = max(width + 70, round(text_width(title, 8, "bold")))
    page = Page(side + right + MARGIN, head + size * CONFUSION_ROW + MARGIN)
    words = [[f"{count:,}" if count else "" for count in row] for row in counts]
    axes = _draw_matrix(page, _confusion_shades(counts), words, class_names, columns,
                        (side, head), CONFUSION_ROW)  # fmt: skip
    page.text(side, 20, title, ha="left", size=8, weight="bold")
    page.text(side + width / 2, 46, "predicted", color=GREY)
    page.upright(MARGIN + 12, head + size * CONFUSION_ROW / 2, "true class", color=GREY)
    page.text(side + width + 70, head - 13, "correct", ha="right", color=GREY)
    axes.tick_params(axis="y", pad=4)
    for true, (count, total) in enumerate(zip(counts.diagonal(), counts.sum(axis=1), strict=True)):
        correct = f"{100 * count / total:.1f} %" if total else "no image"
        y = head + (true + 0.5) * CONFUSION_ROW
        page.text(side + width + 70, y, correct, ha="right")
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
