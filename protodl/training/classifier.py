"""How a plain classifier is trained, a judge or a teacher: cross-entropy, and nothing selected."""

import torch
import torch.nn.functional as F
from torch import nn

from protodl.core.experiment_config import AugmentConfig, JudgeConfig, OptimizerConfig
from protodl.core.machine import Runtime
from protodl.data.augment import augmented
from protodl.data.datasets import Split
from protodl.training.optimizers import build_optimizers, learning_rate, set_learning_rate

AUGMENTS: dict[str, AugmentConfig] = {
    "mnist": AugmentConfig(elastic_alpha=12, shift=1),
    "fashion-mnist": AugmentConfig(shift=1, flip=True),
    "cifar10": AugmentConfig(shift=2, flip=True),
}
OTHER_AUGMENT = AugmentConfig(shift=1)  # whether mirroring keeps a class is not known


def augment_of(dataset: str, train: Split) -> AugmentConfig:
    """The random changes under which the classes of a data set stay what they are."""
    return OTHER_AUGMENT if train.class_names else AUGMENTS[dataset]


def train_classifier(
    classifier: nn.Module,
    train: Split,
    augment: AugmentConfig,
    config: JudgeConfig,
    runtime: Runtime,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train a classifier in place, then put it into evaluation mode; the same seed, the same bits.

    Nothing is selected, so the validation images stay unseen.

    Args:
        classifier: of images (N, C, H, W) in [0, 1] into logits (N, K).
        train: what it is trained on.
        augment: random changes of these images.
        config: epochs, learning rate, batch size, seed of the order and of the changes.
        runtime: where.
        dtype: in which its convolutions compute.
    """
    device = runtime.device
    classifier.to(device).to(memory_format=torch.channels_last)
    optimizer = OptimizerConfig(name="muon", lr=config.lr, weight_decay=1e-2)
    optimizers = build_optimizers(classifier, optimizer)
    order = torch.Generator().manual_seed(config.seed)
    noise = torch.Generator(device).manual_seed(config.seed)
    images, labels = train.images.to(device), train.labels.to(device)
    batches_each = -(-len(train) // config.batch_size)
    classifier.train()
    for epoch in range(config.epochs):
        shuffled = torch.randperm(len(train), generator=order).to(device)
        for index, batch in enumerate(shuffled.split(config.batch_size)):
            step, steps = epoch * batches_each + index, config.epochs * batches_each
            set_learning_rate(optimizers, learning_rate(optimizer, step, steps))
            shown = augmented(images[batch], augment, noise)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = classifier(shown)
            loss = F.cross_entropy(logits.float(), labels[batch])
            classifier.zero_grad(set_to_none=True)
            loss.backward()
            for each in optimizers:
                each.step()
    classifier.eval()
