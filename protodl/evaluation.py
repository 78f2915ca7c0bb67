"""Accuracy and loss terms of a network on a split: exact for any batch size, never augmented.

Shapes: N images, C channels, H x W pixels, P prototypes, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from protodl.config import LossConfig, ReconstructionNorm
from protodl.datasets import Split, to_unit_interval
from protodl.losses import classification, reconstruction_error
from protodl.models import PrototypeNetwork

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split gives."""

    predictions: Tensor  # (N,)
    accuracy: float
    terms: dict[str, float]  # unweighted; r1 over all N codes, the others means over images
    loss: float  # the weighted sum

    def as_metrics(self) -> dict[str, float]:
        """Accuracy, loss and its terms as one flat table."""
        return {"accuracy": self.accuracy, "loss": self.loss, **self.terms}


def batches(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (N, C, H, W) in [0, 1] and labels (N,) in order, batch by batch."""
    for images, labels in zip(
        split.images.split(EVALUATION_BATCH), split.labels.split(EVALUATION_BATCH), strict=True
    ):
        yield to_unit_interval(images.to(device)), labels.to(device)


@torch.inference_mode()
def evaluate(
    network: PrototypeNetwork, split: Split, weights: LossConfig, device: torch.device
) -> Evaluation:
    """Evaluate a network on a split; every image counts once, also in a short last batch."""
    norm: ReconstructionNorm = weights.reconstruction_norm
    predictions: list[Tensor] = []
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    closest = torch.full((len(network.prototypes),), torch.inf, device=device)
    for images, labels in batches(split, device):
        output = network(images)
        assert output.reconstructions is not None
        predictions.append(output.logits.argmax(dim=1))
        sums += torch.stack(
            [
                classification(output.logits, labels) * len(labels),
                reconstruction_error(output.reconstructions, images, norm).sum(),
                output.distances.amin(dim=1).sum(),
            ]
        ).double()
        closest = torch.minimum(closest, output.distances.amin(dim=0))
    predicted = torch.cat(predictions).cpu()
    means = (sums / len(split)).tolist()
    terms = {
        "classification": means[0],
        "reconstruction": means[1],
        "r1": float(closest.double().mean()),
        "r2": means[2],
    }
    return Evaluation(
        predictions=predicted,
        accuracy=accuracy(predicted, split.labels),
        terms=terms,
        loss=sum(getattr(weights, name) * value for name, value in terms.items()),
    )


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of predictions (N,) that equal the labels (N,)."""
    return int((predictions == labels).sum()) / len(labels)


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts (K, K): row = true class, column = predicted class."""
    cells = labels * num_classes + predictions
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
