"""An explanation's page: pictures in their places, numbers that sum, nothing cut off."""

import re
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from protodl.explanation.types import ChangeNeeded, OutOfDistribution
from protodl.report.figures.explanation_sheet import NUMBERS, explanation_figure
from protodl.report.figures.page import BLUE, MARGIN, PAGE_WIDTH, to_array
from tests.report.figures.drawings import MINUS, explanation, places_of, texts, words


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_image_prototypes_and_cases_upright(channels: int) -> None:
    found = explanation(15, channels)
    page = to_array(explanation_figure(found))
    tops = []
    for reason in found.prototypes[::4]:
        ((y, x),) = places_of(reason.picture, page)
        ((beside, right),) = places_of(reason.nearest_case.picture, page)
        assert y == beside and right > x
        tops.append(y)
    assert tops == sorted(tops)
    ((image_y, _),) = places_of(found.image, page)
    assert image_y < tops[0]
    assert places_of(found.reconstruction, page)
    assert all(y > tops[-1] for case in found.nearest_cases[::5]
               for y, _ in places_of(case.picture, page))  # fmt: skip
    assert places_of(found.nearest_cases[5].picture, page)


@pytest.mark.parametrize("count", [1, 15, 50])
def test_the_numbers_of_a_sheet_sum_to_the_logits(count: int) -> None:
    found = explanation(count)
    figure = explanation_figure(found)
    numbers = [words for words in words_in_rows(figure) if len(words) >= 3]
    columns = [[float(words[place]) for words in numbers] for place in (-2, -1)]
    shown = count if count <= 16 else 12
    assert len(numbers) <= shown + 3
    for column, outcome in zip(columns, (found.prediction, found.runner_up), strict=True):
        assert column[-1] == pytest.approx(outcome.logit, abs=0.0051)
        assert sum(column[:-1]) == pytest.approx(column[-1], abs=0.006 * len(column))
    said = " ".join(words(figure))
    assert ("other prototypes together" in said) == (count == 50)


def words_in_rows(figure: Figure) -> list[list[str]]:
    """Texts of a table, line by line: those that end in the two columns of contributions."""
    by_height: dict[int, list[Text]] = {}
    for text in texts(figure):
        by_height.setdefault(round(text.get_position()[1]), []).append(text)
    rows = [sorted(row, key=lambda text: text.get_position()[0]) for row in by_height.values()]
    rows = [row for row in rows if row[-1].get_position()[0] == NUMBERS[1]]
    ordered = sorted(rows, key=lambda row: row[0].get_position()[1])
    return [["", *(text.get_text().replace(MINUS, "-") for text in row)] for row in ordered]


def test_of_many_prototypes_those_that_matter_for_both_classes_are_shown() -> None:
    found = explanation(50)
    said = words(explanation_figure(found))
    shown = {int(text[1:]) for text in said if re.fullmatch(r"#\d+", text)}
    by_runner_up = sorted(found.prototypes, key=lambda r: -r.contribution_to_runner_up)
    assert {reason.index for reason in found.prototypes[:8]} <= shown
    assert {reason.index for reason in by_runner_up[:4]} <= shown
    assert len(shown) <= 12


def test_bars_of_a_sheet_are_in_proportion_and_start_at_one_zero() -> None:
    found = explanation(15)
    figure = explanation_figure(found)
    bars = [line for line in figure.axes[0].lines if line.get_linewidth() == 4]
    ends = np.array([np.asarray(bar.get_xdata(), dtype=float) for bar in bars])
    values = [(r.contribution, r.contribution_to_runner_up) for r in found.prototypes]
    lengths = (ends[:, 1] - ends[:, 0]).reshape(-1, 2)
    assert np.allclose(lengths / lengths[0, 0], np.array(values) / values[0][0])
    assert len({round(float(start), 6) for start in ends[::2, 0]}) == 1
    assert ends.max() <= PAGE_WIDTH - MARGIN
    blue = np.array([to_hex(bar.get_color()).upper() == BLUE for bar in bars])
    assert (blue.reshape(-1, 2) == (np.array(values) > 0)).all()


@pytest.mark.parametrize("count", [1, 15, 50])
@pytest.mark.parametrize("crowded", [False, True])
def test_nothing_on_a_sheet_is_cut_off_or_overlaps(count: int, crowded: bool) -> None:
    changes: dict[str, Any] = {}
    if crowded:
        changes = {
            "name": "a-very-long-name-of-a-picture-from-a-camera-" * 3,
            "row": "a-row-with-quite-a-long-name-of-its-own-too",
            "label": "airplane",
            "out_of_distribution": OutOfDistribution(True, 0.9999, 1234.5, 1000.0, 123.4, 99.0),
            "notes": ("A remark that is long enough to fill more than a line. " * 3,) * 2,
            "doubts": ("A doubt that is long enough to fill more than one line of this. " * 2,),
            "remarks": ("Another remark that fills more than a line of the sheet, too. " * 3,),
            "change_needed": ChangeNeeded(123.45, None),
        }
    found = explanation(count, **changes)
    figure = explanation_figure(found)
    page = to_array(figure)
    assert page.shape[1] == PAGE_WIDTH
    boxes = [text.get_window_extent() for text in texts(figure) if text.get_text()]
    pictures = [image.get_window_extent() for image in figure.axes[0].images]
    for box in [*boxes, *pictures]:
        assert box.x0 >= 2 and box.x1 <= page.shape[1] - 2
        assert box.y0 >= 2 and box.y1 <= page.shape[0] - 2
    for index, box in enumerate(boxes):
        for other in [*boxes[index + 1 :], *pictures]:
            wide = min(box.x1, other.x1) - max(box.x0, other.x0)
            high = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert wide <= 0 or high <= 4, texts(figure)[index]  # boxes are taller than letters
    said = " ".join(words(figure))
    assert ("WARNING" in said) == crowded
    assert ("wrong: the true class is airplane" in said) == crowded
