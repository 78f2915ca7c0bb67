"""The benchmarks' baseline computes what the fast path does; operations are counted right."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import random_split
from benchmarks.operations import step_operations
from benchmarks.port_way import DeformedImages, PortWay, deform_image, use_plain_layers
from protodl.augment import deform, displacement
from protodl.config import Experiment, ModelConfig
from protodl.losses import loss_terms
from protodl.models import PrototypeNetwork

ROWS = [("small", "deconv", 1, 28), ("small", "upconv", 1, 28), ("large", "upconv", 3, 32)]


def network(architecture: str, decoder: str, channels: int, size: int) -> PrototypeNetwork:
    torch.manual_seed(0)
    config = ModelConfig(architecture=cast(Any, architecture), decoder=cast(Any, decoder))
    return PrototypeNetwork(config, channels, size)


@pytest.mark.parametrize("row", ROWS)
def test_operations_are_those_that_torch_counts(row: tuple[str, str, int, int]) -> None:
    net = network(*row)
    images = torch.rand(2, row[2], row[3], row[3])
    with FlopCounterMode(display=False) as counter:
        output = net(images)
        assert output.reconstructions is not None
        (output.logits.sum() + output.reconstructions.sum()).backward()
    assert counter.get_total_flops() == pytest.approx(step_operations(net, 2), rel=0.01)


@pytest.mark.parametrize("row", ROWS)
def test_the_baseline_network_computes_the_same_losses(row: tuple[str, str, int, int]) -> None:
    fast, plain = network(*row), use_plain_layers(network(*row))
    images, labels = torch.rand(4, row[2], row[3], row[3]), torch.arange(4)
    ours = loss_terms(fast(images), images, labels, "l2")
    theirs = loss_terms(plain(images), images, labels, "l2")
    for name, value in vars(ours).items():
        torch.testing.assert_close(value, getattr(theirs, name), rtol=1e-5, atol=1e-5)


def test_the_baseline_deforms_as_the_batch_does() -> None:
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    noise = 2 * torch.rand(3, 2, 28, 28, dtype=torch.float64) - 1
    batch = deform(images, displacement(noise, 20.0, 4.0)).numpy()
    for n in range(3):
        one = deform_image(images[n].numpy(), noise[n].numpy(), 20.0, 4.0)
        np.testing.assert_allclose(one, batch[n], atol=1e-10)


def test_the_baseline_trains() -> None:
    experiment = Experiment(dataset="mnist", batch_size=40)
    split = random_split("mnist", 100)
    image, label = DeformedImages(split, 20, 4)[1]
    assert image.shape == (1, 28, 28)
    assert label == 1
    training = PortWay(network("small", "deconv", 1, 28), split, experiment)
    before = training.network.prototypes.detach().clone()
    steps = training.steps(workers=0)
    assert [next(steps) for _ in range(4)] == [40, 40, 20, 40]
    assert not torch.equal(before, training.network.prototypes)
