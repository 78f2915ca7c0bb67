"""Prototypes of two architectures beside each other, one of each class, with their training images.

Shapes: n prototypes, C channels, H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from protodl.report.figures.page import GREY, LINE, MARGIN, Page, require, styled, text_width
from protodl.report.figures.pixels import Images, to_pixels

SIDE, GAP = 84, 4  # of a picture, at most, and between two


@dataclass(frozen=True)
class Shown:
    """One prototype of each class of a row."""

    classes: Sequence[int]  # of the n prototypes
    prototypes: Images  # (n, C, H, W), decoded
    cases: Images  # (n, C, H, W), the training image nearest to each


@styled
def modern_figure(
    groups: Mapping[str, Mapping[str, Shown]], class_names: Mapping[str, Sequence[str]]
) -> Figure:
    """For each data set a block: per row its decoded prototypes, below the images nearest to them.

    Args:
        groups: rows by their names, by data set.
        class_names: of each data set.

    Raises:
        ValueError: there is nothing to show.
    """
    require(bool(groups) and all(groups.values()), "modern_figure: no row")
    words = [f"{row}, {kind}" for rows in groups.values() for row in rows for kind in KINDS]
    left = MARGIN + round(max(map(text_width, words))) + MARGIN
    columns = max(len(names) for names in class_names.values())
    block = LINE + MARGIN
    lines = sum(len(KINDS) * len(rows) for rows in groups.values())
    height = (
        MARGIN + block * len(groups) + lines * (SIDE + GAP) + sum(map(len, groups.values())) * GAP
    )
    page = Page(left + columns * (SIDE + GAP) + MARGIN, height)
    y = MARGIN
    for dataset, rows in groups.items():
        for column, name in enumerate(class_names[dataset]):
            page.text(left + column * (SIDE + GAP) + SIDE / 2, y + LINE / 2, name)
        y += block
        for row, shown in rows.items():
            for kind, images in zip(KINDS, (shown.cases, shown.prototypes), strict=True):
                page.text(left - MARGIN, y + SIDE / 2, f"{row}, {kind}", ha="right", color=GREY)
                for place, pixels in zip(shown.classes, to_pixels(images, kind), strict=True):
                    scale = max(1, SIDE // max(pixels.shape[:2]))
                    inset = (SIDE - scale * pixels.shape[0]) // 2
                    page.image(pixels, left + place * (SIDE + GAP) + inset, y + inset, scale)
                y += SIDE + GAP
            y += GAP
    return page.figure


KINDS = ("nearest image", "prototype")
