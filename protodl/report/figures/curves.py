"""Learning curves: accuracy, loss terms and learning rate of every seed of a row, by epoch."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from protodl.core.training_log import SeedLog
from protodl.report.figures.page import (
    BLUE,
    DPI,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAGE_WIDTH,
    PURPLE,
    SKY,
    Floats,
    require,
    styled,
)

TERM_WORDS = {"loss": "weighted sum", "prototype_classification": "prototype class"}
TERM_COLOURS = {"classification": BLUE, "reconstruction": GREEN, "r1": ORANGE, "r2": PURPLE}
SPARE_COLOURS = (SKY, "#882255", "#44AA99", "#999933", "#332288")
DARK_ORANGE = "#B37A00"  # for words, which are too pale in ORANGE
LABEL_DISTANCE = 19  # pixels from the name of one curve to the next

Label = tuple[float, str, str]  # where a curve ends, its name, its colour


@styled
def curves_figure(logs: Sequence[SeedLog], published: float | None = None) -> Figure:
    """Draw accuracy, loss terms and learning rate of each seed; dots mark the selected epochs.

    Thick lines are measured on validation images, thin ones on augmented training images. The
    accuracy axis is logarithmic in the error, which separates 98 % from 99 %.

    Args:
        logs: one for each seed.
        published: accuracy in [0, 1], drawn as a dashed line.

    Raises:
        ValueError: no log holds an epoch.
    """
    logs = [log for log in logs if log.history]
    require(bool(logs), "curves_figure: no log holds an epoch")
    figure = Figure(figsize=(PAGE_WIDTH / DPI, 3.1), dpi=DPI)
    accuracy = figure.add_axes((0.058, 0.13, 0.345, 0.76))
    loss = figure.add_axes((0.575, 0.43, 0.3, 0.46))
    rate = figure.add_axes((0.575, 0.13, 0.3, 0.17))
    _draw_accuracy(accuracy, logs, published)
    _draw_losses(loss, logs)
    rates = [[record.learning_rate for record in log.history] for log in logs]
    _draw_curves(rate, logs, rates, GREY, 1.0)
    peak = max(map(max, rates))
    rate.set_title("Learning rate")
    rate.set_ylim(0, 1.08 * peak or 1)
    rate.set_yticks([0, peak], ["0", f"{peak:.2g}"])
    last = max(record.epoch for log in logs for record in log.history)
    margin = 0.5 if last < 20 else 0
    for axes in (accuracy, loss, rate):
        axes.set_xlim(margin, last + margin)
        axes.xaxis.set_major_locator(
            MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        )
        axes.grid(True, axis="y", color="#EEEEEE", linewidth=0.6)
        axes.set_axisbelow(True)
    loss.tick_params(labelbottom=False)
    accuracy.set_xlabel("epoch")
    rate.set_xlabel("epoch")
    return figure


def _draw_accuracy(axes: Axes, logs: Sequence[SeedLog], published: float | None) -> None:
    """Draw the error on a logarithmic axis from top to bottom, labelled as accuracy in percent."""
    errors = [[_error(r.train["accuracy"]) for r in log.history] for log in logs]
    training = _draw_curves(axes, logs, errors, ORANGE, 0.9)
    errors = [[_error(r.validation["accuracy"]) for r in log.history] for log in logs]
    validation = _draw_curves(axes, logs, errors, BLUE, 1.4)
    for log in logs:
        selected = next(r for r in log.history if r.epoch == log.selected_epoch)
        error = _error(selected.validation["accuracy"])
        axes.plot(selected.epoch, error, "o", color=BLUE, markersize=4.5, zorder=5,
                  markeredgecolor="white", clip_on=False, gid="selected")  # fmt: skip
    labels = [(validation, "validation", BLUE), (training, "training", DARK_ORANGE)]
    if published is not None:
        axes.axhline(_error(published), color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        labels.append((_error(published), f"published {100 * published:.2f}", GREY))
    _scale_logarithmically(axes)
    low, high = axes.get_ylim()
    axes.set_ylim(min(high, 1.0), low)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - 100 * error:.6g}"))
    axes.set_title("Accuracy (%); dot: selected epoch")
    _label_ends(axes, labels)


def _error(accuracy: float) -> float:
    """The share of errors, kept off the zero that a logarithmic axis cannot show."""
    return max(1 - accuracy, 1e-4)


def _draw_losses(axes: Axes, logs: Sequence[SeedLog]) -> None:
    """Draw every term that is not 0; its label says so where it is below 0 at the end."""
    terms = [name for name in logs[0].history[0].train if name not in ("accuracy", "loss")]
    spare = iter(SPARE_COLOURS * len(terms))
    labels = []
    for name in [*terms, "loss"]:
        colour = INK if name == "loss" else TERM_COLOURS.get(name) or next(spare)
        values = [[r.train.get(name, 0.0) for r in log.history] for log in logs]
        training = _draw_curves(axes, logs, values, colour, 0.6, 0.7)
        values = [[r.validation.get(name, 0.0) for r in log.history] for log in logs]
        validation = _draw_curves(axes, logs, values, colour, 1.3)
        if last := validation or training:
            words = TERM_WORDS.get(name, name.replace("_", " "))
            labels.append((last, words if last > 0 else f"{words} < 0", colour))
    _scale_logarithmically(axes)
    lowest = axes.get_ylim()[0]
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("Loss terms; thin: training")
    _label_ends(axes, [(e if e > 0 else lowest, words, colour) for e, words, colour in labels])


def _draw_curves(
    axes: Axes,
    logs: Sequence[SeedLog],
    series: Sequence[Sequence[float]],
    colour: str,
    width: float,
    opacity: float = 1.0,
) -> float:
    """Draw a curve for each seed, of a value for each epoch; returns the median of the last ones.

    Values of 0 (a term that is off) and below leave a gap: such axes are logarithmic. Where there
    is but one epoch, it is a dot.
    """
    opacity *= 1.0 if len(logs) == 1 else 0.6
    for log, values in zip(logs, series, strict=True):
        epochs = [record.epoch for record in log.history]
        positive = [value if value > 0 else np.nan for value in values]
        marker = "o" if len(epochs) == 1 else ""
        axes.plot(epochs, positive, color=colour, linewidth=width, alpha=opacity, marker=marker,
                  markersize=3)  # fmt: skip
    return float(np.median([values[-1] for values in series]))


def _scale_logarithmically(axes: Axes) -> None:
    """Make the y axis logarithmic, its limits fixed, with as many ticks as there is room for."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    steps = range(1, 10) if high < 8 * low else (1, 2, 5) if high < 1000 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=tuple(map(float, steps))))
    axes.yaxis.set_minor_locator(NullLocator())


def _label_ends(axes: Axes, labels: Sequence[Label]) -> None:
    """Name each curve at its right end, the names moved apart where they would meet."""
    box, to_pixels = axes.get_window_extent(), axes.transData.transform
    labels = sorted(labels, key=lambda label: float(to_pixels((0, label[0]))[1]))
    heights = [to_pixels((0, end))[1] - box.y0 for end, _, _ in labels]
    offsets = LABEL_DISTANCE * np.arange(len(labels))
    apart: Floats = np.array(heights) - offsets  # names keep their distance where these never fall
    apart = (np.maximum.accumulate(apart) + np.minimum.accumulate(apart[::-1])[::-1]) / 2
    places = np.clip(apart, 0, box.height - offsets[-1]) + offsets
    for place, (_, words, colour) in zip(places, labels, strict=True):
        axes.text(1.03, float(place) / box.height, words, color=colour, va="center", ha="left",
                  transform=axes.transAxes)  # fmt: skip
