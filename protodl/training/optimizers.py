"""Optimizers and the learning rate of each step."""

import math
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from protodl.core.experiment_config import OPTIMIZERS, OptimizerConfig, registered

INITIAL_LR_DIVISOR = 25  # one-cycle starts at lr / 25 (Smith, Topin 2018)
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steep at 0, so that few iterations are enough
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is made orthogonal before each step, for kernels of convolutions.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". Every direction
    of a kernel is moved equally far, also those in which gradients are small: that is what the
    narrow layers here lack. Steps are as long as AdamW's (Liu et al. 2025, "Muon is scalable for
    LLM training", eq. 4), so that learning rates carry over. torch.optim.Muon takes matrices only.
    """

    def __init__(
        self, kernels: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(list(kernels), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every kernel that has a gradient, those of equal shape at once."""
        assert closure is None
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            kernels.sort(key=lambda kernel: tuple(kernel.shape))
            for _, alike in groupby(kernels, key=lambda kernel: tuple(kernel.shape)):
                self._move(list(alike), group)

    def _move(self, kernels: list[nn.Parameter], group: dict[str, Any]) -> None:
        gradients = torch.stack([_matrix(kernel.grad) for kernel in kernels])
        for kernel, gradient in zip(kernels, gradients, strict=True):
            if not self.state[kernel]:
                self.state[kernel]["momentum"] = torch.zeros_like(gradient)
        buffers = [self.state[kernel]["momentum"] for kernel in kernels]
        torch._foreach_lerp_(buffers, list(gradients), 1 - group["momentum"])
        ahead = gradients.lerp(torch.stack(buffers), group["momentum"])  # Nesterov
        directions = orthogonalise(ahead) * (0.2 * math.sqrt(max(ahead.shape[1:])))
        for kernel, direction in zip(kernels, directions, strict=True):
            kernel.mul_(1 - group["lr"] * group["weight_decay"])
            kernel.sub_(group["lr"] * direction.view(kernel.shape))


def _matrix(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.flatten(1)


def orthogonalise(matrices: Tensor) -> Tensor:
    """U Vᵀ of the singular value decompositions U S Vᵀ, nearly: singular values 0.7 to 1.2.

    Newton-Schulz iteration of fifth order; matrices (B, M, N), any shape; zero stays zero.
    """
    a, b, c = _QUINTIC
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / x.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.transpose(1, 2)


# Those of `OPTIMIZERS` in core.experiment_config; `recorded`: for steps in a CUDA graph.
Parameters = list[nn.Parameter]
Optimizers = list[torch.optim.Optimizer]


def adam(parameters: Parameters, config: OptimizerConfig, recorded: bool) -> Optimizers:
    """Adam, or AdamW where `config.name` says so."""
    decay = config.weight_decay
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return [kind(parameters, config.lr, weight_decay=decay, fused=True, capturable=recorded)]


def sgd(parameters: Parameters, config: OptimizerConfig, recorded: bool) -> Optimizers:  # noqa: ARG001
    """Stochastic gradient descent with momentum."""
    decay, momentum = config.weight_decay, config.momentum
    return [torch.optim.SGD(parameters, config.lr, momentum, weight_decay=decay, fused=True)]


def muon(parameters: Parameters, config: OptimizerConfig, recorded: bool) -> Optimizers:
    """Muon moves the kernels of convolutions, AdamW all else."""
    kernels = [parameter for parameter in parameters if parameter.ndim == 4]
    rest = [parameter for parameter in parameters if parameter.ndim != 4]
    if not kernels:
        return adam(rest, config, recorded)
    first = Muon(kernels, config.lr, config.weight_decay, config.momentum)
    return [first, *adam(rest, config, recorded)]


def build_optimizers(
    network: nn.Module, config: OptimizerConfig, recorded: bool = False
) -> Optimizers:
    """The optimizers that params.yaml names, over all parameters, prototypes included.

    `recorded`: their steps can become part of a CUDA graph.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizers: Optimizers = registered(OPTIMIZERS, config.name)(parameters, config, recorded)
    return optimizers


def set_learning_rate(optimizers: Optimizers, value: float | Tensor) -> None:
    """Give all parameters the learning rate of the next step."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = value


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step (0 is the first): constant, or linear up, then cosine down to 0."""
    if config.schedule == "constant":
        return config.lr
    warmup_steps = config.warmup * total_steps
    if step < warmup_steps:
        low = config.lr / INITIAL_LR_DIVISOR
        return low + (config.lr - low) * step / warmup_steps
    done = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))
