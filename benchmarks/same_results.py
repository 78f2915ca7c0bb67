"""Whether the fast layers change results: short trainings with them and with the plain ones."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Bench, random_split
from benchmarks.port_way import use_plain_layers
from benchmarks.published_time import best_of
from protodl.core.experiment_config import Experiment
from protodl.core.machine import Runtime
from protodl.data.datasets import DATASETS, Split, load_training, split_validation
from protodl.training.prototypes import build_network
from protodl.training.trainer import Hooks, Trainer

ROWS = ("mnist-small-deconv", "mnist-small-upconv")
SEEDS = (0, 1, 2)
EPOCHS = 2


def measure_same_results(bench: Bench) -> dict[str, Any]:
    """Validation accuracy after two epochs of the recipe, by seed, fast and plain."""
    found = {}
    for row in ROWS:
        if row in bench.params.experiments:
            experiment = bench.params.experiment(row).model_copy(update={"epochs": EPOCHS})
            train, validation = splits(bench, experiment)
            accuracies = {
                way: [
                    accuracy(experiment, train, validation, bench.runtime, seed, way == "plain")
                    for seed in SEEDS
                ]
                for way in ("fast", "plain")
            }
            found[row] = comparison(accuracies["fast"], accuracies["plain"])
            print(f"{row}: {found[row]}", flush=True)
    return {"same_results": found}


def splits(bench: Bench, experiment: Experiment) -> tuple[Split, Split]:
    """Training and validation images of the full data; random ones in a quick run."""
    if bench.quick:
        return split_validation(random_split(DATASETS[experiment.dataset].shape, 400), 100, 0)
    path: Path = bench.root / "data" / experiment.dataset / "train.pt"
    return load_training(path, bench.params.training)


def accuracy(
    experiment: Experiment,
    train: Split,
    validation: Split,
    runtime: Runtime,
    seed: int,
    plain: bool,
) -> float:
    """Highest validation accuracy of a training, a share."""
    network = build_network(experiment, train, seed)
    if plain:
        use_plain_layers(network)
    trainer = Trainer(network, train, validation, experiment, runtime, seed)
    return best_of([trainer.run_epoch(Hooks()) for _ in range(experiment.epochs)])


def comparison(fast: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    """Both ways' accuracies, the difference of their means, and its standard error (Welch)."""
    variances = [statistics.variance(way) / len(way) for way in (fast, plain)]
    return {
        "fast": list(fast),
        "plain": list(plain),
        "difference": statistics.fmean(fast) - statistics.fmean(plain),
        "standard_error": math.sqrt(sum(variances)),
    }
