"""Which seeds the checkpoint store lacks, and what the training of one takes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from protodl.core.config import ConfigError, Params, TrainingConfig
from protodl.core.limits import THREADS_VARIABLE
from protodl.core.machine import git_revision
from protodl.core.sources import closure
from protodl.pipeline.clean import CHECKPOINTS
from protodl.training.away import Request
from protodl.training.row import FINISHED, Row

SCRIPT = "stages/train.py"  # whose sources a fingerprint holds
GPU_VARIABLE = "PROTODL_GPU_SHARE"  # of a GPU, for each training
# They choose how a processor computes, so that nodes must obey the same ones.
PASSED_ON = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


@dataclass
class Seed:
    """A seed of a row that is to be trained, and how far it is."""

    request: Request
    data: Path  # its train.pt
    folder: Path  # its place in the checkpoint store
    epochs: int
    epoch: int = 0  # the last one that is in the store
    failures: int = 0
    avoided: str = ""  # the node that it was given up on


def missing_seeds(root: Path, params: Params, rows: Sequence[str]) -> Iterator[Seed]:
    """The seeds of these rows that the checkpoint store lacks; sets how torch computes here."""
    sources, revision = closure(SCRIPT), {"git_revision": git_revision()}
    for name in rows:
        data = root / "data" / params.experiment(name).dataset / "train.pt"
        row = Row.load(name, params, data, sources)
        runtime = row.runtime
        # What `auto` is here: a node with a GPU too many would train something else.
        settings = {"device": runtime.device.type, "threads": runtime.threads}
        settings["precision"] = str(runtime.dtype).removeprefix("torch.")
        there = params.model_copy(update={"training": params.training.model_copy(update=settings)})
        for seed in params.seeds:
            fingerprint = row.fingerprint(seed)
            folder = root / CHECKPOINTS / fingerprint
            if not (folder / FINISHED).exists():
                request = Request(
                    name, seed, there, fingerprint, sources, revision, _variables(runtime.threads)
                )
                yield Seed(request, data, folder, row.experiment.epochs)


def resources(training: TrainingConfig) -> dict[str, float]:
    """What a training takes, by Ray's names.

    Raises:
        ConfigError: PROTODL_GPU_SHARE is no share.
    """
    if training.device != "cuda":
        return {"CPU": training.threads}
    text = os.environ.get(GPU_VARIABLE, "1")
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"{GPU_VARIABLE}={text}: a share of a GPU is above 0 and at most 1")
    return {"CPU": training.threads, "GPU": share}


def _variables(threads: int) -> dict[str, str]:
    """Of the process of a training; threads that spin would take other trainings' processors."""
    own = {THREADS_VARIABLE: str(threads), "OMP_NUM_THREADS": str(threads)}
    own["OMP_WAIT_POLICY"] = "PASSIVE"
    return own | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
