"""The teacher: a classifier that a row may learn from, larger than the published encoders.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from protodl.core.files import (
    FORMAT,
    CheckpointError,
    read_tensors,
    tensor_of,
    write_tensors,
)
from protodl.data.datasets import DatasetInfo, Split, other_info
from protodl.network.losses import Lesson

STAGES = 3  # of maps; each has half the side length and twice the channels of the one before


class Teacher(nn.Module):
    """Residual network with batch normalisation: He et al. 2016, made for small images."""

    def __init__(self, info: DatasetInfo, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = info.channels
        for stage in range(STAGES):
            wide = width * 2**stage
            layers += [_conv(channels, wide, stride=2, kernel=3 if stage else 4), _Residual(wide)]
            channels = wide
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, info.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        maps = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.features(maps))
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = self.layers(maps)
        return maps + changed


def _conv(channels: int, width: int, stride: int = 1, kernel: int = 3) -> nn.Module:
    conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def save_lesson(teacher: Teacher, logits: Tensor, path: Path) -> None:
    """Write a teacher and its logits (N, K) for the N training images, in their order."""
    weights = {name: value.cpu() for name, value in teacher.state_dict().items()}
    write_tensors({"format": FORMAT, "state_dict": weights, "logits": logits.cpu()}, path)


def load_lesson(path: Path, train: Split, device: torch.device) -> Lesson:
    """Read what `save_lesson` wrote for these training images; the teacher learns no more.

    Raises:
        CheckpointError: the file is missing, damaged, or of other images.
    """
    remedy = "train the teacher: dvc repro teacher@<data set>"
    lesson = read_tensors(
        path, "a teacher with its answers", remedy, partial(_lesson, train, device)
    )
    if len(lesson.logits) != len(train):
        raise CheckpointError(
            f"{path}: holds answers for {len(lesson.logits)} training images, there are "
            f"{len(train)}; {remedy}"
        )
    return lesson


def _lesson(train: Split, device: torch.device, data: Mapping[str, Any]) -> Lesson:
    logits, weights = tensor_of(data["logits"], torch.float32, -1, -1), data["state_dict"]
    width, channels, *_ = weights["features.0.0.weight"].shape
    names = tuple(map(str, range(logits.shape[1])))
    teacher = Teacher(other_info("any", channels, train.images.shape[-1], names), width)
    teacher.load_state_dict(weights)
    teacher.to(device).to(memory_format=torch.channels_last)
    return Lesson(logits, teacher.eval().requires_grad_(False))
