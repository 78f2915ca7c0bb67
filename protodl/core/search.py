"""A recipe search as its YAML describes it, and what it leaves behind, as records."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from protodl.core.check import row_problems
from protodl.core.config import ConfigError, Params, Seeds
from protodl.core.dataset_config import Seed
from protodl.core.experiment_config import Count, Experiment
from protodl.core.limits import memory
from protodl.core.mistakes import Section, explain, joined, listed, nearest, shown
from protodl.core.params_file import merge, read_file
from protodl.core.training_log import EpochRecord, Record

FOLDER = Path("studies/search")  # below the project's
FIXED = {  # keys of a row that no space may have
    "dataset": "name another `row`",
    "preset": "name another `row`",
    "epochs": "the length of a trial is `epochs`, beside `space`",
}
DIGITS = 4  # of a number that is tried: what is pasted is what was trained
LARGEST_SPACE = 40  # keys


class Range(Section):
    """The values of one key: from `low` to `high`, or `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None
    choices: Annotated[list[bool | int | float | str], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _either_or(self) -> Self:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("choices stand alone, without low, high, log and step")
            if any(self.choices.count(each) > 1 for each in self.choices):
                raise ValueError(f"choices = {shown(self.choices)}: each may stand once")
            return self
        if self.low is None or self.high is None:
            raise ValueError("say low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        steps = (self.high - self.low) / (self.step or 1)
        if self.step is not None and not math.isclose(steps, round(steps), abs_tol=1e-9):
            raise ValueError(f"step = {self.step:g}: low to high is no whole number of steps")
        return self

    @property
    def bounds(self) -> dict[str, Any]:
        """The values that are written in the file, by what names them there."""
        if self.choices is not None:
            return {f"choices.{index}": value for index, value in enumerate(self.choices)}
        return {"low": self.low, "high": self.high}

    def entry(self, value: Any) -> Any | None:
        """The value as it stands here; None where it is none of these."""
        if self.choices is not None:
            kind = isinstance(value, bool)  # True == 1
            equal = (c for c in self.choices if c == value and isinstance(c, bool) == kind)
            return next(equal, None)
        if self.low is None or self.high is None or not self.low <= value <= self.high:
            return None
        steps = (value - self.low) / (self.step or 1)
        is_whole = self.step is None or math.isclose(steps, round(steps), abs_tol=1e-9)
        return value if is_whole else None


class Pruning(Section):
    """When a trial is given up: its best epoch so far is below the median of the others' there."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 5  # finished ones before any is given up
    epochs: Count = 2  # of a trial before it is


class Search(Section):
    """A file of `studies/search/`."""

    row: str
    trials: Count = 30
    epochs: Count  # of a trial; the comparison at the end takes the row's own
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None  # of training, then none begins
    seeds: Seeds = Field(default=[0])  # of each trial; values are means over them
    fresh_seeds: Seeds = Field(default=[10, 11, 12])  # of the comparison
    sampler_seed: Seed = 0
    decode_agreement: Annotated[float, Field(ge=0, le=1)] = 0.0  # that a winner needs at least
    pruning: Pruning | None = Pruning()
    space: Annotated[dict[str, Range], Field(min_length=1, max_length=LARGEST_SPACE)]

    @model_validator(mode="after")
    def _fresh(self) -> Self:
        if both := sorted({*self.seeds} & {*self.fresh_seeds}):
            raise ValueError(f"fresh_seeds: {listed(both)} stands among seeds, so it is not fresh")
        return self


def load_search(path: Path, params: Params) -> Search:
    """Read a search, and try every bound of its space on its row.

    Raises:
        ConfigError: the file is missing, or a key or value in it is wrong; all mistakes are named.
    """
    if not path.is_file():
        names = sorted(each.stem for each in path.parent.glob("*.yaml"))
        known = f"searches: {listed(names)}" if names else "see docs/search.md"
        raise ConfigError(f"{path}: there is no such search{nearest(path.stem, names)}; {known}")
    try:
        search = Search.model_validate(read_file(path))
    except ValidationError as error:
        lines = (f"{path}: {explain(Search, problem)}" for problem in error.errors())
        raise ConfigError(joined(lines)) from None
    if problems := list(_problems(search, params)):
        raise ConfigError(joined(f"{path}: {problem}" for problem in problems))
    return search


def _problems(search: Search, params: Params) -> Iterator[str]:
    """What the row's schema, its data set and this machine refuse."""
    if search.row not in params.experiments:
        rows = [*params.experiments]
        yield f"row = {shown(search.row)}: no row{nearest(search.row, rows)}; rows: {listed(rows)}"
        return
    row = params.experiment(search.row)
    for key, values in search.space.items():
        if key in FIXED:
            yield f"space.{key}: cannot be searched; {FIXED[key]}"
            continue
        for place, value in values.bounds.items():
            where = f"space.{key}.{place}"
            try:
                tried = with_values(row, {key: as_in(row, key, value)})
            except ValidationError as error:
                yield from (f"{where}: {_explained(each)}" for each in error.errors())
                continue
            if search.decode_agreement and tried.model.distance == "none":
                yield f"{where}: without prototypes there is no decode_agreement; say 0 for it"
            config = params.dataset(row.dataset)
            yield from (f"{where}: {each}" for each in row_problems(tried, config, memory()))


def _explained(problem: Any) -> str:
    return explain(Experiment, problem)


def with_values(row: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A row with other values, by their dotted keys.

    Raises:
        ValidationError: there is no such key, or it does not take its value.
    """
    return Experiment.model_validate(merge(row.model_dump(), nested(values)))


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"optimizer.lr": 1} as {"optimizer": {"lr": 1}}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        section: Any = value
        for part in reversed(key.split(".")):
            section = {part: section}
        found = merge(found, section)
    return found


def value_of(row: Experiment, key: str) -> Any:
    """What a row has at a dotted key; None where there is no such key."""
    found: Any = row
    for part in key.split("."):
        found = getattr(found, part, None)
    return found


def as_in(row: Experiment, key: str, value: Any) -> Any:
    """A number as the row has one there: a whole one, or with few digits; others as they are."""
    if not isinstance(value, float):
        return value
    if type(value_of(row, key)) is int and value.is_integer():
        return int(value)
    return float(f"{value:.{DIGITS}g}")


# --- what it leaves behind ----------------------------------------------------------------------

State = Literal["complete", "pruned", "failed"]
Side = Literal["winner", "default"]


class Outcome(Record):
    """What came of a trial; the journal holds it beside the trial's values."""

    accuracy: float | None = None  # of the finished networks, means over the seeds
    decode_agreement: float | None = None
    history: list[EpochRecord] = Field(default=[])  # of the first seed
    seconds: float = 0.0  # of training, of all seeds
    fingerprints: list[str] = Field(default=[])  # of its trainings in the checkpoint store
    environment: dict[str, str] = Field(default={})
    reason: str = ""  # for its failure


class TrialRecord(Record):
    """One trial that is over."""

    number: int  # from 0 on
    state: State
    values: dict[str, Any]  # by key
    parameters: dict[str, Any]  # of the row with these values, nested
    feasible: bool  # it is complete, and its pictures agree as often as asked for
    outcome: Outcome
    start_ms: int
    end_ms: int


class SeedResult(Record):
    """One seed of the comparison at the end."""

    seed: int
    accuracy: float
    decode_agreement: float
    seconds: float
    environment: dict[str, str]


class SearchRecord(Record):
    """A search so far; what follows `trials` is there when they are over."""

    name: str
    row: str
    epochs: int  # of the comparison
    fingerprint: str  # of all that its trials depend on
    settings: dict[str, Any]  # the file
    default: dict[str, Any]  # the row's own values, by key
    trials: list[TrialRecord]
    best: int | None = None  # number of the best trial
    # Empty where the best trial is the default.
    comparison: dict[Side, list[SeedResult]] = Field(default={})
    failures: list[str] = Field(default=[])  # seeds of the comparison
    block: str = ""  # of params.yaml, with the best trial's values
    ended: bool = False

    def trial(self, number: int) -> TrialRecord:
        """The trial of this number."""
        return next(each for each in self.trials if each.number == number)

    def ranked(self) -> list[TrialRecord]:
        """The feasible trials, the best one first."""
        feasible = [each for each in self.trials if each.feasible]
        return sorted(feasible, key=lambda each: (-(each.outcome.accuracy or 0), each.number))

    @property
    def seconds(self) -> float:
        """Of training, of all trials and of the comparison."""
        compared = (each for seeds in self.comparison.values() for each in seeds)
        return sum(each.outcome.seconds for each in self.trials) + sum(s.seconds for s in compared)
