"""Explain why a trained network classifies one image as it does.

Shapes: N training images, C channels, H x W pixels, D code size, P prototypes, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from protodl.data.pictures import Input, Preparation, as_input
from protodl.explanation.model import Model
from protodl.explanation.types import (
    UNUSUAL,
    Case,
    ChangeNeeded,
    Explanation,
    Outcome,
    OutOfDistribution,
    PrototypeReason,
    SingleChange,
)
from protodl.network.head import contributions
from protodl.network.usual import Usual, relative_error

NUM_CASES = 6  # nearest training cases of an image
ROUNDING = 1e-9  # relative, of logits in float64


@torch.no_grad()
def explain(
    model: Model,
    image: Input,
    label: int | None = None,
    name: str | None = None,
    prepare: Preparation = "auto",
) -> Explanation:
    """Explain how the network classifies one image.

    The code is computed in float32 as in training, distances and logits from it in float64.

    Args:
        model: see `load`.
        image: of any kind that `protodl.data.pictures.as_input` converts.
        label: its true class, if known.
        name: what to call it; default: the file's name, or `image`.
        prepare: see `as_input`.

    Raises:
        InputError: the image cannot be used.
    """
    prepared = as_input(image, model.info, prepare)
    numbers = measure(model, prepared.image)
    first, second = numbers.logits.topk(2).indices.tolist()
    names = model.info.class_names
    path = str(image) if isinstance(image, str | Path) else None
    return Explanation(
        name=name or (Path(path).stem if path else "image"),
        path=path,
        row=model.row,
        seed=model.seed,
        class_names=tuple(names),
        prediction=_outcome(numbers, names, first),
        runner_up=_outcome(numbers, names, second),
        label=None if label is None else names[label],
        baseline_logits=model.baseline_logits,
        prototypes=_reasons(model, numbers, first, second),
        nearest_cases=numbers.cases,
        change_needed=_change_needed(model, numbers, first, second),
        out_of_distribution=_limits(model.usual, numbers),
        notes=prepared.notes,
        doubts=prepared.doubts,
        remarks=model.remarks,
        image=prepared.image.numpy(),
        reconstruction=numbers.reconstruction.numpy(),
    )


class Numbers(NamedTuple):
    """What a network says of one image."""

    distances: Tensor  # (P,)
    logits: Tensor  # (K,)
    contributions: Tensor  # (K, P); with the baseline logits they sum to the logits
    cases: tuple[Case, ...]  # nearest training cases; none without the data
    reconstruction: Tensor  # (C, H, W) in [0, 1]
    unusual: float  # share of validation images that are more usual


@torch.no_grad()
def measure(model: Model, image: Tensor) -> Numbers:
    """Measure one image (C, H, W) in [0, 1]."""
    code = (maps := model.network.encoder(image[None])).flatten(1)
    reconstruction = model.network.decoder(maps)
    distances = model.exact.distances(code.double())
    logits = model.exact.classify(distances)
    means, weight = model.usual.mean_distances.double(), model.exact.head.weight
    cases = (
        model.training_cases.nearest(model.network.compared(code), NUM_CASES)[0]
        if model.training_cases
        else []
    )
    error = relative_error(image[None], reconstruction)
    return Numbers(
        distances[0],
        logits[0],
        contributions(distances, means, weight)[0],
        tuple(cases),
        reconstruction[0],
        float(model.usual.unusualness(logits.float(), error)[0]),
    )


def _outcome(numbers: Numbers, class_names: Sequence[str], k: int) -> Outcome:
    shares = numbers.logits.softmax(dim=0)
    return Outcome(k, class_names[k], float(shares[k]), float(numbers.logits[k]))


def _reasons(
    model: Model, numbers: Numbers, first: int, second: int
) -> tuple[PrototypeReason, ...]:
    """What each prototype contributes to the logits of the first and the second class."""
    distances, parts = numbers.distances, numbers.contributions
    means, weight = model.usual.mean_distances.double(), model.exact.head.weight
    reasons = [
        PrototypeReason(
            index=p,
            class_name=model.info.class_names[model.classes[p]],
            distance=float(distances[p]),
            usual_distance=float(means[p]),
            weight=float(weight[first, p]),
            weight_to_runner_up=float(weight[second, p]),
            contribution=float(parts[first, p]),
            contribution_to_runner_up=float(parts[second, p]),
            nearest_case=model.prototype_cases[p],
            picture=model.decoded[p],
        )
        for p in range(len(distances))
    ]
    return tuple(sorted(reasons, key=lambda reason: -reason.contribution))


def _change_needed(model: Model, numbers: Numbers, first: int, second: int) -> ChangeNeeded:
    distances, logits = numbers.distances, numbers.logits
    gap = float(logits[first] - logits[second])
    found = smallest_change(distances, logits, model.exact.head.weight, first, second)
    if found is None:
        return ChangeNeeded(gap, None)
    p, needed = found
    name = model.info.class_names[model.classes[p]]
    return ChangeNeeded(gap, SingleChange(p, name, float(distances[p]), needed))


def smallest_change(
    distances: Tensor, logits: Tensor, head_weight: Tensor, first: int, second: int
) -> tuple[int, float] | None:
    """The prototype whose distance has to change least for two classes to have equal logits.

    One distance is changed at a time; it stays at 0 or above, and no third class may end up above
    the two.

    Args:
        distances: (P,).
        logits: (K,), at these distances.
        head_weight: (K, P).
        first: the class that leads.
        second: the class that is to reach it.

    Returns:
        The prototype and the distance needed, or None where no single one suffices.
    """
    change = (logits[second] - logits[first]) / (head_weight[first] - head_weight[second])  # (P,)
    then = logits[:, None] + head_weight * change  # (K, P)
    level = then[second]
    leading = (then <= level + ROUNDING * (1 + level.abs())).all(dim=0)
    possible = change.isfinite() & (distances + change >= 0) & leading
    if not possible.any():
        return None
    p = int(change.abs().masked_fill(~possible, torch.inf).argmin())
    return p, float(distances[p] + change[p])


def _limits(usual: Usual, numbers: Numbers) -> OutOfDistribution:
    nearest = float(numbers.distances.min())
    case = numbers.cases[0].distance if numbers.cases else None
    far = case is not None and nearest > usual.prototype_limit and case > usual.case_limit
    return OutOfDistribution(
        flag=far or numbers.unusual > UNUSUAL,
        unusual=numbers.unusual,
        prototype_distance=nearest,
        prototype_limit=usual.prototype_limit,
        case_distance=case,
        case_limit=usual.case_limit,
    )
