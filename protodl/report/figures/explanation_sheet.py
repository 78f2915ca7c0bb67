"""An explanation as one page: image, verdict, table of prototypes, nearest training images."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from protodl.explanation.types import Case, Explanation, PrototypeReason, with_article
from protodl.report.figures.page import (
    GREEN,
    GREY,
    INK,
    LINE,
    MARGIN,
    PAGE_WIDTH,
    PURPLE,
    VERMILION,
    Page,
    number_words,
    signed_words,
    styled,
    text_width,
)
from protodl.report.figures.reasons import (
    BOX,
    STEP,
    contribution_colour,
    draw_image_pair,
    draw_in_box,
)

ALL_SHOWN = 16  # prototypes; of more than that those below
SHOWN_FOR_PREDICTION, SHOWN_FOR_RUNNER_UP = 8, 4  # largest contributions
TEXT_LEFT = MARGIN + 2 * STEP + 12
RIGHT = PAGE_WIDTH - MARGIN
THUMB, ROW = 64, 72  # a picture in the table or among the cases; a line of the table
DECODED, CASE, CASE_WORDS = 112, 196, 268  # left edges of the table's columns
DISTANCE, WEIGHT, NUMBERS = 418, 510, (600, 850)  # right edges
BARS, BAR_WIDTH = (612, 862), 168
CASE_STEP = 100
LONGEST = 2000  # height in pixels that no sheet needs; it is cut where it ends


@styled
def explanation_figure(explanation: Explanation) -> Figure:
    """One sheet: the image, what is decided and why, prototype by prototype, and the nearest cases.

    Of many prototypes the ones that contribute most to the prediction and to the runner-up; the
    others are one line. The columns of numbers sum to the logits below them.
    """
    page = Page(PAGE_WIDTH, LONGEST)
    y = max(_draw_image(page, explanation), _draw_verdict(page, explanation) + 14)
    y = _draw_table(page, explanation, y)
    return page.cut(max(_draw_cases(page, explanation, y), _draw_change(page, explanation, y) + 23))


def _draw_image(page: Page, explanation: Explanation) -> float:
    """The image and its reconstruction, and where they come from; returns the lower edge."""
    draw_image_pair(page, explanation, MARGIN + 28)
    below = MARGIN + 28 + BOX
    origin = f"{explanation.row}, seed {explanation.seed}"
    for index, words in enumerate((explanation.name, origin)):
        y = below + 16 + LINE * index
        page.text(MARGIN, y, _shortened(words, 2 * STEP), ha="left", color=GREY)
    return below + 54


def _shortened(words: str, width: float) -> str:
    """The words, their middle left out where they are wider than given."""
    kept, short = len(words), words
    while text_width(short) > width:
        kept -= 1
        short = f"{words[: (kept + 1) // 2]}…{words[-(kept // 2) :]}"
    return short


def _draw_verdict(page: Page, explanation: Explanation) -> float:
    """What is decided, how surely, why, and what else is to be known; returns the lower edge."""
    first, second = explanation.prediction, explanation.runner_up
    right = explanation.label in (None, first.class_name)
    shares = f"{first.percent}; runner-up: {second.class_name}, {second.percent}"
    truth = "correct" if right else f"wrong: the true class is {explanation.label}"
    y = 10.0
    for words, size, colour, weight in (
        *((words, 8.5, VERMILION, "bold") for words in explanation.warnings),
        *((note, 7, PURPLE, "normal") for note in explanation.notes),
        (first.class_name, 18, INK if right else VERMILION, "bold"),
        (shares, 8.5, INK, "normal"),
        ("" if explanation.label is None else truth, 8.5, GREEN if right else VERMILION, "normal"),
        (f"{explanation.because}.", 8.5, INK, "normal"),
        (explanation.limits_in_words, 7, GREY, "normal"),
        *((remark, 7, PURPLE, "normal") for remark in explanation.remarks),
    ):  # fmt: skip
        if words:
            y = page.paragraph(TEXT_LEFT, y, words, RIGHT - TEXT_LEFT, size,
                               color=colour, weight=weight)  # fmt: skip
    return y


def _draw_table(page: Page, explanation: Explanation, top: float) -> float:
    """A line for each prototype, then what makes up the rest of the logits; returns its end."""
    first, second = explanation.prediction, explanation.runner_up
    shown, others = _shown_prototypes(explanation.prototypes)
    values = [(reason.contribution, reason.contribution_to_runner_up) for reason in shown]
    together = (
        sum(reason.contribution for reason in others),
        sum(reason.contribution_to_runner_up for reason in others),
    )
    flat = [0.0, *together, *(value for line in values for value in line)]
    scale = BAR_WIDTH / max(max(flat) - min(flat), 1e-12)
    zeros = tuple(left - scale * min(flat) for left in BARS)
    _draw_table_head(page, first.class_name, second.class_name, top)
    y = top + 56
    for reason, contributions in zip(shown, values, strict=True):
        page.rule(MARGIN, y, RIGHT, y)
        _draw_reason(page, reason, first.class_name, y)
        _draw_bars(page, y + ROW / 2, contributions, zeros, scale)
        y += ROW
    page.rule(MARGIN, y, RIGHT, y)
    for zero in zeros:
        page.rule(zero, top + 60, zero, y + (24 if others else 0))
    if others:
        words = f"the {len(others)} other prototypes together"
        page.text(MARGIN, y + 14, words, ha="left")
        _draw_bars(page, y + 14, together, zeros, scale)
        y += 24
    start = explanation.baseline_logits
    usual = (start[first.index], start[second.index])
    for words, sums, weight in (
        ("an image at the usual distances", usual, "normal"),
        ("logit: the sum of the column", (first.logit, second.logit), "bold"),
    ):
        page.text(MARGIN, y + 14, words, ha="left", weight=weight)
        for x, value in zip(NUMBERS, sums, strict=True):
            page.text(x, y + 14, signed_words(value), ha="right", weight=weight)
        y += 24
    return y + 16


def _shown_prototypes(
    reasons: Sequence[PrototypeReason],
) -> tuple[list[PrototypeReason], list[PrototypeReason]]:
    """The prototypes with a line of their own, in order, and the others."""
    if len(reasons) <= ALL_SHOWN:
        return list(reasons), []
    by_runner_up = sorted(reasons, key=lambda reason: -reason.contribution_to_runner_up)
    top = [*reasons[:SHOWN_FOR_PREDICTION], *by_runner_up[:SHOWN_FOR_RUNNER_UP]]
    chosen = {reason.index for reason in top}
    return (
        [reason for reason in reasons if reason.index in chosen],
        [reason for reason in reasons if reason.index not in chosen],
    )


def _draw_table_head(page: Page, first: str, second: str, top: float) -> None:
    for x, side, words, below in (
        (MARGIN, "left", "prototype", ""),
        (DECODED, "left", "decoded", ""),
        (CASE, "left", "nearest case", "in training"),
        (DISTANCE, "right", "distance", "(usual)"),
        (WEIGHT, "right", "weight", f"to {_shortened(first, 64)}"),
        (BARS[0] - 60, "left", f"contribution to {first}", "the prediction"),
        (BARS[1] - 60, "left", f"contribution to {second}", "the runner-up"),
    ):
        page.label(x, top + 30, words, below, ha=side, weight="bold")


def _draw_reason(page: Page, reason: PrototypeReason, predicted: str, y: float) -> None:
    middle, case = y + ROW / 2, reason.nearest_case
    weight = "bold" if reason.class_name == predicted else "normal"
    page.label(MARGIN, middle, reason.class_name, f"#{reason.index}", weight=weight)
    for x, picture in ((DECODED, reason.picture), (CASE, case.picture)):
        draw_in_box(page, picture, x, round(y) + 4, THUMB, centred=False)
    _draw_case_words(page, CASE_WORDS, middle, case, reason.class_name)
    usual = f"({number_words(reason.usual_distance)})"
    page.label(DISTANCE, middle, number_words(reason.distance), usual, ha="right")
    page.text(WEIGHT, middle, number_words(reason.weight), ha="right")


def _draw_case_words(page: Page, x: float, y: float, case: Case, expected: str) -> None:
    """Label and distance of a training case, the label in red where it is not the expected one."""
    colour = INK if case.label == expected else VERMILION
    page.label(x, y, case.label, f"{number_words(case.distance)} away", color=colour)


def _draw_bars(
    page: Page, y: float, values: tuple[float, float], zeros: tuple[float, ...], scale: float
) -> None:
    """Two signed numbers, and bars from a zero that all lines share."""
    for x, zero, value in zip(NUMBERS, zeros, values, strict=True):
        page.text(x, y, signed_words(value), ha="right", color=contribution_colour(value))
        page.bar(zero, y, scale * value, value > 0, width=4)


def _draw_cases(page: Page, explanation: Explanation, top: float) -> float:
    """The training cases nearest to the image, if known; returns their lower edge."""
    if not explanation.nearest_cases:
        return top
    page.text(MARGIN, top + 18, "Training cases nearest to this image", ha="left", size=8,
              weight="bold")  # fmt: skip
    for place, case in enumerate(explanation.nearest_cases):
        x, y = MARGIN + place * CASE_STEP, round(top) + 34
        draw_in_box(page, case.picture, x, y, THUMB, centred=False)
        _draw_case_words(page, x, y + THUMB + 23, case, explanation.prediction.class_name)
    return top + 36 + THUMB + 50


def _draw_change(page: Page, explanation: Explanation, top: float) -> float:
    """What the runner-up lacks, beside the cases; returns the lower edge."""
    cases = explanation.nearest_cases
    left = MARGIN + (len(cases) * CASE_STEP + 20 if cases else 0)
    second = explanation.runner_up.class_name
    title = f"What would make it {with_article(second)}?"
    y = page.paragraph(left, top + 1, title, RIGHT - left, 8, weight="bold")
    return page.paragraph(left, y, explanation.change_in_words, RIGHT - left)
