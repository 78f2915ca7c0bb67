"""Prototype quality: whether the explanation means what it says, measured without annotation.

Shapes: N images, C channels, H x W pixels, P prototypes, D code size, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from protodl.datasets import Split
from protodl.evaluation import batches
from protodl.models import PrototypeNetwork, prototype_classes

PURITY_NEIGHBOURS = 25


@dataclass(frozen=True)
class PrototypeQuality:
    """Quality of each prototype of one network; the shares over all of them are properties."""

    classes: Tensor  # (P,) the class each prototype stands for
    dominance: Tensor  # (P,) gap of its head weight to the next class
    decoded_classes: Tensor  # (P,) what the network says of the decoded prototype
    purity: Tensor  # (P,) share of the nearest training cases that have its class

    @property
    def decode_agreement(self) -> float:
        """Share of prototypes whose decoded picture the network puts into the prototype's class."""
        return float((self.decoded_classes == self.classes).double().mean())

    @property
    def mean_purity(self) -> float:
        """Purity, averaged over prototypes."""
        return float(self.purity.double().mean())

    @property
    def coverage(self) -> int:
        """Number of classes that have at least one prototype."""
        return len(self.classes.unique())

    def as_metrics(self) -> dict[str, float]:
        """The figures that stand beside accuracy."""
        return {
            "decode_agreement": self.decode_agreement,
            "purity25": self.mean_purity,
            "coverage": self.coverage,
            "dominance": float(self.dominance.double().mean()),
        }


@torch.inference_mode()
def measure_quality(network: PrototypeNetwork, train: Split) -> PrototypeQuality:
    """Measure a network's prototypes against the training cases it was trained on."""
    device = network.prototypes.device
    weight = network.head.weight
    classes = prototype_classes(weight)
    decoded = network(network.decode_prototypes(), decode=False).logits.argmax(dim=1)
    codes = torch.cat([network.encode(images) for images, _ in batches(train, device)])
    return PrototypeQuality(
        classes=classes.cpu(),
        dominance=class_dominance(weight).cpu(),
        decoded_classes=decoded.cpu(),
        purity=purity(
            network.prototypes, classes, codes, train.labels.to(device), PURITY_NEIGHBOURS
        ).cpu(),
    )


def class_dominance(head_weight: Tensor) -> Tensor:
    """Gap (P,) between the most negative and the second most negative weight (K, P)."""
    lowest = head_weight.topk(2, dim=0, largest=False).values
    return lowest[1] - lowest[0]


def purity(
    prototypes: Tensor, classes: Tensor, codes: Tensor, labels: Tensor, neighbours: int
) -> Tensor:
    """Share (P,) of the nearest encoded cases that have the prototype's class.

    Args:
        prototypes: (P, D).
        classes: (P,) class of each prototype.
        codes: (N, D) encoded training cases.
        labels: (N,) their classes.
        neighbours: how many of the nearest cases count (all of them where N is smaller).
    """
    distances = torch.cdist(prototypes, codes, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(min(neighbours, len(codes)), largest=False).indices  # (P, neighbours)
    return (labels[nearest] == classes[:, None]).double().mean(dim=1)
