"""The judge: an independent classifier that never saw a prototype or a reconstruction.

A network can be taught to call any blob a horse; a classifier trained on images alone cannot.
Shapes: N images, C channels, H x W pixels, K classes.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from protodl.core.files import FORMAT, read_tensors, write_tensors
from protodl.data.datasets import DatasetInfo, Split, batches

JUDGE_WIDTHS = (32, 64, 128)  # of its convolutions, stage by stage; a stage halves the map


class Judge(nn.Module):
    """3x3 convolutions, batch normalisation and pooling, then a linear layer: nothing special.

    A stage has one convolution where images are grey, and two where they have colours: photographs
    ask for more than drawn digits do.
    """

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        self.dataset = info.name
        layers: list[nn.Module] = []
        channels = info.channels
        for width in JUDGE_WIDTHS:
            for _ in range(2 if info.channels > 1 else 1):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        side = info.size // 2 ** len(JUDGE_WIDTHS)
        self.head = nn.Linear(channels * side**2, info.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        maps = self.features(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(maps.flatten(1))
        return logits

    @torch.inference_mode()
    def verdicts(self, images: Tensor) -> Tensor:
        """Predicted classes (N,) of images (N, C, H, W) in [0, 1]."""
        return torch.cat([self(part).argmax(dim=1) for part in images.split(500)])


@torch.inference_mode()
def judge_accuracy(judge: Judge, split: Split) -> float:
    """Share of a split's images that the judge puts into their class."""
    hits = [
        judge.verdicts(images) == labels for images, labels in batches(split, torch.device("cpu"))
    ]
    return float(torch.cat(hits).double().mean())


def save_judge(judge: Judge, path: Path) -> None:
    """Write a judge's weights."""
    data = {"format": FORMAT, "dataset": judge.dataset, "state_dict": judge.state_dict()}
    write_tensors(data, path)


def load_judge(path: Path) -> Judge:
    """Read a judge written by `save_judge`, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the file is missing or not a judge.
    """
    return read_tensors(path, "a judge", "train it: dvc repro judge@<data set>", _judge)


def _judge(data: Mapping[str, Any]) -> Judge:
    weights = data["state_dict"]
    (num_classes, features), (_, channels, *_) = (
        weights[name].shape for name in ("head.weight", "features.0.weight")
    )
    # Of the sizes that end in a map of this side any will do: the layers are the same.
    size = math.isqrt(features // JUDGE_WIDTHS[-1]) * 2 ** len(JUDGE_WIDTHS)
    names = tuple(map(str, range(num_classes)))
    judge = Judge(DatasetInfo(data["dataset"], data["dataset"], channels, size, names))
    judge.load_state_dict(weights)
    return judge.eval()
