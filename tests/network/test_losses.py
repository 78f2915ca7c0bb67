"""Loss terms against numbers worked out by hand, and the published variants by name."""

import math

import pytest
import torch
import torch.nn.functional as F

from protodl.core.config import LossConfig, ModelConfig
from protodl.network.head import prototype_classes
from protodl.network.losses import (
    TERM_NAMES,
    LossTerms,
    batch_terms,
    classification,
    cycle,
    diversity,
    prototype_terms,
    r1,
    r2,
    reconstruction_error,
)
from protodl.network.network import NetworkOutput, PrototypeNetwork

# Two codes, three prototypes.
DISTANCES = torch.tensor([[3.0, 1.0, 4.0], [2.0, 5.0, 9.0]])


def test_r1_looks_for_each_prototype_and_r2_for_each_code() -> None:
    assert r1(DISTANCES) == pytest.approx((2 + 1 + 4) / 3)
    assert r2(DISTANCES) == pytest.approx((1 + 2) / 2)


def test_reconstruction_norms() -> None:
    images = torch.zeros(2, 1, 1, 2)
    reconstructions = torch.tensor([[[[0.3, -0.4]]], [[[0.0, 1.0]]]])
    expected = {"l2": [0.5, 1.0], "squared_l2": [0.25, 1.0], "l1": [0.7, 1.0]}
    for norm, values in expected.items():
        error = reconstruction_error(reconstructions, images, norm)  # type: ignore[arg-type]
        torch.testing.assert_close(error, torch.tensor(values))


def test_a_perfect_reconstruction_has_a_finite_gradient() -> None:
    images = torch.rand(2, 1, 4, 4)
    reconstructions = images.clone().requires_grad_()
    reconstruction_error(reconstructions, images, "l2").mean().backward()
    assert reconstructions.grad is not None
    assert reconstructions.grad.isfinite().all()


def test_no_softmax_stands_before_the_cross_entropy() -> None:
    """One port applies it twice; then even perfect logits cannot bring the loss near zero."""
    logits = torch.tensor([[30.0, 0.0], [0.0, 30.0]])
    labels = torch.tensor([0, 1])
    assert classification(logits, labels) < 1e-9
    assert classification(logits, labels) != F.cross_entropy(logits.softmax(1), labels)


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    terms = LossTerms(*(torch.tensor(value) for value in (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)))
    weights = LossConfig(
        classification=2,
        reconstruction=3,
        r1=4,
        r2=5,
        prototype_classification=6,
        cycle=7,
        diversity=8,
    )
    assert terms.total(weights) == 8765432
    assert set(TERM_NAMES) < set(LossConfig.model_fields)


def test_terms_of_a_batch() -> None:
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([1, 0])
    logits = torch.randn(2, 3)
    output = NetworkOutput(logits, images + 0.5, DISTANCES, torch.zeros(2, 1))
    terms = batch_terms(output, images, labels, "squared_l2")
    assert terms.reconstruction == pytest.approx(16 * 0.25)
    assert terms.classification == pytest.approx(float(F.cross_entropy(logits, labels)))
    assert (terms.r1, terms.r2) == (r1(DISTANCES), r2(DISTANCES))
    assert terms.prototype_classification == terms.cycle == terms.diversity == 0


def test_only_decoded_images_count_in_the_reconstruction_term() -> None:
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([1, 0])
    logits, codes = torch.randn(2, 3), torch.zeros(2, 1)
    one = NetworkOutput(logits, images[:1] + 0.5, DISTANCES, codes)
    none = NetworkOutput(logits, None, DISTANCES, codes)
    assert batch_terms(one, images, labels, "l1").reconstruction == pytest.approx(16 * 0.5)
    assert batch_terms(none, images, labels, "l1").reconstruction == 0


def test_the_cycle_term_is_a_mean_distance() -> None:
    codes, prototypes = (
        torch.tensor([[3.0, 4.0], [1.0, 1.0]]),
        torch.tensor([[0.0, 0.0], [1.0, 3.0]]),
    )
    assert cycle(codes, prototypes) == (5 + 2) / 2


def test_prototype_terms_judge_the_decoded_prototypes() -> None:
    torch.manual_seed(0)
    network = PrototypeNetwork(ModelConfig(num_prototypes=20, head_init="kaiming"), 1, 28)
    chosen = torch.tensor([3, 17])
    found = prototype_terms(network, chosen)
    pictures = network.decode_prototypes()[chosen]
    classes = prototype_classes(network.head.weight)[chosen]
    expected = F.cross_entropy(network(pictures).logits, classes)
    torch.testing.assert_close(found["prototype_classification"], expected)
    gaps = (network.encode(pictures) - network.prototypes[chosen]).square().sum(1).sqrt()
    torch.testing.assert_close(found["cycle"], gaps.mean())
    sum(found.values(), torch.zeros(())).backward()
    moved = network.prototypes.grad
    assert moved is not None
    assert moved[chosen].abs().sum(1).gt(0).all()


def test_diversity_is_the_mean_log_distance_to_the_nearest_other_prototype() -> None:
    prototypes = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 6.0]])
    expected = -(math.log(5) + math.log(2) + math.log(2)) / 3
    assert diversity(prototypes) == pytest.approx(expected)
    assert diversity(prototypes[:1]) == 0


def test_diversity_drives_prototypes_apart_the_more_the_nearer_they_are() -> None:
    slopes = []
    for gap in (0.01, 0.1):
        prototypes = torch.tensor([[0.0, 0.0], [gap, 0.0]], requires_grad=True)
        diversity(prototypes).backward()
        assert prototypes.grad is not None
        left, right = prototypes.grad[:, 0].tolist()
        assert left > 0 > right  # descent moves them away from each other
        slopes.append(left)
    assert slopes[0] == pytest.approx(10 * slopes[1])


def test_diversity_of_equal_prototypes_is_finite() -> None:
    prototypes = torch.ones(3, 4, requires_grad=True)
    term = diversity(prototypes)
    term.backward()
    assert term.isfinite()
    assert prototypes.grad is not None
    assert prototypes.grad.isfinite().all()
