"""An explanation as plain data, and in words.

Shapes: C channels, H x W pixels, P prototypes, K classes.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

SCHEMA_VERSION = 2  # of the JSON
UNUSUAL, DOUBTFUL = 0.99, 0.9  # shares of validation images that are more usual
NAMED = 3  # prototypes at most in a sentence
NAMED_SHARE = 0.1  # of the largest contribution, below which none is named
LEAST_NAMED = 0.005  # a contribution that is shown as 0.00 is none


@dataclass(frozen=True)
class Outcome:
    """A class with its probability and logit."""

    index: int
    class_name: str
    probability: float
    logit: float

    def __str__(self) -> str:
        return f"{self.class_name} ({self.percent})"

    @property
    def percent(self) -> str:
        """The probability in words."""
        return chance(self.probability)


@dataclass(frozen=True)
class Case:
    """A training image, and how far its code is from that of an image or from a prototype."""

    index: int  # in the training part of the training split
    label: str
    distance: float  # Euclidean, in code space
    picture: Array = field(compare=False, repr=False)  # (C, H, W) uint8


@dataclass(frozen=True)
class PrototypeReason:
    """One prototype, and what it contributes to the logits of the two most probable classes."""

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
    """The smallest change of the distance to one prototype with which the runner-up draws level."""

    index: int  # of the prototype
    class_name: str  # that the prototype stands for
    distance: float
    distance_needed: float


@dataclass(frozen=True)
class ChangeNeeded:
    """What the runner-up lacks to be predicted.

    The change of one distance is computed for the head alone, which is linear, with all other
    distances as they are. A change of the image itself would change the other distances too.
    """

    logit_gap: float  # of the predicted class over the runner-up
    single_prototype: SingleChange | None  # None: no single distance, kept at 0 or above, suffices


@dataclass(frozen=True)
class OutOfDistribution:
    """How unusual the image is, and its distances to what is nearest, with their limits.

    99 % of validation images are within a limit. `flag`: the image exceeds both, or 99 % of
    validation images are more usual by its reconstruction and its logits.
    """

    flag: bool
    unusual: float  # share of validation images that are more usual (`protodl.network.usual`)
    prototype_distance: float  # to the nearest prototype, as the network measures it
    prototype_limit: float
    case_distance: float | None  # to the nearest training case, Euclidean; None without the data
    case_limit: float

    @property
    def in_words(self) -> str:
        """A warning, or nothing for an ordinary image."""
        share = f"less usual than {chance(self.unusual)} of validation images"
        if self.flag:
            words = "WARNING: unlike what this network was trained on"
            return f"{words} ({share}): the prediction means little."
        if self.unusual > DOUBTFUL:
            return f"CAUTION: {share}: see whether it shows what it should."
        return ""


@dataclass(frozen=True)
class Explanation:
    """Why one network classifies one image as it does; `str()` says it in words.

    A class's baseline logit and the contributions of all prototypes to it sum to its logit.
    """

    name: str  # of the image
    path: str | None  # of its file
    row: str
    seed: int
    class_names: tuple[str, ...]  # (K,)
    prediction: Outcome
    runner_up: Outcome
    label: str | None  # true class where it is known
    baseline_logits: tuple[float, ...]  # (K,), if every distance were its usual one
    prototypes: tuple[PrototypeReason, ...]  # all P, the largest contribution first
    nearest_cases: tuple[Case, ...]  # to the image, nearest first; none without the data
    change_needed: ChangeNeeded
    out_of_distribution: OutOfDistribution
    notes: tuple[str, ...]  # how the picture was prepared
    doubts: tuple[str, ...]  # why the prepared picture may not show what was meant
    remarks: tuple[str, ...]  # on this row and its weights
    image: Array = field(compare=False, repr=False)  # as the network saw it: (C, H, W) in [0, 1]
    reconstruction: Array = field(compare=False, repr=False)  # (C, H, W) in [0, 1]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures as JSON has it, and the caption."""
        data: dict[str, Any] = _plain(self)
        data["nearest_cases_of_image"] = data.pop("nearest_cases")
        words = {"warnings": [*self.warnings], "caption": self.caption}
        return {"schema_version": SCHEMA_VERSION, **data, **words}

    def __str__(self) -> str:
        before = [*self.warnings, *self.notes]
        after = [f"{self.because}.", self.change_in_words, self.limits_in_words, *self.remarks]
        return f"{self.name}: " + "\n  ".join([*before, self.verdict, *after])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the prediction may mean little; empty for an ordinary image."""
        return tuple(filter(None, (self.out_of_distribution.in_words, *self.doubts)))

    @property
    def verdict(self) -> str:
        """Prediction, runner-up, and the true class where it is known."""
        truth = "" if self.label is None else f"; true class: {self.label}"
        return f"{self.prediction}, then {self.runner_up}{truth}"

    @property
    def caption(self) -> str:
        """What stands below a picture: prediction, label, runner-up, in or out of distribution."""
        label = "" if self.label is None else f", label {self.label}"
        out = "Out" if self.out_of_distribution.flag else "Not out"
        return (
            f"Predicted {self.prediction}{label}; runner-up {self.runner_up}. "
            f"{out} of distribution."
        )

    @property
    def in_favour(self) -> list[PrototypeReason]:
        """The prototypes whose contributions speak for the prediction and count, largest first."""
        return [reason for reason in self.prototypes if reason.contribution >= self._least]

    @property
    def likenesses(self) -> list[PrototypeReason]:
        """Those of them that the image is nearer to than images usually are, NAMED at most."""
        return [reason for reason in self.in_favour if reason.is_near][:NAMED]

    @property
    def _least(self) -> float:
        """What a contribution has to reach, in absolute value, to be named."""
        largest = max(abs(reason.contribution) for reason in self.prototypes)
        return max(NAMED_SHARE * largest, LEAST_NAMED)

    @property
    def because(self) -> str:
        """The largest contributions as a sentence without its full stop."""
        named = self.in_favour[:NAMED]
        near = [_named(reason) for reason in named if reason.is_near]
        far = [_named(reason) for reason in named if not reason.is_near]
        clauses = [f"looks like {_list(near)}"] if near else []
        clauses += [f"is unlike {_list(far)}"] if far else []
        words = f"because it {' and '.join(clauses)}"
        if not clauses:
            words = "although no prototype speaks for it more than usual"
        against = self.prototypes[-1]
        if clauses and against.contribution <= -self._least:
            way = "also looks like" if against.is_near else "is unlike"
            words += f", although it {way} {_named(against)}"
        return words

    @property
    def change_in_words(self) -> str:
        """With which change of one distance the runner-up would draw level."""
        gap, change = self.change_needed.logit_gap, self.change_needed.single_prototype
        start = f"{self.runner_up.class_name} is {gap:.2f} behind in logits"
        if change is None:
            return f"{start}: no change of the distance to one prototype alone would make that up."
        step = change.distance_needed - change.distance
        return (
            f"{start}: it would draw level if prototype {change.index} "
            f"({with_article(change.class_name)}) were {abs(step):.2g} "
            f"{'nearer' if step < 0 else 'farther away'} than {change.distance:.2f}, "
            "all other distances being as they are."
        )

    @property
    def limits_in_words(self) -> str:
        """The distances to what is nearest, beside what is usual."""
        found = self.out_of_distribution
        if found.case_distance is None:
            return (
                f"It is {found.prototype_distance:.2f} from the nearest prototype "
                f"(99 % of validation images: at most {found.prototype_limit:.2f})."
            )
        return (
            f"Distances are {found.prototype_distance:.2f} from the nearest prototype and "
            f"{found.case_distance:.2f} from the nearest training case (99 % of validation images: "
            f"at most {found.prototype_limit:.2f} and {found.case_limit:.2f})."
        )


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, without pictures; `class_name` becomes the key `class`."""
    if is_dataclass(value):
        return {
            "class" if each.name == "class_name" else each.name: _plain(getattr(value, each.name))
            for each in fields(value)
            if each.compare
        }
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def with_article(name: str) -> str:
    """`a 7`, `an 8`, `an Ankle boot`."""
    return f"{'an' if name[0].lower() in 'aeio8' else 'a'} {name}"


def _named(reason: PrototypeReason) -> str:
    name = with_article(reason.class_name)
    return f"prototype {reason.index} ({name}, {reason.contribution:+.2f})"


def _list(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def chance(probability: float) -> str:
    """A probability in percent; it is never rounded to 0 or 100: `over 99.9 %`."""
    if probability > 0.9995:
        return "over 99.9 %"
    return "under 0.1 %" if probability < 0.0005 else f"{100 * probability:.1f} %"
