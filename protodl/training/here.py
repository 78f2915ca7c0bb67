"""A training as a process of this machine: one seed, into its folder of the checkpoint store.

Importing this module does not import torch: the variables that it obeys must be set first.
"""

import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from protodl.core.errors import ProtodlError
from protodl.core.process import alone_in, end_with_parent
from protodl.core.training_log import EpochRecord
from protodl.training.away import NO_RUN, Request

if TYPE_CHECKING:
    from protodl.network.network import PrototypeNetwork


class Failure(NamedTuple):
    """Why a training came to nothing."""

    reason: str
    diverged: bool  # else it failed by what it ran on


def train_process(
    request: Request,
    variables: Mapping[str, str],
    data: Path,
    teacher: Path,
    folder: Path,
    words: Connection,
) -> None:
    """What the process does: train, with each epoch and a failure told through `words`."""
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that ends this one
    end_with_parent()
    from protodl.training.trainer import TrainingError

    try:
        with alone_in(folder, request.title):
            train_here(request, data, teacher, folder, words)
    except (ProtodlError, OSError, MemoryError, RuntimeError) as error:
        text = str(error).partition("\n")[0] or type(error).__name__
        words.send(Failure(text, isinstance(error, TrainingError)))


def train_here(
    request: Request, data: Path, teacher: Path, folder: Path, words: Connection
) -> None:
    """Train one seed in its folder of the checkpoint store, unless it is finished there.

    Raises:
        TrainingError, CheckpointError: as `protodl.training.row.Row.fit`.
    """
    from protodl.training.row import FINISHED, Row, seed_log
    from protodl.training.trainer import Hooks

    def on_epoch(record: EpochRecord, _network: "PrototypeNetwork") -> None:
        words.send(record)

    start_ms = time.time_ns() // 1_000_000
    if not (folder / FINISHED).exists():
        row = Row.load(request.row, request.params, data, teacher, request.sources)
        result = row.fit(request.seed, folder, Hooks(on_epoch=on_epoch))
        facts = row.facts(request.seed, request.environment)
        seed_log(facts, result, start_ms, NO_RUN).write(folder / FINISHED)
