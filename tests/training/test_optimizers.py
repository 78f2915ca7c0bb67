"""Optimizers: schedules, who moves what, and the orthogonal steps of Muon."""

import copy

import pytest
import torch

from protodl.core.experiment_config import ModelConfig, OptimizerConfig
from protodl.network.network import PrototypeNetwork
from protodl.training.optimizers import Muon, build_optimizers, learning_rate, orthogonalise


def test_learning_rate_schedules() -> None:
    cycle = OptimizerConfig(lr=0.1, schedule="one_cycle", warmup=0.2)
    rates = [learning_rate(cycle, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == rates[20] == pytest.approx(0.1)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 1e-3 * rates[20]
    constant = OptimizerConfig(lr=0.1, schedule="constant")
    assert {learning_rate(constant, step, 100) for step in range(100)} == {0.1}
    assert learning_rate(OptimizerConfig(lr=0.1, warmup=0), 0, 10) == pytest.approx(0.1)


def test_optimizer_holds_the_prototypes_and_follows_its_options() -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    for name, kind in kinds.items():
        config = OptimizerConfig.model_validate({"name": name, "momentum": 0.7})
        (optimizer,) = build_optimizers(network, config)
        assert type(optimizer) is kind
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert any(p is network.prototypes for p in held)
        if name == "sgd":
            assert optimizer.param_groups[0]["momentum"] == 0.7


def test_muon_moves_the_kernels_and_adamw_everything_else() -> None:
    network = PrototypeNetwork(ModelConfig(), 1, 28)
    optimizers = build_optimizers(network, OptimizerConfig(name="muon"))
    assert [type(optimizer) for optimizer in optimizers] == [Muon, torch.optim.AdamW]
    held = [
        [p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers
    ]
    assert len(held[0]) == 8
    assert all(kernel.ndim == 4 for kernel in held[0])
    everything = {id(p) for p in network.parameters()}
    assert {id(p) for part in held for p in part} == everything
    assert len(held[0]) + len(held[1]) == len(everything)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 1, 9)])
def test_orthogonalise_keeps_directions_and_levels_their_sizes(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    flat = orthogonalise(matrices)
    sizes = torch.linalg.svdvals(flat)
    assert 0.5 < sizes.min() <= sizes.max() < 1.3
    along = torch.einsum("bmk,bmn,bkn->bk", left, flat, right)  # on the same axes: nothing is lost
    torch.testing.assert_close(along.square().sum(1), flat.square().sum((1, 2)), rtol=1e-3, atol=0)
    assert not orthogonalise(torch.zeros(1, 3, 4)).any()


def test_a_step_of_muon_is_as_long_as_one_of_adamw() -> None:
    kernel = torch.nn.Parameter(torch.zeros(32, 32, 3, 3))
    kernel.grad = torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    Muon([kernel], lr=0.1, weight_decay=0, momentum=0.9).step()
    assert kernel.detach().square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.15)
    assert (kernel * kernel.grad).sum() < 0


def test_muon_does_the_same_whether_kernels_are_alike_or_not() -> None:
    """Kernels of one shape are orthogonalised together; that must not mix them."""
    generator = torch.Generator().manual_seed(0)
    kernels = [torch.nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator)) for _ in range(3)]
    for kernel in kernels:
        kernel.grad = torch.randn(4, 3, 3, 3, generator=generator)
    alone = [copy.deepcopy(kernel) for kernel in kernels]
    for copied, kernel in zip(alone, kernels, strict=True):
        copied.grad = kernel.grad
        Muon([copied], lr=0.1, weight_decay=0.1, momentum=0.9).step()
    Muon(kernels, lr=0.1, weight_decay=0.1, momentum=0.9).step()
    for copied, kernel in zip(alone, kernels, strict=True):
        torch.testing.assert_close(copied, kernel)
