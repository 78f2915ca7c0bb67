"""How long a row takes to the published accuracy, from the logs of its committed trainings."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from protodl.core.training_log import EpochRecord, SeedLog
from protodl.pipeline.forecast import read_logs
from protodl.report.published import load_published

PORT_EPOCHS = 1500


def times_to_published(root: Path, port_rates: Mapping[str, float]) -> dict[str, Any]:
    """The figures of every row that has a published number, a log, and a rate of the port's way."""
    published = load_published().port.test_accuracy
    return {
        row: time_to_published(logs, published[row], rate)
        for row, rate in port_rates.items()
        if row in published and (logs := read_logs(root, row))
    }


def time_to_published(logs: Sequence[SeedLog], accuracy: float, port_rate: float) -> dict[str, Any]:
    """Median seconds over the seeds until validation accuracy reaches the published one.

    A seed that does not reach it counts as never; where that is the median, it is None.

    Args:
        logs: of one row, a seed each.
        accuracy: the published one, a share.
        port_rate: images a second of the port's way, which trained for 1,500 epochs.
    """
    needed = [seconds_to(log, accuracy) for log in logs]
    middle = statistics.median(needed)
    port_seconds = PORT_EPOCHS * logs[0].num_train / port_rate
    facts = [log.environment for log in logs]
    return {
        "published": accuracy,
        "seconds": middle if math.isfinite(middle) else None,
        "port_seconds": port_seconds,
        "factor": port_seconds / middle if math.isfinite(middle) else None,
        "seeds": len(logs),
        "reached": sum(map(math.isfinite, needed)),
        "best_held_out": statistics.median(best_of(log.history) for log in logs),
        **{
            name: " / ".join(dict.fromkeys(each.get(name, "unknown") for each in facts))
            for name in ("processor", "threads", "precision")
        },
    }


def seconds_to(log: SeedLog, accuracy: float) -> float:
    """Seconds of training until validation accuracy reaches a share; infinite if it never does."""
    passed = accumulate(record.seconds for record in log.history)
    for seconds, record in zip(passed, log.history, strict=True):
        if record.validation["accuracy"] >= accuracy:
            return seconds
    return math.inf


def best_of(history: Sequence[EpochRecord]) -> float:
    """The highest validation accuracy of a training."""
    return max(record.validation["accuracy"] for record in history)
