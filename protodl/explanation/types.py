"""What an explanation says, as plain data and in words."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

NAMED = 3  # prototypes at most in a sentence
NAMED_SHARE = 0.1  # of the largest contribution, below which none is named


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
    usual_distance: float  # average over validation images
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

    flag: (
        bool  # farther than 99 % of validation images from every prototype and every training case
    )
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
        """Everything but the pictures as JSON has it, and the caption."""
        data: dict[str, Any] = _plain(self)
        data["nearest_cases_of_image"] = data.pop("nearest_cases")
        return {**data, "caption": self.caption}

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
    def caption(self) -> str:
        """What stands below a picture: prediction, label, runner-up, in or out of distribution."""
        first, second = self.prediction, self.runner_up
        label = "" if self.label is None else f", label {self.label}"
        out = "Out" if self.out_of_distribution.flag else "Not out"
        return (
            f"Predicted {first.class_name} ({first.percent}){label}; "
            f"runner-up {second.class_name} ({second.percent}). {out} of distribution."
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
            f"99 % of validation images: at most {found.prototype_limit:.2f} and "
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


def chance(probability: float) -> str:
    """A probability in percent, which never says 100 or 0 of what is not."""
    if probability > 0.9995:
        return "over 99.9 %"
    return "under 0.1 %" if probability < 0.0005 else f"{100 * probability:.1f} %"
