"""Prototype quality and calibration on hand-made cases with known answers."""

import pytest
import torch

from protodl.core.experiment_config import ModelConfig
from protodl.data.datasets import DATASETS, Split
from protodl.evaluation.quality import (
    alike,
    calibration_error,
    duplicates,
    judged_alike,
    keep_accuracy,
    manifold_ratio,
    measure_explanations,
    prototype_facts,
    prototype_metrics,
    purity,
)
from protodl.network.cases import measure_case_base
from protodl.network.head import baseline, class_dominance, contributions, prototype_classes
from protodl.network.judge import Judge
from protodl.network.network import PrototypeNetwork

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


FACTS = {
    "class": torch.tensor([0, 0, 2, 2]),
    "dominance": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "decoded_class": torch.tensor([0, 1, 2, 2]),
    "returned": torch.tensor([0, 0, 2, 3]),
    "purity25": torch.tensor([1.0, 0.5, 0.5, 1.0]),
    "manifold_ratio": torch.tensor([0.5, 1.0, 1.0, 1.5]),
    "alike": torch.tensor([0, 0, 2, 3]),
    "judged_class": torch.tensor([0, 0, 2, 9]),
    "case": torch.tensor([7, 8, 9, 10]),
    # A case agrees where its label and the verdict are the prototype's class.
    "case_label": torch.tensor([0, 0, 5, 2]),
    "case_judged_class": torch.tensor([0, 5, 2, 2]),
}
DISTANCES = torch.tensor(
    [[0.0, 0.1, 6.0, 6.0], [0.1, 0.0, 6.0, 6.0], [6.0, 6.0, 0.0, 5.9], [6.0, 6.0, 5.9, 0.0]]
)


def test_shares_over_prototypes() -> None:
    assert prototype_metrics(FACTS, DISTANCES) == pytest.approx(
        {
            "decode_agreement": 0.75,
            "cycle_identity": 0.75,
            "purity25": 0.75,
            "manifold_ratio": 1.0,
            "coverage": 2,
            "dominance": 2.5,
            "min_prototype_distance": 0.1,
            "mean_prototype_distance": 5.0,
            "duplicates": 1,
            "distinct_prototypes": 3,
            "independent_agreement": 0.75,
            "case_agreement": 0.5,
        }
    )
    # Close, but of different classes.
    assert duplicates(torch.tensor([0, 1, 2, 2]), DISTANCES) == 0


def grey(*levels: float) -> torch.Tensor:
    """Pictures (P, 1, 2, 2) of one brightness each."""
    return torch.tensor(levels)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()


@pytest.mark.parametrize(
    ("classes", "levels", "expected"),
    [
        # Pictures of two classes differ by 0.4 as a rule, so 0.2 and less is alike.
        ([0, 0, 1, 1], [0.1, 0.28, 0.5, 0.9], [0, 0, 2, 3]),
        ([0, 1, 0, 1], [0.1, 0.5, 0.28, 0.9], [0, 1, 0, 3]),
        # A chain of small steps is one group, whatever the order of its links.
        ([0, 0, 0, 0, 1], [0.0, 0.45, 0.3, 0.15, 0.6], [0, 0, 0, 0, 4]),
        # Of two classes, however near.
        ([0, 1, 2], [0.5, 0.5, 0.9], [0, 1, 2]),
        # One class only: nothing to compare with, so equal pictures alone are alike.
        ([3, 3, 3], [0.2, 0.2, 0.21], [0, 0, 2]),
        ([4], [0.7], [0]),
    ],
)
def test_prototypes_of_a_class_that_look_alike_are_one(
    classes: list[int], levels: list[float], expected: list[int]
) -> None:
    assert alike(torch.tensor(classes), grey(*levels)).tolist() == expected


def test_pictures_are_compared_pixel_by_pixel() -> None:
    """A shifted shape looks different though its mean brightness is the same."""
    pictures = torch.zeros(4, 3, 4, 4)
    pictures[0, :, 0], pictures[1, :, 3], pictures[2, :, 1], pictures[3] = 1, 1, 1, 0.5
    assert alike(torch.tensor([0, 0, 1, 1]), pictures).tolist() == [0, 1, 2, 3]


def test_a_single_prototype_has_no_distance_to_others() -> None:
    one = {name: values[:1] for name, values in FACTS.items()}
    metrics = prototype_metrics(one, torch.zeros(1, 1))
    assert (metrics["mean_prototype_distance"], metrics["duplicates"]) == (0, 0)


def test_manifold_ratio_compares_with_the_usual_distance_between_cases() -> None:
    codes = torch.tensor([[0.0], [2.0], [4.0], [6.0]])
    prototypes = torch.tensor([[1.0], [4.0], [10.0]])
    assert manifold_ratio(prototypes, codes, 4).tolist() == [0.5, 0.0, 2.0]


def test_keeping_few_contributions() -> None:
    """One image, two classes, three prototypes: the largest contribution alone is misleading."""
    contributed = torch.tensor([[[3.0, -1.0, -1.5], [0.0, 1.0, 2.0]]])
    start, labels = torch.zeros(2), torch.tensor([1])
    # All: 0.5 against 3.0 predicts class 1; its largest contribution is that of prototype 2.
    assert [keep_accuracy(contributed, start, labels, k) for k in (1, 2, 3, 9)] == [1, 1, 1, 1]
    assert keep_accuracy(contributed, start, torch.tensor([0]), 1) == 0
    against = torch.tensor([[[3.0, 0.0, 0.0], [2.9, 1.0, 0.0]]])
    assert [keep_accuracy(against, start, labels, k) for k in (1, 2)] == [0, 1]


def test_explanations_of_validation_images() -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 28, 28), dtype=torch.uint8, generator=generator)
    found = measure_explanations(network, Split(images, torch.arange(30) % 10))
    output = network(images / 255)
    predictions = output.logits.argmax(1)
    again = network(output.reconstructions).logits.argmax(1)
    assert found["reconstruction_agreement"] == float((again == predictions).float().mean())
    assert found["faithfulness_gap"] < 1e-5
    few = PrototypeNetwork(ModelConfig(num_prototypes=3), 1, 28).eval()
    every = measure_explanations(few, Split(images, torch.arange(30) % 10))
    assert every["keep_3_accuracy"] == every["keep_5_accuracy"]
    whole = few(images / 255).logits.argmax(1) == torch.arange(30) % 10
    assert every["keep_3_accuracy"] == float(whole.double().mean())


def test_measured_on_a_network_whose_prototypes_are_its_cases() -> None:
    """A prototype that is a training case of its class, among copies of it, is pure."""
    network = PrototypeNetwork(ModelConfig(num_prototypes=10, head_init="class"), 1, 28).eval()
    generator = torch.Generator().manual_seed(0)
    cases = torch.randint(0, 256, (10, 1, 28, 28), dtype=torch.uint8, generator=generator)
    train = Split(cases.repeat_interleave(25, dim=0), torch.arange(10).repeat_interleave(25))
    network.set_prototypes(cases / 255)
    case_base = measure_case_base(network, train, train)
    facts = prototype_facts(network, Judge(DATASETS["mnist"]).eval(), case_base, train)
    assert facts["class"].tolist() == list(range(10))
    assert facts["purity25"].tolist() == [1.0] * 10
    decoded = network(network.decode_prototypes()).logits.argmax(1)
    assert facts["decoded_class"].tolist() == decoded.tolist()


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


class BrightnessJudge(Judge):
    """Puts a picture into the class that its mean brightness, in tenths, says."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tenths = (10 * images.mean(dim=(1, 2, 3))).long()
        return torch.nn.functional.one_hot(tenths, 10).float()


def test_the_judge_sees_decoded_prototypes_their_cases_and_reconstructions() -> None:
    network = PrototypeNetwork(ModelConfig(num_prototypes=10, head_init="class"), 1, 28).eval()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 20, (40, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(40) % 10
    # Brightness tells the class in every image but the last ten.
    levels = torch.cat([labels[:30], (labels[30:] + 1) % 10]) * 25.5 + 4
    images = (levels[:, None, None, None] + noise).clamp(max=255).to(torch.uint8)
    train, validation = Split(images, labels), Split(images[:20], labels[:20])
    chosen = torch.tensor([0, 1, 2, 3, 4, 35, 36, 37, 38, 9])
    network.set_prototypes(images[chosen] / 255)

    judge = BrightnessJudge(DATASETS["mnist"]).eval()
    case_base = measure_case_base(network, train, validation)
    found = prototype_facts(network, judge, case_base, train)

    assert found["case"].tolist() == chosen.tolist()
    assert found["case_label"].tolist() == list(range(10))
    assert prototype_metrics(found, torch.ones(10, 10))["case_agreement"] == 0.6
    decoded = network.decode_prototypes()
    assert found["judged_class"].tolist() == judge(decoded).argmax(1).tolist()
    again = judge(network(images[:20] / 255).reconstructions).argmax(1)
    same = (judge(images[:20] / 255).argmax(1) == again).double().mean()
    assert judged_alike(network, judge, validation) == same


# --- calibration --------------------------------------------------------------------------------


def answers(count: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (N, K) and labels (N,) that were drawn with them: calibrated perfectly."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, dtype=torch.float64, generator=generator)
    probabilities = logits.softmax(dim=1)
    return probabilities, torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def slow_calibration_error(probabilities: list[list[float]], labels: list[int]) -> float:
    """The definition, a bin at a time."""
    tops = [
        (max(row), row.index(max(row)) == label)
        for row, label in zip(probabilities, labels, strict=True)
    ]
    error = 0.0
    for m in range(1, 16):
        held = [(top, right) for top, right in tops if (m - 1) / 15 < top <= m / 15]
        if held:
            share = sum(right for _, right in held) / len(held)
            mean = sum(top for top, _ in held) / len(held)
            error += len(held) / len(tops) * abs(share - mean)
    return error


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_its_definition(seed: int) -> None:
    probabilities, labels = answers(300, 10, seed)
    labels[::3] = 0  # not calibrated
    expected = slow_calibration_error(probabilities.tolist(), labels.tolist())
    assert expected > 0.1
    assert calibration_error(probabilities, labels) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_of_hand_made_answers() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.38, 0.62]])
    # 0.9 and half of it right; 0.7 and right; 0.62 and wrong: 2/4 · 0.4 + 1/4 · 0.3 + 1/4 · 0.62.
    error = calibration_error(probabilities.double(), torch.tensor([0, 1, 1, 0]))
    assert error == pytest.approx(0.43)


def test_what_is_calibrated_has_no_error_and_the_order_plays_no_part() -> None:
    probabilities, labels = answers(200_000, 10, 0)
    assert calibration_error(probabilities, labels) < 0.005
    sharper = probabilities**3 / (probabilities**3).sum(dim=1, keepdim=True)
    error = calibration_error(sharper, labels)
    assert error > 0.1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    assert calibration_error(sharper[order], labels[order]) == pytest.approx(error, rel=1e-9)
    certain = torch.nn.functional.one_hot(labels, 10).double()
    assert calibration_error(certain, labels) == 0
    assert calibration_error(certain, (labels + 1) % 10) == 1
