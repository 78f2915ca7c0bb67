"""The judge: a plain classifier that never saw a prototype or a reconstruction.

A network can be taught to call any blob a horse; an outsider cannot. Shapes: N images, C channels,
H x W pixels, K classes.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protodl.augment import augment_pixels, augment_values
from protodl.checkpoint import FORMAT, CheckpointError, read, write_atomically
from protodl.config import AugmentConfig, DatasetName, JudgeConfig, OptimizerConfig
from protodl.datasets import DATASETS, Split, to_unit_interval
from protodl.evaluation import batches
from protodl.optimizers import build_optimizers, learning_rate
from protodl.runtime import Runtime, seeded

WIDTHS = (32, 64, 128)  # of its convolutions; the map is halved after each
AUGMENTS: dict[DatasetName, AugmentConfig] = {
    "mnist": AugmentConfig(elastic_alpha=12, shift=1),
    "fashion-mnist": AugmentConfig(shift=1, flip=True),
    "cifar10": AugmentConfig(shift=2, flip=True),
}


class Judge(nn.Module):
    """3x3 convolutions, batch normalisation and pooling, then a linear layer: nothing special."""

    def __init__(self, dataset: DatasetName) -> None:
        super().__init__()
        info = DATASETS[dataset]
        self.dataset = dataset
        layers: list[nn.Module] = []
        channels = info.channels
        for width in WIDTHS:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        side = info.size // 2 ** len(WIDTHS)
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


def train_judge(dataset: DatasetName, train: Split, config: JudgeConfig, runtime: Runtime) -> Judge:
    """Train a judge on the images that the networks are trained on; the same seed, the same bits.

    Nothing is selected, so the held-out images stay unseen.
    """
    device = runtime.device
    with seeded(config.seed):
        judge = Judge(dataset)
    judge.to(device).to(memory_format=torch.channels_last)
    optimizer = OptimizerConfig(name="muon", lr=config.lr, weight_decay=1e-2)
    optimizers = build_optimizers(judge, optimizer)
    order = torch.Generator().manual_seed(config.seed)
    noise = torch.Generator(device).manual_seed(config.seed)
    augment = AUGMENTS[dataset]
    images, labels = train.images.to(device), train.labels.to(device)
    batches_each = -(-len(train) // config.batch_size)
    judge.train()
    for epoch in range(config.epochs):
        shuffled = torch.randperm(len(train), generator=order).to(device)
        for index, batch in enumerate(shuffled.split(config.batch_size)):
            step, steps = epoch * batches_each + index, config.epochs * batches_each
            for group in (group for each in optimizers for group in each.param_groups):
                group["lr"] = learning_rate(optimizer, step, steps)
            shown = to_unit_interval(augment_pixels(images[batch], augment, noise))
            loss = F.cross_entropy(judge(augment_values(shown, augment, noise)), labels[batch])
            judge.zero_grad(set_to_none=True)
            loss.backward()
            for each in optimizers:
                each.step()
    return judge.cpu().eval()


@torch.inference_mode()
def judge_accuracy(judge: Judge, split: Split) -> float:
    """Share of a split's images that the judge puts into their class."""
    hits = [
        judge.verdicts(images) == labels for images, labels in batches(split, torch.device("cpu"))
    ]
    return float(torch.cat(hits).double().mean())


def save_judge(judge: Judge, path: Path) -> None:
    """Write a judge's weights."""
    data: dict[str, Any] = {"format": FORMAT, "dataset": judge.dataset}
    write_atomically(data | {"state_dict": judge.state_dict()}, path)


def load_judge(path: Path) -> Judge:
    """Read a judge written by `save_judge`, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the file is missing or not a judge.
    """
    remedy = "train it: dvc repro judge@<data set>"
    data = read(path, remedy)
    try:
        judge = Judge(data["dataset"])
        judge.load_state_dict(data["state_dict"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: is not a judge of this version; {remedy}") from error
    return judge.eval()
