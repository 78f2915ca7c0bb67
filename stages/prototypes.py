"""Stage prototypes@<row>: pictures and explanations of a row's first seed."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from protodl.core.config import load_params
from protodl.core.stage import Stage
from protodl.core.training_log import SeedLog
from protodl.data.datasets import DATASETS, Split, load_split, split_validation, to_unit_interval
from protodl.explanation.gallery import Gallery, load_gallery
from protodl.explanation.local import Model, explain
from protodl.explanation.types import Explanation
from protodl.network.cases import load_case_base
from protodl.network.checkpoint import load_network
from protodl.report.figures import curves, matrices, prototypes, reasons
from protodl.report.figures.page import save
from protodl.report.results import load_published
from protodl.report.sheets import write_explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_SHOWN = 1000  # validation images that the pictures are chosen from
SHOWN_PROTOTYPES = 3
FAVOURITE_CLASS = 7  # "this is a 7 because it looks like that 7"


@torch.no_grad()
def draw(model: Model, validation: Split) -> "Iterator[tuple[str, Figure]]":
    """Figures of a network on validation images, with their names."""
    network, info = model.network, model.info
    images, labels = to_unit_interval(validation.images), validation.labels
    output = network(images)
    assert output.reconstructions is not None
    weights = network.head.weight
    predictions = output.logits.argmax(dim=1)
    shown = torch.stack([(labels == k).nonzero()[0, 0] for k in labels.unique()])
    yield (
        "samples",
        prototypes.samples_figure(
            images[shown].numpy(),
            output.reconstructions[shown].numpy(),
            labels[shown].numpy(),
            predictions[shown].numpy(),
            info.class_names,
        ),
    )
    strongest = weights.amin(dim=0).numpy()
    yield (
        "prototypes",
        prototypes.prototypes_figure(
            model.decoded, np.array(model.classes), strongest, info.class_names
        ),
    )
    yield "weights", matrices.weights_figure(weights.numpy(), info.class_names, model.decoded)
    hits = predictions == labels
    liked = hits & (labels == FAVOURITE_CLASS)
    case = int((liked if liked.any() else hits).nonzero()[0, 0]) if hits.any() else 0
    explanation = explain(model, images[case], int(labels[case]))
    yield "reasons", reasons.reasons_figure([as_case(explanation, info.title)])


def as_case(explanation: Explanation, title: str) -> reasons.Case:
    """The short form of an explanation: the nearest prototypes and what they contribute."""
    nearest = sorted(explanation.prototypes, key=lambda reason: reason.distance)[:SHOWN_PROTOTYPES]
    assert explanation.label is not None
    return reasons.Case(
        title=title,
        image=explanation.image,
        reconstruction=explanation.reconstruction,
        label=explanation.label,
        prediction=explanation.prediction.class_name,
        prototypes=np.stack([reason.picture for reason in nearest]),
        prototype_classes=[reason.class_name for reason in nearest],
        distances=np.array([reason.distance for reason in nearest]),
        contributions=np.array([reason.contribution for reason in nearest]),
    )


def explain_gallery(model: Model, gallery: Gallery, folder: Path) -> None:
    """Write a sheet and JSON, named by kind and number, for each image of the gallery."""
    numbers: Counter[str] = Counter()
    for position, kind in enumerate(gallery.kinds):
        numbers[kind] += 1
        explanation = explain(
            model,
            gallery.cases.images[position],
            int(gallery.cases.labels[position]),
            f"test-{int(gallery.indices[position])}",
        )
        write_explanation(explanation, folder, f"{kind}-{numbers[kind]}")


def draw_row(options: argparse.Namespace) -> None:
    """Draw every picture of a row; the report stage shows them in MLflow."""
    params = load_params(options.params)
    info = DATASETS[params.experiment(options.row).dataset]
    settings = params.training
    train, validation = split_validation(
        load_split(options.data), settings.validation_size, settings.split_seed
    )
    first = params.seeds[0]
    network = load_network(options.models / f"seed-{first}.pt")
    case_base = load_case_base(options.references / f"seed-{first}.pt")
    model = Model(options.row, first, info, network, case_base, train)
    for name, figure in draw(model, validation.select(torch.arange(len(validation))[:NUM_SHOWN])):
        save(figure, options.output / f"{name}.png")
    gallery = load_gallery(options.references / "gallery.pt")
    explain_gallery(model, gallery, options.explanations)
    logs = [SeedLog.read(options.logs / f"seed-{seed}.json") for seed in params.seeds]
    comparable = params.data.source == "full"
    published = load_published().port.test_accuracy.get(options.row) if comparable else None
    save(curves.curves_figure(logs, published), options.output / "curves.png")
    details = json.loads((options.details / f"seed-{first}.json").read_text())
    confusion = matrices.confusion_figure(np.array(details["confusion"]), info.class_names)
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
    sys.exit(main())
