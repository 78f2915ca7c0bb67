"""An image beside the prototypes that it looks like, and what they contribute to its class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from protodl.core.files import write_bytes
from protodl.explanation.types import NAMED, Explanation, PrototypeReason
from protodl.report.figures.page import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MARGIN,
    VERMILION,
    Page,
    number_words,
    png_bytes,
    signed_words,
    styled,
)
from protodl.report.figures.pixels import Images, to_pixels

BOX, STEP = 144, 164  # a picture of a sheet, and from one to the next
SIDE, APART = 112, 144  # the same of the figure
LABEL = 22  # room for upright words beside pictures
IMAGE = MARGIN + LABEL
VERDICT = IMAGE + SIDE + 84  # the middle of its column
PROTOTYPES = VERDICT + 84 + LABEL
UPPER, LOWER = 40, 40 + SIDE + 6  # the upper edges of both lines of pictures
OTHERS_WIDTH = 150


@styled
def reasons_figure(explanation: Explanation, title: str) -> Figure:
    """Draw an image above its reconstruction, its class and the prototypes that speak for it.

    Each prototype stands below the training image nearest to it. Where none that the image is near
    to speaks for the class, the nearest ones are shown, and the figure says so.

    Args:
        explanation: its true class has to be known.
        title: the data set.
    """
    shown, words = _shown(explanation)
    width = PROTOTYPES + NAMED * APART + OTHERS_WIDTH
    page = Page(width, LOWER + SIDE + 76)
    for x, names in ((IMAGE, ("image", "decoded")), (PROTOTYPES, ("nearest case", "decoded"))):
        for y, name in zip((UPPER, LOWER), names, strict=True):
            page.upright(x - 12, y + SIDE / 2, name, color=GREY)
    page.text(IMAGE, 20, "This image", ha="left", size=8, weight="bold")
    page.text(IMAGE + SIDE / 2, LOWER + SIDE + 15, title, color=GREY)
    draw_in_box(page, explanation.image, IMAGE, UPPER, SIDE)
    draw_in_box(page, explanation.reconstruction, IMAGE, LOWER, SIDE)
    _draw_class(page, explanation)
    page.text(PROTOTYPES, 20, words, ha="left", size=8, weight="bold")
    largest = max(max(abs(reason.contribution) for reason in shown), 1e-12)
    for place, reason in enumerate(shown):
        x = PROTOTYPES + place * APART
        draw_in_box(page, reason.nearest_case.picture, x, UPPER, SIDE)
        draw_in_box(page, reason.picture, x, LOWER, SIDE)
        own = reason.class_name == explanation.prediction.class_name
        _draw_words(page, reason, x, largest, "bold" if own else "normal")
    _draw_others(page, explanation, shown, PROTOTYPES + len(shown) * APART)
    return page.figure


def _shown(explanation: Explanation) -> tuple[list[PrototypeReason], str]:
    """The prototypes that are drawn, and what is said of them: no more than is true."""
    found = explanation.likenesses
    if found:
        which = "this prototype" if len(found) == 1 else "these prototypes"
        return found, f"because it looks like {which}"
    nearest = sorted(explanation.prototypes, key=lambda reason: reason.distance)[:NAMED]
    return nearest, "although no prototype near it speaks for that; the nearest:"


def _draw_class(page: Page, explanation: Explanation) -> None:
    predicted = explanation.prediction.class_name
    right = explanation.label == predicted
    page.text(VERDICT, 20, "is classified as", size=8, weight="bold")
    size, colour = 28 if len(predicted) <= 2 else 12, INK if right else VERMILION
    page.text(VERDICT, UPPER + SIDE / 2, predicted, size=size, weight="bold", color=colour)
    truth = "correct" if right else f"true class: {explanation.label}"
    page.text(VERDICT, UPPER + SIDE + 3, truth, color=GREEN if right else VERMILION)


def _draw_words(page: Page, reason: PrototypeReason, x: int, largest: float, weight: str) -> None:
    """Class, distance and contribution of a prototype below its pictures, and a bar."""
    middle, below, value = x + SIDE / 2, LOWER + SIDE, reason.contribution
    page.text(middle, below + 15, reason.class_name, weight=weight)
    page.text(middle, below + 33, f"distance {number_words(reason.distance)}", color=GREY)
    words, colour = f"contributes {signed_words(value)}", contribution_colour(value)
    page.text(middle, below + 51, words, color=colour)
    page.bar(x + 2, below + 64, (SIDE - 4) * abs(value) / largest, value > 0)


def _draw_others(
    page: Page, explanation: Explanation, shown: Sequence[PrototypeReason], x: float
) -> None:
    """What the prototypes that are not drawn contribute together."""
    drawn = {reason.index for reason in shown}
    others = [r.contribution for r in explanation.prototypes if r.index not in drawn]
    if others:
        total = sum(others)
        words = "the other prototype" if len(others) == 1 else f"{len(others)} other prototypes"
        y = LOWER + SIDE
        page.text(x, y + 33, words, ha="left", color=GREY)
        page.text(x, y + 51, f"contribute{'s' * (len(others) == 1)} {signed_words(total)}",
                  ha="left", color=contribution_colour(total))  # fmt: skip


def draw_image_pair(page: Page, explanation: Explanation, top: int) -> None:
    """Draw the explained image and its reconstruction in two boxes below `top`, named above."""
    for x, words, weight, picture in (
        (MARGIN, "This image", "bold", explanation.image),
        (MARGIN + STEP, "(reconstructed)", "normal", explanation.reconstruction),
    ):
        page.text(x + BOX / 2, 20, words, size=8, weight=weight)
        draw_in_box(page, picture, x, top)


def draw_in_box(
    page: Page, picture: Images, x: int, y: int, side: int = BOX, centred: bool = True
) -> None:
    """Draw a picture (C, H, W) in a square, enlarged by a whole number."""
    (pixels,) = to_pixels(np.asarray(picture)[None], "picture")
    scale = max(1, side // max(pixels.shape[:2]))
    high, wide = pixels.shape[0] * scale, pixels.shape[1] * scale
    page.image(pixels, x + (side - wide) // 2 * centred, y + (side - high) // 2, scale)


def contribution_colour(contribution: float) -> str:
    """Blue where it speaks for a class, vermilion where against, grey where it rounds to 0."""
    if signed_words(contribution)[0] == "0":
        return GREY
    return BLUE if contribution > 0 else VERMILION


def stack_reasons(pictures: Sequence[Path], output: Path) -> None:
    """Put saved reasons figures below each other."""
    parts = [Image.open(path).convert("RGB") for path in pictures]
    page = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    for index, part in enumerate(parts):
        page.paste(part, (0, sum(above.height for above in parts[:index])))
    write_bytes(png_bytes(page), output)
