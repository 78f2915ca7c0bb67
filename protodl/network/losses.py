"""The terms that training minimises (Li et al. 2018), each with its equation and its variants.

Shapes: N images, C channels, H x W pixels, P prototypes, K classes.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protodl.core.config import LossConfig, ReconstructionNorm
from protodl.network.head import prototype_classes
from protodl.network.network import NetworkOutput, PrototypeNetwork


class LossTerms(NamedTuple):
    """The unweighted terms of one batch, scalars; names are those of the weights in params.yaml."""

    classification: Tensor
    reconstruction: Tensor
    r1: Tensor
    r2: Tensor
    prototype_classification: Tensor
    cycle: Tensor
    diversity: Tensor

    def total(self, weights: LossConfig) -> Tensor:
        """The weighted sum Σ λ_t · term_t that training minimises."""
        parts = [getattr(weights, name) * term for name, term in self._asdict().items()]
        return torch.stack(parts).sum()


TERM_NAMES = LossTerms._fields
SMALLEST_GAP = 1e-6  # between prototypes, where its logarithm is taken


def batch_terms(
    output: NetworkOutput, images: Tensor, labels: Tensor, norm: ReconstructionNorm
) -> LossTerms:
    """The terms of a batch: images (N, C, H, W) in [0, 1], labels (N,) of class indices.

    The reconstruction term is a mean over the images that were decoded, the first of the batch; the
    terms of the prototypes alone are 0 (see `prototype_terms`).
    """
    decoded = output.reconstructions
    zero = output.logits.new_zeros(())
    return LossTerms(
        classification=classification(output.logits, labels),
        reconstruction=(
            zero
            if decoded is None
            else reconstruction_error(decoded, images[: len(decoded)], norm).mean()
        ),
        r1=r1(output.distances),
        r2=r2(output.distances),
        prototype_classification=zero,
        cycle=zero,
        diversity=zero,
    )


def prototype_terms(network: PrototypeNetwork, chosen: Tensor) -> dict[str, Tensor]:
    """What the pictures of the prototypes with indices `chosen` (S,) mean to the network itself.

    `prototype_classification`: cross-entropy of network(decode(p)) and the class that p speaks for;
    `cycle`: how far encode(decode(p)) lies from p. Both are 0 for pictures that mean to the network
    what they are shown for.
    """
    prototypes = network.prototypes[chosen]
    output = network(network.decode(prototypes), decode=False)
    classes = prototype_classes(network.head.weight.detach())[chosen]
    return {
        "prototype_classification": classification(output.logits, classes),
        "cycle": cycle(output.codes, prototypes),
    }


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (N, K), which must not have been through a softmax."""
    return F.cross_entropy(logits, labels)


def reconstruction_error(
    reconstructions: Tensor, images: Tensor, norm: ReconstructionNorm
) -> Tensor:
    """Error (N,) of each reconstruction.

    `squared_l2`: ‖x̂ - x‖₂² (paper); `l2`: ‖x̂ - x‖₂ (port); `l1`: ‖x̂ - x‖₁ (port, large row).
    """
    difference = reconstructions.to(images.dtype).flatten(1) - images.flatten(1)
    return _NORMS[norm](difference)


_NORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda difference: torch.linalg.vector_norm(difference, dim=1),
    "squared_l2": lambda difference: difference.square().sum(dim=1),
    "l1": lambda difference: difference.abs().sum(dim=1),
}


def r1(distances: Tensor) -> Tensor:
    """R1 = 1/P Σ_p min_n d_np: how far prototypes are from their closest codes, distances (N, P).

    Every prototype looks like some training case.
    """
    return distances.amin(dim=0).mean()


def r2(distances: Tensor) -> Tensor:
    """R2 = 1/N Σ_n min_p d_np: how far codes are from their closest prototypes, distances (N, P).

    Every training case looks like some prototype.
    """
    return distances.amin(dim=1).mean()


def cycle(codes: Tensor, prototypes: Tensor) -> Tensor:
    """1/S Σ_p ‖encode(decode(p)) - p‖₂ of codes (S, D) and the prototypes (S, D) they come from."""
    difference = codes.to(prototypes.dtype) - prototypes
    return _NORMS["l2"](difference).mean()


def diversity(prototypes: Tensor) -> Tensor:
    """-1/P Σ_p log min_q≠p ‖p - q‖₂ of prototypes (P, D): no two may mean the same.

    The entropy estimator of Kozachenko and Leonenko as a regularizer (Sablayrolles et al.,
    "Spreading vectors for similarity search", ICLR 2019). It pushes the harder the nearer two
    prototypes are, and is 0 for a single one.
    """
    if len(prototypes) < 2:
        return prototypes.new_zeros(())
    held = prototypes.detach()
    distances = torch.cdist(held, held, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.fill_diagonal_(torch.inf).argmin(dim=1)
    gaps = _NORMS["l2"](prototypes - prototypes[nearest])
    return -gaps.clamp_min(SMALLEST_GAP).log().mean()
