"""`make bench`: measure, then write results.json, SPEED.md and speed.png."""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import costs, pipeline_overheads, processes, same_results, training_speed
from benchmarks.measure import Bench, Stopwatch
from benchmarks.page import speed_page
from benchmarks.picture import draw
from benchmarks.published_time import times_to_published
from protodl.core.config import load_params
from protodl.core.machine import environment_facts, prepare_machine
from protodl.data.datasets import DATASETS

ROOT = Path(__file__).parents[1]
SECTIONS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "elastic": costs.measure_elastic,
    "training": training_speed.measure_rows,
    "growth": costs.measure_growth,
    "answers": costs.measure_answers,
    "memory": processes.measure_memory,
    "side_by_side": processes.measure_side_by_side,
    "pipeline": pipeline_overheads.measure_pipeline,
    "same_results": same_results.measure_same_results,
}
QUICK = Stopwatch(seconds=0.02, rounds=1, warm_up=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure section by section; the files are written after each. Nothing else should run."""
    options = parse(arguments)
    if "same_results" in options.only and not options.quick:
        require_data()
    bench = build_bench(options.quick)
    facts = environment_facts(bench.runtime)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler reports a GPU's absence
    for section in options.only:
        print(f"measuring: {section}", flush=True)
        write(SECTIONS[section](bench), {section: facts}, bench, output)
    print(speed_page(read(output)))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `output` and `only` are filled in."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(SECTIONS),
        metavar="SECTION[,...]",
        help=f"measure these again and keep the others: {', '.join(SECTIONS)}",
    )
    parser.add_argument("--quick", action="store_true", help="one row, too short to mean anything")
    parser.add_argument("--output", type=Path, help="folder to write to")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    options.output = options.output or ROOT / ("build/bench" if options.quick else "benchmarks")
    return options


def require_data() -> None:
    """End before anything is measured where the one section that trains finds no images."""
    datasets = {
        load_params(ROOT / "params.yaml").experiment(row).dataset for row in same_results.ROWS
    }
    for dataset in sorted(datasets):
        if not (ROOT / "data" / dataset / "train.pt").is_file():
            raise SystemExit(
                f"error: same_results trains on the full data, and data/{dataset} is not there; "
                f"run `dvc repro download@{dataset}`, or name the other sections with --only"
            )


def build_bench(quick: bool) -> Bench:
    """Rows of params.yaml on published data sets, or a short look at the first; on the CPU."""
    params = load_params(ROOT / "params.yaml")
    rows = [(row, each) for row, each in params.experiments.items() if each.dataset in DATASETS]
    params = params.model_copy(update={"experiments": dict(rows[:1] if quick else rows)})
    runtime = prepare_machine(params.training.model_copy(update={"device": "cpu"}))
    return Bench(ROOT, params, runtime, QUICK if quick else Stopwatch(), quick)


def read(folder: Path) -> dict[str, Any]:
    """What has been measured so far."""
    path = folder / "results.json"
    if not path.is_file():
        return {"measured": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(
    figures: Mapping[str, Any], measured: Mapping[str, Any], bench: Bench, folder: Path
) -> None:
    """Put new figures among those that are there, and renew page and picture.

    Args:
        figures: by name, of one section.
        measured: machine and revision of that section.
        bench: what they were measured with.
        folder: where the files are.
    """
    results = read(folder)
    results["measured"] |= measured
    results |= figures
    rates = {
        row: speed["port_images_per_second"] for row, speed in results.get("throughput", {}).items()
    }
    if rates:
        results["time_to_published"] = times_to_published(bench.root, rates)
    text = json.dumps(results)
    rounded = json.loads(text, parse_float=lambda number: float(f"{float(number):.4g}"))
    (folder / "results.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    (folder / "SPEED.md").write_text(speed_page(rounded), encoding="utf-8")
    draw(rounded, folder / "speed.png")


if __name__ == "__main__":
    main()
