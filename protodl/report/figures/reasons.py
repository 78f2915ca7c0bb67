"""An image beside its nearest prototypes, and what each of them contributes to the prediction."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from protodl.core.files import write_bytes
from protodl.explanation.types import Explanation
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

SHOWN = 3  # prototypes, the nearest ones
HEAD = 46  # height of the words above the pictures
BOX, STEP = 144, 164  # a picture, and from one to the next
VERDICT, REASONS = MARGIN + 2 * STEP + 79, MARGIN + 2 * STEP + 178  # middle of one, left of other


@styled
def reasons_figure(explanation: Explanation, title: str) -> Figure:
    """Draw an image, its reconstruction, its class and the nearest prototypes in one line.

    Args:
        explanation: its true class has to be known.
        title: the data set.
    """
    nearest = sorted(explanation.prototypes, key=lambda reason: reason.distance)[:SHOWN]
    page = Page(REASONS + len(nearest) * STEP + 8, HEAD + 236)
    top, below = HEAD + 6, HEAD + 6 + BOX
    draw_image_pair(page, explanation, top)
    page.text(MARGIN + BOX / 2, below + 17, title, color=GREY)
    page.text(VERDICT, 20, "is classified as", size=8, weight="bold")
    predicted = explanation.prediction.class_name
    right = explanation.label == predicted
    size, colour = 28 if len(predicted) <= 2 else 12, INK if right else VERMILION
    page.text(VERDICT, top + BOX / 2, predicted, size=size, weight="bold", color=colour)
    truth = "correct" if right else f"true class: {explanation.label}"
    page.text(VERDICT, below + 17, truth, color=GREEN if right else VERMILION)
    middle = REASONS + (len(nearest) * STEP - STEP + BOX) / 2
    words = "by its distances to prototypes; the nearest:"
    page.text(middle, 20, words, size=8, weight="bold")
    largest = max(max(abs(reason.contribution) for reason in nearest), 1e-12)
    for place, reason in enumerate(nearest):
        x = REASONS + place * STEP
        middle, value = x + BOX / 2, reason.contribution
        draw_in_box(page, reason.picture, x, top)
        weight = "bold" if reason.class_name == predicted else "normal"
        page.text(middle, below + 17, reason.class_name, weight=weight)
        page.text(middle, below + 36, f"distance {number_words(reason.distance)}", color=GREY)
        words = f"contribution {signed_words(value)}"
        page.text(middle, below + 54, words, color=contribution_colour(value))
        page.bar(x + 2, below + 66, (BOX - 4) * abs(value) / largest, value > 0)
    return page.figure


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
    """Put saved reasons figures below each other, the words at their head once."""
    opened = [Image.open(path).convert("RGB") for path in pictures]
    parts = [
        picture.crop((0, HEAD if index else 0, picture.width, picture.height))
        for index, picture in enumerate(opened)
    ]
    page = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    for index, part in enumerate(parts):
        page.paste(part, (0, sum(above.height for above in parts[:index])))
    write_bytes(png_bytes(page), output)
