"""How long a run will take, from the records of the last one."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path

from protodl.core.config import Params
from protodl.core.machine import processor_name
from protodl.core.training_log import ResultsError, SeedLog
from protodl.report.tables import format_seconds

ROWS = Path("results/rows")  # where dvc.yaml puts what is measured of each row
CLASSIFIERS = {"judge": Path("results/judges"), "teacher": Path("results/teachers")}
BESIDE = {"full": 45.0, "sample": 15.0}  # seconds of a row beside its training, by data.source


def describe_expectation(
    root: Path,
    params: Params,
    classifiers: Mapping[str, Sequence[str]],
    todo: Sequence[str],
    trained: Sequence[str],
    workers: int = 1,
) -> str:
    """One sentence: how long a run will take.

    Args:
        root: folder with the records.
        params: params.yaml.
        classifiers: of each data set those that are trained, `judge` or `teacher`.
        todo: rows that are trained, measured or drawn.
        trained: those of them that are trained.
        workers: rows in parallel.
    """
    if not (classifiers or todo):
        return "expected time: under a minute, no training has changed"
    beside = BESIDE[params.data.source]
    before = [
        _sum(classifier_seconds(root, params, kind, name) for kind in kinds)
        for name, kinds in classifiers.items()
    ]
    rows = [training_seconds(root, params, row) if row in trained else 0.0 for row in todo]
    first = [seconds for seconds in before if seconds is not None]
    then = [seconds + beside for seconds in rows if seconds is not None]
    total = makespan(first, workers) + makespan(then, workers)
    recorded = zip((*classifiers, *todo), (*before, *rows), strict=True)
    unknown = [name for name, seconds in recorded if seconds is None]
    several = f", {workers} at a time" if workers > 1 else ""
    what = _work(params, classifiers, todo, trained) + _elsewhere(root, trained)
    names = ", ".join(unknown)
    if not total:
        return f"expected time: unknown, nothing is recorded yet of {names}{several} ({what})"
    text = f"expected time: about {format_seconds(total)}{several} ({what})"
    return text + (f"; not recorded yet and on top of that: {names}" if unknown else "")


def _work(params: Params, classifiers: Sized, todo: Sized, trained: Sized) -> str:
    parts = []
    if classifiers:
        parts.append(f"classifiers of {_count(classifiers, 'data set')}")
    if trained:
        seeds = _count(params.seeds, "seed")
        parts.append(f"training of {_count(trained, 'row')}, {seeds} each")
    if len(todo) > len(trained):
        parts.append(f"measuring and drawing of {_count(todo, 'row')}")
    return ", ".join(parts)


def _count(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def makespan(seconds: Iterable[float], workers: int) -> float:
    """When the last of some jobs ends that workers take from a queue, the longest first."""
    free = [0.0] * max(1, workers)
    for job in sorted(seconds, reverse=True):
        free.sort()
        free[0] += job
    return max(free)


def _sum(seconds: Iterable[float | None]) -> float | None:
    known = [each if each is not None else math.nan for each in seconds]
    return None if math.isnan(total := sum(known)) else total


def classifier_seconds(root: Path, params: Params, kind: str, dataset: str) -> float | None:
    """Seconds to train a data set's judge or teacher; None without a record."""
    epochs = {"judge": params.judge, "teacher": params.teacher}[kind].epochs
    try:
        path = root / CLASSIFIERS[kind] / f"{dataset}.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        return float(found["train_seconds"]) / int(found["num_epochs"]) * epochs
    except (OSError, KeyError, TypeError, ValueError):
        return None


def training_seconds(root: Path, params: Params, row: str) -> float | None:
    """Seconds to train all seeds of a row, from the logs of its last training; None without one."""
    seconds = epoch_seconds(root, row)
    return seconds and seconds * params.experiment(row).epochs * len(params.seeds)


def epoch_seconds(root: Path, row: str) -> float | None:
    """Seconds of an epoch of a row, from the logs of its last training; None without one."""
    logs = read_logs(root, row)
    if not logs:
        return None
    return sum(log.train_seconds for log in logs) / sum(log.num_epochs for log in logs)


def read_logs(root: Path, row: str) -> list[SeedLog]:
    """The training logs of a row, one for each seed; unreadable ones are left out."""
    logs = []
    for path in sorted((root / ROWS / row / "training").glob("seed-*.json")):
        try:
            logs.append(SeedLog.read(path))
        except ResultsError:
            continue  # an estimate is not worth stopping for
    return logs


def _elsewhere(root: Path, rows: Iterable[str]) -> str:
    """Where the records are from, if that is another kind of processor than this one."""
    found = {log.environment.get("processor", "") for row in rows for log in read_logs(root, row)}
    others = sorted(found - {processor_name(), ""})
    return f"; as it took on {', '.join(others)}" if others else ""
