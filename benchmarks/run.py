"""`make bench`: measure, then write benchmarks/results.json, SPEED.md and speed.png."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tabulate import tabulate

from benchmarks import measure
from protodl.config import load_params
from protodl.runtime import environment_facts, resolve_runtime

FOLDER = Path(__file__).parent


def main() -> None:
    """Measure every row of params.yaml; the machine should do nothing else."""
    params = load_params(FOLDER.parent / "params.yaml")
    runtime = resolve_runtime(params.training)
    torch.manual_seed(0)
    results: dict[str, Any] = {"environment": environment_facts(runtime)}
    results["elastic"] = measure.elastic()
    for name in ("throughput", "share_of_peak", "evaluation_microseconds"):
        results[name] = {}
    for row, experiment in params.experiments.items():
        results["throughput"][row] = measure.throughput(experiment, runtime)
        results["share_of_peak"][row] = measure.share_of_peak(experiment, runtime)
        results["evaluation_microseconds"][row] = measure.evaluation(experiment, runtime)
        print(row, json.dumps(results["throughput"][row]), flush=True)
    first = next(iter(params.experiments.values()))
    results["step_milliseconds"] = measure.growth(first, runtime)
    rounded = json.loads(json.dumps(results), parse_float=lambda text: float(f"{float(text):.4g}"))
    (FOLDER / "results.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    (FOLDER / "SPEED.md").write_text(page(rounded), encoding="utf-8")
    draw(rounded["throughput"], FOLDER / "speed.png")
    print(page(rounded))


def rows_table(results: Mapping[str, Any]) -> str:
    """The figures of each row as a table in Markdown."""
    cells = [
        [
            row,
            f"{speed['images_per_second']:,.0f}",
            f"{speed['port_way']:,.0f}",
            f"{speed['ratio']:.1f}",
            f"{100 * results['share_of_peak'][row]['share']:.0f} %",
            f"{results['evaluation_microseconds'][row]['classify']:.0f}",
            f"{results['evaluation_microseconds'][row]['explain']:.0f}",
        ]
        for row, speed in results["throughput"].items()
    ]
    head = ["row", "images/s", "port's way", "ratio", "share of peak", "classify (µs)"]
    return tabulate([*cells], [*head, "with decoder (µs)"], "pipe", disable_numparse=True)


def page(results: Mapping[str, Any]) -> str:
    """The figures in words and tables."""
    elastic, facts = results["elastic"], results["environment"]
    growth = [
        f"- Milliseconds of a step of the first row by {name.replace('_', ' ')}: "
        + ", ".join(f"{key}: {value:.1f}" for key, value in steps.items())
        for name, steps in results["step_milliseconds"].items()
    ]
    lines = [
        "# Speed",
        "",
        "Made by `make bench` in one run, in turns with the baseline, after a warm-up; medians. "
        "The baseline (`port_way.py`) trains the same network as the published port does: SciPy "
        "image by image in DataLoader workers, NCHW float32, losses fetched in every step.",
        "",
        rows_table(results),
        "",
        f"- Machine: {facts['processor']}, {facts['threads']} threads, {facts['precision']}; "
        f"torch {facts['torch']}.",
        "- Share of peak: operations of a step (counted from shapes) a second, over those of a "
        "2048 x 2048 matrix product of the same precision.",
        f"- Elastic deformation alone, one thread: {elastic['images_per_second']:,.0f} images/s, "
        f"SciPy {elastic['scipy']:,.0f}: {elastic['ratio']:.0f} times.",
        *growth,
        "",
        "![Training throughput of each row beside the port's way](speed.png)",
    ]
    return "\n".join(lines) + "\n"


def draw(throughput: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Bars of both rates, on a logarithmic axis."""
    figure = Figure(figsize=(7, 3.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    rows = list(throughput)[::-1]
    places = range(len(rows))
    ours = [throughput[row]["images_per_second"] for row in rows]
    theirs = [throughput[row]["port_way"] for row in rows]
    axes.barh([p + 0.2 for p in places], ours, 0.38, color="#0072B2", label="protodl")
    axes.barh([p - 0.2 for p in places], theirs, 0.38, color="#999999", label="the port's way")
    for place, row in enumerate(rows):
        axes.text(ours[place], place + 0.2, f" x{throughput[row]['ratio']:.1f}", va="center")
    axes.set(xscale="log", yticks=list(places), yticklabels=rows, xlabel="training images a second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    FigureCanvasAgg(figure)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
