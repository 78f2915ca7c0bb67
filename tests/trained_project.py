"""A small project with one row trained and evaluated on the embedded sample, for explanations."""

import shutil
from pathlib import Path

import torch

from protodl.core.config import load_params
from protodl.core.machine import Runtime
from protodl.data.datasets import load_split, split_validation
from protodl.data.download import download
from protodl.network.cases import measure_case_base, save_case_base
from protodl.network.checkpoint import save_network
from protodl.training.trainer import Trainer, build_network, fit

ROOT = Path(__file__).parents[1]
ROW = "tiny-row"
PARAMS = """
seeds: [0, 1]
data: {source: sample}
training: {validation_size: 400, threads: 1}
experiments:
  tiny-row:
    dataset: mnist
    model: {num_prototypes: 12, encoder_init: he, prototype_init: data, head_init: class}
    epochs: 3
    batch_size: 50
    optimizer: {lr: 4e-3}
"""


def write_project(folder: Path) -> None:
    """Write params.yaml, data, and what the stages train and evaluate leave of seed 0."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    params = load_params(folder / "params.yaml")
    data = folder / "data" / "mnist"
    sample = ROOT / "data" / "sample"
    download("mnist", data, raw=folder, sample=sample, source="sample", progress=False)
    train, validation = split_validation(
        load_split(data / "train.pt"), params.training.validation_size
    )
    cpu = Runtime(torch.device("cpu"), torch.float32, torch.contiguous_format, 1)
    experiment = params.experiment(ROW)
    trainer = Trainer(build_network(experiment, train, 0), train, validation, experiment, cpu, 0)
    network = fit(trainer, folder / "training.pt", 10).network.eval()
    save_network(network, folder / "models" / ROW / "seed-0.pt")
    case_base = measure_case_base(network, train, validation)
    save_case_base(case_base, folder / "models" / "references" / ROW / "seed-0.pt")
