"""Stage judge@<data set>: the plain classifier that judges what prototypes and cases look like."""

import argparse
import json
import sys
import time
from pathlib import Path

from protodl.core.config import load_params
from protodl.core.errors import ProtodlError
from protodl.core.machine import environment_facts, resolve_runtime
from protodl.data.datasets import load_split, split_validation
from protodl.network.judge import judge_accuracy, save_judge
from protodl.training.judge import train_judge


def train(options: argparse.Namespace) -> None:
    """Train the judge of a data set and measure it on validation images."""
    params = load_params(options.params)
    settings = params.training
    split = load_split(options.data)
    shown, validation = split_validation(split, settings.validation_size, settings.split_seed)
    runtime = resolve_runtime(settings)
    start = time.perf_counter()
    judge = train_judge(options.dataset, shown, params.judge, runtime)
    facts = {
        "validation_accuracy": judge_accuracy(judge, validation),
        "train_seconds": time.perf_counter() - start,
        "num_epochs": params.judge.epochs,
        "seed": params.judge.seed,
        "environment": environment_facts(runtime),
    }
    save_judge(judge, options.model)
    options.metrics.parent.mkdir(parents=True, exist_ok=True)
    options.metrics.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"judge of {options.dataset}: validation accuracy {facts['validation_accuracy']:.4f}")


def main() -> int:
    """Run the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.judge", description=__doc__)
    parser.add_argument("dataset", help="data set")
    parser.add_argument("--params", type=Path, required=True, help="params.yaml")
    parser.add_argument("--data", type=Path, required=True, help="train.pt of the data set")
    parser.add_argument("--model", type=Path, required=True, help="file for the weights")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON with its accuracy")
    try:
        train(parser.parse_args())
    except (ProtodlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
