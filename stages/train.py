"""Stage train@<row>: train every seed of a row that is not in the checkpoint store yet."""

import argparse
import shutil
import time
from functools import partial
from pathlib import Path

import torch

from protodl.core.config import load_params
from protodl.core.files import load_tensors
from protodl.core.machine import project_root
from protodl.core.process import alone_in, run_script
from protodl.core.sources import closure
from protodl.core.stage import Stage
from protodl.core.training_log import SeedLog
from protodl.data.datasets import info_of, to_unit_interval
from protodl.network.checkpoint import load_network
from protodl.network.network import Classifier, PrototypeNetwork
from protodl.tracking.live import start_seed
from protodl.tracking.progress import watch
from protodl.tracking.served import ServedModel
from protodl.tracking.store import dvc_facts
from protodl.tracking.sync import complete_runs
from protodl.training.row import CHECKPOINT, FINISHED, Row, seed_log, write_curves
from protodl.training.trainer import TrainingError

SCRIPT = "stages/train.py"
NUM_SAMPLES = 10  # validation images whose reconstructions are shown while training


def samples_of(row: Row) -> torch.Tensor:
    """The first validation images (NUM_SAMPLES, C, H, W), in [0, 1]."""
    return to_unit_interval(row.validation.images[:NUM_SAMPLES])


def served(row: Row, network: PrototypeNetwork) -> ServedModel:
    """The classifier of a seed as MLflow serves it."""
    class_names = info_of(row.experiment.dataset, row.train).class_names
    return ServedModel(Classifier(network), samples_of(row)[:2].numpy(), class_names)


def kept_model(row: Row, networks: Path, log: SeedLog, explains: bool) -> ServedModel | None:
    """The classifier of a seed that was trained before; the evaluation adds what explains."""
    return None if explains else served(row, load_network(networks / f"seed-{log.seed}.pt"))


def train_seed(row: Row, seed: int, store: Path, row_fails: bool) -> None:
    """Train one seed into its folder of the checkpoint store, tracked in MLflow."""
    start_ms = time.time_ns() // 1_000_000
    facts = row.facts(seed, dvc_facts())
    with start_seed(facts, row_fails) as tracker:
        with watch(tracker, samples_of(row), row.settings.pictures_every) as hooks:
            result = row.fit(seed, store, hooks)
        model, selected = served(row, result.network), result.selected
        tracker.log_model(model, selected.epoch, selected.validation["accuracy"])
        log = seed_log(facts, result, start_ms, tracker.ids)
        log.write(store / FINISHED)


def deliver_seed(
    options: argparse.Namespace, row: Row, seed: int, row_fails: bool
) -> tuple[SeedLog, bool]:
    """Put a seed's results where DVC expects them, trained before where they are not kept.

    Returns:
        Its log, and whether it was kept.
    """
    store = project_root() / ".protodl" / "checkpoints" / row.fingerprint(seed)
    kept, again = store / FINISHED, f"delete the folder {store} to train this seed again"
    with alone_in(store, f"{row.name} seed {seed}"):
        if not (is_kept := kept.exists()):
            train_seed(row, seed, store, row_fails)
        log = SeedLog.read(kept, again)
        (store / CHECKPOINT).unlink(missing_ok=True)  # two thirds of all, of no more use
        load_tensors(store / "network.pt", again)  # DVC would take a damaged one for the result
        shutil.copyfile(store / "network.pt", options.models / f"seed-{seed}.pt")
        shutil.copyfile(kept, options.logs / f"seed-{seed}.json")
        if row.experiment.model.project:
            before = options.models / f"seed-{seed}-unprojected.pt"
            load_tensors(store / "unprojected.pt", again)
            shutil.copyfile(store / "unprojected.pt", before)
    return log, is_kept


def train_row(options: argparse.Namespace) -> None:
    """Train what is not trained yet, every seed that can be, and deliver it.

    Raises:
        TrainingError: seeds diverged; the others are kept.
    """
    params = load_params(options.params)
    row = Row.load(options.row, params, options.data, options.teacher, closure(SCRIPT))
    logs: list[SeedLog] = []
    kept: list[SeedLog] = []
    diverged: list[str] = []
    for folder in (options.models, options.logs):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in params.seeds:
        try:
            log, is_kept = deliver_seed(options, row, seed, row_fails=bool(diverged))
            logs.append(log)
            if is_kept:
                kept.append(log)
        except TrainingError as error:
            diverged.append(str(error))
    if diverged:
        key, rate = f"experiments.{row.name}.optimizer.lr", row.experiment.optimizer.lr
        raise TrainingError(
            f"{row.name} diverged: {', '.join(diverged)}; lower {key} (now {rate:g}) in "
            f"{options.params}, or take other seeds: the {len(logs)} finished ones are kept"
        )
    write_curves(logs, options.curves)
    complete_runs(kept, partial(kept_model, row, options.models))  # killed before MLflow had all


OPTIONS = {
    "row": "key of experiments in params.yaml",
    "--params": "params.yaml",
    "--data": "train.pt of the data set",
    "--teacher": "the data set's teacher",
    "--models": "folder for seed-<s>.pt",
    "--logs": "folder for seed-<s>.json",
    "--curves": "CSV of the learning curves",
}
main = Stage(train_row, OPTIONS)

if __name__ == "__main__":
    run_script(main)
