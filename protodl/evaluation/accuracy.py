"""Accuracy and loss terms of a network on a split: exact for any batch size, never augmented.

Shapes: N images, C channels, H x W pixels, P prototypes, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from protodl.core.config import LossConfig
from protodl.data.datasets import Split, batches
from protodl.network.losses import TERM_NAMES, batch_terms, diversity, prototype_terms
from protodl.network.network import PrototypeNetwork


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split gives."""

    predictions: Tensor  # (N,)
    accuracy: float
    # Unweighted; r1 over all N codes, the others means over images or prototypes. Without the
    # decoder those that need none.
    terms: dict[str, float]
    loss: float | None  # the weighted sum; None without the decoder

    def as_metrics(self) -> dict[str, float]:
        """Accuracy, loss and its terms as one flat table."""
        loss = {} if self.loss is None else {"loss": self.loss}
        return {"accuracy": self.accuracy, **loss, **self.terms}


@torch.inference_mode()
def evaluate(
    network: PrototypeNetwork,
    split: Split,
    weights: LossConfig,
    device: torch.device,
    decode: bool = True,
) -> Evaluation:
    """Evaluate a network on a split; every image counts once, also in a short last batch.

    `decode=False` is for accuracy alone: it leaves the decoder out, and what needs it.
    """
    predictions: list[Tensor] = []
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    closest = torch.full((len(network.prototypes),), torch.inf, device=device)
    for images, labels in batches(split, device):
        output = network(images, decode=decode)
        terms = batch_terms(output, images, labels, weights.reconstruction_norm)
        means = torch.stack([terms.classification, terms.reconstruction, terms.r2])
        sums += means.double() * len(labels)
        predictions.append(output.logits.argmax(dim=1))
        closest = torch.minimum(closest, output.distances.amin(dim=0))
    predicted = torch.cat(predictions).cpu()
    classified, reconstructed, to_prototypes = (sums / len(split)).tolist()
    r1 = float(closest.double().mean())
    found = {"classification": classified, "r1": r1, "r2": to_prototypes}
    if decode:
        chosen = torch.arange(len(network.prototypes), device=device)
        found["reconstruction"] = reconstructed
        found |= {name: float(term) for name, term in prototype_terms(network, chosen).items()}
        found["diversity"] = float(diversity(network.prototypes))
    return Evaluation(
        predictions=predicted,
        accuracy=accuracy(predicted, split.labels),
        terms={name: found[name] for name in TERM_NAMES if name in found},
        loss=sum(getattr(weights, name) * found[name] for name in TERM_NAMES) if decode else None,
    )


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of predictions (N,) that equal the labels (N,)."""
    return int((predictions == labels).sum()) / len(labels)


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts (K, K): row = true class, column = predicted class."""
    cells = labels * num_classes + predictions
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
