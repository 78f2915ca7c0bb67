"""The pictures of one trained network: reconstructions, prototypes, head weights, one decision."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from protodl.data.datasets import Split, to_unit_interval
from protodl.explanation.local import Model, explain
from protodl.report.figures.matrices import weights_figure
from protodl.report.figures.prototypes import prototypes_figure, samples_figure
from protodl.report.figures.reasons import reasons_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFERRED_CLASS = 7  # of the image whose decision is drawn: "this is a 7 because ..."


@torch.no_grad()
def network_figures(model: Model, validation: Split) -> "Iterator[tuple[str, Figure]]":
    """Draw a network on validation images; gives each figure with its name.

    `samples` shows the first image of each class. `reasons` shows the first image of class
    PREFERRED_CLASS that is classified correctly, or else the first of any class that is.
    """
    network, names = model.network, model.info.class_names
    images, labels = to_unit_interval(validation.images), validation.labels
    output = network(images)
    assert output.reconstructions is not None
    weights, predictions = network.head.weight, output.logits.argmax(dim=1)
    first = torch.stack([(labels == k).nonzero()[0, 0] for k in labels.unique()])
    shown = images[first].numpy(), output.reconstructions[first].numpy()
    outcomes = ([names[k] for k in classes[first]] for classes in (labels, predictions))
    yield "samples", samples_figure(*shown, *outcomes)
    strongest = weights.amin(dim=0).numpy()
    classes = np.array(model.classes)
    yield "prototypes", prototypes_figure(model.decoded, classes, strongest, names)
    yield "weights", weights_figure(weights.numpy(), names, model.decoded)
    correct = predictions == labels
    preferred = correct & (labels == PREFERRED_CLASS)
    index = int((preferred if preferred.any() else correct).int().argmax())
    explanation = explain(model, images[index], int(labels[index]))
    yield "reasons", reasons_figure(explanation, model.info.title)
