"""The residual network: codes in two parts, prototypes that follow training images."""

import copy
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from protodl.core.experiment_config import Experiment, LossConfig, ModelConfig, OptimizerConfig
from protodl.core.files import write_tensors
from protodl.core.machine import Runtime
from protodl.data.datasets import Split, info_of, to_unit_interval
from protodl.evaluation.quality import prototype_facts
from protodl.explanation.local import explain
from protodl.explanation.model import Model
from protodl.explanation.serving import Explainer
from protodl.network.cases import measure_case_base
from protodl.network.checkpoint import load_network, save_network
from protodl.network.judge import Judge
from protodl.network.losses import Lesson, LossInputs
from protodl.network.network import PrototypeNetwork
from protodl.network.residual import APPEARANCE_MAPS, LENGTH
from protodl.training.prototypes import TYPICAL_SHARE, build_network, first_cases
from protodl.training.trainer import Hooks, Trainer, fit

CPU = Runtime(torch.device("cpu"), torch.float32, torch.channels_last, 1)
MODEL = ModelConfig(
    architecture="resnet", decoder="resnet", width=4, code_size=6, num_prototypes=7,
    prototype_init="data", train_prototypes="follow_cases",
)  # fmt: skip


def split(count: int, seed: int, channels: int = 3, size: int = 16) -> Split:
    """Noise, in which a bright column tells the class, of five."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    images = torch.randint(0, 90, shape, dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 5
    for image, label in zip(images, labels.tolist(), strict=True):
        image[..., 3 * label : 3 * label + 2] = 255
    return Split(images, labels, tuple("abcde"))


TRAIN, VALIDATION = split(100, 0), split(30, 1)


def experiment(epochs: int = 4, model: ModelConfig = MODEL, **loss: float) -> Experiment:
    weights = LossConfig.model_validate(
        {"r1": 0, "r2": 0, "cycle": 1, "decoded_prototype_classification": 1}
        | {"decoded_prototype_share": 0.5, "decoded_prototype_start": 0}
        | loss
    )
    optimizer = OptimizerConfig(lr=1e-2, averaging=0.8)
    return Experiment(
        dataset="mnist",
        model=model,
        loss=weights,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=20,
    )


def trainer(of: Experiment, lesson: Lesson | None = None) -> Trainer:
    network = build_network(of, TRAIN, 0, lesson)
    return Trainer(network, TRAIN, VALIDATION, of, CPU, 0, lesson)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> PrototypeNetwork:
    return fit(trainer(experiment(12)), tmp_path_factory.mktemp("fit") / "training.pt", 1).network


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 9)])
def test_a_code_has_a_class_part_of_one_length_and_an_appearance_part(
    channels: int, size: int
) -> None:
    network = PrototypeNetwork(MODEL, channels, size).to(memory_format=torch.channels_last).eval()
    images = torch.rand(5, channels, size, size)
    codes = network.encode(images)
    side = -(-size // 8)
    assert codes.shape == (5, 6 + APPEARANCE_MAPS * side**2)
    lengths = torch.linalg.vector_norm(network.compared(codes), dim=1)
    torch.testing.assert_close(lengths, torch.full((5,), LENGTH))
    pictures = network.decode(codes).detach()
    assert pictures.shape == images.shape
    assert float(pictures.min()) >= 0 and float(pictures.max()) <= 1


def test_only_the_decoder_reads_the_appearance_part(trained: PrototypeNetwork) -> None:
    images = to_unit_interval(VALIDATION.images)
    codes = trained.encode(images)
    other = codes.clone()
    other[:, 6:] = codes[:, 6:].flip(0)
    assert torch.equal(trained.distances(codes), trained.distances(other))
    assert torch.equal(trained.distances(codes), trained(images).distances)
    assert not torch.allclose(trained.decode(codes), trained.decode(other), atol=1e-2)


def test_a_single_image_is_encoded_while_training_too() -> None:
    network = PrototypeNetwork(MODEL, 3, 16)
    code = network.train().encode(torch.rand(1, 3, 16, 16))
    assert bool(code.isfinite().all())


def test_prototypes_stay_the_codes_of_their_training_images(trained: PrototypeNetwork) -> None:
    cases = first_cases(MODEL, TRAIN, 0, None)
    codes = trained.encode(to_unit_interval(TRAIN.images[cases]))
    torch.testing.assert_close(trained.prototypes, codes, rtol=0, atol=1e-5)
    assert not trained.prototypes.requires_grad


def test_it_learns_and_its_prototypes_are_their_own_cases(trained: PrototypeNetwork) -> None:
    output = trained(to_unit_interval(VALIDATION.images))
    assert float((output.logits.argmax(dim=1) == VALIDATION.labels).float().mean()) > 0.8
    case_base = measure_case_base(trained, TRAIN, VALIDATION)
    assert case_base.codes.shape == (100, 6)
    judge = Judge(info_of("bars", TRAIN)).eval()
    facts = prototype_facts(trained, judge, case_base, TRAIN)
    assert torch.equal(facts["class"], torch.arange(7) % 5)
    assert torch.equal(facts["case_label"], facts["class"])
    near = trained.between(trained.prototypes, trained.encode(to_unit_interval(TRAIN.images)))
    cases = first_cases(MODEL, TRAIN, 0, None)
    torch.testing.assert_close(near.amin(dim=1), near[torch.arange(7), cases], atol=1e-5, rtol=0)


def test_it_is_explained_and_served_as_any_other(trained: PrototypeNetwork) -> None:
    case_base = measure_case_base(trained, TRAIN, VALIDATION)
    model = Model.of_training("bars", 0, info_of("bars", TRAIN), trained, case_base, TRAIN)
    image = to_unit_interval(VALIDATION.images[:1])
    explanation = explain(model, image[0])
    output = trained(image)
    total = explanation.baseline_logits[explanation.prediction.index]
    total += sum(reason.contribution for reason in explanation.prototypes)
    assert total == pytest.approx(explanation.prediction.logit)
    assert total == pytest.approx(float(output.logits.max().detach()), abs=1e-4)
    near = trained.between(output.codes, trained.encode(to_unit_interval(TRAIN.images))).detach()
    assert explanation.nearest_cases[0].distance == pytest.approx(float(near.min()), abs=1e-3)
    assert max(case.distance for case in model.prototype_cases) < 1e-3
    with torch.no_grad():
        logits, _, _, to_case = Explainer(trained, case_base).eval()(image)
    torch.testing.assert_close(logits, output.logits.detach())
    assert float(to_case) == pytest.approx(float(near.min()), abs=1e-3)


def test_each_step_renews_the_prototypes_that_it_takes_along() -> None:
    training = trainer(experiment(decoded_prototype_share=1.0))
    began = training.network.prototypes.clone()
    training.network.train()
    training.train_step(torch.arange(20), 0)
    assert bool((training.network.prototypes != began).any(dim=1).all())
    assert training.network.prototypes.grad is None


def test_going_on_from_a_checkpoint_gives_the_same_bits(tmp_path: Path) -> None:
    whole = fit(trainer(experiment()), tmp_path / "whole.pt", 1).network.state_dict()
    started = trainer(experiment())
    for _ in range(2):
        started.run_epoch(Hooks())
    write_tensors(started.state(), tmp_path / "half.pt")
    again = fit(trainer(experiment()), tmp_path / "half.pt", 1).network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.parametrize("averaging", [0, 0.8])
def test_validation_images_leave_no_trace(averaging: float) -> None:
    free = MODEL.model_copy(update={"train_prototypes": True})
    of = experiment(1, free).model_copy(update={"optimizer": OptimizerConfig(averaging=averaging)})
    states = []
    for validation in (VALIDATION, split(30, 2)):
        network = build_network(of, TRAIN, 0)
        training = Trainer(network, TRAIN, validation, of, CPU, 0)
        training.run_epoch(Hooks())
        states.append(training.best_state)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_average_has_averaged_statistics() -> None:
    training = trainer(experiment())
    assert training.average is not None
    training.network.train()
    training.train_step(torch.arange(20), 0)  # the first step counts alone
    first = training.network.encoder.norm.running_mean.clone()
    assert torch.equal(training.average.encoder.norm.running_mean, first)
    training.train_step(torch.arange(20, 40), 1)
    second = training.network.encoder.norm.running_mean
    torch.testing.assert_close(
        training.average.encoder.norm.running_mean, first.lerp(second, 1 - 0.8)
    )


def test_decoded_prototypes_leave_the_statistics_as_they_are() -> None:
    network = build_network(experiment(), TRAIN, 0).train()
    images = to_unit_interval(TRAIN.images[:20])
    output = network(images)
    chosen, before = torch.arange(4), copy.deepcopy(network.state_dict())
    inputs = LossInputs(network, output, images, TRAIN.labels[:20], LossConfig(), chosen)
    assert inputs.prototype_output.logits.shape == (4, 5)
    assert network.training and network.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_decoded_prototypes_wears_the_appearance_of_another(share: float) -> None:
    network = build_network(experiment(), TRAIN, 0).eval()
    images, chosen = to_unit_interval(TRAIN.images[:20]), torch.tensor([5, 0, 3, 6])
    weights = LossConfig(exchanged_appearance=share)
    inputs = LossInputs(network, network(images), images, TRAIN.labels[:20], weights, chosen)
    own = network.prototypes[chosen]
    other = torch.cat([own[:, :6], network.prototypes[chosen.roll(1)][:, 6:]], dim=1)
    count = round(share * 4)
    expected = network.decode(torch.cat([other[:count], own[count:]]))
    assert torch.equal(inputs.decoded, expected)
    assert torch.equal(inputs.prototypes, own)


def test_typical_images_are_those_that_the_teacher_is_surest_of() -> None:
    logits = torch.randn(100, 5, generator=torch.Generator().manual_seed(3))
    sure = logits.log_softmax(dim=1)[torch.arange(100), TRAIN.labels]
    model = MODEL.model_copy(update={"prototype_init": "typical", "num_prototypes": 20})
    cases = first_cases(model, TRAIN, 0, Lesson(logits, lambda images: images))
    assert len(cases.unique()) == 20
    for k in range(5):
        best = sure[TRAIN.labels == k].topk(round(TYPICAL_SHARE * 20)).values.min()
        own = cases[TRAIN.labels[cases] == k]
        assert len(own) == 4 and bool((sure[own] >= best).all())


def test_more_prototypes_than_typical_images_take_the_next_surest() -> None:
    logits = torch.randn(100, 5, generator=torch.Generator().manual_seed(3))
    for count in (50, 100):
        model = MODEL.model_copy(update={"prototype_init": "typical", "num_prototypes": count})
        cases = first_cases(model, TRAIN, 0, Lesson(logits, lambda images: images))
        assert len(cases.unique()) == count


def test_a_file_gives_the_network_back(trained: PrototypeNetwork, tmp_path: Path) -> None:
    save_network(trained, tmp_path / "network.pt")
    again = load_network(tmp_path / "network.pt")
    assert again.config == MODEL
    torch.testing.assert_close(again.decode_prototypes(), trained.decode_prototypes())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder": "deconv"}, "architecture: resnet and decoder: resnet, or neither"),
        ({"architecture": "small"}, "architecture: resnet and decoder: resnet, or neither"),
        ({"project": True}, "say project: false and prototype_init: data or typical"),
        ({"prototype_init": "uniform"}, "say project: false and prototype_init"),
        ({"distance": "none"}, "say project: false and train_prototypes: true"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelConfig.model_validate(MODEL.model_dump() | changes)
