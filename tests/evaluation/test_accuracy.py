"""Evaluation: every image counts once, whatever the batch size; the confusion matrix."""

import pytest
import torch

from protodl.core.experiment_config import LossConfig, ModelConfig
from protodl.data import datasets
from protodl.data.datasets import Split, to_unit_interval
from protodl.evaluation.accuracy import accuracy, confusion_matrix, evaluate
from protodl.network.losses import TERMS, LossInputs, compute_terms, weighted
from protodl.network.network import PrototypeNetwork


@pytest.fixture(name="split")
def _split() -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (37, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Split(images, torch.randint(0, 10, (37,), generator=generator))


def test_a_short_last_batch_weighs_what_it_holds(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28)
    weights = LossConfig(cycle=2.0, decoded_prototype_classification=3.0, diversity=4.0)
    images = to_unit_interval(split.images)
    with torch.inference_mode():
        output = network(images)
        everything = torch.arange(15)
        inputs = LossInputs(network, output, images, split.labels, weights, everything)
        measured = [name for name in TERMS if not TERMS[name].taught]
        terms = compute_terms(inputs, measured)
    for size in (37, 36, 10):
        monkeypatch.setattr(datasets, "EVALUATION_BATCH", size)
        result = evaluate(network, split, weights, torch.device("cpu"))
        assert list(result.metrics) == ["accuracy", "loss", *measured]
        for name, term in terms.items():
            assert result.metrics[name] == pytest.approx(float(term), rel=1e-5), (size, name)
        assert result.metrics["loss"] == pytest.approx(
            float(sum(weighted(terms, weights))), rel=1e-5
        )
        assert result.accuracy == accuracy(output.logits.argmax(1), split.labels)


def test_accuracy_alone_leaves_the_decoder_out(split: Split) -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28)
    whole = evaluate(network, split, LossConfig(), torch.device("cpu"))
    network.decoder.register_forward_hook(lambda *_: pytest.fail("the decoder ran"))
    part = evaluate(network, split, LossConfig(), torch.device("cpu"), decode=False)
    assert part.metrics == {
        name: value
        for name, value in whole.metrics.items()
        if name in ("accuracy", "classification", "r1", "r2")
    }


def test_evaluation_leaves_network_and_random_state_alone(split: Split) -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    first = evaluate(network, split, LossConfig(), torch.device("cpu"))
    second = evaluate(network, split, LossConfig(), torch.device("cpu"))
    assert first.metrics == second.metrics
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    counts = confusion_matrix(torch.tensor([1, 1, 2, 0]), torch.tensor([1, 0, 0, 0]), 3)
    assert counts.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
