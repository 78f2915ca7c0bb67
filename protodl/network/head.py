"""The linear head on distances: the class of each prototype, and what it contributes to each logit.

Shapes: N images, D code size, P prototypes, K classes.
"""

import torch
from torch import Tensor


def exact_distances(left: Tensor, right: Tensor) -> Tensor:
    """Euclidean distances ‖a - b‖₂ (M, N) of codes (M, D) and (N, D), from their differences.

    The quicker |a|² + |b|² - 2ab loses digits where a and b are near each other.
    """
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def contributions(distances: Tensor, mean_distances: Tensor, head_weight: Tensor) -> Tensor:
    """How much each prototype speaks for each class, against an average image: (N, K, P).

    w_kp · (d_np - mean_p): positive where an image is closer than usual to a prototype that speaks
    for the class. With the average image's logits (`baseline`) they sum to the logits: for a linear
    head these are the Shapley values (Lundberg, Lee 2017, corollary 1).

    Args:
        distances: (N, P) from the images to the prototypes.
        mean_distances: (P,) averages over reference images.
        head_weight: (K, P).
    """
    return head_weight * (distances - mean_distances)[:, None, :]


def baseline(mean_distances: Tensor, head_weight: Tensor, head_bias: Tensor | None) -> Tensor:
    """Logits (K,) at the average distances (P,): what `contributions` are measured from."""
    logits = head_weight @ mean_distances
    return logits if head_bias is None else logits + head_bias


def prototype_classes(head_weight: Tensor) -> Tensor:
    """Class (P,) of each prototype from the head's weight (K, P): the most negative one.

    The head acts on distances, so a negative weight makes closeness evidence for the class.
    """
    return head_weight.argmin(dim=0)


def class_dominance(head_weight: Tensor) -> Tensor:
    """Gap (P,) between the most negative and the second most negative weight (K, P)."""
    lowest = head_weight.topk(2, dim=0, largest=False).values
    return lowest[1] - lowest[0]
