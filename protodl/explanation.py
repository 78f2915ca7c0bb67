"""Why a trained network decides on one image as it does: `load`, `explain`, `Explanation`.

Shapes: N training cases, C channels, H x W pixels, D code size, P prototypes, K classes.
"""

import copy
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protodl.checkpoint import CheckpointError, load_network
from protodl.config import ConfigError, load_params
from protodl.contributions import baseline, contributions
from protodl.datasets import DATASETS, DatasetInfo, Split, hold_out, load_split
from protodl.inputs import Array, Input, as_input
from protodl.models import PrototypeNetwork, prototype_classes
from protodl.reference import Reference, load_reference, nearest_cases
from protodl.runtime import project_root
from protodl.words import chance

NUM_CASES = 6  # training cases named as nearest to the image
NAMED = 3  # prototypes at most in a sentence
NAMED_SHARE = 0.1  # of the largest contribution, below which none is named
ROUNDING = 1e-9  # relative, of logits in float64


@dataclass(frozen=True, eq=False)
class Model:
    """One trained seed of a row, and what its explanations compare with; all on the CPU.

    Raises:
        ValueError: network, reference and training cases do not belong together.
    """

    row: str
    seed: int
    info: DatasetInfo
    network: PrototypeNetwork
    reference: Reference
    train: Split  # the N cases whose codes the reference holds, in its order

    def __post_init__(self) -> None:
        codes, means = self.reference.codes, self.reference.mean_distances
        fitting = codes.shape[1:] == self.network.prototypes.shape[1:]
        if not fitting or len(means) != len(self.network.prototypes):
            raise ValueError(f"{self.row}, seed {self.seed}: the reference is of another network")
        if len(codes) != len(self.train):
            raise ValueError(
                f"{self.row}, seed {self.seed}: the reference holds {len(codes)} training cases, "
                f"the data {len(self.train)}"
            )

    @cached_property
    def exact(self) -> PrototypeNetwork:
        """The network in float64: its contributions sum to its logits without visible rounding."""
        return copy.deepcopy(self.network).double()

    @cached_property
    def classes(self) -> list[int]:
        """The class that each of the P prototypes stands for."""
        return prototype_classes(self.network.head.weight).tolist()

    @cached_property
    def decoded(self) -> Array:
        """The prototypes as pictures (P, C, H, W) in [0, 1]."""
        with torch.no_grad():
            return self.network.decode_prototypes().numpy()

    @cached_property
    def prototype_cases(self) -> "list[Case]":
        """The training case nearest to each of the P prototypes."""
        with torch.no_grad():
            indices, distances = nearest_cases(self.network.prototypes, self.reference.codes, 1)
        return [self.case(*found) for found in _pairs(indices[:, 0], distances[:, 0])]

    def case(self, index: int, distance: float) -> "Case":
        """A training case, seen from somewhere."""
        name = self.info.class_names[int(self.train.labels[index])]
        return Case(index, name, distance, self.train.images[index].numpy())


def _pairs(indices: Tensor, distances: Tensor) -> list[tuple[int, float]]:
    return list(zip(indices.tolist(), distances.tolist(), strict=True))


# --- what an explanation says -----------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A class with its probability and logit."""

    index: int
    class_name: str
    probability: float
    logit: float

    @property
    def percent(self) -> str:
        """The probability in words."""
        return chance(self.probability)

    @property
    def with_article(self) -> str:
        """`a 7`, `an 8`."""
        return _with_article(self.class_name)


@dataclass(frozen=True)
class Case:
    """A training case (index: in the training part) and how far its code is from another one."""

    index: int
    label: str
    distance: float  # Euclidean, in code space
    picture: Array = field(compare=False, repr=False)  # (C, H, W) uint8


@dataclass(frozen=True)
class PrototypeReason:
    """What one prototype says of the image."""

    index: int
    class_name: str
    distance: float  # as the network measures it; squared where the row says so
    usual_distance: float  # average over held-out images
    weight: float  # to the predicted class
    weight_to_runner_up: float
    contribution: float  # to the predicted class's logit: weight * (distance - usual_distance)
    contribution_to_runner_up: float
    nearest_case: Case  # nearest to the prototype
    picture: Array = field(compare=False, repr=False)  # decoded: (C, H, W) in [0, 1]

    @property
    def is_near(self) -> bool:
        """Whether the image is closer to it than images usually are."""
        return self.distance < self.usual_distance


@dataclass(frozen=True)
class SingleChange:
    """The smallest change of one distance that lets the runner-up draw level."""

    index: int  # of the prototype
    class_name: str
    distance: float
    distance_needed: float


@dataclass(frozen=True)
class ChangeNeeded:
    """What separates the runner-up from winning.

    A statement about the head, which is linear: one distance changes, the others stay. A picture
    that is changed will change other distances too.
    """

    logit_gap: float  # of the predicted class over the runner-up
    single_prototype: SingleChange | None  # None: no single distance, kept at 0 or above, suffices


@dataclass(frozen=True)
class OutOfDistribution:
    """How far the image is from all that was trained on, beside the usual limits."""

    flag: bool  # farther than 99 % of held-out images from every prototype and every training case
    prototype_distance: float  # to the nearest prototype, as the network measures it
    prototype_limit: float
    case_distance: float  # to the nearest training case, Euclidean
    case_limit: float


@dataclass(frozen=True)
class Explanation:
    """Why one network decided on one image as it did; `str()` says it in words.

    `baseline_logits` and the contributions of all prototypes sum to the logit of a class.
    """

    name: str  # of the image
    row: str
    seed: int
    prediction: Outcome
    runner_up: Outcome
    label: str | None  # true class where it is known
    baseline_logits: tuple[float, ...]  # (K,), at usual distances
    prototypes: tuple[PrototypeReason, ...]  # all P, the largest contribution first
    nearest_cases: tuple[Case, ...]  # to the image, nearest first
    change_needed: ChangeNeeded
    out_of_distribution: OutOfDistribution
    notes: tuple[str, ...]  # on what had to be done to the picture, and other things to know
    image: Array = field(compare=False, repr=False)  # as the network saw it: (C, H, W) in [0, 1]
    reconstruction: Array = field(compare=False, repr=False)  # (C, H, W) in [0, 1]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON has it."""
        data: dict[str, Any] = _plain(self)
        data["nearest_cases_of_image"] = data.pop("nearest_cases")
        return data

    def __str__(self) -> str:
        change, limits = self.change_in_words, self.limits_in_words
        lines = [self.verdict, f"{self.because}.", change, limits, *self.notes]
        return f"{self.name}: " + "\n  ".join(lines)

    @property
    def verdict(self) -> str:
        """Prediction, runner-up, and the true class where it is known."""
        first, second = self.prediction, self.runner_up
        truth = "" if self.label is None else f"; true class: {self.label}"
        return (
            f"{first.class_name} ({first.percent}), "
            f"then {second.class_name} ({second.percent}){truth}"
        )

    @property
    def because(self) -> str:
        """The largest contributions as a sentence without its full stop."""
        reasons = self.prototypes
        least = NAMED_SHARE * max(abs(reason.contribution) for reason in reasons)
        speaking = [reason for reason in reasons if reason.contribution > max(least, 0)][:NAMED]
        near = [_named(reason) for reason in speaking if reason.is_near]
        far = [_named(reason) for reason in speaking if not reason.is_near]
        clauses = [f"looks like {_list(near)}"] if near else []
        clauses += [f"is unlike {_list(far)}"] if far else []
        words = f"because it {' and '.join(clauses)}"
        if not clauses:
            words = "although no prototype speaks for it more than usual"
        against = reasons[-1]
        if clauses and against.contribution < -least:
            way = "also looks like" if against.is_near else "is unlike"
            words += f", although it {way} {_named(against)}"
        return words

    @property
    def change_in_words(self) -> str:
        """What would let the runner-up draw level."""
        gap, change = self.change_needed.logit_gap, self.change_needed.single_prototype
        start = f"{self.runner_up.class_name} is {gap:.2f} behind in logits"
        if change is None:
            return f"{start}: no change of the distance to one prototype alone would make that up."
        step = change.distance_needed - change.distance
        return (
            f"{start}: it would draw level if prototype {change.index} "
            f"({_with_article(change.class_name)}) were {abs(step):.2g} "
            f"{'nearer' if step < 0 else 'farther away'} than {change.distance:.2f}, "
            "all other distances being as they are."
        )

    @property
    def limits_in_words(self) -> str:
        """How far the image is from everything, as a warning where that is unusual."""
        found = self.out_of_distribution
        prototype = f"{found.prototype_distance:.2f} from the nearest prototype"
        case = f"{found.case_distance:.2f} from the nearest training case"
        usual = (
            f"99 % of held-out images: at most {found.prototype_limit:.2f} and "
            f"{found.case_limit:.2f}"
        )
        if found.flag:
            return (
                "WARNING: unlike anything that was trained on, so the prediction means little: "
                f"{prototype}, {case} ({usual})."
            )
        return f"Distances are {prototype} and {case} ({usual})."


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, without pictures; `class` is no name for a field of Python's."""
    if is_dataclass(value):
        return {
            "class" if each.name == "class_name" else each.name: _plain(getattr(value, each.name))
            for each in fields(value)
            if each.compare
        }
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _with_article(name: str) -> str:
    """`a 7`, `an 8`, `an Ankle boot`."""
    return f"{'an' if name[0].lower() in 'aeio8' else 'a'} {name}"


def _named(reason: PrototypeReason) -> str:
    name = _with_article(reason.class_name)
    return f"prototype {reason.index} ({name}, {reason.contribution:+.2f})"


def _list(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# --- making one -------------------------------------------------------------------------------


def load(row: str, seed: int | None = None, root: Path | str | None = None) -> Model:
    """Load a trained row of params.yaml.

    Args:
        row: key of experiments.
        seed: one of params.yaml's seeds; default: the first.
        root: the project's folder; default: the one that the working directory lies in.

    Raises:
        ConfigError: params.yaml is wrong, or has no such row or seed.
        CheckpointError, DatasetError: the row is not trained and evaluated yet, or a file is bad.
        FileNotFoundError: there is no project here.
    """
    root = project_root() if root is None else Path(root)
    params = load_params(root / "params.yaml")
    info = DATASETS[params.experiment(row).dataset]
    seed = params.seeds[0] if seed is None else seed
    if seed not in params.seeds:
        raise ConfigError(f"params.yaml: seeds = {params.seeds}: has no seed {seed}; add it there")
    network, reference = (
        root / folder / row / f"seed-{seed}.pt" for folder in ("models", "models/references")
    )
    for path in (network, reference):
        if not path.is_file():
            raise CheckpointError(f"{path}: not there; make it: dvc repro evaluate@{row}")
    settings = params.training
    everything = load_split(root / "data" / info.name / "train.pt")
    train, _ = hold_out(everything, settings.validation_size, settings.split_seed)
    try:
        return Model(row, seed, info, load_network(network), load_reference(reference), train)
    except ValueError as error:
        raise CheckpointError(f"{error}; renew it: dvc repro evaluate@{row}") from error


@torch.no_grad()
def explain(
    model: Model, image: Input, label: int | None = None, name: str | None = None
) -> Explanation:
    """Explain what the network makes of one image.

    Codes are the network's own, in float32; distances and logits follow from them in float64.

    Args:
        model: see `load`.
        image: a path, a PIL image, or a tensor or array (1 or 3, H, W), uint8 or floats in [0, 1];
            see `protodl.inputs.as_input` for what is done to it.
        label: its true class, if known.
        name: what to call it; default: the file's name, or `image`.

    Raises:
        InputError: the image cannot be used.
    """
    pixels, notes = as_input(image, model.info)
    maps = model.network.encoder(pixels[None])
    code = maps.flatten(1)
    distances = model.exact.distances(code.double())[0]
    logits = model.exact.classify(distances[None])[0]
    first, second = logits.topk(2).indices.tolist()
    cases = nearest_cases(code, model.reference.codes, NUM_CASES)
    names = model.info.class_names
    prediction, runner_up = _outcomes(logits, [first, second], names)
    head, means = model.exact.head, model.reference.mean_distances.double()
    return Explanation(
        name=name or (Path(image).stem if isinstance(image, str | Path) else "image"),
        row=model.row,
        seed=model.seed,
        prediction=prediction,
        runner_up=runner_up,
        label=None if label is None else names[label],
        baseline_logits=tuple(baseline(means, head.weight, head.bias).tolist()),
        prototypes=_reasons(model, distances, first, second),
        nearest_cases=tuple(model.case(*found) for found in _pairs(cases[0][0], cases[1][0])),
        change_needed=_change_needed(model, distances, logits, first, second),
        out_of_distribution=_limits(model.reference, distances, float(cases[1][0, 0])),
        notes=notes + _remarks(model),
        image=pixels.numpy(),
        reconstruction=model.network.decoder(maps)[0].numpy(),
    )


def _outcomes(logits: Tensor, classes: list[int], names: tuple[str, ...]) -> list[Outcome]:
    shares = logits.softmax(dim=0)
    return [Outcome(k, names[k], float(shares[k]), float(logits[k])) for k in classes]


def _reasons(
    model: Model, distances: Tensor, first: int, second: int
) -> tuple[PrototypeReason, ...]:
    """What each prototype says for the first and the second class."""
    means, weight = model.reference.mean_distances.double(), model.exact.head.weight
    parts = contributions(distances[None], means, weight)[0]
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


def _change_needed(
    model: Model, distances: Tensor, logits: Tensor, first: int, second: int
) -> ChangeNeeded:
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
    """The prototype whose distance has to change least for two classes to draw level.

    Each distance is changed alone, stays at 0 or above, and lifts no third class above the two.

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


def _limits(reference: Reference, distances: Tensor, case_distance: float) -> OutOfDistribution:
    nearest = float(distances.min())
    beyond = nearest > reference.prototype_limit and case_distance > reference.case_limit
    return OutOfDistribution(
        beyond, nearest, reference.prototype_limit, case_distance, reference.case_limit
    )


def _remarks(model: Model) -> tuple[str, ...]:
    if model.network.config.distance != "none":
        return ()
    return (
        "This row has no distances (model.distance: none): what is called so here is the output "
        "of a plain layer, and prototypes mean little.",
    )
