"""What an explanation compares an image with: training cases and usual distances, once per seed.

Shapes: N training cases, M images, D code size, P prototypes.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from protodl.core.files import FORMAT, CheckpointError, read, write_atomically
from protodl.data.datasets import Split, batches
from protodl.network.network import PrototypeNetwork

USUAL_SHARE = 0.99  # of held-out images lie within the limits


@dataclass(frozen=True)
class Reference:
    """Facts of one trained network, measured on its training cases and on held-out images."""

    codes: Tensor  # (N, D) of the training cases, in the order of the training split
    labels: Tensor  # (N,) their classes
    mean_distances: Tensor  # (P,) to each prototype, over the held-out images
    prototype_limit: float  # distance to the nearest prototype that 1 % of held-out images exceed
    case_limit: float  # the same of the nearest training case


@torch.inference_mode()
def measure_reference(network: PrototypeNetwork, train: Split, held_out: Split) -> Reference:
    """Encode the training cases, and see how far held-out images usually lie from everything."""
    device = network.prototypes.device
    codes = torch.cat([network.encode(images) for images, _ in batches(train, device)]).float()
    shown = torch.cat([network.encode(images) for images, _ in batches(held_out, device)]).float()
    distances = network.distances(shown)
    to_cases = nearest_cases(shown, codes, 1)[1][:, 0]
    return Reference(
        codes=codes.cpu(),
        labels=train.labels.cpu(),
        mean_distances=distances.mean(dim=0).cpu(),
        prototype_limit=float(distances.amin(dim=1).quantile(USUAL_SHARE)),
        case_limit=float(to_cases.quantile(USUAL_SHARE)),
    )


def nearest_cases(queries: Tensor, codes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices and Euclidean distances, both (M, count), of the nearest of the codes (N, D).

    Found by the fast formula |a|² + |b|² - 2ab, then measured without its rounding.
    """
    squares = codes.square().sum(dim=1)
    found = [
        (squares - 2 * part @ codes.T).topk(min(count, len(codes)), largest=False).indices
        for part in queries.split(500)
    ]
    indices = torch.cat(found)
    distances = (queries[:, None] - codes[indices]).square().sum(dim=2).sqrt()
    order = distances.argsort(dim=1)
    return indices.gather(1, order), distances.gather(1, order)


def save_reference(reference: Reference, path: Path) -> None:
    """Write a reference."""
    write_atomically({"format": FORMAT, **asdict(reference)}, path)


def load_reference(path: Path) -> Reference:
    """Read what `save_reference` wrote.

    Raises:
        CheckpointError: the file is missing or not a reference.
    """
    remedy = "make it: dvc repro evaluate@<row>"
    data = read(path, remedy)
    data.pop("format")
    try:
        return Reference(**data)
    except TypeError as error:
        raise CheckpointError(f"{path}: is not a reference of this version; {remedy}") from error
