"""Learning curves of every shape, their marks and their names."""

from itertools import pairwise

import numpy as np
import pytest

from protodl.core.training_log import EpochRecord, SeedLog
from protodl.report.figures.curves import curves_figure
from protodl.report.figures.page import to_array
from tests.report.figures.drawings import words


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


def test_the_selected_epoch_of_each_seed_is_marked() -> None:
    logs = [seed_log(0, [0.5, 0.9, 0.8], 2), seed_log(1, [0.4, 0.6, 0.95], 3)]
    figure = curves_figure(logs, published=0.97)
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
    ids=[
        "one epoch",
        "perfect, a term of zero",
        "narrow, another term",
        "thousand epochs",
    ],
)
def test_curves_of_every_shape(accuracies: list[float], terms: dict[str, float]) -> None:
    figure = curves_figure([seed_log(0, accuracies, 1, **terms)])
    assert to_array(figure).min() < 100
    assert len(figure.axes[0].get_yticks()) >= 2
    assert {"validation", "training", "classification", *terms} - {"r1"} <= set(words(figure))
    drawn = [np.asarray(line.get_ydata(), float) for line in figure.axes[1].lines]
    assert all((values[np.isfinite(values)] > 0).all() for values in drawn)


def test_a_term_that_turns_negative_is_drawn_whole_on_an_axis_with_a_zero() -> None:
    """On the logarithmic axis the seeds and epochs above 0 would be stray pieces."""
    falling, rising = [0.4, -0.1, -0.3], [-0.2, 0.1, 0.6]
    logs = []
    for seed, values in enumerate((falling, rising)):
        log = seed_log(seed, [0.5, 0.6, 0.7], 3)
        history = [
            record.model_copy(update={"train": {**record.train, "diversity": value}})
            for record, value in zip(log.history, values, strict=True)
        ]
        logs.append(log.model_copy(update={"history": history}))
    logarithmic, linear = (curves_figure(logs).axes[place] for place in (1, 3))
    drawn = [np.asarray(line.get_ydata(), float).tolist() for line in linear.lines]
    assert [values for values in drawn if np.isfinite(values).all()][1:] == [falling, rising]
    assert linear.get_ylim()[0] < -0.3 and linear.get_ylim()[1] > 0.6
    assert linear.get_yscale() == "linear"
    assert [text.get_text() for text in linear.texts] == ["diversity"]
    assert "diversity" not in [text.get_text() for text in logarithmic.texts]
    flat = [np.asarray(line.get_ydata(), float) for line in logarithmic.lines]
    assert all(values.min() == values.max() for values in flat)


def test_without_such_a_term_there_is_no_such_axis() -> None:
    assert len(curves_figure([seed_log(0, [0.5, 0.9], 2, diversity=0.5)]).axes) == 3


def test_curve_labels_do_not_meet() -> None:
    figure = curves_figure([seed_log(0, [0.5, 0.9], 2)], published=0.9)
    canvas = to_array(figure)
    for axes in figure.axes[:2]:
        boxes = sorted((t.get_window_extent() for t in axes.texts), key=lambda box: box.y0)
        for lower, upper in pairwise(boxes):
            assert lower.y1 <= upper.y0 + 3  # boxes are taller than their letters
        assert max(box.x1 for box in boxes) <= canvas.shape[1]


def test_no_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="epoch"):
        curves_figure([])
