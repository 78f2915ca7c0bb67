"""The network: published shapes and numbers, equal fast paths, prototypes that are learned."""

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protodl.core import experiment_config
from protodl.core.experiment_config import Experiment, LossConfig, ModelConfig
from protodl.core.machine import Runtime
from protodl.data.datasets import Split
from protodl.network.checkpoint import load_network, save_network
from protodl.network.layers import (
    DeconvDecoder,
    ResizeConv2d,
    TransposedConv2d,
    UpsampleDecoder,
    layer_sizes,
)
from protodl.network.losses import LossInputs, training_terms
from protodl.network.network import Classifier, PrototypeNetwork
from protodl.training.prototypes import build_network
from protodl.training.trainer import Trainer, fit

PARITY: dict[str, Any] = json.loads((Path(__file__).parent / "parity.json").read_text())
# The two shapes whose numbers are not published with the others are built and run as well.
SHAPES: dict[str, tuple[ModelConfig, int, int]] = {
    name: (
        ModelConfig(
            architecture=cast(Any, architecture), decoder=cast(Any, decoder), num_prototypes=p
        ),
        c,
        s,
    )
    for name, architecture, decoder, p, c, s in [
        ("mnist-small-deconv", "small", "deconv", 15, 1, 28),
        ("mnist-small-upconv", "small", "upconv", 15, 1, 28),
        ("cifar10-small-deconv", "small", "deconv", 50, 3, 32),
        ("cifar10-small-upconv", "small", "upconv", 50, 3, 32),
        ("cifar10-large-upconv", "large", "upconv", 50, 3, 32),
    ]
}


def fill(tensor: Tensor, phase: float, scale: float, offset: float = 0.0) -> None:
    """The known weights of tests/data/README.md."""
    index = torch.arange(tensor.numel(), dtype=torch.float64)
    values = (offset + scale * torch.sin(0.7 * index + phase)).float()
    with torch.no_grad():
        tensor.copy_(values.view_as(tensor))


def known_network(name: str, activation: str = "port") -> PrototypeNetwork:
    config, channels, size = SHAPES[name]
    config = config.model_copy(update={"decoder_activation": activation})
    network = PrototypeNetwork(config, channels, size)
    layers = [*network.encoder.layers, *network.decoder.layers]
    for k, layer in enumerate(layers):
        inputs = layer.in_channels
        fill(layer.weight, k, 2 / math.sqrt(9 * inputs))
        fill(layer.bias, k + 0.5, 0.1)
    fill(network.prototypes, 8, 0.5, 0.5)
    fill(network.head.weight, 9, 0.3)
    fill(network.head.bias, 10, 0.1)
    return network


def known_images(channels: int, size: int) -> Tensor:
    index = torch.arange(4 * channels * size * size, dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(0.013 * index)).float().view(4, channels, size, size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(PARITY))
def test_the_published_port_computes_the_same_numbers(name: str, dtype: torch.dtype) -> None:
    expected = PARITY[name]
    network = known_network(name).to(dtype)
    images = known_images(expected["channels"], expected["size"]).to(dtype)
    output = network(images)
    labels = torch.zeros(4, dtype=torch.long)
    terms = training_terms(LossInputs(network, output, images, labels, LossConfig()))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    digits = 2e-5 if dtype == torch.float32 else 1e-6  # six are printed

    def same(ours: Tensor, theirs: object) -> None:
        expected = torch.tensor(theirs, dtype=torch.float64)
        torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=digits)

    same(output.logits.flatten(), expected["logits"])
    same(output.distances[0], expected["distances_first_image"])
    same(terms["reconstruction"], expected["reconstruction"])
    same(terms["r1"], expected["r1"])
    same(terms["r2"], expected["r2"])
    assert output.reconstructions is not None
    for place, value in expected["reconstruction_pixels"].items():
        same(output.reconstructions[tuple(int(i) for i in place.split(","))], value)
    assert sum(p.numel() for p in network.parameters()) == expected["num_parameters"]


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_published_shape_runs_and_mirrors_the_image(name: str) -> None:
    config, channels, size = SHAPES[name]
    network = PrototypeNetwork(config, channels, size)
    images = torch.rand(3, channels, size, size)
    output = network(images)
    assert output.logits.shape == (3, 10)
    assert output.distances.shape == (3, config.num_prototypes)
    assert output.reconstructions is not None
    assert output.reconstructions.shape == images.shape
    assert network.decode_prototypes().shape == (config.num_prototypes, channels, size, size)
    assert network(images, decode=False).reconstructions is None
    assert output.codes.shape[1] == (40 if config.architecture == "small" else 128)


@pytest.mark.parametrize("decoder", ["deconv", "upconv"])
@pytest.mark.parametrize(("channels", "size", "prototypes"), [(1, 9, 1), (2, 17, 3), (4, 31, 200)])
def test_any_channels_size_and_number_of_prototypes(
    decoder: Any, channels: int, size: int, prototypes: int
) -> None:
    network = PrototypeNetwork(
        ModelConfig(decoder=decoder, num_prototypes=prototypes), channels, size
    )
    output = network(torch.rand(2, channels, size, size))
    assert output.reconstructions is not None
    assert output.reconstructions.shape == (2, channels, size, size)


def test_a_size_that_cannot_be_mirrored_is_refused() -> None:
    assert layer_sizes(28) == [28, 14, 7, 4, 2]
    assert layer_sizes(9) == [9, 5, 3, 2, 1]
    for size in (0, 1, 8):
        with pytest.raises(ValueError, match=rf"image size {size} .*at least 9"):
            PrototypeNetwork(ModelConfig(), 1, size)
    with pytest.raises(ValueError, match="channels = 0"):
        PrototypeNetwork(ModelConfig(), 0, 28)


@pytest.mark.parametrize("kind", [ResizeConv2d, TransposedConv2d])
@pytest.mark.parametrize("channels_out", [1, 3, 9])
@pytest.mark.parametrize(("size_in", "size_out"), [(2, 4), (4, 7), (7, 14), (16, 32), (1, 2)])
def test_mixing_first_equals_the_layer_as_defined(
    kind: type[ResizeConv2d] | type[TransposedConv2d],
    channels_out: int,
    size_in: int,
    size_out: int,
) -> None:
    torch.manual_seed(0)
    layer = kind(8, channels_out, size_in, size_out).double()
    layer.resample_matrix = layer.resample_matrix.round(decimals=6)  # float32 cut them off
    inputs = torch.randn(3, 8, size_in, size_in, dtype=torch.float64, requires_grad=True)
    assert layer.bias is not None
    parameters = [inputs, layer.weight, layer.bias]
    cotangent = torch.randn(3, channels_out, size_out, size_out, dtype=torch.float64)
    plain, mixed = layer.plain(inputs), layer.mixed_first(inputs)
    torch.testing.assert_close(mixed, plain, rtol=1e-5, atol=1e-5)  # border included
    for ours, theirs in zip(
        torch.autograd.grad(mixed, parameters, cotangent),
        torch.autograd.grad(plain, parameters, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_transposed_convolutions_mix_first_only_where_that_is_cheaper() -> None:
    network = PrototypeNetwork(SHAPES["mnist-small-deconv"][0], 1, 28)
    layers = [layer for layer in network.decoder.layers if isinstance(layer, TransposedConv2d)]
    assert [layer.mix_first for layer in layers] == [False, False, False, True]


def test_decoders_differ_in_layers_not_in_shapes() -> None:
    decoders = {
        name: PrototypeNetwork(ModelConfig(decoder=name), 1, 28).decoder
        for name in ("deconv", "upconv")
    }
    assert isinstance(decoders["deconv"], DeconvDecoder)
    assert isinstance(decoders["upconv"], UpsampleDecoder)
    counts = {sum(p.numel() for p in decoder.parameters()) for decoder in decoders.values()}
    assert len(counts) == 1


def test_decoder_activation_is_used() -> None:
    images = torch.rand(2, 1, 28, 28)
    outputs = []
    for activation in ("relu", "sigmoid"):
        network = known_network("mnist-small-upconv", activation)
        outputs.append(network(images).reconstructions)
    assert not torch.allclose(outputs[0], outputs[1])


def test_distances_are_exact_and_squared_on_request() -> None:
    codes = torch.tensor([[1.0, 2.0], [1000.0, 1000.001]])
    prototypes = torch.tensor([[1.0, 2.0], [4.0, 6.0], [1000.0, 1000.0]])
    for distance, power in (("euclidean", 1), ("squared_euclidean", 2)):
        network = PrototypeNetwork(
            ModelConfig(distance=cast(Any, distance), num_prototypes=3), 1, 28
        )
        network.prototypes = torch.nn.Parameter(prototypes)
        measured = network.distances(codes)
        expected = (codes[:, None] - prototypes).double().norm(dim=2) ** power
        torch.testing.assert_close(measured.double(), expected, rtol=1e-5, atol=0)
        assert measured[0, 0] == 0


def test_gradient_is_finite_where_a_code_equals_a_prototype() -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28)
    images = torch.rand(15, 1, 28, 28)
    network.set_prototypes(images)
    output = network(images)
    assert output.distances.diagonal().abs().max() == 0
    output.distances.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_prototypes_are_learned() -> None:
    """Accuracy does not show it: frozen random prototypes reach 98.9 % on MNIST."""
    network = PrototypeNetwork(ModelConfig(), 1, 28)
    assert "prototypes" in network.state_dict()
    assert any(p is network.prototypes for p in network.parameters())
    before = network.prototypes.detach().clone()
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    loss = F.cross_entropy(network(images).logits, labels)
    loss.backward()
    assert network.prototypes.grad is not None
    assert (network.prototypes.grad.abs().sum(dim=1) > 0).all()
    optimizer.step()
    assert (network.prototypes != before).any(dim=1).all()


def test_initialisations() -> None:
    torch.manual_seed(0)
    networks = {
        name: PrototypeNetwork(
            ModelConfig(prototype_init=cast(Any, name), num_prototypes=50), 1, 28
        )
        for name in ("uniform", "xavier")
    }
    uniform, xavier = (networks[name].prototypes.detach() for name in ("uniform", "xavier"))
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.03)
    bound = math.sqrt(6 / (50 + 40))
    assert -bound <= xavier.min() < -0.8 * bound  # half of it where no ReLU code can be
    own = PrototypeNetwork(ModelConfig(head_init="class", num_prototypes=12), 1, 28)
    assert own.head.weight.argmin(dim=0).tolist() == [*range(10), 0, 1]
    paper = PrototypeNetwork(ModelConfig(head_init="uniform", head_bias=False), 1, 28)
    assert paper.head.bias is None
    assert 0 <= paper.head.weight.min() <= paper.head.weight.max() <= 1


def test_the_served_network_answers_with_probabilities() -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28)
    images = torch.rand(4, 1, 28, 28)
    probabilities = Classifier(network)(images)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))
    assert (probabilities.argmax(1) == network(images).logits.argmax(1)).all()


def test_no_channel_of_the_code_starts_dead_after_he() -> None:
    """With torch's default about half of them do, and stay so."""
    images = torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    dead = {}
    for init in ("torch", "he"):
        torch.manual_seed(0)
        networks = [PrototypeNetwork(ModelConfig(encoder_init=init), 1, 28) for _ in range(10)]
        maps = torch.stack([network.encoder(images) for network in networks])
        dead[init] = (maps.amax(dim=(1, 3, 4)) == 0).double().mean()
    assert dead["he"] == 0
    assert dead["torch"] > 0.1


def test_without_distances_a_plain_layer_answers() -> None:
    """The paper's baseline: as many weights and a ReLU where the prototypes were."""
    config = ModelConfig(distance="none", num_prototypes=7, prototype_init="xavier")
    network = PrototypeNetwork(config, 1, 28).double()
    layer = torch.nn.Linear(40, 7).double()
    layer.load_state_dict({"weight": network.prototypes.detach(), "bias": torch.arange(7.0) - 3})
    with torch.no_grad():
        assert network.plain_bias is not None
        network.plain_bias.copy_(torch.arange(7.0) - 3)
    images = torch.rand(5, 1, 28, 28, dtype=torch.float64)
    output = network(images, decode=False)
    torch.testing.assert_close(output.distances, layer(network.encode(images)).relu())
    torch.testing.assert_close(output.logits, network.head(output.distances))


class MeanEncoder(torch.nn.Module):
    """A toy: the mean of each quarter of the image, and a linear layer on them."""

    def __init__(self, config: ModelConfig, channels: int, image_size: int) -> None:  # noqa: ARG002
        super().__init__()
        self.shapes = [(channels, image_size, image_size), (6, 1, 1)]
        self.layer = torch.nn.Linear(4 * channels, 6)

    def forward(self, images: Tensor) -> Tensor:
        codes: Tensor = self.layer(F.adaptive_avg_pool2d(images, 2).flatten(1))
        return codes.relu()[..., None, None]


class FlatDecoder(torch.nn.Module):
    """A toy: one linear layer from the code to the pixels."""

    def __init__(self, config: ModelConfig, shapes: list[tuple[int, int, int]]) -> None:  # noqa: ARG002
        super().__init__()
        self.image_shape = shapes[0]
        self.layer = torch.nn.Linear(math.prod(shapes[-1]), math.prod(shapes[0]))

    def forward(self, maps: Tensor) -> Tensor:
        pixels: Tensor = self.layer(maps.flatten(1))
        return pixels.sigmoid().view(-1, *self.image_shape)


def test_an_encoder_and_a_decoder_are_a_class_and_an_entry_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(experiment_config.ENCODERS, "mean", f"{__name__}:MeanEncoder")
    monkeypatch.setitem(experiment_config.DECODERS, "flat", f"{__name__}:FlatDecoder")
    model = ModelConfig(architecture="mean", decoder="flat", encoder_init="he")
    experiment = Experiment(dataset="mnist", model=model, epochs=1, batch_size=10)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(40) % 10)
    network = build_network(experiment, split, 0)
    assert isinstance(network.encoder, MeanEncoder) and isinstance(network.decoder, FlatDecoder)
    assert not network.encoder.layer.bias.any()  # `he` reaches it too

    runtime = Runtime(torch.device("cpu"), torch.float32, torch.channels_last, 1)
    trainer = Trainer(network, split, split, experiment, runtime, 0)
    trained = fit(trainer, tmp_path / "training.pt", 1).network
    assert trained.encoder.layer.bias.any()
    save_network(trained, tmp_path / "network.pt")
    again = load_network(tmp_path / "network.pt")
    assert again.prototypes.shape == (15, 6)
    assert torch.equal(again.decode_prototypes(), trained.decode_prototypes())
