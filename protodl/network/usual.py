"""What is usual for a trained network, and how unusual an image is: nothing here needs the data.

Shapes: N images, P prototypes, K classes, Q quantiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

USUAL_SHARE = 0.99  # of validation images lie within the limits
QUANTILES = 1001  # that stand for the validation images
RIDGE = 1e-3  # of the mean variance, added to each: a class may have fewer images than logits


@dataclass(frozen=True)
class Usual:
    """Facts of one trained network, measured on its training images and on validation images.

    An image is the more unusual the worse it is reconstructed (the norm of the error over that of
    the image) and the less its logits resemble those of its class (Mahalanobis' distance, squared,
    to the training images of the predicted class; Lee et al., NeurIPS 2018, use it on features).
    Each is ranked among validation images, and the ranks r are combined by Fisher's method: the
    sum of -ln(1 - r), ranked again.
    """

    mean_distances: Tensor  # (P,) to each prototype, over the validation images
    prototype_limit: float  # distance to the nearest prototype that 1 % of validation images exceed
    case_limit: float  # the same of the distance to the nearest training image
    class_logits: Tensor  # (K, K): mean over the training images of each class
    class_precisions: Tensor  # (K, K, K): inverse covariance of their logits
    errors: Tensor  # (Q,) quantiles of the relative reconstruction error
    deviations: Tensor  # (Q,) of Mahalanobis' distance, squared
    surprises: Tensor  # (Q,) of the two combined

    def unusualness(self, logits: Tensor, errors: Tensor) -> Tensor:
        """Share of validation images (N,) that are more usual, of logits (N, K), errors (N,)."""
        deviations = deviation(logits, self.class_logits, self.class_precisions)
        combined = surprise(rank(errors, self.errors), rank(deviations, self.deviations))
        return rank(combined, self.surprises)


def class_statistics(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (K, K) and inverse covariance (K, K, K) of the logits (N, K) of each class.

    A class of fewer than two images gets those of all.
    """
    means, precisions = [], []
    for k in range(logits.shape[1]):
        own = logits[labels == k].double()
        own = own if len(own) > 1 else logits.double()
        away = own - own.mean(dim=0)
        covariance = away.T @ away / len(own)
        ridge = RIDGE * covariance.diagonal().mean().clamp(min=1e-12)
        precisions.append(torch.linalg.inv(covariance + ridge * torch.eye(len(covariance))))
        means.append(own.mean(dim=0))
    return torch.stack(means).float(), torch.stack(precisions).float()


def deviation(logits: Tensor, means: Tensor, precisions: Tensor) -> Tensor:
    """Mahalanobis' distance, squared, (N,) of logits (N, K) to their predicted classes."""
    predicted = logits.argmax(dim=1)
    away = (logits - means[predicted])[:, None]
    return (away @ precisions[predicted] @ away.transpose(1, 2)).flatten()


def relative_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """‖image - reconstruction‖₂ / ‖image‖₂, (N,) of two times (N, C, H, W)."""
    size: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1).clamp(min=1e-6)
    wrong: Tensor = torch.linalg.vector_norm((images - reconstructions).flatten(1), dim=1)
    return wrong / size


def quantiles(values: Tensor) -> Tensor:
    """QUANTILES of values (N,), in order."""
    places = torch.linspace(0, 1, QUANTILES, dtype=torch.float64)
    return values.double().quantile(places).float()


def rank(values: Tensor, ordered: Tensor) -> Tensor:
    """Share of the ordered quantiles (Q,) that lie below values (N,)."""
    below: Tensor = torch.searchsorted(ordered, values.to(ordered.dtype).contiguous())
    return below / len(ordered)


def surprise(*ranks: Tensor) -> Tensor:
    """Fisher's sum of -ln(1 - r) over ranks r in [0, 1], each (N,)."""
    floor = 1 / QUANTILES
    return -torch.stack([(1 - each).clamp(min=floor).log() for each in ranks]).sum(dim=0)
