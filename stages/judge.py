"""Stage judge@<data set>: the independent classifier that judges prototypes and cases."""

import argparse
import time

from protodl.core.config import load_params
from protodl.core.files import write_json
from protodl.core.machine import environment_facts, prepare_machine
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.data.datasets import load_training
from protodl.network.judge import judge_accuracy, save_judge
from protodl.training.judge import train_judge


def train(options: argparse.Namespace) -> None:
    """Train the judge of a data set and measure it on validation images."""
    params = load_params(options.params)
    shown, validation = load_training(options.data, params.training)
    runtime = prepare_machine(params.training)
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
    write_json(facts, options.metrics)
    print(f"judge of {options.dataset}: validation accuracy {facts['validation_accuracy']:.4f}")


OPTIONS = {
    "dataset": "data set",
    "--params": "params.yaml",
    "--data": "train.pt of the data set",
    "--model": "file for the weights",
    "--metrics": "JSON with its accuracy",
}
main = Stage(train, OPTIONS)

if __name__ == "__main__":
    run_script(main)
