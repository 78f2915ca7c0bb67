"""Validation accuracy by epoch, of trainings of different lengths."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from protodl.core.training_log import SeedLog
from protodl.report.figures.page import BLUE, DPI, INK, ORANGE, PAGE_WIDTH, require, styled

HEIGHT = 330  # pixels


@styled
def lengths_figure(rows: Mapping[str, tuple[Sequence[SeedLog], Sequence[SeedLog]]]) -> Figure:
    """A panel for each row: the trainings of the table, and those that were longer.

    Both axes are logarithmic, the one of the accuracy in the error.
    """
    require(bool(rows), "lengths_figure: no row")
    figure = Figure(figsize=(PAGE_WIDTH / DPI, HEIGHT / DPI), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, (row, lengths) in zip(panels, rows.items(), strict=True):
        for logs, colour in zip(lengths, (ORANGE, BLUE), strict=True):
            for index, log in enumerate(logs):
                epochs = [record.epoch for record in log.history]
                errors = [1 - record.validation["accuracy"] for record in log.history]
                label = "" if index else f"{log.num_epochs} epochs"
                axes.plot(epochs, errors, color=colour, linewidth=1.3, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.invert_yaxis()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda epoch, _: f"{epoch:g}"))
        percent = FuncFormatter(lambda error, _: f"{100 - 100 * error:.4g}")
        axes.yaxis.set_major_formatter(percent)
        axes.yaxis.set_minor_formatter(percent)
        axes.grid(True, axis="y", which="both", color="#EEEEEE", linewidth=0.6)
        axes.set_title(f"{row}: validation accuracy (%)", color=INK)
        axes.set_xlabel("epoch")
        axes.legend(frameon=False, loc="lower right")
    return figure
