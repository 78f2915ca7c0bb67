"""A page laid out in pixels, its style, and how it becomes a PNG file.

A figure is laid out in pixels of a 150 dpi page, so that each picture's pixels are whole pixels of
the page; 1050 of them are the 7 inches of a paper's text width.
"""

import io
import re
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from PIL import Image

from protodl.core.files import write_bytes
from protodl.report.figures.pixels import Pixels

Floats = npt.NDArray[Any]
Ints = npt.NDArray[Any]
DPI = 150
PAGE_WIDTH = 1050
LARGEST_EXACT_FILE = 100_000  # bytes; a larger picture is stored with 256 colours
MARGIN = 10
LINE = 18  # of 7 point text
MINUS = "\N{MINUS SIGN}"

# Okabe and Ito's colours: colour-blind readers distinguish them, also in grey print.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
ORANGE, SKY = "#E69F00", "#56B4E9"
INK, GREY, RULE = "#1A1A1A", "#666666", "#CCCCCC"
STYLE: Any = {  # the stubs want a literal type for each key
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $5
    "text.hinting": "no_hinting",  # letters keep their distances, and widths can be foretold
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
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


# A decorator: matplotlib's defaults and STYLE hold, whatever the user's own matplotlibrc says.
styled = matplotlib.style.context(["default", STYLE])


@styled
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
    data = png_bytes(image)
    if len(data) > LARGEST_EXACT_FILE:
        data = png_bytes(image.quantize(256, Image.Quantize.MEDIANCUT))
    write_bytes(data, path)


def png_bytes(image: Image.Image) -> bytes:
    """Lossless; with a palette where 256 colours are enough."""
    if image.mode == "RGB" and image.getcolors(256) is not None:
        pixels = np.asarray(image).reshape(-1, 3)
        palette, indices = np.unique(pixels, axis=0, return_inverse=True)
        image = Image.frombytes("P", image.size, indices.astype(np.uint8).tobytes())
        image.putpalette(palette.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", dpi=(DPI, DPI))  # a tenth smaller by `optimize`, in 5 times the time
    return buffer.getvalue()


class Page:
    """A figure under one axes whose unit is the pixel, counted from the top left."""

    def __init__(self, width: int, height: int) -> None:
        # The millionth keeps 901 / 150 * 150 from being cut to 900.
        size = ((width + 1e-6) / DPI, (height + 1e-6) / DPI)
        self.figure = Figure(figsize=size, dpi=DPI)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)
        self.axes.set_xlim(0, self.figure.bbox.width)
        self.axes.set_ylim(self.figure.bbox.height, 0)

    def image(self, pixels: Pixels, x: int, y: int, scale: int) -> None:
        """Draw (H, W, C) with its top left corner at (x, y), each pixel `scale` wide and high."""
        height, width, _ = pixels.shape
        box = (x, x + width * scale, y + height * scale, y)
        colours = np.broadcast_to(pixels, (height, width, 3))
        self.axes.imshow(colours, extent=box, interpolation="nearest", aspect="auto")

    def inset(self, x: float, y: float, width: float, height: float) -> Axes:
        """Add axes over a box whose top left corner is (x, y)."""
        across, down = self.figure.bbox.width, self.figure.bbox.height
        box = (x / across, 1 - (y + height) / down, width / across, height / down)
        return self.figure.add_axes(box)

    def rule(self, x: float, y: float, right: float, end: float) -> None:
        """Draw a thin line from (x, y) to (right, end)."""
        self.axes.plot([x, right], [y, end], color=RULE, linewidth=0.6)

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

    def label(
        self, x: float, y: float, words: str, below: str = "", ha: str = "left", **style: Any
    ) -> None:
        """Write two lines, their middle at y, the one below in grey."""
        self.text(x, y - LINE / 2, words, ha=ha, **style)
        self.text(x, y + LINE / 2, below, ha=ha, color=GREY)

    def paragraph(
        self, x: float, y: float, words: str, width: float, size: float = 7, **style: Any
    ) -> float:
        """Write lines no wider than given, below y and some room; returns their lower edge."""
        step, y = round(size * 2.6), y + 7
        for line in _folded(words, width, size, style.get("weight", "normal")):
            y += step
            true_minus = re.sub(r"(?<!\w)-(?=\d)", MINUS, line)
            self.text(x, y - step / 2, true_minus, size, ha="left", **style)
        return y

    def cut(self, height: float) -> Figure:
        """The figure, ending at this height."""
        self.figure.set_size_inches(self.figure.get_figwidth(), (height + 1e-6) / DPI)
        self.axes.set_ylim(self.figure.bbox.height, 0)
        return self.figure


def _folded(words: str, width: float, size: float, weight: str) -> list[str]:
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def text_width(words: str, size: float = 7, weight: str = "normal") -> float:
    """Width in pixels of the page; of the longest line where there are several."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    measure = TextToPath().get_text_width_height_descent
    return max(measure(line, font, False)[0] for line in words.split("\n")) * DPI / 72


def break_name(name: str, width: float, **font: Any) -> str:
    """Break a class name that is wider than its place behind a space or a slash."""
    if text_width(name, **font) <= width:
        return name
    return name.replace("/", "/\n", 1) if "/" in name else name.replace(" ", "\n", 1)


def number_words(value: float) -> str:
    """Three digits or so, with a true minus sign before what does not round to 0."""
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:z.{digits}f}".replace("-", MINUS)


def signed_words(value: float) -> str:
    """The same with a plus sign before what rounds to more than 0."""
    return f"+{number_words(value)}" if value >= 0.005 else number_words(value)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def tint(shares: Floats, colour: str) -> Pixels:
    """White at 0, the colour at 1: (...) -> (..., 3)."""
    target = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
    mixed: Pixels = np.rint(255 + (target - 255) * np.asarray(shares)[..., None]).astype(np.uint8)
    return mixed
