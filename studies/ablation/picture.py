"""Decoded prototypes of several trainings, one row for each training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from protodl.report.figures.page import (
    GREY,
    LINE,
    MARGIN,
    Ints,
    Page,
    require,
    styled,
    text_width,
)
from protodl.report.figures.pixels import Images, to_pixels


@dataclass(frozen=True, eq=False)
class Compared:
    """Decoded prototypes of one variant, at most one for each class; S of them."""

    name: str
    note: str  # below the name
    images: Images  # (S, C, H, W), decoded
    classes: Ints  # (S,)
    agrees: npt.NDArray[np.bool_]  # (S,) whether the network classifies the picture as that class


@styled
def comparison_figure(
    groups: Mapping[str, Sequence[Compared]], class_names: Mapping[str, Sequence[str]]
) -> Figure:
    """A row for each variant, a column for each class; variants of a data set below each other.

    groups, class_names: by title of the data set. A bar below a picture means that the network
    classifies it as another class.
    """
    blocks = [_Block(rows, class_names[title]) for title, rows in groups.items()]
    require(bool(blocks), "comparison_figure: nothing to compare")
    side = max(block.side for block in blocks)
    width = max(side + block.columns_width for block in blocks) + 2 * MARGIN
    page = Page(width, MARGIN + sum(block.height for block in blocks))
    y = MARGIN
    for title, block in zip(groups, blocks, strict=True):
        page.text(MARGIN, y + LINE, title, size=8, weight="bold", ha="left")
        block.draw(page, MARGIN, MARGIN + side, y)
        y += block.height
    return page.figure


class _Block:
    """The variants of one data set, and their layout in pixels."""

    def __init__(self, rows: Sequence[Compared], class_names: Sequence[str]) -> None:
        require(bool(rows), "comparison_figure: a data set without a variant")
        self.rows, self.class_names = rows, class_names
        self.pixels = [to_pixels(row.images, row.name) for row in rows]
        self.size = max(pixels.shape[2] for pixels in self.pixels)
        self.scale = max(1, round(64 / self.size))
        self.tall = self.size * self.scale + 10
        self.cell = round(max(self.tall - 6, *(text_width(name) for name in class_names))) + 4
        self.columns_width = self.cell * len(class_names)
        self.side = round(max(text_width(words) for r in rows for words in (r.name, r.note))) + 12
        self.height = 2 * LINE + 6 + self.tall * len(rows) + LINE

    def draw(self, page: Page, left: int, x: int, y: int) -> None:
        """Draw names at `left` and pictures from `x` on, below y."""
        for column, name in enumerate(self.class_names):
            page.text(x + self.cell * (column + 0.5), y + LINE, name)
        for index, row in enumerate(self.rows):
            top = y + 2 * LINE + self.tall * index
            middle = top + self.size * self.scale / 2
            page.text(left, middle - LINE / 2, row.name, ha="left")
            page.text(left, middle + LINE / 2, row.note, ha="left", color=GREY)
            self._draw_pictures(page, x, top, index)

    def _draw_pictures(self, page: Page, x: int, top: int, index: int) -> None:
        row, side = self.rows[index], self.size * self.scale
        for picture, column, agrees in zip(
            self.pixels[index], row.classes, row.agrees, strict=True
        ):
            left = x + self.cell * int(column) + (self.cell - side) // 2
            page.image(picture, left, top, self.scale)
            if not agrees:
                page.bar(left, top + side + 4, side, positive=False)
