"""Where a network's prototypes begin and where they end: at the codes of training images."""

import torch
from torch import Tensor

from protodl.core.experiment_config import Experiment, ModelConfig
from protodl.core.machine import seeded
from protodl.data.datasets import Split, batches, info_of, to_unit_interval
from protodl.network.losses import Lesson
from protodl.network.network import PrototypeNetwork

TYPICAL_SHARE = 0.2  # of a class: as many of its images count as typical


def build_network(
    experiment: Experiment, train: Split, seed: int, lesson: Lesson | None = None
) -> PrototypeNetwork:
    """A fresh network for an experiment; the same seed gives the same weights."""
    info = info_of(experiment.dataset, train)
    with seeded(seed):
        network = PrototypeNetwork(experiment.model, info.channels, info.size, info.num_classes)
    if network.config.prototype_init in ("data", "typical"):
        network.eval()  # a few images are no statistics to normalise by
        cases = first_cases(experiment.model, train, seed, lesson)
        network.set_prototypes(to_unit_interval(train.images[cases]))
    return network


def first_cases(model: ModelConfig, train: Split, seed: int, lesson: Lesson | None) -> Tensor:
    """Indices (P,) of the training images at whose codes the prototypes begin."""
    labels = train.labels.cpu()
    if model.prototype_init == "data":
        return choose_cases(labels, model.num_prototypes, seed)
    assert lesson is not None
    sure = lesson.logits.cpu().log_softmax(dim=1)[torch.arange(len(labels)), labels]
    typical = torch.zeros(len(labels), dtype=torch.bool)
    for own in (labels == k for k in labels.unique()):
        share = max(TYPICAL_SHARE, model.num_prototypes / len(labels.unique()) / int(own.sum()))
        typical |= own & (sure >= sure[own].quantile(max(0.0, 1 - share)))
    return choose_cases(labels, model.num_prototypes, seed, typical)


def choose_cases(labels: Tensor, count: int, seed: int, allowed: Tensor | None = None) -> Tensor:
    """Indices (count,) of training cases drawn by `seed`, the classes taken in turn.

    Args:
        labels: (N,).
        count: how many.
        seed: of the order in which the cases of a class are taken.
        allowed: (N,) which may be drawn; None: all.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order if allowed is None else order[allowed[order]]
    of_class = [order[labels[order] == k] for k in labels.unique()]
    picks = [divmod(position, len(of_class)) for position in range(count)]
    return torch.stack([of_class[k][turn % len(of_class[k])] for turn, k in picks])


@torch.inference_mode()
def project(network: PrototypeNetwork, train: Split) -> Tensor:
    """Move prototypes as `model.project` says; returns the cases (P,) that they moved towards."""
    device = network.prototypes.device
    codes = torch.cat([network.encode(images) for images, _ in batches(train, device)])
    until_class_nearest = network.config.project == "until_class_nearest"
    return network.project_prototypes(codes, train.labels.to(device), until_class_nearest)
