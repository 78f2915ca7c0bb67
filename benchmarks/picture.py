"""speed.png: throughput of each row beside the port's way, and how a step's time grows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

OURS, THEIRS = "#0072B2", "#999999"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw what has been measured of the two."""
    figure = Figure(figsize=(10, 3.4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_throughput(left, results.get("throughput", {}))
    draw_growth(right, results.get("step_milliseconds", {}))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    figure.savefig(path, metadata={"Software": None})


def draw_throughput(axes: Axes, throughput: Mapping[str, Mapping[str, float]]) -> None:
    """Bars of both rates of each row, on a logarithmic axis, with their ratio."""
    if not throughput:
        return
    rows = list(throughput)[::-1]
    places = range(len(rows))
    ours = [throughput[row]["images_per_second"] for row in rows]
    theirs = [throughput[row]["port_images_per_second"] for row in rows]
    axes.barh([p + 0.2 for p in places], ours, 0.38, color=OURS, label="protodl")
    axes.barh([p - 0.2 for p in places], theirs, 0.38, color=THEIRS, label="the port's way")
    for place, row in enumerate(rows):
        ratio = f" × {throughput[row]['ratio']:.1f}"
        axes.text(ours[place], place + 0.2, ratio, va="center", fontsize=8)
    axes.set(xscale="log", yticks=list(places), yticklabels=rows, xlabel="training images a second")
    axes.set_xlim(right=3 * max(ours))
    axes.legend(frameon=False, loc="lower right", fontsize=8)


def draw_growth(axes: Axes, steps: Mapping[str, Mapping[str, float]]) -> None:
    """Milliseconds of a step by batch size and by number of prototypes."""
    curves = {"batch_size": ("images in a batch", OURS, "o")}
    curves |= {"num_prototypes": ("prototypes", "#D55E00", "s")}
    for name, (label, colour, mark) in curves.items():
        if name in steps:
            x, y = [int(key) for key in steps[name]], list(steps[name].values())
            axes.plot(x, y, color=colour, marker=mark, label=label)
    if not steps:
        axes.set_axis_off()  # not measured yet
    else:
        axes.set(xscale="log", yscale="log", ylabel="milliseconds a step", xlabel="number")
        axes.legend(frameon=False, fontsize=8)
