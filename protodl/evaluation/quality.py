"""Whether explanations and probabilities mean what they say, measured without annotation.

Shapes: N images, C channels, H x W pixels, P prototypes, D code size, K classes.
"""

from collections.abc import Mapping

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
ALIKE_RATIO = 0.5
CALIBRATION_BINS = 15


@torch.inference_mode()
def prototype_facts(
    network: PrototypeNetwork, judge: Judge, case_base: CaseBase, train: Split
) -> dict[str, Tensor]:
    """What is known of each prototype, (P,) on the CPU, by its name in the evaluation.

    Args:
        network: on any device.
        judge: of the same data set, on the CPU.
        case_base: the network's, of the same training cases.
        train: the cases.
    """
    prototypes, weight = network.prototypes, network.head.weight
    pictures = network.decode_prototypes()
    decoded = network(pictures, decode=False)
    classes = prototype_classes(weight)
    codes, labels = case_base.codes.to(weight.device), case_base.labels.to(weight.device)
    compared = network.compared(prototypes)
    cases = nearest_cases(compared.cpu(), case_base.codes, 1)[0][:, 0]
    facts = {
        "class": classes,  # that it stands for
        "dominance": class_dominance(weight),
        "decoded_class": decoded.logits.argmax(dim=1),  # what the network says of its picture
        # The prototype nearest to its picture, encoded again.
        "returned": network.between(decoded.codes, prototypes).argmin(dim=1),
        "purity25": purity(compared, classes, codes, labels, PURITY_NEIGHBOURS),
        "manifold_ratio": manifold_ratio(compared, codes, DENSITY_CASES),
        "alike": alike(classes, pictures),  # the first prototype that looks like it
        "judged_class": judge.verdicts(pictures.cpu()),  # what the judge says of its picture
        "case": cases,  # index of the nearest training case, over all classes
        "case_label": train.labels[cases],
        "case_judged_class": judge.verdicts(to_unit_interval(train.images[cases])),
    }
    return {name: values.cpu() for name, values in facts.items()}


def prototype_metrics(facts: Mapping[str, Tensor], distances: Tensor) -> dict[str, float]:
    """What `prototype_facts` and the distances (P, P) between prototypes say of all together.

    `case_agreement`: share of prototypes whose nearest training case, the one shown as the real
    example, has the prototype's class as its label and in the judge's verdict.
    """
    classes = facts["class"]
    case = (facts["case_label"] == classes) & (facts["case_judged_class"] == classes)
    count = len(classes)
    between = _pairs(distances) if count > 1 else torch.zeros(1)
    return {
        "decode_agreement": _mean(facts["decoded_class"] == classes),
        "cycle_identity": _mean(facts["returned"] == torch.arange(count)),
        "purity25": _mean(facts["purity25"]),
        "manifold_ratio": _mean(facts["manifold_ratio"]),
        "coverage": len(classes.unique()),  # classes that have a prototype
        "dominance": _mean(facts["dominance"]),
        "min_prototype_distance": float(between.min()),
        "mean_prototype_distance": float(between.mean()),
        "duplicates": duplicates(classes, distances),
        "distinct_prototypes": len(facts["alike"].unique()),
        "independent_agreement": _mean(facts["judged_class"] == classes),
        "case_agreement": _mean(case),
    }


def duplicates(classes: Tensor, distances: Tensor) -> int:
    """Pairs of one class, nearest to each other, closer than a tenth of the mean distance.

    Args:
        classes: (P,) of the prototypes.
        distances: (P, P) between them.
    """
    count = len(classes)
    if count == 1:
        return 0
    apart = distances.clone().fill_diagonal_(torch.inf)
    nearest = apart.argmin(dim=1)
    mutual = (nearest[nearest] == torch.arange(count)) & (classes[nearest] == classes)
    close = apart.amin(dim=1) < DUPLICATE_RATIO * _pairs(distances).mean()
    return int((mutual & close).sum()) // 2


def alike(classes: Tensor, pictures: Tensor) -> Tensor:
    """The first prototype (P,) of the group that each one looks like; it may be the only one.

    Two of a class look alike if the root mean square difference of their pixels is at most half of
    the median between pictures of different classes, and so do all that are linked by such pairs.

    Args:
        classes: (P,) of the prototypes.
        pictures: (P, C, H, W), decoded.
    """
    flat = pictures.flatten(1).double()
    apart = exact_distances(flat, flat)  # the root mean square but for a factor
    own = classes[:, None] == classes
    usual = apart[~own].median() if not own.all() else apart.new_zeros(())
    linked = own & (apart <= ALIKE_RATIO * usual)
    linked.fill_diagonal_(True)
    for _ in range(len(classes).bit_length()):  # each round doubles the length of the chains
        linked = linked.double() @ linked.double() > 0
    return linked.int().argmax(dim=1)


@torch.inference_mode()
def judged_alike(network: PrototypeNetwork, judge: Judge, validation: Split) -> float:
    """Share of images that the judge puts into the class of their reconstruction."""
    same = []
    for images, _ in batches(validation, network.prototypes.device):
        again = network.decode(network.encode(images))
        same.append(judge.verdicts(images.cpu()) == judge.verdicts(again.cpu()))
    return _mean(torch.cat(same))


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


@torch.inference_mode()
def measure_calibration(network: PrototypeNetwork, split: Split) -> float:
    """The calibration error of a network's probabilities of a split's images."""
    device = network.prototypes.device
    logits = [network(images, decode=False).logits.cpu() for images, _ in batches(split, device)]
    return calibration_error(torch.cat(logits).double().softmax(dim=1), split.labels)


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """The expected calibration error of Guo et al. 2017 (arXiv:1706.04599), equation 3.

    ECE = Σ_m |B_m|/N · |acc(B_m) - conf(B_m)|: B_m holds the images whose top probability lies in
    ((m - 1)/M, m/M], M = 15; acc is the share of them that is classified correctly, conf the mean
    of their top probability.

    Args:
        probabilities: (N, K).
        labels: (N,).
    """
    confidence, predicted = probabilities.max(dim=1)
    edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=confidence.dtype)
    bins = torch.bucketize(confidence, edges[1:-1])
    surplus = (predicted == labels).to(confidence) - confidence
    sums = torch.zeros(CALIBRATION_BINS, dtype=confidence.dtype).index_add(0, bins, surplus)
    return float(sums.abs().sum()) / len(labels)


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


def _pairs(distances: Tensor) -> Tensor:
    """Of a table (P, P) the distance of each pair once."""
    count = len(distances)
    rows, columns = torch.triu_indices(count, count, offset=1)
    return distances[rows, columns]


def _mean(values: Tensor) -> float:
    """The mean of numbers, or the share of what holds."""
    return float(values.double().mean())
