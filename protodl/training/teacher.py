"""How a teacher is trained, on the training images alone, and asked about each of them."""

import torch
from torch import Tensor

from protodl.core.experiment_config import TeacherConfig
from protodl.core.machine import Runtime, seeded
from protodl.data.datasets import Split, batches, info_of
from protodl.network.teacher import Teacher
from protodl.training.classifier import augment_of, train_classifier


def train_teacher(dataset: str, train: Split, config: TeacherConfig, runtime: Runtime) -> Teacher:
    """Train a teacher; the same seed, the same bits."""
    with seeded(config.seed):
        teacher = Teacher(info_of(dataset, train), config.width)
    augment = augment_of(dataset, train)
    train_classifier(teacher, train, augment, config, runtime, runtime.dtype)
    return teacher


@torch.inference_mode()
def answers(teacher: Teacher, split: Split, mirrored: bool, runtime: Runtime) -> Tensor:
    """Logits (N, K) for each image of a split as it is; `mirrored`: the mean with its mirror's."""
    found = []
    for images, _ in batches(split, runtime.device):
        logits = teacher(images)
        found.append((logits + teacher(images.flip(3))) / 2 if mirrored else logits)
    return torch.cat(found).cpu()
