"""Accuracy and loss terms of a network on a split: exact for any batch size, never augmented.

Shapes: N images, C channels, H x W pixels, P prototypes, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from protodl.core.experiment_config import LossConfig
from protodl.data.datasets import Split, batches
from protodl.network.losses import TERMS, LossInputs, compute_terms, weighted
from protodl.network.network import NetworkOutput, PrototypeNetwork


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split gives."""

    predictions: Tensor  # (N,)
    # Accuracy, loss and its unweighted terms: r1 over all N codes, the others means over images or
    # prototypes; what a teacher says is left out. They are the training's, smoothed labels and
    # exchanged appearance included. Without the decoder no loss, and of the terms those that need
    # none.
    metrics: dict[str, float]

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return self.metrics["accuracy"]


@torch.inference_mode()
def evaluate(
    network: PrototypeNetwork,
    split: Split,
    weights: LossConfig,
    device: torch.device,
    decode: bool = True,
) -> Evaluation:
    """Evaluate a network on a split; every image counts once, also in a short last batch.

    `decode=False` is for accuracy alone: it leaves out the decoder and all terms that training does
    not always compute.
    """
    able = [name for name, term in TERMS.items() if not term.taught]
    names = [name for name in able if decode or TERMS[name].when == "always"]
    averaged = [name for name in names if not TERMS[name].whole]
    sums = torch.zeros(len(averaged), dtype=torch.float64, device=device)
    outputs: list[NetworkOutput] = []
    for images, labels in batches(split, device):
        output = network(images, decode=decode)
        inputs = LossInputs(network, output, images, labels, weights)
        terms = compute_terms(inputs, averaged)
        sums += torch.stack([terms[name] for name in averaged]).double() * len(labels)
        outputs.append(output._replace(reconstructions=None))
    found = dict(zip(averaged, (sums / len(split)).tolist(), strict=True))
    whole = _whole_split(network, outputs, split, weights)
    once = compute_terms(whole, [name for name in names if TERMS[name].whole])
    found |= {name: float(term) for name, term in once.items()}
    predicted = whole.output.logits.argmax(dim=1).cpu()
    loss = {"loss": sum(weighted(found, weights))} if decode else {}
    metrics = {"accuracy": accuracy(predicted, split.labels), **loss}
    return Evaluation(predicted, metrics | {name: found[name] for name in names})


def _whole_split(
    network: PrototypeNetwork, outputs: list[NetworkOutput], split: Split, weights: LossConfig
) -> LossInputs:
    """All of a split's outputs at once, in float64 and without pictures; all prototypes chosen."""
    logits, distances, codes = (
        torch.cat([getattr(output, name) for output in outputs]).double()
        for name in ("logits", "distances", "codes")
    )
    return LossInputs(
        network=network,
        output=NetworkOutput(logits, None, distances, codes),
        images=split.images,
        labels=split.labels.to(logits.device),
        weights=weights,
        chosen=torch.arange(len(network.prototypes), device=logits.device),
    )


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of predictions (N,) that equal the labels (N,)."""
    return int((predictions == labels).sum()) / len(labels)


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts (K, K): row = true class, column = predicted class."""
    cells = labels * num_classes + predictions
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
