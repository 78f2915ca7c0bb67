"""What an explanation compares an image with: training images and what is usual, once per seed.

Shapes: N training images, M other images, D code size, P prototypes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protodl.core.files import FORMAT, read_tensors, tensor_of, write_tensors
from protodl.data.datasets import Split, batches
from protodl.network.network import NetworkOutput, PrototypeNetwork
from protodl.network.usual import (
    USUAL_SHARE,
    Usual,
    class_statistics,
    deviation,
    quantiles,
    rank,
    relative_error,
    surprise,
)


@dataclass(frozen=True)
class CaseBase:
    """The training images as one trained network sees them, and what is usual for it."""

    codes: Tensor  # (N, D) of the training images, in their order: what is compared of them
    labels: Tensor  # (N,) their classes
    usual: Usual


@torch.inference_mode()
def measure_case_base(network: PrototypeNetwork, train: Split, validation: Split) -> CaseBase:
    """Encode the training images, and measure how validation images differ from them.

    The limits are the 99 % quantiles of a validation image's distance to the nearest prototype and
    to the nearest training image: an image beyond them is unlike what the network was trained on.
    """
    device = network.prototypes.device
    found = [network.compared(network.encode(images)) for images, _ in batches(train, device)]
    codes = torch.cat(found).float()
    logits = torch.cat([network.classify(network.distances(part)) for part in codes.split(5000)])
    codes, labels = codes.cpu(), train.labels.cpu()
    return CaseBase(codes, labels, _measure_usual(network, validation, codes, logits.cpu(), labels))


def _measure_usual(
    network: PrototypeNetwork, validation: Split, codes: Tensor, logits: Tensor, labels: Tensor
) -> Usual:
    outputs, errors = [], []
    for images, _ in batches(validation, network.prototypes.device):
        output: NetworkOutput = network(images)
        assert output.reconstructions is not None
        errors.append(relative_error(images, output.reconstructions).float().cpu())
        codes_seen = network.compared(output.codes).float().cpu()
        outputs.append((output.logits.cpu(), output.distances.cpu(), codes_seen))
    shown, distances, seen = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    error, statistics = torch.cat(errors), class_statistics(logits, labels)
    apart = deviation(shown, *statistics)
    ordered = quantiles(error), quantiles(apart)
    combined = surprise(rank(error, ordered[0]), rank(apart, ordered[1]))
    to_cases = nearest_cases(seen, codes, 1)[1][:, 0]
    return Usual(
        mean_distances=distances.mean(dim=0),
        prototype_limit=float(distances.amin(dim=1).quantile(USUAL_SHARE)),
        case_limit=float(to_cases.quantile(USUAL_SHARE)),
        class_logits=statistics[0],
        class_precisions=statistics[1],
        errors=ordered[0],
        deviations=ordered[1],
        surprises=quantiles(combined),
    )


def nearness(queries: Tensor, codes: Tensor, squares: Tensor) -> Tensor:
    """|b|² - 2ab (M, N) of queries a (M, D) and codes b (N, D), whose |b|² are `squares` (N,).

    For one query it orders the codes as their distances do, as |a - b|² = |a|² + |b|² - 2ab.
    """
    return squares - 2 * queries @ codes.T


def nearest_cases(queries: Tensor, codes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices and Euclidean distances, both (M, count), of the codes (N, D) nearest to (M, D).

    Found by `nearness`, which is quick, then measured without its rounding.
    """
    squares = codes.square().sum(dim=1)
    found = [
        nearness(part, codes, squares).topk(min(count, len(codes)), largest=False).indices
        for part in queries.split(500)
    ]
    indices = torch.cat(found)
    distances = (queries[:, None] - codes[indices]).square().sum(dim=2).sqrt()
    order = distances.argsort(dim=1)
    return indices.gather(1, order), distances.gather(1, order)


def save_case_base(case_base: CaseBase, path: Path) -> None:
    """Write a case base."""
    write_tensors({"format": FORMAT, **asdict(case_base)}, path)


def load_case_base(path: Path) -> CaseBase:
    """Read what `save_case_base` wrote.

    Raises:
        CheckpointError: the file is missing or not a case base.
    """
    return read_tensors(path, "a case base", "make it: dvc repro evaluate@<row>", _case_base)


def _case_base(data: Mapping[str, Any]) -> CaseBase:
    usual, numbers = Usual(**data["usual"]), torch.float32
    classes = len(usual.class_logits)
    tensor_of(usual.mean_distances, numbers, -1)
    tensor_of(usual.class_logits, numbers, classes, classes)
    tensor_of(usual.class_precisions, numbers, classes, classes, classes)
    for ordered in (usual.errors, usual.deviations, usual.surprises):
        tensor_of(ordered, numbers, -1)
    if not all(isinstance(limit, float) for limit in (usual.prototype_limit, usual.case_limit)):
        raise ValueError("expected limits that are numbers")
    labels = tensor_of(data["labels"], torch.int64, -1)
    return CaseBase(tensor_of(data["codes"], numbers, len(labels), -1), labels, usual)
