"""What an explanation compares an image with: training images and usual distances, once per seed.

Shapes: N training images, M other images, D code size, P prototypes.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from protodl.core.files import FORMAT, read_tensors, write_tensors
from protodl.data.datasets import Split, batches
from protodl.network.network import PrototypeNetwork

USUAL_SHARE = 0.99  # of validation images lie within the limits


@dataclass(frozen=True)
class CaseBase:
    """Facts of one trained network, measured on its training images and on validation images."""

    codes: Tensor  # (N, D) of the training images, in the order of the training split
    labels: Tensor  # (N,) their classes
    mean_distances: Tensor  # (P,) to each prototype, over the validation images
    prototype_limit: float  # distance to the nearest prototype that 1 % of validation images exceed
    case_limit: float  # the same of the distance to the nearest training image


@torch.inference_mode()
def measure_case_base(network: PrototypeNetwork, train: Split, validation: Split) -> CaseBase:
    """Encode the training images, and measure how far validation images lie from them.

    The limits are the 99 % quantiles of a validation image's distance to the nearest prototype and
    to the nearest training image: an image beyond them is unlike what the network was trained on.
    """
    device = network.prototypes.device
    codes = torch.cat([network.encode(images) for images, _ in batches(train, device)]).float()
    shown = torch.cat([network.encode(images) for images, _ in batches(validation, device)]).float()
    distances = network.distances(shown)
    to_cases = nearest_cases(shown, codes, 1)[1][:, 0]
    return CaseBase(
        codes=codes.cpu(),
        labels=train.labels.cpu(),
        mean_distances=distances.mean(dim=0).cpu(),
        prototype_limit=float(distances.amin(dim=1).quantile(USUAL_SHARE)),
        case_limit=float(to_cases.quantile(USUAL_SHARE)),
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
    remedy = "make it: dvc repro evaluate@<row>"
    return read_tensors(path, "a case base", remedy, lambda data: CaseBase(**data))
