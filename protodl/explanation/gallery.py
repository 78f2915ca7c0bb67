"""The test images whose explanations are shown: clear ones, borderline ones and clear errors.

Shapes: N images, K classes, M images chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protodl.core.files import FORMAT, read_tensors, tensor_of, write_tensors
from protodl.data.datasets import Split, batches
from protodl.network.network import PrototypeNetwork

EACH = 2  # at most, of each kind


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images of the test split, each with the kind that it is an example of."""

    kinds: list[str]  # M of them: correct, borderline or wrong; equal ones follow each other
    indices: Tensor  # (M,) in the test split
    cases: Split  # (M, C, H, W), (M,)


@torch.inference_mode()
def choose_gallery(network: PrototypeNetwork, test: Split) -> Gallery:
    """Choose at most EACH test images of each kind: see `choose`."""
    device = network.prototypes.device
    outputs = [network(images, decode=False).logits for images, _ in batches(test, device)]
    chosen = choose(torch.cat(outputs).cpu(), test.labels)
    indices = torch.tensor([index for _, index in chosen], dtype=torch.int64)
    return Gallery([kind for kind, _ in chosen], indices, test.select(indices))


def choose(logits: Tensor, labels: Tensor) -> list[tuple[str, int]]:
    """Choose images by their logits (N, K) and labels (N,); returns kinds and indices.

    The gap of an image is that between its two largest logits. `correct` images have the largest
    gaps among those classified correctly, one image a class; `borderline` images have the smallest
    gaps of all; `wrong` images have the largest gaps among the errors. Of equal gaps the image with
    the smaller index comes first.
    """
    top = logits.topk(2, dim=1)
    gaps, predictions = top.values[:, 0] - top.values[:, 1], top.indices[:, 0]
    by_gap = gaps.argsort(stable=True, descending=True).tolist()
    right = (predictions == labels).tolist()
    first_of_class: dict[int, int] = {}
    for index in by_gap:
        if right[index]:
            first_of_class.setdefault(int(labels[index]), index)
    found = {
        "correct": list(first_of_class.values()),
        "borderline": gaps.argsort(stable=True).tolist(),
        "wrong": [index for index in by_gap if not right[index]],
    }
    return [(kind, index) for kind, indices in found.items() for index in indices[:EACH]]


def save_gallery(gallery: Gallery, path: Path) -> None:
    """Write a gallery."""
    data = {
        "format": FORMAT,
        "kinds": gallery.kinds,
        "indices": gallery.indices,
        "images": gallery.cases.images,
        "labels": gallery.cases.labels,
    }
    write_tensors(data, path)


def load_gallery(path: Path) -> Gallery:
    """Read what `save_gallery` wrote.

    Raises:
        CheckpointError: the file is missing or not a gallery.
    """
    return read_tensors(path, "a gallery", "make it: dvc repro evaluate@<row>", _gallery)


def _gallery(data: Mapping[str, Any]) -> Gallery:
    kinds = [str(kind) for kind in data["kinds"]]
    indices, labels = (tensor_of(data[n], torch.int64, len(kinds)) for n in ("indices", "labels"))
    images = tensor_of(data["images"], torch.uint8, len(kinds), -1, -1, -1)
    return Gallery(kinds, indices, Split(images, labels))
