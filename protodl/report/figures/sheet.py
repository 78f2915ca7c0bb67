"""An explanation as one page: image, verdict, table of prototypes, nearest training images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

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

if TYPE_CHECKING:
    from protodl.explanation.types import Explanation, PrototypeReason


ALL_SHOWN = 16  # prototypes; of more than that those below
SHOWN_FOR_PREDICTION, SHOWN_FOR_RUNNER_UP = 8, 4  # largest contributions
TEXT_LEFT = MARGIN + 2 * STEP + 12
THUMB, ROW = 64, 72  # a picture in the table or among the cases; a line of the table
DECODED, CASE, CASE_WORDS = 112, 196, 268  # left edges of the table's columns
DISTANCE, WEIGHT, NUMBERS = 418, 510, (600, 850)  # right edges
BARS, BAR_WIDTH = (612, 862), 168
CASE_STEP = 100


@styled
def explanation_figure(explanation: "Explanation") -> Figure:
    """One sheet: the image, what is decided and why, prototype by prototype, and the nearest cases.

    Of many prototypes the ones that contribute most to the prediction and to the runner-up; the
    others are one line. The columns of numbers sum to the logits below them.
    """
    shown, others = _shown_prototypes(explanation.prototypes)
    verdict = _verdict_lines(explanation)
    head = max(MARGIN + 36 + BOX + 46, sum(line.height for line in verdict) + 24)
    sums = 2 + bool(others)
    table = 56 + len(shown) * ROW + sums * 24 + 16
    page = Page(PAGE_WIDTH, head + table + _closing_height(explanation))
    _draw_image(page, explanation)
    _draw_lines(page, verdict, TEXT_LEFT, 10)
    _PrototypeTable(explanation, shown, others).draw(page, head)
    _draw_closing(page, explanation, head + table)
    return page.figure


def _shown_prototypes(
    reasons: "Sequence[PrototypeReason]",
) -> "tuple[list[PrototypeReason], list[PrototypeReason]]":
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


@dataclass(frozen=True)
class _Line:
    """One line of text of a block; `height` includes the room above it."""

    words: str
    height: int
    step: int  # from one line of its paragraph to the next
    style: dict[str, Any]


def _paragraph(words: str, width: float, size: float = 7, **style: Any) -> list[_Line]:
    """Break words into lines that are no wider than given, with room before the first."""
    weight = style.get("weight", "normal")
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    step = round(size * 2.6)
    style = {"size": size, **style}
    true_minus = [re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", line) for line in lines]
    return [
        _Line(line, step + (0 if index else 7), step, style)
        for index, line in enumerate(true_minus)
    ]


def _draw_lines(page: Page, lines: Sequence[_Line], x: float, y: float) -> None:
    for line in lines:
        y += line.height
        page.text(x, y - line.step / 2, line.words, ha="left", **line.style)


def _verdict_lines(explanation: "Explanation") -> list[_Line]:
    """What is decided, how surely, why, and what else is to be known."""
    width = PAGE_WIDTH - MARGIN - TEXT_LEFT
    first, second = explanation.prediction, explanation.runner_up
    right = explanation.label in (None, first.class_name)
    colour = INK if right else VERMILION
    lines = _paragraph(first.class_name, width, 18, weight="bold", color=colour)
    shares = f"{first.percent}; runner-up: {second.class_name}, {second.percent}"
    lines += _paragraph(shares, width, 8.5)
    if explanation.label is not None:
        truth = "correct" if right else f"wrong: the true class is {explanation.label}"
        lines += _paragraph(truth, width, 8.5, color=GREEN if right else VERMILION)
    lines += _paragraph(f"{explanation.because}.", width, 8.5)
    warned = explanation.out_of_distribution.flag
    weight, colour = ("bold", VERMILION) if warned else ("normal", GREY)
    lines += _paragraph(explanation.limits_in_words, width, weight=weight, color=colour)
    for note in explanation.notes:
        lines += _paragraph(note, width, color=PURPLE)
    return lines


def _draw_image(page: Page, explanation: "Explanation") -> None:
    """The image and its reconstruction, and where they come from."""
    draw_image_pair(page, explanation, MARGIN + 28)
    origin = f"{explanation.row}, seed {explanation.seed}"
    for index, words in enumerate((explanation.name, origin)):
        y = MARGIN + 28 + BOX + 16 + LINE * index
        page.text(MARGIN, y, _shortened(words, 2 * STEP), ha="left", color=GREY)


def _shortened(words: str, width: float, **font: Any) -> str:
    """The words, their middle left out where they are wider than given."""
    kept = len(words)
    short = words
    while text_width(short, **font) > width and kept > 2:
        kept -= 1
        short = f"{words[: (kept + 1) // 2]}…{words[-(kept // 2) :]}"
    return short


@dataclass(frozen=True, eq=False)
class _PrototypeTable:
    """The table of prototypes: a line for each, then what makes up the rest of the logits."""

    explanation: "Explanation"
    shown: "Sequence[PrototypeReason]"
    others: "Sequence[PrototypeReason]"

    def draw(self, page: Page, top: int) -> None:
        """Draw the table, its upper edge at `top`."""
        self._draw_head(page, top)
        y = top + 56
        for reason in self.shown:
            page.rule(MARGIN, y, PAGE_WIDTH - 2 * MARGIN)
            self._draw_reason(page, reason, y)
            y += ROW
        page.rule(MARGIN, y, PAGE_WIDTH - 2 * MARGIN)
        low, high = self._range
        for left in BARS:
            zero = left + BAR_WIDTH * -low / (high - low)
            page.upright_rule(zero, top + 60, y + (24 if self.others else 0))
        if self.others:
            words = f"the {len(self.others)} other prototypes together"
            page.text(MARGIN, y + 14, words, ha="left")
            self._draw_values(page, y + 14, _summed(self.others))
            y += 24
        first, second = self.explanation.prediction, self.explanation.runner_up
        start = self.explanation.baseline_logits
        for words, values, weight in (
            (
                "an image at the usual distances",
                (start[first.index], start[second.index]),
                "normal",
            ),
            ("logit: the sum of the column", (first.logit, second.logit), "bold"),
        ):
            page.text(MARGIN, y + 14, words, ha="left", weight=weight)
            for x, value in zip(NUMBERS, values, strict=True):
                page.text(x, y + 14, signed_words(value), ha="right", weight=weight)
            y += 24

    def _draw_head(self, page: Page, top: int) -> None:
        names = [self.explanation.prediction.class_name, self.explanation.runner_up.class_name]
        heads: tuple[tuple[float, str, str, str], ...] = (
            (MARGIN, "left", "prototype", ""),
            (DECODED, "left", "decoded", ""),
            (CASE, "left", "nearest case", "in training"),
            (DISTANCE, "right", "distance", "(usual)"),
            (WEIGHT, "right", "weight", f"to {_shortened(names[0], 64)}"),
            (BARS[0] - 60, "left", f"contribution to {names[0]}", "the prediction"),
            (BARS[1] - 60, "left", f"contribution to {names[1]}", "the runner-up"),
        )
        for x, side, words, below in heads:
            page.text(x, top + 20, words, ha=side, weight="bold")
            page.text(x, top + 40, below, ha=side, color=GREY)

    def _draw_reason(self, page: Page, reason: "PrototypeReason", y: int) -> None:
        middle = y + ROW / 2
        case, predicted = reason.nearest_case, self.explanation.prediction.class_name
        weight = "bold" if reason.class_name == predicted else "normal"
        page.text(MARGIN, middle - 9, reason.class_name, ha="left", weight=weight)
        page.text(MARGIN, middle + 9, f"#{reason.index}", ha="left", color=GREY)
        for x, picture in ((DECODED, reason.picture), (CASE, case.picture)):
            draw_in_box(page, picture, x, y + 4, THUMB, centred=False)
        colour = INK if case.label == reason.class_name else VERMILION
        page.text(CASE_WORDS, middle - 9, case.label, ha="left", color=colour)
        page.text(
            CASE_WORDS, middle + 9, f"{number_words(case.distance)} away", ha="left", color=GREY
        )
        page.text(DISTANCE, middle - 9, number_words(reason.distance), ha="right")
        usual = f"({number_words(reason.usual_distance)})"
        page.text(DISTANCE, middle + 9, usual, ha="right", color=GREY)
        page.text(WEIGHT, middle, number_words(reason.weight), ha="right")
        self._draw_values(page, middle, (reason.contribution, reason.contribution_to_runner_up))

    def _draw_values(self, page: Page, y: float, values: tuple[float, float]) -> None:
        """Two signed numbers, and bars from a zero that all lines share."""
        low, high = self._range
        for column, value in enumerate(values):
            words = signed_words(value)
            page.text(NUMBERS[column], y, words, ha="right", color=contribution_colour(value))
            zero = BARS[column] + BAR_WIDTH * -low / (high - low)
            page.bar(zero, y, BAR_WIDTH * value / (high - low), value > 0, width=4)

    @property
    def _range(self) -> tuple[float, float]:
        """The smallest and the largest bar, zero among them."""
        lines = [(r.contribution, r.contribution_to_runner_up) for r in self.shown]
        values = [value for line in [*lines, _summed(self.others)] for value in line]
        low, high = min(0.0, *values), max(0.0, *values)
        return low, max(high, low + 1e-12)


def _summed(reasons: "Sequence[PrototypeReason]") -> tuple[float, float]:
    return (
        sum(reason.contribution for reason in reasons),
        sum(reason.contribution_to_runner_up for reason in reasons),
    )


def _closing_words(explanation: "Explanation") -> list[_Line]:
    left = MARGIN + len(explanation.nearest_cases) * CASE_STEP + 20
    width = PAGE_WIDTH - MARGIN - left
    title = f"What would make it {explanation.runner_up.with_article}?"
    lines = _paragraph(title, width, 8, weight="bold")
    return lines + _paragraph(explanation.change_in_words, width)


def _closing_height(explanation: "Explanation") -> int:
    words = sum(line.height for line in _closing_words(explanation))
    return max(36 + THUMB + 50, words + 24)


def _draw_closing(page: Page, explanation: "Explanation", top: int) -> None:
    """The training cases nearest to the image, and what the runner-up lacks."""
    page.text(MARGIN, top + 18, "Training cases nearest to this image", ha="left", size=8,
              weight="bold")  # fmt: skip
    cases = explanation.nearest_cases
    for place, case in enumerate(cases):
        x, y = MARGIN + place * CASE_STEP, top + 34
        draw_in_box(page, case.picture, x, y, THUMB, centred=False)
        same = case.label == explanation.prediction.class_name
        colour = INK if same else VERMILION
        page.text(x, y + THUMB + 14, case.label, ha="left", color=colour)
        page.text(x, y + THUMB + 31, f"{number_words(case.distance)} away", ha="left", color=GREY)
    left = MARGIN + len(cases) * CASE_STEP + 20
    _draw_lines(page, _closing_words(explanation), left, top + 1)
