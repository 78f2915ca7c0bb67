"""Where a network's prototypes begin and where they end: at the codes of training images."""

import torch
from torch import Tensor

from protodl.core.experiment_config import Experiment
from protodl.core.machine import seeded
from protodl.data.datasets import Split, batches, info_of, to_unit_interval
from protodl.network.network import PrototypeNetwork


def build_network(experiment: Experiment, train: Split, seed: int) -> PrototypeNetwork:
    """A fresh network for an experiment; the same seed gives the same weights."""
    info = info_of(experiment.dataset, train)
    with seeded(seed):
        network = PrototypeNetwork(experiment.model, info.channels, info.size, info.num_classes)
    if experiment.model.prototype_init == "data":
        cases = choose_cases(train.labels, experiment.model.num_prototypes, seed)
        network.set_prototypes(to_unit_interval(train.images[cases]))
    return network


def choose_cases(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices (count,) of training cases drawn by `seed`, the classes taken in turn."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
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
