"""Loss terms against numbers worked out by hand, and the published variants by name."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from protodl.core.experiment_config import Experiment, LossConfig, ModelConfig
from protodl.network.head import prototype_classes
from protodl.network.losses import (
    TERMS,
    Lesson,
    LossInputs,
    asks_teacher,
    classification,
    cycle,
    distillation,
    diversity,
    r1,
    r2,
    reconstruction_error,
    training_terms,
    weighted,
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


def test_cross_entropy_of_a_reconstruction() -> None:
    images, logits = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    error = reconstruction_error(logits.sigmoid(), images, "cross_entropy")
    expected = F.binary_cross_entropy_with_logits(logits, images, reduction="none")
    torch.testing.assert_close(error, expected.flatten(1).sum(1))


def test_cross_entropy_brings_a_pixel_back_that_a_sigmoid_has_given_up() -> None:
    images = torch.tensor([0.4, 0.0, 1.0]).view(1, 1, 1, 3)
    for norm, least in {"cross_entropy": 0.39, "l1": 0.0, "l2": 0.0}.items():
        logits = torch.tensor([-60.0, -200.0, 200.0]).view(1, 1, 1, 3).requires_grad_()
        reconstruction_error(logits.sigmoid(), images, norm).sum().backward()  # type: ignore[arg-type]
        assert logits.grad is not None
        pulled = logits.grad.flatten().neg().tolist()
        assert pulled == pytest.approx([least, 0, 0], abs=0.02)


def test_a_reconstruction_that_is_no_number_has_an_error_that_is_none() -> None:
    """The training says then what diverged."""
    nothing = torch.full((1, 1, 2, 2), torch.nan)
    error = reconstruction_error(nothing, torch.zeros(1, 1, 2, 2), "cross_entropy")
    assert error.isnan().all()


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


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_labels_give_every_class_its_share(smoothing: float) -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 3, 3, 1])
    wanted = (1 - smoothing) * F.one_hot(labels, 5) + smoothing / 5
    expected = -(wanted * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(classification(logits, labels, smoothing), expected)


def test_the_labels_of_images_are_smoothed_and_no_others() -> None:
    plain, smoothed = (inputs(1, LossConfig(label_smoothing=share)) for share in (0.0, 0.3))
    found = training_terms(smoothed)["classification"]
    expected = classification(smoothed.output.logits, smoothed.labels, 0.3)
    assert found == expected != training_terms(plain)["classification"]
    both = [replace(each, chosen=torch.tensor([0, 1])) for each in (plain, smoothed)]
    first, second = (training_terms(each)["decoded_prototype_classification"] for each in both)
    assert first == second


def test_terms_are_weighted_by_the_names_of_the_configuration() -> None:
    sizes = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
    weights = LossConfig(
        classification=2,
        reconstruction=3,
        r1=4,
        r2=5,
        decoded_prototype_classification=6,
        cycle=7,
        diversity=8,
        distillation=9,
        recognition=1,
    )
    assert sum(weighted(dict(zip(TERMS, sizes, strict=True)), weights)) == 198765432
    assert set(TERMS) < set(LossConfig.model_fields)


def inputs(decoded: int, weights: LossConfig) -> LossInputs:
    """Two images, of which so many are decoded."""
    torch.manual_seed(0)
    images, labels = torch.rand(2, 1, 28, 28), torch.tensor([1, 0])
    pictures = images[:decoded] + 0.5 if decoded else None
    output = NetworkOutput(torch.randn(2, 3), pictures, DISTANCES, torch.zeros(2, 1))
    return LossInputs(PrototypeNetwork(ModelConfig(), 1, 28), output, images, labels, weights)


def test_terms_of_a_batch() -> None:
    batch = inputs(decoded=2, weights=LossConfig(reconstruction_norm="squared_l2"))
    terms = training_terms(batch)
    assert list(terms) == list(TERMS)
    assert terms["reconstruction"] == pytest.approx(784 * 0.25)
    assert terms["classification"] == F.cross_entropy(batch.output.logits, batch.labels)
    assert (terms["r1"], terms["r2"]) == (r1(DISTANCES), r2(DISTANCES))
    assert terms["decoded_prototype_classification"] == terms["cycle"] == terms["diversity"] == 0
    with_diversity = inputs(2, LossConfig(diversity=1.0))
    found = training_terms(with_diversity)["diversity"]
    assert found == diversity(with_diversity.network.prototypes)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_distillation_is_the_divergence_from_the_teacher_but_for_a_constant(
    temperature: float,
) -> None:
    logits, taught = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    wanted = (taught / temperature).softmax(1)
    divergence = F.kl_div((logits / temperature).log_softmax(1), wanted, reduction="batchmean")
    entropy = -(wanted * wanted.log()).sum(1).mean()
    found = distillation(logits, taught, temperature)
    torch.testing.assert_close(found, temperature**2 * (divergence + entropy))
    (gradient,) = torch.autograd.grad(found, logits)
    expected = temperature * ((logits / temperature).softmax(1) - wanted) / len(logits)
    torch.testing.assert_close(gradient, expected)


def test_only_a_row_that_is_taught_has_the_term() -> None:
    batch = inputs(2, LossConfig(distillation=2.0, temperature=3.0, recognition=1.0))
    assert training_terms(batch)["distillation"] == training_terms(batch)["recognition"] == 0
    lesson = Lesson(torch.randn(2, 3), lambda images: images.flatten(1)[:, :10] * 5)
    found = training_terms(replace(batch, lesson=lesson))
    assert found["distillation"] == distillation(batch.output.logits, lesson.logits, 3.0)
    assert found["recognition"] == 0  # no prototype is decoded in this step
    chosen = torch.tensor([3, 14])
    found = training_terms(replace(batch, lesson=lesson, chosen=chosen))
    pictures = batch.network.decode(batch.network.prototypes[chosen])
    classes = prototype_classes(batch.network.head.weight)[chosen]
    assert found["recognition"] == F.cross_entropy(lesson.teacher(pictures), classes)
    assert asks_teacher(Experiment(dataset="mnist", loss=batch.weights))
    assert not asks_teacher(Experiment(dataset="mnist"))
    typical = ModelConfig(prototype_init="typical")
    assert asks_teacher(Experiment(dataset="mnist", model=typical))


def test_only_decoded_images_count_in_the_reconstruction_term() -> None:
    one = training_terms(inputs(1, LossConfig(reconstruction_norm="l1")))
    assert one["reconstruction"] == pytest.approx(784 * 0.5)
    assert training_terms(inputs(0, LossConfig(reconstruction=0)))["reconstruction"] == 0


def test_the_cycle_term_is_a_mean_distance() -> None:
    codes, prototypes = (
        torch.tensor([[3.0, 4.0], [1.0, 1.0]]),
        torch.tensor([[0.0, 0.0], [1.0, 3.0]]),
    )
    assert cycle(codes, prototypes) == (5 + 2) / 2


def test_terms_of_the_decoded_prototypes() -> None:
    torch.manual_seed(0)
    network = PrototypeNetwork(ModelConfig(num_prototypes=20, head_init="kaiming"), 1, 28)
    chosen, images = torch.tensor([3, 17]), torch.rand(2, 1, 28, 28)
    batch = LossInputs(network, network(images), images, chosen % 10, LossConfig(), chosen)
    found = training_terms(batch)
    pictures = network.decode_prototypes()[chosen]
    classes = prototype_classes(network.head.weight)[chosen]
    expected = F.cross_entropy(network(pictures).logits, classes)
    torch.testing.assert_close(found["decoded_prototype_classification"], expected)
    gaps = (network.encode(pictures) - network.prototypes[chosen]).square().sum(1).sqrt()
    torch.testing.assert_close(found["cycle"], gaps.mean())
    (found["decoded_prototype_classification"] + found["cycle"]).backward()
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
