"""The pictures, read back from their rendered pixels and their artists."""

import dataclasses
import io
import os
import re
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from protodl.core.training_log import EpochRecord, SeedLog
from protodl.explanation.types import (
    Case,
    ChangeNeeded,
    Explanation,
    Outcome,
    OutOfDistribution,
    PrototypeReason,
    SingleChange,
)
from protodl.report.figures import curves, matrices, prototypes, reasons, sheet
from protodl.report.figures.page import BLUE, MARGIN, PAGE_WIDTH, VERMILION, save, to_array

DIGITS = [str(k) for k in range(10)]
CIFAR = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]  # fmt: skip
MINUS = "\N{MINUS SIGN}"
Pixels = NDArray[np.uint8]


def smooth_images(count: int, channels: int, size: int) -> NDArray[np.float64]:
    """Soft random blobs, about as compressible as decoded images: (N, C, size, size)."""
    coarse = np.random.default_rng(0).random((count, channels, 6, 6))
    places = np.linspace(0, 5, size)
    low = np.minimum(places.astype(int), 4)
    resize = np.zeros((size, 6))
    resize[np.arange(size), low] = 1 - (places - low)
    resize[np.arange(size), low + 1] = places - low
    return np.asarray(np.einsum("hi,ncij,wj->nchw", resize, coarse, resize))


def marked_images(count: int, channels: int = 3, height: int = 8, width: int = 14) -> Pixels:
    """Images (N, C, H, W) without symmetry: three corners and the background all differ."""
    images = np.full((count, channels, height, width), 90, np.uint8)
    images[:, 0, 0, 0] = 10
    images[:, 0, 0, -1] = 170
    images[:, -1, -1, 0] = 230
    images[:, 0, 2, 3] = 100 + np.arange(count) % 60  # each image its own
    return images


def places_of(image: Pixels, page: Pixels) -> list[tuple[int, int]]:
    """Where an image (C, H, W) stands upright on a page (H, W, 3), enlarged by a whole number."""
    found = []
    upright = np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))
    for scale in range(1, 15):
        tile = upright.repeat(scale, axis=0).repeat(scale, axis=1)
        high, wide = tile.shape[:2]
        if high > page.shape[0] or wide > page.shape[1]:
            break
        candidates = np.ones((page.shape[0] - high + 1, page.shape[1] - wide + 1), bool)
        for y, x in ((0, 0), (0, wide - 1), (high - 1, 0)):
            window = page[y : y + candidates.shape[0], x : x + candidates.shape[1], 0]
            candidates &= window == tile[y, x, 0]
        for y, x in np.argwhere(candidates):
            if (page[y : y + high, x : x + wide] == tile).all():
                found.append((int(y), int(x)))
    return found


def texts(figure: Figure) -> list[Text]:
    return [text for axes in figure.axes for text in axes.texts]


def words(figure: Figure) -> list[str]:
    """Everything written on a figure, with plain minus signs."""
    return [text.get_text().replace(MINUS, "-") for text in texts(figure)]


def head_weights(count: int, classes: int = 10) -> NDArray[np.float64]:
    """(K, P); each prototype has one clearly negative weight."""
    generator = np.random.default_rng(1)
    weights = generator.uniform(0, 2, (classes, count))
    weights[np.arange(count) * 7 % classes, np.arange(count)] = generator.uniform(-9, -1, count)
    return weights


def prototypes_of(count: int, channels: int = 3, **size: int) -> tuple[Pixels, Figure]:
    images = marked_images(count, channels, **size)
    weights = head_weights(count)
    classes = weights.argmin(axis=0)
    return images, prototypes.prototypes_figure(images, classes, weights.min(axis=0), DIGITS)


def seed_log(seed: int, accuracies: list[float], selected: int, **terms: float) -> SeedLog:
    values = {"loss": 9.0, "classification": 0.3, "reconstruction": 3.0, "r1": 1.0, "r2": 1.1}
    values |= terms
    history = [
        EpochRecord(
            epoch=epoch,
            step=epoch * 10,
            timestamp_ms=epoch,
            seconds=1,
            images_per_second=1,
            learning_rate=1e-3 / epoch,
            train={**values, "accuracy": accuracy - 0.02},
            validation={**values, "accuracy": accuracy},
            selected=epoch == selected,
        )
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    return SeedLog(
        row="tiny",
        seed=seed,
        fingerprint="f",
        experiment_name="e",
        run_id="r",
        parent_run_id="p",
        parameters={},
        environment={},
        start_ms=0,
        end_ms=1,
        train_seconds=1,
        num_epochs=len(history),
        selected_epoch=selected,
        num_train=1,
        num_validation=1,
        data_digest="d",
        history=history,
    )


def case(channels: int = 3) -> reasons.Case:
    images = marked_images(5, channels)
    return reasons.Case(
        title="Tiny",
        image=images[0],
        reconstruction=images[1],
        label="7",
        prediction="7",
        prototypes=images[2:],
        prototype_classes=["7", "7", "9"],
        distances=np.array([0.42, 0.6, 1.3]),
        contributions=np.array([3.0, 1.5, -0.5]),
    )


# --- prototypes -------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 15, 50])
def test_every_prototype_is_drawn_upright_and_to_the_pixel(count: int, channels: int) -> None:
    images, figure = prototypes_of(count, channels)
    page = to_array(figure)
    for p in range(0, count, 7):
        assert places_of(images[p], page), f"prototype {p} is missing or turned"
        assert not places_of(images[p].transpose(0, 2, 1), page)
    assert sum(len(axes.images) for axes in figure.axes) == count


def test_many_prototypes_stay_on_the_page() -> None:
    _, figure = prototypes_of(200)
    assert figure.bbox.width <= PAGE_WIDTH
    assert sum(name in DIGITS for name in words(figure)) == 200


def test_one_row_of_prototypes_is_one_row() -> None:
    images, figure = prototypes_of(5)
    page = to_array(figure)
    assert len({places_of(images[p], page)[0][0] for p in range(5)}) == 1


def test_empty_cells_are_blank() -> None:
    images, figure = prototypes_of(11)
    page = to_array(figure)
    height, scale = images.shape[2], 8  # 112 pixels over 14
    corners = [places_of(image, page)[0] for image in images]
    bottom = max(y for y, _ in corners)
    last = max(x for y, x in corners if y == bottom)
    right = last + images.shape[3] * scale
    assert right < max(x for _, x in corners) + images.shape[3] * scale  # there is an empty cell
    assert (page[bottom : bottom + height * scale + 40, right:] == 255).all()


def test_prototypes_of_a_class_stand_together_the_strongest_first() -> None:
    classes, weights = np.array([2, 0, 2, 0]), np.array([-1.0, -2.0, -3.0, -4.0])
    assert prototypes.prototype_order(classes, weights) == [3, 1, 2, 0]
    figure = prototypes.prototypes_figure(marked_images(4), classes, weights, DIGITS)
    assert words(figure)[:8] == ["0", "#3 -4.00", "0", "#1 -2.00", "2", "#2 -3.00", "2", "#0 -1.00"]
    unsorted = prototypes.prototypes_figure(
        marked_images(4), classes, weights, DIGITS, by_class=False
    )
    assert words(unsorted)[1:8:2] == ["#0 -1.00", "#1 -2.00", "#2 -3.00", "#3 -4.00"]


def test_classes_without_a_prototype_are_named() -> None:
    figure = prototypes.prototypes_figure(
        marked_images(2), np.array([0, 3]), np.array([-1.0, -1.0]), CIFAR[:5]
    )
    assert "without a prototype: automobile, bird, deer" in words(figure)
    _, covered = prototypes_of(15)
    assert not any("without" in line for line in words(covered))


# --- samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_each_original_stands_above_its_reconstruction(channels: int) -> None:
    images = marked_images(20, channels)
    originals, decoded = images[:10], (images[10:] / 255).astype(np.float32)
    page = to_array(prototypes.samples_figure(originals, decoded))
    for original, reconstruction in zip(originals, images[10:], strict=True):
        above, below = places_of(original, page), places_of(reconstruction, page)
        assert len(above) == len(below) == 1
        assert above[0][1] == below[0][1]
        assert above[0][0] < below[0][0]


def test_wrong_predictions_stand_out() -> None:
    images = marked_images(3)
    labels, predictions = np.array([3, 1, 2]), np.array([3, 5, 2])
    figure = prototypes.samples_figure(images, images, labels, predictions, CIFAR)
    bold = [text.get_text() for text in texts(figure) if text.get_fontweight() == "bold"]
    assert bold == ["dog"]
    assert words(figure).count("cat") == 2


# --- the weight matrix ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 15, 26, 60])
def test_the_filled_entry_of_each_prototype_is_its_most_negative_weight(count: int) -> None:
    weights = head_weights(count)
    figure = matrices.weights_figure(weights, DIGITS)
    labels = texts(figure)
    heads = [text for text in labels if text.get_text() in DIGITS]
    rows = {text.get_position(): text.get_text() for text in labels if text.get_text()[0] == "#"}
    filled = [text for text in labels if text.get_color() == "white"]
    assert sorted(rows.values()) == sorted(f"#{p}" for p in range(count))
    seen = set()
    for entry in filled:
        x, y = entry.get_position()
        head = next(h for h in heads if abs(h.get_position()[0] - x) < 1)
        name = max((place, row) for place, row in rows.items() if place[1] == y and place[0] < x)[1]
        p = int(name[1:])
        seen.add(p)
        assert weights[:, p].argmin() == DIGITS.index(head.get_text())
        assert float(entry.get_text().replace(MINUS, "-")) == pytest.approx(
            weights[:, p].min(), abs=0.051
        )
    assert seen == set(range(count))


def test_only_the_strongest_entry_is_filled_with_full_colour() -> None:
    weights = head_weights(12)
    figure = matrices.weights_figure(weights, DIGITS, by_class=False)
    shades = np.asarray(figure.axes[0].images[0].get_array())
    full = (shades == [0x00, 0x72, 0xB2]).all(axis=2)
    assert (full == (weights.T.min(axis=1, keepdims=True) == weights.T)).all()


@pytest.mark.parametrize("count", [26, 50, 51, 120])
def test_long_weight_matrices_stand_side_by_side_on_the_page(count: int) -> None:
    figure = matrices.weights_figure(head_weights(count), CIFAR, smooth_images(count, 3, 32))
    assert figure.bbox.width <= PAGE_WIDTH
    starts = {text.get_position()[0] for text in texts(figure) if text.get_text()[0] == "#"}
    assert len(starts) == 2


def test_the_thumbnail_stands_left_of_its_row_and_upright() -> None:
    images = marked_images(3, height=12, width=9)
    figure = matrices.weights_figure(head_weights(3), DIGITS, images)
    page = to_array(figure)
    heights = {t.get_text(): t.get_position()[1] for t in texts(figure) if t.get_text()[0] == "#"}
    for p in range(3):
        ((y, _),) = places_of(images[p], page)
        assert y < heights[f"#{p}"] < y + 80


def test_small_weights_keep_their_digits() -> None:
    figure = matrices.weights_figure(head_weights(40) / 100, DIGITS, smooth_images(40, 1, 28))
    numbers = [t.get_text() for t in texts(figure) if t.get_color() == "white"]
    assert all(len(number) == 4 and number[:2] == f"{MINUS}." for number in numbers)


# --- the confusion matrix ---------------------------------------------------------------------


def test_confusion_shows_each_count_in_its_cell_and_the_accuracy() -> None:
    counts = np.arange(100).reshape(10, 10) + 1
    figure = matrices.confusion_figure(counts, CIFAR)
    labels = texts(figure)
    columns = [next(t.get_position()[0] for t in labels if t.get_text() == n) for n in CIFAR]
    rows = [[t.get_position()[1] for t in labels if t.get_text() == n][1] for n in CIFAR]
    for true in range(10):
        for predicted in range(10):
            at = [
                t.get_text()
                for t in labels
                if abs(t.get_position()[0] - columns[predicted]) < 1
                and abs(t.get_position()[1] - rows[true]) < 1
            ]
            assert at == [str(counts[true, predicted])]
    share = 100 * np.trace(counts) / counts.sum()
    assert f"accuracy {share:.2f} % of 5,050 images" in words(figure)
    assert f"{100 * counts[0, 0] / counts[0].sum():.1f} %" in words(figure)


def test_the_diagonal_does_not_drown_a_rare_error() -> None:
    counts = np.diag([1000] * 10)
    counts[4, 9] = 3
    figure = matrices.confusion_figure(counts, DIGITS)
    shades = np.asarray(figure.axes[0].images[0].get_array()).astype(int)
    assert (shades[4, 9] - 255).min() < -100
    assert (shades[9, 4] == 255).all()
    assert shades[4, 4, 2] > shades[4, 4, 0]  # the diagonal is blue, errors are not
    assert shades[4, 9, 2] < shades[4, 9, 0]


def test_confusion_with_an_absent_class_and_many_classes() -> None:
    counts = np.eye(30, dtype=np.int64)
    counts[3, 3] = 0
    names = [f"a long class name {k}" for k in range(30)]
    figure = matrices.confusion_figure(counts, names)
    assert "no case" in words(figure)
    assert all(1 <= side < 2000 for side in to_array(figure).shape[:2])


# --- learning curves --------------------------------------------------------------------------


def test_the_selected_epoch_of_each_seed_is_marked() -> None:
    logs = [seed_log(0, [0.5, 0.9, 0.8], 2), seed_log(1, [0.4, 0.6, 0.95], 3)]
    figure = curves.curves_figure(logs, published=0.97)
    marked = [line for line in figure.axes[0].lines if line.get_gid() == "selected"]
    epochs = [int(np.asarray(line.get_xdata()).item()) for line in marked]
    errors = [float(np.asarray(line.get_ydata()).item()) for line in marked]
    assert epochs == [2, 3]
    assert errors == pytest.approx([0.1, 0.05])
    assert "published 97.00" in words(figure)
    rates = [np.asarray(line.get_ydata()).tolist() for line in figure.axes[2].lines]
    assert rates == [[1e-3, 5e-4, 1e-3 / 3]] * 2


@pytest.mark.parametrize(
    ("accuracies", "terms"),
    [
        ([0.5], {}),
        ([1.0, 1.0], {"r1": 0.0}),
        ([0.8101, 0.8102], {"cycle": 2.0}),
        ([0.1 + 0.0008 * epoch for epoch in range(1000)], {}),
    ],
    ids=["one epoch", "perfect, a term of zero", "narrow, another term", "thousand epochs"],
)
def test_curves_of_every_shape(accuracies: list[float], terms: dict[str, float]) -> None:
    figure = curves.curves_figure([seed_log(0, accuracies, 1, **terms)])
    assert to_array(figure).min() < 100
    assert len(figure.axes[0].get_yticks()) >= 2
    assert {"validation", "training", "classification", *terms} - {"r1"} <= set(words(figure))


def test_curve_labels_do_not_meet() -> None:
    figure = curves.curves_figure([seed_log(0, [0.5, 0.9], 2)], published=0.9)
    canvas = to_array(figure)
    for axes in figure.axes[:2]:
        boxes = sorted((t.get_window_extent() for t in axes.texts), key=lambda box: box.y0)
        for lower, upper in pairwise(boxes):
            assert lower.y1 <= upper.y0 + 3  # boxes are taller than their letters
        assert max(box.x1 for box in boxes) <= canvas.shape[1]


# --- reasons ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_reasons_show_input_reconstruction_and_prototypes_from_left_to_right(channels: int) -> None:
    shown = case(channels)
    figure = reasons.reasons_figure([shown])
    page = to_array(figure)
    pictures = [shown.image, shown.reconstruction, *shown.prototypes]
    corners = [places_of(picture, page)[0] for picture in pictures]
    assert [x for _, x in corners] == sorted(x for _, x in corners)
    assert len({y for y, _ in corners}) == 1
    assert {"distance 0.42", "contribution +3.00", "contribution -0.50"} <= set(words(figure))
    lengths = [np.ptp(np.asarray(line.get_xdata())) for line in figure.axes[0].lines]
    colours = [to_hex(line.get_color()).upper() for line in figure.axes[0].lines]
    assert np.allclose(np.array(lengths) / lengths[0], [1, 0.5, 1 / 6])
    assert colours == [BLUE, BLUE, VERMILION]


# --- an explanation ---------------------------------------------------------------------------


def explanation(count: int, channels: int = 3, **changes: Any) -> Explanation:
    """Of an image that is taken for an automobile; pictures without symmetry, each its own."""
    pictures = marked_images(2 * count + 8, channels)
    values = np.random.default_rng(0).normal(0, 2, (count, 2)).round(3)
    values = values[np.argsort(-values[:, 0])]
    reasons = [
        PrototypeReason(
            index=p,
            class_name=CIFAR[p % 10],
            distance=1.5 * p,
            usual_distance=20.25,
            weight=-12.5,
            weight_to_runner_up=0.5,
            contribution=float(values[p, 0]),
            contribution_to_runner_up=float(values[p, 1]),
            nearest_case=Case(100 + p, CIFAR[p % 3], 0.5, pictures[2 * p]),
            picture=pictures[2 * p + 1],
        )
        for p in range(count)
    ]
    base = [0.25] * 10
    totals = 0.25 + values.sum(axis=0)
    found = Explanation(
        name="a-picture",
        row="cifar10-small-deconv",
        seed=0,
        prediction=Outcome(1, "automobile", 0.8, float(totals[0])),
        runner_up=Outcome(0, "airplane", 0.1, float(totals[1])),
        label="automobile",
        baseline_logits=tuple(base),
        prototypes=tuple(reasons),
        nearest_cases=tuple(Case(n, CIFAR[n], 1.0 + n, pictures[-1 - n]) for n in range(6)),
        change_needed=ChangeNeeded(1.5, SingleChange(3, "automobile", 0.5, 1.25)),
        out_of_distribution=OutOfDistribution(False, 0.5, 1.0, 0.25, 0.75),
        notes=(),
        image=pictures[-7],
        reconstruction=pictures[-8],
    )
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_image_prototypes_and_cases_upright(channels: int) -> None:
    found = explanation(15, channels)
    page = to_array(sheet.explanation_figure(found))
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
    figure = sheet.explanation_figure(found)
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
    rows = [row for row in rows if row[-1].get_position()[0] == sheet.NUMBERS[1]]
    ordered = sorted(rows, key=lambda row: row[0].get_position()[1])
    return [["", *(text.get_text().replace(MINUS, "-") for text in row)] for row in ordered]


def test_of_many_prototypes_those_that_matter_for_both_classes_are_shown() -> None:
    found = explanation(50)
    said = words(sheet.explanation_figure(found))
    shown = {int(text[1:]) for text in said if re.fullmatch(r"#\d+", text)}
    by_runner_up = sorted(found.prototypes, key=lambda r: -r.contribution_to_runner_up)
    assert {reason.index for reason in found.prototypes[:8]} <= shown
    assert {reason.index for reason in by_runner_up[:4]} <= shown
    assert len(shown) <= 12


def test_bars_of_a_sheet_are_in_proportion_and_start_at_one_zero() -> None:
    found = explanation(15)
    figure = sheet.explanation_figure(found)
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
            "out_of_distribution": OutOfDistribution(True, 1234.5, 1000.0, 123.4, 99.0),
            "notes": ("A remark that is long enough to fill more than a line. " * 3,) * 2,
            "change_needed": ChangeNeeded(123.45, None),
        }
    found = explanation(count, **changes)
    figure = sheet.explanation_figure(found)
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


# --- files and arrays -------------------------------------------------------------------------


def test_a_saved_picture_is_what_was_drawn_and_carries_no_date_nor_software(tmp_path: Path) -> None:
    path = tmp_path / "new" / "prototypes.png"
    images, figure = prototypes_of(6)
    save(figure, path)
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert set(image.info) <= {"dpi"}
        page = np.asarray(image.convert("RGB"))
    assert (page == to_array(figure)).all()
    assert places_of(images[5], page)
    _, again = prototypes_of(6)
    save(again, path)
    assert path.read_bytes() == data
    assert [entry.name for entry in path.parent.iterdir()] == ["prototypes.png"]


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    _, figure = prototypes_of(1)
    with pytest.raises(OSError, match=r"taken\.png"):
        save(figure, tmp_path / "taken.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.png"]


def test_files_are_small_also_in_colour(tmp_path: Path) -> None:
    images, weights = smooth_images(50, 3, 32), head_weights(50)
    drawn = {
        "prototypes": prototypes.prototypes_figure(
            images, weights.argmin(axis=0), weights.min(axis=0), CIFAR
        ),
        "weights": matrices.weights_figure(weights, CIFAR, images),
        "samples": prototypes.samples_figure(images[:10], images[10:20]),
        "reasons": reasons.reasons_figure([case(), case(), case()]),
    }
    for name, figure in drawn.items():
        save(figure, tmp_path / f"{name}.png")
        size = (tmp_path / f"{name}.png").stat().st_size
        assert size < 125_000, f"{name}: {size} bytes"  # the random hues compress worst
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_neither_pyplot_nor_the_users_own_style_has_a_say(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 20\ntext.antialiased: False\n")
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        import matplotlib
        import numpy as np
        from protodl.report.figures.page import save
        from protodl.report.figures.prototypes import samples_figure
        images = np.zeros((2, 1, 4, 4))
        save(samples_figure(images, images), Path(sys.argv[1]))
        assert "matplotlib.pyplot" not in sys.modules
        assert matplotlib.rcParams["font.size"] == 20
    """)
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "MATPLOTLIBRC": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path / "styled.png")]
    subprocess.run(command, check=True, env=environment)
    images = np.zeros((2, 1, 4, 4))
    save(prototypes.samples_figure(images, images), tmp_path / "plain.png")
    assert (tmp_path / "styled.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_numbers_that_do_not_fit_together_are_refused() -> None:
    images = marked_images(3)
    with pytest.raises(ValueError, match="as many"):
        prototypes.prototypes_figure(images, np.zeros(2, int), np.zeros(2), DIGITS)
    with pytest.raises(ValueError, match="reconstructions"):
        prototypes.samples_figure(images, images[:2])
    with pytest.raises(ValueError, match="2 labels"):
        prototypes.samples_figure(images, images, np.zeros(2, int))
    with pytest.raises(ValueError, match="class names"):
        matrices.weights_figure(head_weights(3), DIGITS[:9])
    with pytest.raises(ValueError, match="classes"):
        matrices.confusion_figure(np.zeros((3, 3), int), DIGITS)
    with pytest.raises(ValueError, match="epoch"):
        curves.curves_figure([])
    with pytest.raises(ValueError, match="no case"):
        reasons.reasons_figure([])
