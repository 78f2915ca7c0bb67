"""Stage prototypes@<row>: pictures and explanations of a row's first seed."""

import argparse

import numpy as np
import torch

from protodl.core.config import load_params
from protodl.core.process import run_script
from protodl.core.stage import Stage
from protodl.core.training_log import SeedEvaluation, SeedLog
from protodl.data.datasets import info_of, load_training
from protodl.explanation.gallery import load_gallery
from protodl.explanation.model import Model
from protodl.network.cases import load_case_base
from protodl.network.checkpoint import load_network
from protodl.report.figures.curves import curves_figure
from protodl.report.figures.matrices import confusion_figure
from protodl.report.figures.page import save
from protodl.report.published import load_published
from protodl.report.sheets import explain_gallery, network_figures

NUM_SHOWN = 1000  # validation images that the pictures are chosen from


def draw_row(options: argparse.Namespace) -> None:
    """Draw every picture of a row; the report stage shows them in MLflow."""
    params = load_params(options.params)
    train, validation = load_training(options.data, params.training)
    info = info_of(params.experiment(options.row).dataset, train)
    first = params.seeds[0]
    network = load_network(options.models / f"seed-{first}.pt")
    case_base = load_case_base(options.references / f"seed-{first}.pt")
    model = Model.of_training(options.row, first, info, network, case_base, train)
    shown = validation.select(torch.arange(min(len(validation), NUM_SHOWN)))
    for name, figure in network_figures(model, shown):
        save(figure, options.output / f"{name}.png")
    explain_gallery(model, load_gallery(options.references / "gallery.pt"), options.explanations)
    logs = [SeedLog.read(options.logs / f"seed-{seed}.json") for seed in params.seeds]
    comparable = params.data.source == "full"
    published = load_published().port.test_accuracy.get(options.row) if comparable else None
    save(curves_figure(logs, published), options.output / "curves.png")
    details = SeedEvaluation.read(options.details / f"seed-{first}.json")
    confusion = confusion_figure(np.array(details.confusion), info.class_names, first)
    save(confusion, options.output / "confusion.png")


OPTIONS = {
    "row": "key of experiments in params.yaml",
    "--params": "params.yaml",
    "--data": "train.pt of the data set",
    "--models": "folder with seed-<s>.pt",
    "--logs": "folder with seed-<s>.json",
    "--details": "folder of the evaluation",
    "--references": "folder with seed-<s>.pt and gallery.pt",
    "--output": "folder for the pictures",
    "--explanations": "folder for those of the gallery",
}
main = Stage(draw_row, OPTIONS)

if __name__ == "__main__":
    run_script(main)
