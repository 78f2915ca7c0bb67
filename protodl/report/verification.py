"""A row measured again beside its records: a table of what was compared, and what it comes to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from protodl.report.tables import markdown_table

Pairs: TypeAlias = Mapping[str, tuple[Any, Any]]  # recorded and found, by the name of the thing

SHOWN = 12  # lines of one comparison
# What another machine's rounding may change in a number that is measured of the same weights:
ROUNDING = 1e-3  # of a float, or of its size where that is more than 1; a few images of 10,000
COUNTS = 2  # of a whole number
# By how much the test accuracy of one seed may differ where another machine trains it again, as
# different as another seed: a share, or three standard deviations over the seeds.
TRAINED_ANEW = 0.01


@dataclass(frozen=True)
class Comparison:
    """Things of one kind beside what was recorded of them."""

    what: str
    count: int
    differing: Pairs

    def lines(self) -> Iterator[tuple[str, str, str, str]]:
        """Its part of the table: a line for all, then one for each difference."""
        some = f"{len(self.differing)} of them" if self.differing else "none"
        yield f"{self.what} ({self.count:,})", "", "", some
        for name, (recorded, found) in list(self.differing.items())[:SHOWN]:
            yield f"– {name}", _text(recorded), _text(found), _difference(recorded, found)
        if len(self.differing) > SHOWN:
            yield f"– and {len(self.differing) - SHOWN} more", "", "", ""


@dataclass(frozen=True)
class Verification:
    """What `protodl verify` found of a row."""

    row: str
    retrained: bool
    records: Sequence[Comparison]  # files with dvc.lock, and what is summed up with the seeds'
    code: Pairs  # source files whose hash is not the one of dvc.lock
    left_out: Sequence[str]  # what could not be compared, and why
    seeds: Sequence[int] = ()  # that were measured again
    numbers: Sequence[Comparison] = ()  # with the records; of what was trained again the weights
    machine: Pairs = field(default_factory=dict)  # facts in which it is not that of the training
    accuracy_std: float = 0.0  # of the recorded test accuracies over the seeds

    @property
    def equal(self) -> bool:
        """Whether all that was compared is as it was recorded."""
        return not any(each.differing for each in [*self.records, *self.numbers])

    def table(self) -> str:
        """Everything that was compared, and the machine where it is another one."""
        causes = [Comparison("machine of the training, and this one", 6, self.machine)]
        causes += [Comparison("code of the stages", len(self.code), self.code)]
        shown = [*self.records, *self.numbers, *(cause for cause in causes if cause.differing)]
        lines = [line for each in shown for line in each.lines()]
        return markdown_table(("compared", "recorded", "here", "difference"), lines)

    def conclusion(self) -> str:
        """Equal or different, and whether the machine or the code explains it."""
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        if self.equal:
            files, numbers = self.records[0].count, sum(each.count for each in self.numbers)
            trained = ", trained again," if self.retrained else ""
            found = (
                f"Equal: {self.row}: {files} files and folders are those of dvc.lock, and"
                f" {numbers:,} numbers of {seeds}{trained} the recorded ones, to the bit."
            )
        else:
            found = f"Different: {self.row}: {self._explanation()}."
        return found + (f" Not compared: {'; '.join(self.left_out)}." if self.left_out else "")

    def _explanation(self) -> str:
        if changed := [name for each in self.records for name in each.differing]:
            return (
                f"{', '.join(changed[:3])}{' ...' * (len(changed) > 3)} changed after `dvc repro`,"
                " which no machine explains; `git checkout` or `dvc checkout` brings it back"
            )
        beyond = self._beyond_the_machine()
        facts = [f"{name}: {old} then, {new} here" for name, (old, new) in self.machine.items()]
        if facts and beyond:
            return f"{beyond[0]} by more than another machine explains ({'; '.join(facts)})"
        if facts:
            how = "as another seed would, " if self.retrained else "no more than by rounding, "
            there = "; ".join(facts)
            return f"{how}which the machine explains ({there}); docs/reliability.md"
        if self.code:
            return f"the machine is that of the training, the code is not: {', '.join(self.code)}"
        if not (beyond or self.retrained):
            return "no more than by rounding, as other instructions of a processor make it"
        return "what is recorded of machine and code is the same, and so does not explain it"

    def _beyond_the_machine(self) -> list[str]:
        """Numbers that differ by more than the arithmetic of another machine makes them."""
        anew = max(TRAINED_ANEW, 3 * self.accuracy_std)
        return [
            f"{each.what}: {name} differs"
            for each in self.numbers
            for name, (recorded, found) in each.differing.items()
            if (
                name == "metrics.test_accuracy" and abs(found - recorded) > anew
                if self.retrained
                else not _is_rounding(recorded, found)
            )
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return asdict(self) | {"equal": self.equal, "conclusion": self.conclusion()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_rounding(recorded: Any, found: Any) -> bool:
    if not (_is_number(recorded) and _is_number(found)):
        return False
    whole = isinstance(recorded, int) and isinstance(found, int)
    return bool(abs(found - recorded) <= (COUNTS if whole else ROUNDING * max(1, abs(recorded))))


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _difference(recorded: Any, found: Any) -> str:
    if _is_number(recorded) and _is_number(found):
        return f"{found - recorded:+.3g}"
    return "other"
