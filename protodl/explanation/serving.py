"""A trained network and its case base as one module, which MLflow serves.

Shapes: N images, C channels, H x W pixels, M training images, D code size, P prototypes, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from protodl.network.cases import CaseBase, nearness
from protodl.network.head import baseline, contributions, prototype_classes
from protodl.network.network import NetworkOutput, PrototypeNetwork
from protodl.network.usual import Usual


class Explainer(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> logits, contributions, distances to prototypes and cases.

    It can be exported with a dynamic batch size. Each image is compared with all training images,
    which takes N x M numbers at once.
    """

    codes: Tensor  # (M, D)
    squares: Tensor  # (M,) their squared lengths
    mean_distances: Tensor  # (P,)

    def __init__(self, network: PrototypeNetwork, case_base: CaseBase) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("codes", case_base.codes)
        self.register_buffer("squares", case_base.codes.square().sum(dim=1))
        self.register_buffer("mean_distances", case_base.usual.mean_distances)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (N, K), contributions (N, K, P), distances (N, P), nearest training case (N,)."""
        output: NetworkOutput = self.network(images, decode=False)
        weight = self.network.head.weight
        parts = contributions(output.distances, self.mean_distances, weight)
        codes = self.network.compared(output.codes)
        nearest = nearness(codes, self.codes, self.squares).argmin(dim=1)
        to_case = (codes - self.codes[nearest]).square().sum(dim=1).sqrt()
        return output.logits, parts, output.distances, to_case


class Reasons(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> logits, contributions, distances: nothing needs the data."""

    mean_distances: Tensor  # (P,)

    def __init__(self, network: PrototypeNetwork, usual: Usual) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean_distances", usual.mean_distances)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, K), contributions (N, K, P), distances (N, P)."""
        output: NetworkOutput = self.network(images, decode=False)
        parts = contributions(output.distances, self.mean_distances, self.network.head.weight)
        return output.logits, parts, output.distances


@torch.inference_mode()
def explainer_facts(
    network: PrototypeNetwork, case_base: CaseBase, class_names: Sequence[str]
) -> dict[str, Any]:
    """Class names, baseline logits and limits, with which an explainer's numbers become words."""
    head, usual = network.head, case_base.usual
    return {
        "class_names": list(class_names),
        "prototype_classes": [class_names[k] for k in prototype_classes(head.weight).tolist()],
        "baseline_logits": baseline(usual.mean_distances, head.weight, head.bias).tolist(),
        "prototype_limit": usual.prototype_limit,
        "case_limit": usual.case_limit,
    }
