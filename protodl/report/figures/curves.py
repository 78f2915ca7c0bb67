"""Every picture of a row, from numpy arrays: the only import of matplotlib.

Shapes: N images, C channels (1 grey, 3 colour), H, W, P prototypes, K classes. Images are uint8,
or floats in [0, 1]. A figure is laid out in pixels of a 150 dpi page, so that each picture's pixels
are whole pixels of the page; 1050 of them are the 7 inches of a paper's text width.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from protodl.core.training_log import EpochRecord, SeedLog
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
    _require,
    _styled,
)

TERM_WORDS = {"loss": "weighted sum", "prototype_classification": "prototype class"}
TERM_COLOURS = {"classification": BLUE, "reconstruction": GREEN, "r1": ORANGE, "r2": PURPLE}
SPARE_COLOURS = (SKY, "#882255", "#44AA99", "#999933", "#332288")


# --- learning curves --------------------------------------------------------------------------


@_styled
def curves_figure(logs: Sequence[SeedLog], published: float | None = None) -> Figure:
    """Accuracy, loss terms and learning rate of each seed by epoch; dots mark the selected epochs.

    Validation images: full lines; augmented training images: thin ones. The accuracy axis is
    logarithmic in the error, so that 98 and 99 % stand well apart. published: share in [0, 1].
    """
    _require(any(log.history for log in logs), "curves_figure: no log holds an epoch")
    figure = Figure(figsize=(PAGE_WIDTH / DPI, 3.1), dpi=DPI)
    accuracy = figure.add_axes((0.058, 0.13, 0.345, 0.76))
    loss = figure.add_axes((0.575, 0.43, 0.3, 0.46))
    rate = figure.add_axes((0.575, 0.13, 0.3, 0.17))
    _draw_accuracy(accuracy, logs, published)
    _draw_losses(loss, logs)
    for log in logs:
        steps = [(r.epoch, r.learning_rate) for r in log.history]
        _line(rate, steps, GREY, 1.0, 1 if len(logs) == 1 else 0.6)
    rate.set_title("Learning rate")
    peak = max(record.learning_rate for log in logs for record in log.history)
    rate.set_ylim(0, 1.08 * peak or 1)
    rate.yaxis.set_major_locator(FixedLocator([0, peak]))
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    last = max(record.epoch for log in logs for record in log.history)
    for axes in (accuracy, loss, rate):
        axes.set_xlim(0.5 if last < 20 else 0, last + (0.5 if last < 20 else 0))
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
    """Error on a turned logarithmic axis, labelled as accuracy in percent."""
    ends: dict[str, list[float]] = {"validation": [], "training": []}
    strength = 1.0 if len(logs) == 1 else 0.6
    for log in (log for log in logs if log.history):
        validation = [(r.epoch, _error(r.validation["accuracy"])) for r in log.history]
        training = [(r.epoch, _error(r.train["accuracy"])) for r in log.history]
        _line(axes, training, ORANGE, 0.9, strength)
        _line(axes, validation, BLUE, 1.4, strength)
        chosen = [point for point in validation if point[0] == log.selected_epoch]
        for epoch, error in chosen:
            axes.plot(epoch, error, "o", color=BLUE, markersize=4.5, markeredgecolor="white",
                      zorder=5, clip_on=False, gid="selected")  # fmt: skip
        ends["validation"].append(validation[-1][1])
        ends["training"].append(training[-1][1])
    axes.set_yscale("log")
    labels = [
        (float(np.median(ends["validation"])), "validation", BLUE),
        (float(np.median(ends["training"])), "training", "#B37A00"),
    ]
    if published is not None:
        axes.axhline(_error(published), color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        labels.append((_error(published), f"published {100 * published:.2f}", GREY))
    low, high = axes.get_ylim()
    axes.set_ylim(min(high, 1.0), low)
    axes.yaxis.set_major_locator(FixedLocator(_accuracy_ticks(low, min(high, 1.0))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - 100 * error:.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("Accuracy (%); dot: selected epoch")
    _label_ends(axes, labels)


def _error(accuracy: float) -> float:
    """The share of errors, kept off the zero that a logarithmic axis cannot show."""
    return max(1 - accuracy, 1e-4)


def _accuracy_ticks(low: float, high: float) -> list[float]:
    """Errors that are round accuracies, at most eight of them."""
    coarse = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    fine = [s * 10.0**-e for e in (2, 3, 4) for s in (5, 2, 1)]
    ticks = [tick for tick in coarse + fine if low <= tick <= high]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if tick in (0.9, 0.5, 0.2, 0.1, *fine)]
    if len(ticks) < 3:  # a narrow range: whole or half percents
        step = (high - low) / 4
        step = next((s for s in (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001) if s <= step), 5e-4)
        ticks = [n * step for n in range(1, int(high / step) + 1) if n * step >= low]
    return ticks


def _draw_losses(axes: Axes, logs: Sequence[SeedLog]) -> None:
    first = next(log for log in logs if log.history)
    terms = [name for name in first.history[0].train if name not in ("accuracy", "loss")]
    names = [*terms, *(["loss"] if "loss" in first.history[0].train else [])]
    spare = iter(SPARE_COLOURS * len(names))
    labels = []
    axes.set_yscale("log")
    for name in names:
        colour = INK if name == "loss" else TERM_COLOURS.get(name) or next(spare)
        ends = [_draw_term(axes, log.history, name, colour, len(logs)) for log in logs]
        found = [end for end in ends if end is not None and end > 0]
        if found:
            words = TERM_WORDS.get(name, name.replace("_", " "))
            labels.append((float(np.median(found)), words, colour))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(_loss_ticks(low, high)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("Loss terms; thin: training")
    _label_ends(axes, labels)


def _draw_term(
    axes: Axes, history: Sequence[EpochRecord], name: str, colour: str, seeds: int
) -> float | None:
    """Both curves of one term of one seed; the last value, held out where that was measured."""
    strength = 1.0 if seeds == 1 else 0.6
    # A term that is not on yet is 0, which has no place on a logarithmic axis.
    training = [(r.epoch, r.train[name]) for r in history if r.train.get(name)]
    validation = [(r.epoch, r.validation[name]) for r in history if name in r.validation]
    _line(axes, training, colour, 0.6, strength * 0.7)
    _line(axes, validation, colour, 1.3, strength)
    ends = validation or training
    return ends[-1][1] if ends else None


def _loss_ticks(low: float, high: float) -> list[float]:
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high / low < 60 else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _line(
    axes: Axes, points: Sequence[tuple[int, float]], colour: str, width: float, strength: float
) -> None:
    """A curve, or a dot where there is but one epoch."""
    x, y = [p[0] for p in points], [p[1] for p in points]
    marker = "o" if len(points) == 1 else ""
    axes.plot(x, y, color=colour, linewidth=width, alpha=strength, marker=marker, markersize=3)


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Name each curve at its right end, pushed apart where two ends meet."""
    height = axes.get_window_extent().height
    heights = [float(axes.transData.transform((0, value))[1]) for value, _, _ in labels]
    bottom = float(axes.get_window_extent().y0)
    places = _spread([h - bottom for h in heights], 19, height)
    for place, (_, words, colour) in zip(places, labels, strict=True):
        axes.text(1.03, place / height, words, color=colour, transform=axes.transAxes,
                  va="center", ha="left")  # fmt: skip


def _spread(places: Sequence[float], gap: float, limit: float) -> list[float]:
    """Move places as little as needed to be `gap` apart and, where that fits, within [0, limit]."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [places[i] for i in order]
    for _ in range(100):
        for i in range(len(moved) - 1):
            lack = gap - (moved[i + 1] - moved[i])
            if lack > 0:
                moved[i], moved[i + 1] = moved[i] - lack / 2, moved[i + 1] + lack / 2
        moved = [min(max(place, 0), limit) for place in moved]
    result = list(places)
    for i, place in zip(order, moved, strict=True):
        result[i] = place
    return result
