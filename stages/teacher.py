"""Stage teacher@<data set>: the classifier whose answers for training images rows learn from."""

import argparse
import time

from protodl.core.config import load_params
from protodl.core.files import write_json
from protodl.core.machine import environment_facts, prepare_machine
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.data.datasets import load_training
from protodl.network.teacher import save_lesson
from protodl.training.classifier import augment_of
from protodl.training.teacher import answers, train_teacher


def train(options: argparse.Namespace) -> None:
    """Train the teacher of a data set, measure it, and let it answer for the training images."""
    params = load_params(options.params)
    shown, validation = load_training(options.data, params.training)
    runtime = prepare_machine(params.training)
    start = time.perf_counter()
    teacher = train_teacher(options.dataset, shown, params.teacher, runtime)
    seconds = time.perf_counter() - start
    mirrored = augment_of(options.dataset, shown).flip
    told = answers(teacher, validation, False, runtime).argmax(dim=1)
    facts = {
        "validation_accuracy": float((told == validation.labels).double().mean()),
        "train_seconds": seconds,
        "num_epochs": params.teacher.epochs,
        "seed": params.teacher.seed,
        "environment": environment_facts(runtime),
    }
    save_lesson(teacher, answers(teacher, shown, mirrored, runtime), options.model)
    write_json(facts, options.metrics)
    print(f"teacher of {options.dataset}: validation accuracy {facts['validation_accuracy']:.4f}")


OPTIONS = {
    "dataset": "data set",
    "--params": "params.yaml",
    "--data": "train.pt of the data set",
    "--model": "file for its weights, and its logits for the training images",
    "--metrics": "JSON with its accuracy",
}
main = Stage(train, OPTIONS)

if __name__ == "__main__":
    run_script(main)
