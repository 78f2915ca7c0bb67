"""Every picture of a row, from numpy arrays: the only import of matplotlib.

Shapes: N images, C channels (1 grey, 3 colour), H, W, P prototypes, K classes. Images are uint8,
or floats in [0, 1]. A figure is laid out in pixels of a 150 dpi page, so that each picture's pixels
are whole pixels of the page; 1050 of them are the 7 inches of a paper's text width.
"""

import functools
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

from protodl.pixels import Images, Pixels, to_pixels
from protodl.records import EpochRecord, SeedLog

if TYPE_CHECKING:
    from protodl.explanation import Explanation, PrototypeReason

Floats = npt.NDArray[Any]
Ints = npt.NDArray[Any]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

DPI = 150
PAGE_WIDTH = 1050
LARGEST_EXACT_FILE = 100_000  # bytes; a larger picture is stored with 256 colours
MARGIN = 10
LINE = 18  # of 7 point text

# Okabe and Ito's colours: told apart also by colour-blind readers and in grey print.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
ORANGE, SKY = "#E69F00", "#56B4E9"
INK, GREY, RULE = "#1A1A1A", "#666666", "#CCCCCC"
TERM_WORDS = {"loss": "weighted sum", "prototype_classification": "prototype class"}
TERM_COLOURS = {"classification": BLUE, "reconstruction": GREEN, "r1": ORANGE, "r2": PURPLE}
SPARE_COLOURS = (SKY, "#882255", "#44AA99", "#999933", "#332288")

STYLE: Any = {  # the stubs want a literal type for each key
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $5
    "text.hinting": "no_hinting",  # letters keep their distances, and widths can be foretold
    "figure.facecolor": "white",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.solid_capstyle": "round",
}


def _styled(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run with matplotlib's defaults and STYLE, whatever the user's own matplotlibrc says."""

    @functools.wraps(draw)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return wrapped


# --- files and arrays -------------------------------------------------------------------------


@_styled
def to_array(figure: Figure) -> Pixels:
    """Render a figure at its own dpi: uint8 (H, W, 3)."""
    canvas: Any = FigureCanvasAgg(figure)  # its methods are not annotated
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes depend on the figure only; the file appears whole or not at all.

    Exact colours where they fit into LARGEST_EXACT_FILE, else the best 256 of them.
    """
    image = Image.fromarray(to_array(figure))
    data = _png(image)
    if len(data) > LARGEST_EXACT_FILE:
        data = _png(image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _png(image: Image.Image) -> bytes:
    """Lossless; with a palette where 256 colours are enough."""
    if image.mode == "RGB" and image.getcolors(256) is not None:
        pixels = np.asarray(image).reshape(-1, 3)
        palette, indices = np.unique(pixels, axis=0, return_inverse=True)
        image = Image.frombytes("P", image.size, indices.astype(np.uint8).tobytes())
        image.putpalette(palette.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, dpi=(DPI, DPI))
    return buffer.getvalue()


# --- laying out in pixels ---------------------------------------------------------------------


class _Page:
    """A figure under one axes whose unit is the pixel, counted from the top left."""

    def __init__(self, width: int, height: int) -> None:
        # The millionth keeps 901 / 150 * 150 from being cut to 900.
        size = ((width + 1e-6) / DPI, (height + 1e-6) / DPI)
        self.figure = Figure(figsize=size, dpi=DPI)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)

    def image(self, pixels: Pixels, x: int, y: int, scale: int) -> None:
        """Draw (H, W, C) with its top left corner at (x, y), each pixel `scale` wide and high."""
        self.stretch(pixels, x, y, pixels.shape[1] * scale, pixels.shape[0] * scale)

    def stretch(self, pixels: Pixels, x: int, y: int, width: int, height: int) -> None:
        """Draw (H, W, C) over a box without smoothing."""
        colours = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        box = (x, x + width, y + height, y)
        self.axes.imshow(colours, extent=box, interpolation="nearest", aspect="auto")
        self.axes.set_xlim(0, self.figure.bbox.width)
        self.axes.set_ylim(self.figure.bbox.height, 0)

    def rule(self, x: float, y: float, width: float) -> None:
        """Draw a thin horizontal line."""
        self.axes.plot([x, x + width], [y, y], color=RULE, linewidth=0.6)

    def upright_rule(self, x: float, y: float, end: float) -> None:
        """Draw a thin vertical line."""
        self.axes.plot([x, x], [y, end], color=RULE, linewidth=0.6)

    def bar(self, x: float, y: float, length: float, positive: bool, width: float = 2) -> None:
        """Draw a length from x, to the left where negative: blue speaks for, vermilion against."""
        colour = BLUE if positive else VERMILION
        ends = ([x, x + length], [y, y])
        self.axes.plot(*ends, color=colour, linewidth=width, solid_capstyle="butt")

    def text(self, x: float, y: float, words: str, size: float = 7, **style: Any) -> None:
        """Write one line, its capitals centred on y: all baselines of a row agree."""
        half_capital = 0.365 * size * DPI / 72
        style = {"ha": "center", "va": "baseline", **style}
        self.axes.text(x, y + half_capital, words, size=size, **style)

    def upright(self, x: float, y: float, words: str, **style: Any) -> None:
        """Write from the bottom up."""
        style = {"ha": "center", "va": "center", **style}
        self.axes.text(x, y, words, rotation=90, **style)

    def label(self, x: float, y: float, words: str, upwards: bool = False, **style: Any) -> None:
        """Write lines downwards from y, or so that the last one stands on it."""
        lines = words.split("\n")
        start = y - LINE * (len(lines) - 0.5) if upwards else y + LINE / 2
        for index, line in enumerate(lines):
            self.text(x, start + LINE * index, line, **style)


def _text_width(words: str, size: float = 7, weight: str = "normal") -> float:
    """Width in pixels of the page; of the longest line where there are several."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    measure = TextToPath().get_text_width_height_descent
    return max(measure(line, font, False)[0] for line in words.split("\n")) * DPI / 72


def _fold(name: str, width: float, **font: Any) -> str:
    """Break a class name that is wider than its place behind a space or a slash."""
    if _text_width(name, **font) <= width:
        return name
    return name.replace("/", "/\n", 1) if "/" in name else name.replace(" ", "\n", 1)


def _number(value: float) -> str:
    """Three digits or so, with a true minus sign."""
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _signed(value: float) -> str:
    words = _number(value)
    if float(words.replace("\N{MINUS SIGN}", "-")) == 0:
        return words.removeprefix("\N{MINUS SIGN}")
    return words if value < 0 else f"+{words}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


# --- decoder samples --------------------------------------------------------------------------


@_styled
def samples_figure(
    originals: Images,
    reconstructions: Images,
    labels: Ints | None = None,
    predictions: Ints | None = None,
    class_names: Sequence[str] | None = None,
    columns: int = 10,
) -> Figure:
    """Originals (N, C, H, W) above their reconstructions, true class on top, predicted class below.

    A wrong prediction stands out by colour and weight. labels, predictions: (N,).
    """
    top = to_pixels(originals, "originals")
    bottom = to_pixels(reconstructions, "reconstructions")
    _require(top.shape == bottom.shape, f"originals {top.shape} and reconstructions {bottom.shape}")
    count, height, width, _ = top.shape
    scale = max(1, round(84 / width))
    cell, tall, side = width * scale + 4, height * scale, 26
    above = [_fold(name, cell) for name in _names(labels, class_names, count)]
    below = [_fold(name, cell) for name in _names(predictions, class_names, count)]
    head, foot = _lines(above) * LINE + 4, _lines(below) * LINE + 4
    columns = min(columns, count)
    block = head + 2 * tall + 4 + foot + 12
    rows = -(-count // columns)
    page = _Page(side + columns * cell + MARGIN, MARGIN + rows * block)
    for row in range(rows):
        y = MARGIN + row * block + head + tall / 2
        page.upright(side - 12, y, "original", color=GREY)
        page.upright(side - 12, y + tall + 4, "decoded", color=GREY)
    for index in range(count):
        x = side + index % columns * cell
        y = MARGIN + index // columns * block + head
        page.image(top[index], x, y, scale)
        page.image(bottom[index], x, y + tall + 4, scale)
        wrong = bool(above[index]) and above[index] != below[index]
        colour, weight = (VERMILION, "bold") if wrong else (INK, "normal")
        middle, end = x + (cell - 4) / 2, y + 2 * tall + 8
        page.label(middle, y - 3, above[index], upwards=True)
        page.label(middle, end, below[index], color=colour, weight=weight)
    return page.figure


def _names(indices: Ints | None, class_names: Sequence[str] | None, count: int) -> list[str]:
    if indices is None:
        return [""] * count
    _require(len(indices) == count, f"{count} images, but {len(indices)} labels or predictions")
    return [class_names[int(i)] if class_names else str(int(i)) for i in indices]


def _lines(names: Sequence[str]) -> int:
    return max(name.count("\n") + 1 if name else 0 for name in names)


# --- prototypes -------------------------------------------------------------------------------


def prototype_order(classes: Ints, weights: Floats) -> list[int]:
    """Prototypes of a class side by side, the one with the most negative weight first."""
    return [int(index) for index in np.lexsort((np.asarray(weights), np.asarray(classes)))]


@_styled
def prototypes_figure(
    images: Images,
    classes: Ints,
    weights: Floats,
    class_names: Sequence[str],
    by_class: bool = True,
) -> Figure:
    """Decoded prototypes (P, C, H, W), each with its class, number and head weight for that class.

    classes, weights: (P,). Sorted as prototype_order says, or left in order; classes without a
    prototype are named below.
    """
    pixels = to_pixels(images, "images")
    count, height, width, _ = pixels.shape
    _require(
        len(classes) == len(weights) == count, f"{count} images need as many classes and weights"
    )
    order = prototype_order(classes, weights) if by_class else list(range(count))
    scale = max(1, round((112 if count <= 15 else 84 if count <= 60 else 56) / width))
    numbers = [f"#{p} {_number(float(weights[p]))}" for p in range(count)]
    labels = max(_text_width(words) for words in [*class_names, *numbers])
    cell = round(max(width * scale, labels)) + 6
    columns = _columns(count, cell)
    row = height * scale + 48
    rows = -(-count // columns)
    caption = _coverage_lines(classes, class_names)
    wide = max(columns * cell - 6, *(round(_text_width(words)) for words, _ in caption))
    page = _Page(wide + 2 * MARGIN, MARGIN + rows * row + 10 + 20 * len(caption))
    left = (wide - columns * cell + 6) // 2 + MARGIN
    for place, p in enumerate(order):
        x, y = left + place % columns * cell, MARGIN + place // columns * row
        middle, end = x + (cell - 6) / 2, y + height * scale
        page.image(pixels[p], x + (cell - 6 - width * scale) // 2, y, scale)
        page.text(middle, end + 13, class_names[int(classes[p])])
        page.text(middle, end + 31, numbers[p], color=GREY)
    for index, (words, colour) in enumerate(caption):
        y = MARGIN + rows * row + 12 + 20 * index
        page.text(wide / 2 + MARGIN, y, words, color=colour)
    return page.figure


def _columns(count: int, cell: int) -> int:
    """As many columns as the page takes, rows as even as can be; up to 15 stand in fives."""
    fitting = max(1, (PAGE_WIDTH - 2 * MARGIN) // cell)
    fitting = min(fitting, 5 if count <= 15 else 10 if count <= 60 else 20)
    return -(-count // -(-count // fitting))


def _coverage_lines(classes: Ints, class_names: Sequence[str]) -> list[tuple[str, str]]:
    covered = {int(c) for c in classes}
    missing = [name for index, name in enumerate(class_names) if index not in covered]
    count = f"{len(classes)} prototype{'' if len(classes) == 1 else 's'}"
    lines = [(f"{count}; #number and head weight (most negative: most evidence)", GREY)]
    groups = [missing[start : start + 5] for start in range(0, len(missing), 5)]
    for index, group in enumerate(groups):
        start = "without a prototype: " if index == 0 else ""
        end = "" if group is groups[-1] else ","
        lines.append((start + ", ".join(group) + end, VERMILION))
    return lines


# --- learning curves --------------------------------------------------------------------------


@_styled
def curves_figure(logs: Sequence[SeedLog], published: float | None = None) -> Figure:
    """Accuracy, loss terms and learning rate of each seed by epoch; dots mark the selected epochs.

    Held-out images: full lines; augmented training images: thin ones. The accuracy axis is
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
    ends: dict[str, list[float]] = {"held-out": [], "training": []}
    strength = 1.0 if len(logs) == 1 else 0.6
    for log in (log for log in logs if log.history):
        held_out = [(r.epoch, _error(r.validation["accuracy"])) for r in log.history]
        training = [(r.epoch, _error(r.train["accuracy"])) for r in log.history]
        _line(axes, training, ORANGE, 0.9, strength)
        _line(axes, held_out, BLUE, 1.4, strength)
        chosen = [point for point in held_out if point[0] == log.selected_epoch]
        for epoch, error in chosen:
            axes.plot(epoch, error, "o", color=BLUE, markersize=4.5, markeredgecolor="white",
                      zorder=5, clip_on=False, gid="selected")  # fmt: skip
        ends["held-out"].append(held_out[-1][1])
        ends["training"].append(training[-1][1])
    axes.set_yscale("log")
    labels = [
        (float(np.median(ends["held-out"])), "held-out", BLUE),
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
    held_out = [(r.epoch, r.validation[name]) for r in history if name in r.validation]
    _line(axes, training, colour, 0.6, strength * 0.7)
    _line(axes, held_out, colour, 1.3, strength)
    ends = held_out or training
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


# --- the weight matrix ------------------------------------------------------------------------


@_styled
def weights_figure(
    weights: Floats,
    class_names: Sequence[str],
    images: Images | None = None,
    by_class: bool = True,
) -> Figure:
    """The head's weights (K, P), transposed: a row for each prototype, its strongest entry filled.

    Strongest: the most negative, since a small distance then speaks for the class. images: decoded
    prototypes (P, C, H, W). More than 25 rows stand in two blocks, more than 50 in several pairs.
    """
    matrix = np.asarray(weights, dtype=np.float64).T
    _require(matrix.ndim == 2 and 0 not in matrix.shape, f"weights (K, P), got {np.shape(weights)}")
    count, num_classes = matrix.shape
    _require(bool(np.isfinite(matrix).all()), "weights: not all values are finite")
    _require(num_classes == len(class_names), f"{num_classes} rows, {len(class_names)} class names")
    pixels = None if images is None else to_pixels(images, "images")
    _require(pixels is None or len(pixels) == count, f"{count} prototypes need as many images")
    order = list(range(count))
    if by_class:
        order = prototype_order(matrix.argmin(axis=1), matrix.min(axis=1))
    table = _WeightTable.plan(matrix, class_names, pixels)
    wide = 1 if count <= 25 else 2
    pairs = -(-count // (25 * wide))
    rows = -(-count // (pairs * wide))
    height = table.head + rows * table.row + 20
    words = "head weight; filled: strongest evidence (most negative)"
    width = max(wide * (table.width + 18) - 18, round(_text_width(words)))
    page = _Page(width + 2 * MARGIN, MARGIN + pairs * height + 8)
    for block in range(-(-count // rows)):
        corner = (MARGIN + block % wide * (table.width + 18), MARGIN + block // wide * height)
        table.draw(page, order[block * rows : (block + 1) * rows], *corner)
    page.text(MARGIN + width / 2, pairs * height + 4, words, color=GREY)
    return page.figure


@dataclass(frozen=True, eq=False)
class _WeightTable:
    """Sizes in pixels that all blocks of a weight matrix share."""

    matrix: Floats  # (P, K)
    names: Sequence[str]
    turned: bool  # class names upright
    pixels: Pixels | None
    scale: int
    cell: int
    row: int
    head: int
    side: int
    words: Sequence[Sequence[str]]

    @classmethod
    def plan(cls, matrix: Floats, names: Sequence[str], pixels: Pixels | None) -> "_WeightTable":
        """Choose the sizes so that one block, or two beside each other, fill the page at most."""
        count, num_classes = matrix.shape
        scale, thumb, row = 1, 0, 30
        if pixels is not None:
            scale = max(1, round((56 if count <= 15 else 28) / pixels.shape[2]))
            thumb, row = pixels.shape[2] * scale + 6, max(26, pixels.shape[1] * scale + 4)
        side = thumb + round(_text_width("#" + "9" * len(str(count - 1)))) + 6
        room = PAGE_WIDTH - 2 * MARGIN if count <= 25 else (PAGE_WIDTH - 2 * MARGIN - 18) // 2
        limit = max(26, (room - side) // num_classes)
        folded = [_fold(name, min(limit, 64) - 4) for name in names]
        wanted = max(64, round(max(_text_width(name) for name in folded)) + 6)
        cell = limit if wanted > limit else wanted
        turned = max(_text_width(name) for name in folded) > cell - 2
        names = names if turned else folded
        head = LINE * _lines(names) + 8
        if turned:
            head = round(max(_text_width(name) for name in names)) + 10
        words = _weight_words(matrix, cell - 5)
        return cls(matrix, names, turned, pixels, scale, cell, row, head, side, words)

    @property
    def width(self) -> int:
        """Of one block."""
        return self.side + self.cell * len(self.names)

    def draw(self, page: _Page, prototypes: Sequence[int], x: int, y: int) -> None:
        """Draw one block with its top left corner at (x, y)."""
        for k, name in enumerate(self.names):
            middle = x + self.side + (k + 0.5) * self.cell
            if self.turned:
                page.upright(middle, y + self.head - 6, name, va="bottom")
            else:
                page.label(middle, y + self.head - 4, name, upwards=True)
        left, top = x + self.side, y + self.head
        shades = _weight_shades(self.matrix)[list(prototypes)]
        size = (self.cell * shades.shape[1], self.row * len(prototypes))
        page.stretch(shades, left, top, *size)
        for place, p in enumerate(prototypes):
            middle, above = top + (place + 0.5) * self.row, top + place * self.row
            page.rule(x, above, self.width)
            page.text(x, middle, f"#{p}", ha="left", color=GREY)
            if self.pixels is not None:
                start = left - 6 - self.pixels.shape[2] * self.scale
                lift = (self.row - self.pixels.shape[1] * self.scale) // 2
                page.image(self.pixels[p], start, above + lift, self.scale)
            strongest = self.matrix[p].argmin()
            for k, number in enumerate(self.words[p]):
                colour = "white" if k == strongest else INK
                page.text(left + (k + 0.5) * self.cell, middle, number, color=colour)
        page.rule(x, top + len(prototypes) * self.row, self.width)


def _weight_words(matrix: Floats, width: float) -> list[list[str]]:
    """Two decimals where they fit into the cell, else one; below 1 the leading zero goes first."""
    small = bool(np.abs(matrix).max() < 0.995)
    for digits, strip in ((2, False), (2, True), (1, False), (0, False)):
        if strip and not small:
            continue
        words = [[_fixed(value, digits, strip) for value in row] for row in matrix]
        if max(_text_width(word) for word in {w for row in words for w in row}) <= width:
            break
    return words


def _fixed(value: float, digits: int, strip: bool) -> str:
    words = f"{value:z.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return words.replace("0.", ".", 1) if strip else words


def _weight_shades(matrix: Floats) -> Pixels:
    """Blue where a small distance speaks for the class, orange where against: (P, K, 3)."""
    rows, strongest = np.arange(len(matrix)), matrix.argmin(axis=1)
    sizes = np.abs(matrix)
    sizes[rows, strongest] = 0  # filled below: the others keep the whole scale for themselves
    # Few steps make a small file, and are told apart more easily than many.
    shares = np.rint(6 * sizes / max(float(sizes.max()), 1e-12)) / 12
    shades: Pixels = np.where((matrix < 0)[..., None], _tint(shares, BLUE), _tint(shares, ORANGE))
    shades[rows, strongest] = _tint(np.ones(()), BLUE)
    return shades


def _tint(shares: Floats, colour: str) -> Pixels:
    """White at 0, the colour at 1: (...) -> (..., 3)."""
    target = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
    mixed: Pixels = np.rint(255 + (target - 255) * np.asarray(shares)[..., None]).astype(np.uint8)
    return mixed


# --- the confusion matrix ---------------------------------------------------------------------


@_styled
def confusion_figure(counts: Ints, class_names: Sequence[str]) -> Figure:
    """Counts (K, K), a row for each true class; shades are shares of the row.

    Errors have a colour and a scale of their own, so that the diagonal does not drown them.
    """
    counts = np.asarray(counts)
    size = len(class_names)
    _require(counts.shape == (size, size), f"{size} classes, counts of shape {counts.shape}")
    _require(
        np.issubdtype(counts.dtype, np.integer) and bool((counts >= 0).all()), "counts: integers"
    )
    share = 100 * int(np.trace(counts)) / max(int(counts.sum()), 1)
    title = f"accuracy {share:.2f} % of {counts.sum():,} images"
    folded = [_fold(name, 64) for name in class_names]
    widest = max(_text_width(name) for name in folded)
    cell, row = max(46, round(_text_width(f"{counts.max():,}")) + 12), 42
    side = round(max(_text_width(name) for name in class_names)) + 38
    if size <= 12:
        cell = max(cell, round(widest) + 2, min(round(widest) + 8, (960 - side) // size))
    turned = widest > cell
    names = list(class_names) if turned else folded
    tall = max(_text_width(name) for name in names) if turned else LINE * _lines(names)
    head = round(tall) + 68
    wide = max(size * cell + 70, round(_text_width(title, 8, "bold")))
    page = _Page(MARGIN + side + wide + MARGIN, head + size * row + MARGIN)
    page.text(MARGIN + side, 20, title, ha="left", size=8, weight="bold")
    page.text(MARGIN + side + size * cell / 2, 46, "predicted", color=GREY)
    page.upright(MARGIN + 12, head + size * row / 2, "true class", color=GREY)
    page.text(MARGIN + side + size * cell + 70, head - 13, "correct", ha="right", color=GREY)
    page.stretch(_confusion_shades(counts), MARGIN + side, head, size * cell, size * row)
    for k, name in enumerate(names):
        middle = MARGIN + side + (k + 0.5) * cell
        if turned:
            page.upright(middle, head - 6, name, va="bottom")
        else:
            page.label(middle, head - 4, name, upwards=True)
    table = (MARGIN + side, head, cell, row)
    for true in range(size):
        _confusion_row(page, counts[true], true, class_names[true], table)
    return page.figure


def _confusion_row(
    page: _Page, counts: Ints, true: int, name: str, table: tuple[int, int, int, int]
) -> None:
    left, head, cell, row = table
    y = head + (true + 0.5) * row
    page.text(left - 8, y, name, ha="right")
    for k, count in enumerate(counts):
        if count:
            colour = "white" if k == true else INK
            page.text(left + (k + 0.5) * cell, y, f"{int(count):,}", color=colour)
    share = f"{100 * counts[true] / counts.sum():.1f} %" if counts.sum() else "no case"
    page.text(left + len(counts) * cell + 70, y, share, ha="right")


def _confusion_shades(counts: Ints) -> Pixels:
    """Blue diagonal, orange errors up to the largest share of errors: (K, K, 3)."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    errors = np.where(np.eye(len(counts), dtype=bool), 0.0, shares)
    # The root lifts rare errors, which would otherwise all look white beside the worst pair.
    shades = _tint(0.85 * np.sqrt(errors / max(float(errors.max()), 1e-12)), ORANGE)
    correct = _tint(0.7 + 0.3 * shares.diagonal(), BLUE)
    shades[np.arange(len(counts)), np.arange(len(counts))] = correct
    return shades


# --- why: a case and its nearest prototypes ---------------------------------------------------

BOX, STEP = 144, 164  # a picture, and from one to the next
HEAD = 46  # height of the words above the first case
VERDICT, REASONS = MARGIN + 2 * STEP + 79, MARGIN + 2 * STEP + 178  # middle of one, left of other


@dataclass(frozen=True, eq=False)
class Case:
    """One image, what the network made of it, and the k prototypes that it is closest to."""

    title: str  # the data set
    image: Images  # (C, H, W)
    reconstruction: Images  # (C, H, W)
    label: str  # names, not numbers
    prediction: str
    prototypes: Images  # (k, C, H, W), decoded, nearest first
    prototype_classes: Sequence[str]
    distances: Floats  # (k,)
    contributions: Floats  # (k,), positive: speaks for the predicted class


@_styled
def reasons_figure(cases: Sequence[Case]) -> Figure:
    """A row for each case, read as a sentence: this is a 7 because it looks like those."""
    _require(bool(cases), "reasons_figure: no case")
    shown = max(len(case.prototypes) for case in cases)
    _require(shown > 0, "reasons_figure: a case without a prototype")
    page = _Page(REASONS + shown * STEP + 8, HEAD + len(cases) * 236)
    heads = (
        (MARGIN + BOX / 2, "This image"),
        (MARGIN + STEP + BOX / 2, "(reconstructed)"),
        (VERDICT, "is classified as"),
        (REASONS + (shown * STEP - STEP + BOX) / 2, "because it looks like these prototypes"),
    )
    for middle, words in heads:
        page.text(middle, 20, words, size=8, weight="normal" if "(" in words else "bold")
    for index, case in enumerate(cases):
        y = HEAD + index * 236
        if index:
            page.rule(MARGIN, y - 9, REASONS + shown * STEP - 20)
        _draw_case(page, case, y + 6)
    return page.figure


def stack_reasons(pictures: Sequence[Path], output: Path) -> None:
    """Put saved reasons figures below each other, the words at their head once."""
    opened = [Image.open(path).convert("RGB") for path in pictures]
    parts = [
        picture.crop((0, HEAD if index else 0, picture.width, picture.height))
        for index, picture in enumerate(opened)
    ]
    size = (max(part.width for part in parts), sum(part.height for part in parts))
    page = Image.new("RGB", size, "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(_png(page))


def _draw_case(page: _Page, case: Case, y: int) -> None:
    pair = to_pixels(np.stack([case.image, case.reconstruction]), case.title)
    _boxed(page, pair[0], MARGIN, y)
    _boxed(page, pair[1], MARGIN + STEP, y)
    page.text(MARGIN + BOX / 2, y + BOX + 17, case.title, color=GREY)
    right = case.label == case.prediction
    size = 28 if len(case.prediction) <= 2 else 12
    page.text(
        VERDICT, y + BOX / 2, case.prediction, size=size, weight="bold",
        color=INK if right else VERMILION,
    )  # fmt: skip
    truth = "correct" if right else f"true class: {case.label}"
    page.text(VERDICT, y + BOX + 17, truth, color=GREEN if right else VERMILION)
    pixels = to_pixels(case.prototypes, case.title)
    largest = max(float(np.abs(case.contributions).max()), 1e-12)
    for k in range(len(pixels)):
        x, middle = REASONS + k * STEP, REASONS + k * STEP + BOX / 2
        _boxed(page, pixels[k], x, y)
        same = case.prototype_classes[k] == case.prediction
        name, weight = case.prototype_classes[k], "bold" if same else "normal"
        page.text(middle, y + BOX + 17, name, weight=weight)
        page.text(middle, y + BOX + 36, f"distance {_number(float(case.distances[k]))}", color=GREY)
        share = float(case.contributions[k])
        words = f"contribution {_signed(share)}"
        page.text(middle, y + BOX + 54, words, color=BLUE if share > 0 else VERMILION)
        page.bar(x + 2, y + BOX + 66, (BOX - 4) * abs(share) / largest, share > 0)


def _boxed(page: _Page, pixels: Pixels, x: int, y: int) -> None:
    """Centre a picture in a box, enlarged by a whole number."""
    scale = max(1, BOX // max(pixels.shape[:2]))
    high, wide = pixels.shape[0] * scale, pixels.shape[1] * scale
    page.image(pixels, x + (BOX - wide) // 2, y + (BOX - high) // 2, scale)


# --- variants side by side --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Compared:
    """The prototypes of one variant that stand for S different classes."""

    name: str
    note: str  # below the name
    images: Images  # (S, C, H, W), decoded
    classes: Ints  # (S,)
    agrees: npt.NDArray[np.bool_]  # (S,) whether the network puts the picture into that class


@_styled
def comparison_figure(
    groups: Mapping[str, Sequence[Compared]], class_names: Mapping[str, Sequence[str]]
) -> Figure:
    """A row for each variant, a column for each class; variants of a data set below each other.

    groups, class_names: by title of the data set. A bar below a picture: the network disagrees.
    """
    blocks = [_Block(rows, class_names[title]) for title, rows in groups.items()]
    _require(bool(blocks), "comparison_figure: nothing to compare")
    side = max(block.side for block in blocks)
    width = max(side + block.columns_width for block in blocks) + 2 * MARGIN
    page = _Page(width, MARGIN + sum(block.height for block in blocks))
    y = MARGIN
    for title, block in zip(groups, blocks, strict=True):
        page.text(MARGIN, y + LINE, title, size=8, weight="bold", ha="left")
        block.draw(page, MARGIN, MARGIN + side, y)
        y += block.height
    return page.figure


class _Block:
    """The variants of one data set, and the pixels that they take."""

    def __init__(self, rows: Sequence[Compared], class_names: Sequence[str]) -> None:
        _require(bool(rows), "comparison_figure: a data set without a variant")
        self.rows, self.class_names = rows, class_names
        self.pixels = [to_pixels(row.images, row.name) for row in rows]
        self.size = max(pixels.shape[2] for pixels in self.pixels)
        self.scale = max(1, round(64 / self.size))
        self.tall = self.size * self.scale + 10
        self.cell = round(max(self.tall - 6, *(_text_width(name) for name in class_names))) + 4
        self.columns_width = self.cell * len(class_names)
        self.side = round(max(_text_width(words) for r in rows for words in (r.name, r.note))) + 12
        self.height = 2 * LINE + 6 + self.tall * len(rows) + LINE

    def draw(self, page: _Page, left: int, x: int, y: int) -> None:
        """Draw names at `left` and pictures from `x` on, below y."""
        for column, name in enumerate(self.class_names):
            page.text(x + self.cell * (column + 0.5), y + LINE, name)
        for index, row in enumerate(self.rows):
            top = y + 2 * LINE + self.tall * index
            middle = top + self.size * self.scale / 2
            page.text(left, middle - LINE / 2, row.name, ha="left")
            page.text(left, middle + LINE / 2, row.note, ha="left", color=GREY)
            self._draw_pictures(page, x, top, index)

    def _draw_pictures(self, page: _Page, x: int, top: int, index: int) -> None:
        row, side = self.rows[index], self.size * self.scale
        for picture, column, agrees in zip(
            self.pixels[index], row.classes, row.agrees, strict=True
        ):
            left = x + self.cell * int(column) + (self.cell - side) // 2
            page.image(picture, left, top, self.scale)
            if not agrees:
                page.bar(left, top + side + 4, side, positive=False)


# --- an explanation ---------------------------------------------------------------------------

ALL_SHOWN = 16  # prototypes; of more than that those below
SHOWN_FOR_PREDICTION, SHOWN_FOR_RUNNER_UP = 8, 4  # largest contributions
TEXT_LEFT = MARGIN + 2 * STEP + 12
THUMB, ROW = 64, 72  # a picture in the table or among the cases; a line of the table
DECODED, CASE, CASE_WORDS = 112, 196, 268  # left edges of the table's columns
DISTANCE, WEIGHT, NUMBERS = 418, 510, (600, 850)  # right edges
BARS, BAR_WIDTH = (612, 862), 168
CASE_STEP = 100


@_styled
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
    page = _Page(PAGE_WIDTH, head + table + _closing_height(explanation))
    _draw_question(page, explanation)
    _draw_lines(page, verdict, TEXT_LEFT, 10)
    _Reasons(explanation, shown, others).draw(page, head)
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
        if lines and _text_width(longer, size, weight) <= width:
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


def _draw_lines(page: _Page, lines: Sequence[_Line], x: float, y: float) -> None:
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


def _draw_question(page: _Page, explanation: "Explanation") -> None:
    """The image and its reconstruction, and where they come from."""
    pair = np.stack([explanation.image, explanation.reconstruction])
    heads = ("This image", "(reconstructed)")
    for index, (pixels, words) in enumerate(zip(to_pixels(pair, "image"), heads, strict=True)):
        x = MARGIN + index * STEP
        _boxed(page, pixels, x, MARGIN + 28)
        weight = "normal" if "(" in words else "bold"
        page.text(x + BOX / 2, 20, words, size=8, weight=weight)
    origin = f"{explanation.row}, seed {explanation.seed}"
    for index, words in enumerate((explanation.name, origin)):
        y = MARGIN + 28 + BOX + 16 + LINE * index
        page.text(MARGIN, y, _shortened(words, 2 * STEP), ha="left", color=GREY)


def _shortened(words: str, width: float, **font: Any) -> str:
    """The words, their middle left out where they are wider than given."""
    kept = len(words)
    short = words
    while _text_width(short, **font) > width and kept > 2:
        kept -= 1
        short = f"{words[: (kept + 1) // 2]}…{words[-(kept // 2) :]}"
    return short


@dataclass(frozen=True, eq=False)
class _Reasons:
    """The table of prototypes: a line for each, then what makes up the rest of the logits."""

    explanation: "Explanation"
    shown: "Sequence[PrototypeReason]"
    others: "Sequence[PrototypeReason]"

    def draw(self, page: _Page, top: int) -> None:
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
                page.text(x, y + 14, _signed(value), ha="right", weight=weight)
            y += 24

    def _draw_head(self, page: _Page, top: int) -> None:
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

    def _draw_reason(self, page: _Page, reason: "PrototypeReason", y: int) -> None:
        middle = y + ROW / 2
        case, predicted = reason.nearest_case, self.explanation.prediction.class_name
        weight = "bold" if reason.class_name == predicted else "normal"
        page.text(MARGIN, middle - 9, reason.class_name, ha="left", weight=weight)
        page.text(MARGIN, middle + 9, f"#{reason.index}", ha="left", color=GREY)
        for x, picture in ((DECODED, reason.picture), (CASE, case.picture)):
            _draw_thumb(page, picture, x, y + 4)
        colour = INK if case.label == reason.class_name else VERMILION
        page.text(CASE_WORDS, middle - 9, case.label, ha="left", color=colour)
        page.text(CASE_WORDS, middle + 9, f"{_number(case.distance)} away", ha="left", color=GREY)
        page.text(DISTANCE, middle - 9, _number(reason.distance), ha="right")
        usual = f"({_number(reason.usual_distance)})"
        page.text(DISTANCE, middle + 9, usual, ha="right", color=GREY)
        page.text(WEIGHT, middle, _number(reason.weight), ha="right")
        self._draw_values(page, middle, (reason.contribution, reason.contribution_to_runner_up))

    def _draw_values(self, page: _Page, y: float, values: tuple[float, float]) -> None:
        """Two signed numbers, and bars from a zero that all lines share."""
        low, high = self._range
        for column, value in enumerate(values):
            words = _signed(value)
            colour = GREY if words[0] == "0" else BLUE if value > 0 else VERMILION
            page.text(NUMBERS[column], y, words, ha="right", color=colour)
            zero = BARS[column] + BAR_WIDTH * -low / (high - low)
            page.bar(zero, y, BAR_WIDTH * value / (high - low), value > 0, width=4)

    @property
    def _range(self) -> tuple[float, float]:
        """The smallest and the largest bar, zero among them."""
        lines = [(r.contribution, r.contribution_to_runner_up) for r in self.shown]
        values = [value for line in [*lines, _summed(self.others)] for value in line]
        low, high = min(0.0, *values), max(0.0, *values)
        return low, max(high, low + 1e-12)


def _draw_thumb(page: _Page, picture: Images, x: int, y: int) -> None:
    """A small picture (C, H, W), its left edge at x, halfway up a line of THUMB."""
    (pixels,) = to_pixels(np.asarray(picture)[None], "picture")
    scale = max(1, THUMB // max(pixels.shape[:2]))
    page.image(pixels, x, y + (THUMB - pixels.shape[0] * scale) // 2, scale)


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


def _draw_closing(page: _Page, explanation: "Explanation", top: int) -> None:
    """The training cases nearest to the image, and what the runner-up lacks."""
    page.text(MARGIN, top + 18, "Training cases nearest to this image", ha="left", size=8,
              weight="bold")  # fmt: skip
    cases = explanation.nearest_cases
    for place, case in enumerate(cases):
        x, y = MARGIN + place * CASE_STEP, top + 34
        _draw_thumb(page, case.picture, x, y)
        same = case.label == explanation.prediction.class_name
        colour = INK if same else VERMILION
        page.text(x, y + THUMB + 14, case.label, ha="left", color=colour)
        page.text(x, y + THUMB + 31, f"{_number(case.distance)} away", ha="left", color=GREY)
    left = MARGIN + len(cases) * CASE_STEP + 20
    _draw_lines(page, _closing_words(explanation), left, top + 1)
