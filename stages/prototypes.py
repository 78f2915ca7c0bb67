"""Stage prototypes@<row>: the pictures of a row, drawn from its first seed and held-out images."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from protodl import figures
from protodl.checkpoint import load_network
from protodl.config import load_params
from protodl.contributions import contributions
from protodl.datasets import (
    DATASETS,
    DatasetInfo,
    hold_out,
    load_split,
    to_unit_interval,
)
from protodl.models import NetworkOutput, PrototypeNetwork, prototype_classes
from protodl.records import SeedLog
from protodl.results import load_published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_REFERENCE = 1000  # held-out images that give the average distances
SHOWN_PROTOTYPES = 3
FAVOURITE_CLASS = 7  # "this is a 7 because it looks like that 7"


@torch.inference_mode()
def draw(
    network: PrototypeNetwork, images: torch.Tensor, labels: torch.Tensor, info: DatasetInfo
) -> "Iterator[tuple[str, Figure]]":
    """Figures of a network on held-out images (N, C, H, W) in [0, 1], with their names."""
    output = network(images)
    assert output.reconstructions is not None
    weights = network.head.weight
    classes = prototype_classes(weights)
    decoded = network.decode_prototypes().numpy()
    predictions = output.logits.argmax(dim=1)
    shown = torch.stack([(labels == k).nonzero()[0, 0] for k in labels.unique()])
    yield (
        "samples",
        figures.samples_figure(
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
        figures.prototypes_figure(decoded, classes.numpy(), strongest, info.class_names),
    )
    yield "weights", figures.weights_figure(weights.numpy(), info.class_names, decoded)
    hits = predictions == labels
    liked = hits & (labels == FAVOURITE_CLASS)
    case = int((liked if liked.any() else hits).nonzero()[0, 0]) if hits.any() else 0
    yield (
        "reasons",
        figures.reasons_figure([explain_case(network, output, images, labels, case, info)]),
    )


def explain_case(
    network: PrototypeNetwork,
    output: NetworkOutput,
    images: torch.Tensor,
    labels: torch.Tensor,
    case: int,
    info: DatasetInfo,
) -> figures.Case:
    """One of the images with its nearest prototypes and what they say of the predicted class."""
    assert output.reconstructions is not None
    predicted = int(output.logits[case].argmax())
    distances = output.distances[case]
    nearest = distances.argsort()[:SHOWN_PROTOTYPES]
    weights = network.head.weight
    parts = contributions(distances[None], output.distances.mean(dim=0), weights)[0, predicted]
    names = info.class_names
    return figures.Case(
        title=info.title,
        image=images[case].numpy(),
        reconstruction=output.reconstructions[case].numpy(),
        label=names[int(labels[case])],
        prediction=names[predicted],
        prototypes=network.decode(network.prototypes[nearest]).numpy(),
        prototype_classes=[names[k] for k in prototype_classes(weights)[nearest]],
        distances=distances[nearest].numpy(),
        contributions=parts[nearest].numpy(),
    )


def draw_row(options: argparse.Namespace) -> None:
    """Draw every picture of a row; the report stage shows them in MLflow."""
    params = load_params(options.params)
    info = DATASETS[params.experiment(options.row).dataset]
    settings = params.training
    _, held_out = hold_out(load_split(options.data), settings.validation_size, settings.split_seed)
    images = to_unit_interval(held_out.images[:NUM_REFERENCE])
    first = params.seeds[0]
    network = load_network(options.models / f"seed-{first}.pt")
    for name, figure in draw(network, images, held_out.labels[:NUM_REFERENCE], info):
        figures.save(figure, options.output / f"{name}.png")
    logs = [SeedLog.read(options.logs / f"seed-{seed}.json") for seed in params.seeds]
    comparable = params.data.source == "full"
    published = load_published().port.test_accuracy.get(options.row) if comparable else None
    figures.save(figures.curves_figure(logs, published), options.output / "curves.png")
    details = json.loads((options.details / f"seed-{first}.json").read_text())
    confusion = figures.confusion_figure(np.array(details["confusion"]), info.class_names)
    figures.save(confusion, options.output / "confusion.png")


def main() -> int:
    """Run the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.prototypes", description=__doc__)
    parser.add_argument("row", help="key of experiments in params.yaml")
    parser.add_argument("--params", type=Path, required=True, help="params.yaml")
    parser.add_argument("--data", type=Path, required=True, help="train.pt of the data set")
    parser.add_argument("--models", type=Path, required=True, help="folder with seed-<s>.pt")
    parser.add_argument("--logs", type=Path, required=True, help="folder with seed-<s>.json")
    parser.add_argument("--details", type=Path, required=True, help="folder of the evaluation")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    try:
        draw_row(parser.parse_args())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
