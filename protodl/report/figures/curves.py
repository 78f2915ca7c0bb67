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
    MINUS,
    ORANGE,
    PAGE_WIDTH,
    PURPLE,
    SKY,
    Floats,
    require,
    styled,
)

TERM_WORDS = {"loss": "weighted sum", "decoded_prototype_classification": "prototype class"}
TERM_COLOURS = {"classification": BLUE, "reconstruction": GREEN, "r1": ORANGE, "r2": PURPLE}
SPARE_COLOURS = (SKY, "#882255", "#44AA99", "#999933", "#332288")
DARK_ORANGE = "#B37A00"  # for words, which are too pale in ORANGE
LABEL_DISTANCE = 19  # pixels from the name of one curve to the next

Label = tuple[float, str, str]  # where a curve ends, its name, its colour


@styled
def curves_figure(logs: Sequence[SeedLog], published: float | None = None) -> Figure:
    """Draw accuracy, loss terms and learning rate of each seed; dots mark the selected epochs.

    Thick lines are measured on validation images, thin ones on augmented training images. The
    accuracy axis is logarithmic in the error, which separates 98 % from 99 %; that of the loss
    terms is logarithmic, too, so terms that fall below 0 have axes of their own.

    Args:
        logs: one for each seed.
        published: accuracy in [0, 1], drawn as a dashed line.

    Raises:
        ValueError: no log holds an epoch.
    """
    logs = [log for log in logs if log.history]
    require(bool(logs), "curves_figure: no log holds an epoch")
    signed = [name for name in _terms(logs) if _falls_below_zero(logs, name)]
    height = 555 if signed else 465  # pixels, as all numbers here
    figure = Figure(figsize=(PAGE_WIDTH / DPI, height / DPI), dpi=DPI)

    def panel(left: int, bottom: int, width: int, top: int) -> Axes:
        box = (left / PAGE_WIDTH, bottom / height, width / PAGE_WIDTH, (top - bottom) / height)
        return figure.add_axes(box)

    accuracy = panel(61, 60, 362, height - 51)
    loss = panel(604, 310 if signed else 200, 315, height - 51)
    rate = panel(604, 60, 315, 139)
    below_zero = [panel(604, 192, 315, 255)] if signed else []
    _draw_accuracy(accuracy, logs, published)
    _draw_losses(loss, logs, [name for name in _terms(logs) if name not in signed])
    for axes in below_zero:
        _draw_signed(axes, logs, signed)
    _draw_rates(rate, logs)
    last = max(record.epoch for log in logs for record in log.history)
    for axes in (accuracy, loss, rate, *below_zero):
        _scale_by_epochs(axes, last, axes in (accuracy, rate))
    return figure


def _draw_rates(axes: Axes, logs: Sequence[SeedLog]) -> None:
    rates = [[record.learning_rate for record in log.history] for log in logs]
    _draw_curves(axes, logs, rates, GREY, 1.0)
    peak = max(map(max, rates))
    axes.set_title("Learning rate")
    axes.set_ylim(0, 1.08 * peak or 1)
    axes.set_yticks([0, peak], ["0", f"{peak:.2g}"])


def _scale_by_epochs(axes: Axes, last: int, labelled: bool) -> None:
    """Make the x axis end at the last epoch; only the lowest axes of a column are labelled."""
    margin = 0.5 if last < 20 else 0
    axes.set_xlim(margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(True, axis="y", color="#EEEEEE", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelbottom=labelled)
    if labelled:
        axes.set_xlabel("epoch")


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


def _terms(logs: Sequence[SeedLog]) -> list[str]:
    """The names of the loss terms, their weighted sum last."""
    names = [name for name in logs[0].history[0].train if name not in ("accuracy", "loss")]
    return [*names, "loss"]


def _values(logs: Sequence[SeedLog], split: str, name: str) -> list[list[float]]:
    """A term of each seed by epoch, 0 where it was not computed; split: train or validation."""
    return [[getattr(record, split).get(name, 0.0) for record in log.history] for log in logs]


def _falls_below_zero(logs: Sequence[SeedLog], name: str) -> bool:
    parts = (_values(logs, split, name) for split in ("train", "validation"))
    return any(min(map(min, part)) < 0 for part in parts)


def _draw_losses(axes: Axes, logs: Sequence[SeedLog], terms: Sequence[str]) -> None:
    """Draw every term that is not 0 on a logarithmic axis."""
    labels = _draw_terms(axes, logs, terms)
    _scale_logarithmically(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("Loss terms; thin: training")
    _label_ends(axes, labels)


def _draw_signed(axes: Axes, logs: Sequence[SeedLog], terms: Sequence[str]) -> None:
    """Draw terms that fall below 0 on a linear axis, with a line at 0."""
    axes.axhline(0, color=GREY, linewidth=0.6)
    labels = _draw_terms(axes, logs, terms, lowest=-np.inf)
    axes.set_ylim(*axes.get_ylim())
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:zg}".replace("-", MINUS))
    )
    axes.set_title("Terms that fall below 0, linear axis")
    _label_ends(axes, labels)


def _draw_terms(
    axes: Axes, logs: Sequence[SeedLog], terms: Sequence[str], lowest: float = 0.0
) -> list[Label]:
    """Draw terms, thin on training and thick on validation images; returns their labels."""
    every = [name for name in _terms(logs) if name not in (*TERM_COLOURS, "loss")]
    spare = dict(zip(every, SPARE_COLOURS * len(every), strict=False))
    labels = []
    for name in terms:
        colour = INK if name == "loss" else TERM_COLOURS.get(name) or spare[name]
        curves = (colour, 0.6, 0.7, lowest)
        training = _draw_curves(axes, logs, _values(logs, "train", name), *curves)
        curves = (colour, 1.3, 1.0, lowest)
        validation = _draw_curves(axes, logs, _values(logs, "validation", name), *curves)
        if last := validation or training:
            labels.append((last, TERM_WORDS.get(name, name.replace("_", " ")), colour))
    return labels


def _draw_curves(
    axes: Axes,
    logs: Sequence[SeedLog],
    series: Sequence[Sequence[float]],
    colour: str,
    width: float,
    opacity: float = 1.0,
    lowest: float = 0.0,
) -> float:
    """Draw a curve for each seed, of a value for each epoch; returns the median of the last ones.

    Values of 0 (a term that is off) and those not above `lowest` leave a gap: 0 has no place on a
    logarithmic axis. Where there is but one epoch, it is a dot.
    """
    opacity *= 1.0 if len(logs) == 1 else 0.6
    for log, values in zip(logs, series, strict=True):
        epochs = [record.epoch for record in log.history]
        shown = [value if value and value > lowest else np.nan for value in values]
        marker = "o" if len(epochs) == 1 else ""
        axes.plot(epochs, shown, color=colour, linewidth=width, alpha=opacity, marker=marker,
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
