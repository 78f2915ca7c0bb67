"""Prototype quality: whether the explanation means what it says, measured without annotation.

Shapes: N images, C channels, H x W pixels, P prototypes, D code size, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from protodl.data.datasets import Split, batches, to_unit_interval
from protodl.network.cases import CaseBase, nearest_cases
from protodl.network.head import (
    baseline,
    class_dominance,
    contributions,
    exact_distances,
    prototype_classes,
)
from protodl.network.judge import Judge
from protodl.network.network import PrototypeNetwork

PURITY_NEIGHBOURS = 25
KEPT = (1, 2, 3, 5)  # numbers of contributions that `keep_accuracy` is measured for
DENSITY_CASES = 1000  # training codes whose nearest neighbours give the usual distance
DUPLICATE_RATIO = 0.1


@dataclass(frozen=True)
class PrototypeQuality:
    """Quality of each prototype of one network."""

    classes: Tensor  # (P,) the class each prototype stands for
    dominance: Tensor  # (P,) gap of its head weight to the next class
    decoded_classes: Tensor  # (P,) what the network says of the decoded prototype
    returned: Tensor  # (P,) the prototype nearest to the decoded prototype, encoded again
    purity: Tensor  # (P,) share of the nearest training cases that have its class
    manifold_ratio: Tensor  # (P,) distance to the nearest training case over the usual one
    distances: Tensor  # (P, P) between prototypes

    @property
    def between(self) -> Tensor:
        """Distances of all pairs of prototypes, each pair once."""
        count = len(self.distances)
        rows, columns = torch.triu_indices(count, count, offset=1)
        return self.distances[rows, columns]

    @property
    def duplicates(self) -> int:
        """Pairs of one class, nearest to each other, closer than a tenth of the mean distance."""
        apart = self.distances.clone().fill_diagonal_(torch.inf)
        nearest = apart.argmin(dim=1)
        own = torch.arange(len(nearest))
        mutual = (nearest[nearest] == own) & (self.classes[nearest] == self.classes)
        close = apart.amin(dim=1) < DUPLICATE_RATIO * self.between.mean()
        return int((mutual & close).sum()) // 2

    def as_metrics(self) -> dict[str, float]:
        """The figures that stand beside accuracy; `coverage`: classes that have a prototype."""
        several = len(self.classes) > 1
        return {
            "decode_agreement": _mean(self.decoded_classes == self.classes),
            "cycle_identity": _mean(self.returned == torch.arange(len(self.returned))),
            "purity25": _mean(self.purity),
            "manifold_ratio": _mean(self.manifold_ratio),
            "coverage": len(self.classes.unique()),
            "dominance": _mean(self.dominance),
            "min_prototype_distance": float(self.between.min()) if several else 0.0,
            "mean_prototype_distance": float(self.between.mean()) if several else 0.0,
            "duplicates": self.duplicates if several else 0,
        }

    def of_each(self) -> dict[str, list[float]]:
        """The facts of each prototype, as plain numbers."""
        return {
            "class": self.classes.tolist(),
            "dominance": _rounded(self.dominance),
            "decoded_class": self.decoded_classes.tolist(),
            "returned": self.returned.tolist(),
            "purity25": _rounded(self.purity),
            "manifold_ratio": _rounded(self.manifold_ratio),
        }


def _mean(values: Tensor) -> float:
    """The mean of numbers, or the share of what holds."""
    return float(values.double().mean())


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


@torch.inference_mode()
def measure_quality(network: PrototypeNetwork, case_base: CaseBase) -> PrototypeQuality:
    """Measure a network's prototypes against the training cases it was trained on."""
    device = network.prototypes.device
    prototypes, weight = network.prototypes, network.head.weight
    classes = prototype_classes(weight)
    decoded = network(network.decode_prototypes(), decode=False)
    codes, labels = case_base.codes.to(device), case_base.labels.to(device)
    return PrototypeQuality(
        classes=classes.cpu(),
        dominance=class_dominance(weight).cpu(),
        decoded_classes=decoded.logits.argmax(dim=1).cpu(),
        returned=exact_distances(decoded.codes, prototypes).argmin(dim=1).cpu(),
        purity=purity(prototypes, classes, codes, labels, PURITY_NEIGHBOURS).cpu(),
        manifold_ratio=manifold_ratio(prototypes, codes, DENSITY_CASES).cpu(),
        distances=exact_distances(prototypes, prototypes).cpu(),
    )


@torch.inference_mode()
def measure_explanations(network: PrototypeNetwork, validation: Split) -> dict[str, float]:
    """Whether a network's explanations of images it was not trained on are true to it.

    `reconstruction_agreement`: share of images whose reconstruction gets the same prediction.
    `keep_<k>_accuracy`: accuracy when only the k largest contributions count.
    `faithfulness_gap`: the largest difference between a logit and the sum of its contributions.
    """
    device = network.prototypes.device
    outputs = [network(images) for images, _ in batches(validation, device)]
    logits = torch.cat([output.logits for output in outputs])
    distances = torch.cat([output.distances for output in outputs])
    again = [network(output.reconstructions, decode=False).logits for output in outputs]
    same = torch.cat(again).argmax(dim=1) == logits.argmax(dim=1)
    mean = distances.mean(dim=0)
    parts = contributions(distances, mean, network.head.weight)
    start = baseline(mean, network.head.weight, network.head.bias)
    labels = validation.labels.to(device)
    kept = {f"keep_{k}_accuracy": keep_accuracy(parts, start, labels, k) for k in KEPT}
    return {
        "reconstruction_agreement": _mean(same),
        **kept,
        "faithfulness_gap": float((parts.sum(dim=2) + start - logits).abs().max()),
    }


@dataclass(frozen=True)
class Judgement:
    """What the judge, who knows neither prototypes nor reconstructions, says of pictures."""

    classes: Tensor  # (P,) the class each prototype stands for
    decoded: Tensor  # (P,) its verdict on the decoded prototype
    cases: Tensor  # (P,) index of the nearest training case, over all classes
    case_labels: Tensor  # (P,) the label of that case
    case_verdicts: Tensor  # (P,) its verdict on that case
    same: Tensor  # (M,) whether a validation image and its reconstruction get the same verdict

    def as_metrics(self) -> dict[str, float]:
        """The figures that stand beside accuracy.

        `independent_agreement`: share of prototypes whose decoded picture the judge puts into the
        prototype's class. `case_agreement`: share whose nearest training case, the one shown as the
        real example, has that class as its label and in the judge's verdict.
        `independent_reconstruction_agreement`: share of validation images whose reconstruction gets
        the verdict of the image: what decoded pictures can be expected to reach.
        """
        case = (self.case_labels == self.classes) & (self.case_verdicts == self.classes)
        return {
            "independent_agreement": _mean(self.decoded == self.classes),
            "case_agreement": _mean(case),
            "independent_reconstruction_agreement": _mean(self.same),
        }

    def of_each(self) -> dict[str, list[float]]:
        """The facts of each prototype, as plain numbers."""
        return {
            "judged_class": self.decoded.tolist(),
            "case": self.cases.tolist(),
            "case_label": self.case_labels.tolist(),
            "case_judged_class": self.case_verdicts.tolist(),
        }


@torch.inference_mode()
def measure_judgement(
    network: PrototypeNetwork, judge: Judge, case_base: CaseBase, train: Split, validation: Split
) -> Judgement:
    """Let the judge see decoded prototypes, their nearest training cases, and reconstructions.

    Args:
        network: on any device.
        judge: of the same data set, on the CPU.
        case_base: the network's, of the same training cases.
        train: the cases.
        validation: images (M, C, H, W) that nobody was trained on.
    """
    device = network.prototypes.device
    cases = nearest_cases(network.prototypes.cpu(), case_base.codes, 1)[0][:, 0]
    same = []
    for images, _ in batches(validation, device):
        again = network.decode(network.encode(images))
        same.append(judge.verdicts(images.cpu()) == judge.verdicts(again.cpu()))
    return Judgement(
        classes=prototype_classes(network.head.weight).cpu(),
        decoded=judge.verdicts(network.decode_prototypes().cpu()),
        cases=cases,
        case_labels=train.labels[cases],
        case_verdicts=judge.verdicts(to_unit_interval(train.images[cases])),
        same=torch.cat(same),
    )


def keep_accuracy(contributed: Tensor, start: Tensor, labels: Tensor, kept: int) -> float:
    """Accuracy when each image keeps only the prototypes that contribute most to its prediction.

    Args:
        contributed: (N, K, P), what each prototype adds to each logit.
        start: (K,) logits without any contribution.
        labels: (N,).
        kept: how many prototypes, those with the largest contribution, in absolute value, to the
            class that all of them together predict.
    """
    predicted = (contributed.sum(dim=2) + start).argmax(dim=1)
    own = contributed[torch.arange(len(labels)), predicted]  # (N, P)
    largest = own.abs().topk(min(kept, own.shape[1])).indices  # (N, kept)
    index = largest[:, None, :].expand(-1, contributed.shape[1], -1)
    logits = contributed.gather(2, index).sum(dim=2) + start
    return _mean(logits.argmax(dim=1) == labels)


def manifold_ratio(prototypes: Tensor, codes: Tensor, cases: int) -> Tensor:
    """How far prototypes (P, D) lie from the training codes (N, D), at most 1 on their manifold.

    Distance to the nearest code, over the median distance of the first `cases` codes to theirs.
    """
    nearest = nearest_cases(prototypes, codes, 1)[1][:, 0]
    usual = nearest_cases(codes[:cases], codes, 2)[1][:, 1]  # the first is itself
    return nearest / usual.median().clamp(min=torch.finfo(codes.dtype).tiny)


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
    nearest = nearest_cases(prototypes, codes, neighbours)[0]  # (P, neighbours)
    return (labels[nearest] == classes[:, None]).double().mean(dim=1)
