"""Prototype quality on hand-made cases with known answers."""

import pytest
import torch

from protodl.config import ModelConfig
from protodl.datasets import Split
from protodl.explain import baseline, contributions
from protodl.models import PrototypeNetwork, prototype_classes
from protodl.quality import (
    PrototypeQuality,
    class_dominance,
    measure_quality,
    purity,
)

# Two classes, three prototypes; closeness to prototype 0 speaks for class 1.
WEIGHT = torch.tensor([[0.5, -2.0, -1.0], [-1.5, 1.0, -0.75]])


def test_class_is_where_closeness_is_most_evidence() -> None:
    assert prototype_classes(WEIGHT).tolist() == [1, 0, 0]
    assert class_dominance(WEIGHT).tolist() == [2.0, 3.0, 0.25]


def test_purity_counts_the_nearest_cases_of_the_own_class() -> None:
    codes = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    labels = torch.tensor([0, 0, 1, 1, 1, 0])
    prototypes = torch.tensor([[0.4], [10.6]])
    classes = torch.tensor([0, 1])
    assert purity(prototypes, classes, codes, labels, 3).tolist() == pytest.approx([2 / 3, 2 / 3])
    assert purity(prototypes, classes, codes, labels, 2).tolist() == [1.0, 1.0]
    assert purity(prototypes, classes, codes, labels, 25).tolist() == [0.5, 0.5]


def test_shares_over_prototypes() -> None:
    quality = PrototypeQuality(
        classes=torch.tensor([0, 0, 2, 2]),
        dominance=torch.tensor([1.0, 2.0, 3.0, 4.0]),
        decoded_classes=torch.tensor([0, 1, 2, 2]),
        purity=torch.tensor([1.0, 0.5, 0.5, 1.0]),
    )
    assert quality.as_metrics() == {
        "decode_agreement": 0.75,
        "purity25": 0.75,
        "coverage": 2,
        "dominance": 2.5,
    }


def test_measured_on_a_network_whose_prototypes_are_its_cases() -> None:
    """A prototype that is a training case of its class, among copies of it, is pure."""
    network = PrototypeNetwork(ModelConfig(num_prototypes=10, head_init="class"), 1, 28).eval()
    generator = torch.Generator().manual_seed(0)
    cases = torch.randint(0, 256, (10, 1, 28, 28), dtype=torch.uint8, generator=generator)
    train = Split(cases.repeat_interleave(25, dim=0), torch.arange(10).repeat_interleave(25))
    network.set_prototypes(cases / 255)
    quality = measure_quality(network, train)
    assert quality.classes.tolist() == list(range(10))
    assert quality.mean_purity == 1.0
    assert quality.coverage == 10
    decoded = network(network.decode_prototypes()).logits.argmax(1)
    assert quality.decoded_classes.tolist() == decoded.tolist()


def test_contributions_and_baseline_sum_to_the_logits() -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28).double()
    images = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    with torch.inference_mode():
        output = network(images)
        mean = output.distances.mean(dim=0)
        parts = contributions(output.distances, mean, network.head.weight)
        start = baseline(mean, network.head.weight, network.head.bias)
    assert parts.shape == (6, 10, 15)
    torch.testing.assert_close(parts.sum(dim=2) + start, output.logits)
