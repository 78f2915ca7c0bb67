"""A training on another machine: what it is given, and what it says until its files are back.

Importing this module does not import torch: the variables that it obeys must be set first.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from protodl.core.config import Params
from protodl.core.errors import ProtodlError
from protodl.core.files import scratch_folder
from protodl.core.training_log import UNTRACKED, EpochRecord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from protodl.network.network import PrototypeNetwork

STEP_SECONDS = 5.0  # between two words within an epoch
NO_RUN = dict.fromkeys(("experiment_name", "run_id", "parent_run_id"), UNTRACKED)


class OtherMachineError(ProtodlError):
    """A machine on which this training would be another one."""


class UnheardError(Exception):
    """A training to which nobody listens any more; nobody hears of this either."""


@dataclass(frozen=True)
class Request:
    """One seed of one row, with all that its outcome depends on but the images."""

    row: str
    seed: int
    params: Params  # with the device and the precision of the machine that asks
    fingerprint: str
    sources: Sequence[str]  # files, relative to the project
    environment: Mapping[str, str]  # facts for the log that only the asking machine knows
    variables: Mapping[str, str]  # of the process

    @property
    def title(self) -> str:
        """Row and seed, as they are shown."""
        return f"{self.row} seed {self.seed}"


@dataclass(frozen=True)
class Word:
    """A sign of life, with the files for the seed's folder that are new."""

    process: int
    record: EpochRecord | None = None  # of an epoch that is over; its checkpoint is among the files
    files: Mapping[str, bytes] = field(default_factory=dict)


def describe_machine(variables: Mapping[str, str], sources: Sequence[str]) -> dict[str, str]:
    """What must be the same wherever a table's trainings run, in words.

    Raises:
        OSError: one of the sources is not there.
    """
    os.environ.update(variables)
    import torch

    from protodl.core.machine import processor_name
    from protodl.core.sources import ROOT
    from protodl.training.row import fingerprint

    able = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    instructions = [torch.backends.cpu.get_cpu_capability(), *able]
    return {
        "torch": torch.__version__,
        "sources of protodl": fingerprint({}, sources, ROOT),
        "processor": processor_name().rpartition(",")[0],
        "processor's instructions": " ".join(instructions),
    }


def train_away(
    request: Request,
    data: "npt.NDArray[np.uint8]",
    teacher: "npt.NDArray[np.uint8]",
    checkpoint: bytes,
) -> Iterator[Word]:
    """Train one seed; the last word has the files of a finished one, the log at the end.

    Args:
        request: the seed.
        data: the bytes of its train.pt.
        teacher: those of its teacher; none where it does not learn from one.
        checkpoint: where it goes on; empty: from the start.

    Raises:
        TrainingError, CheckpointError: as `protodl.training.row.Row.fit`.
        OtherMachineError: this machine would train something else.
    """
    os.environ.update(request.variables)
    yield Word(os.getpid())
    words: SimpleQueue[Word | None] = SimpleQueue()
    unheard = Event()
    # A thread, because a training calls and does not yield.
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(_train, request, data, teacher, checkpoint, words, unheard)
        training.add_done_callback(lambda _: words.put(None))
        try:
            while word := words.get():
                yield word
        finally:
            unheard.set()  # this process is kept for the next training: its start takes long
        training.result()


def _train(
    request: Request,
    data: "npt.NDArray[np.uint8]",
    teacher: "npt.NDArray[np.uint8]",
    checkpoint: bytes,
    words: "SimpleQueue[Word | None]",
    unheard: Event,
) -> None:
    from protodl.training.row import CHECKPOINT, FINISHED, Row, seed_log
    from protodl.training.trainer import Hooks

    start_ms, spoken = time.time_ns() // 1_000_000, time.monotonic()

    def say(*names: str, record: EpochRecord | None = None) -> None:
        nonlocal spoken
        spoken = time.monotonic()
        files = {name: path.read_bytes() for name in names if (path := folder / name).exists()}
        words.put(Word(os.getpid(), record, files))

    def on_epoch(record: EpochRecord, _network: "PrototypeNetwork") -> None:
        say(CHECKPOINT, record=record)

    def on_step(_count: int) -> None:
        if unheard.is_set():
            raise UnheardError("this training was ended from outside")
        if time.monotonic() - spoken > STEP_SECONDS:
            say()

    with scratch_folder(Path(tempfile.gettempdir()) / f"protodl-{request.fingerprint}") as folder:
        images, answers = folder / "train.pt", folder / "teacher.pt"
        images.write_bytes(data.data)
        answers.write_bytes(teacher.data)
        row = Row.load(request.row, request.params, images, answers, request.sources)
        images.unlink()  # a kill would leave it behind
        if row.fingerprint(request.seed) != request.fingerprint:
            raise OtherMachineError(f"{row.runtime} is not what the asking machine trains with")
        if checkpoint:
            (folder / CHECKPOINT).write_bytes(checkpoint)
        result = row.fit(request.seed, folder, Hooks(on_step, on_epoch))
        facts = row.facts(request.seed, request.environment)
        seed_log(facts, result, start_ms, NO_RUN).write(folder / FINISHED)
        say("network.pt", "unprojected.pt", FINISHED)
