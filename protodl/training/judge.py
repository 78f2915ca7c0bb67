"""How a judge is trained: the images of a training split, cross-entropy, and nothing selected."""

import torch
import torch.nn.functional as F

from protodl.core.experiment_config import AugmentConfig, JudgeConfig, OptimizerConfig
from protodl.core.machine import Runtime, seeded
from protodl.data.augment import augmented
from protodl.data.datasets import Split, info_of
from protodl.network.judge import Judge
from protodl.training.optimizers import build_optimizers, learning_rate, set_learning_rate

AUGMENTS: dict[str, AugmentConfig] = {
    "mnist": AugmentConfig(elastic_alpha=12, shift=1),
    "fashion-mnist": AugmentConfig(shift=1, flip=True),
    "cifar10": AugmentConfig(shift=2, flip=True),
}
OTHER_AUGMENT = AugmentConfig(shift=1)  # whether mirroring keeps a class is not known


def train_judge(dataset: str, train: Split, config: JudgeConfig, runtime: Runtime) -> Judge:
    """Train a judge on the images that the networks are trained on; the same seed, the same bits.

    Nothing is selected, so the validation images stay unseen.
    """
    device = runtime.device
    with seeded(config.seed):
        judge = Judge(info_of(dataset, train))
    judge.to(device).to(memory_format=torch.channels_last)
    optimizer = OptimizerConfig(name="muon", lr=config.lr, weight_decay=1e-2)
    optimizers = build_optimizers(judge, optimizer)
    order = torch.Generator().manual_seed(config.seed)
    noise = torch.Generator(device).manual_seed(config.seed)
    augment = OTHER_AUGMENT if train.class_names else AUGMENTS[dataset]
    images, labels = train.images.to(device), train.labels.to(device)
    batches_each = -(-len(train) // config.batch_size)
    judge.train()
    for epoch in range(config.epochs):
        shuffled = torch.randperm(len(train), generator=order).to(device)
        for index, batch in enumerate(shuffled.split(config.batch_size)):
            step, steps = epoch * batches_each + index, config.epochs * batches_each
            set_learning_rate(optimizers, learning_rate(optimizer, step, steps))
            shown = augmented(images[batch], augment, noise)
            loss = F.cross_entropy(judge(shown), labels[batch])
            judge.zero_grad(set_to_none=True)
            loss.backward()
            for each in optimizers:
                each.step()
    return judge.cpu().eval()
