"""Seeds that are to be trained, which of them the checkpoint store lacks, and what one takes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from protodl.core.config import ConfigError, Params
from protodl.core.limits import THREADS_VARIABLE
from protodl.core.machine import git_revision
from protodl.core.sources import closure
from protodl.pipeline.clean import CHECKPOINTS
from protodl.pipeline.shares import WORKER_GIB
from protodl.training.away import Request
from protodl.training.row import FINISHED, Row

SCRIPT = "stages/train.py"  # whose sources a fingerprint holds
TEACHERS = Path("models/teachers")
GPU_VARIABLE = "PROTODL_GPU_SHARE"  # of a GPU, for each training
LEAST_SHARE = 0.01
# They choose how a processor computes, so that nodes must obey the same ones.
PASSED_ON = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


@dataclass
class Seed:
    """A seed of a row that is to be trained, and how far it is."""

    request: Request
    data: Path  # its train.pt
    teacher: Path  # its data set's
    folder: Path  # its place in the checkpoint store
    epochs: int
    epoch: int = 0  # the last one that is in the store
    failures: int = 0
    avoided: str = ""  # the node that it was given up on

    @property
    def finished(self) -> bool:
        """Whether its log and its networks are in the store."""
        return (self.folder / FINISHED).exists()


def seeds_of(project: Path, params: Params, rows: Sequence[str]) -> Iterator[Seed]:
    """Every seed of these rows, finished ones too; sets how torch computes here.

    Args:
        project: the project's folder, with the data of these rows and the checkpoint store.
        params: the project's parameters, a study's, or others.
        rows: keys of its experiments.
    """
    sources, revision = closure(SCRIPT), {"git_revision": git_revision()}
    for name in rows:
        dataset = params.experiment(name).dataset
        data = project / "data" / dataset / "train.pt"
        teacher = project / TEACHERS / f"{dataset}.pt"
        row = Row.load(name, params, data, teacher, sources)
        runtime = row.runtime
        # What `auto` is here: a node with a GPU too many would train something else.
        settings = {"device": runtime.device.type, "threads": runtime.threads}
        settings["precision"] = str(runtime.dtype).removeprefix("torch.")
        there = params.model_copy(update={"training": params.training.model_copy(update=settings)})
        for seed in params.seeds:
            fingerprint = row.fingerprint(seed)
            request = Request(
                name, seed, there, fingerprint, sources, revision, _variables(runtime.threads)
            )
            folder = project / CHECKPOINTS / fingerprint
            yield Seed(request, data, teacher, folder, row.experiment.epochs)


def resources(params: Params) -> dict[str, float]:
    """What a training takes, by Ray's names; memory in bytes.

    Raises:
        ConfigError: PROTODL_GPU_SHARE is no share.
    """
    asked = {"CPU": params.training.threads, "memory": WORKER_GIB[params.data.source] * 2**30}
    if params.training.device != "cuda":
        return asked
    text = os.environ.get(GPU_VARIABLE, "1")
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not LEAST_SHARE <= share <= 1:
        raise ConfigError(
            f"{GPU_VARIABLE}={text}: a share of a GPU is at least {LEAST_SHARE} and at most 1"
        )
    return asked | {"GPU": int(share * 10_000) / 10_000}  # Ray counts in ten-thousandths


def _variables(threads: int) -> dict[str, str]:
    """Of the process of a training; threads that spin would take other trainings' processors."""
    own = {THREADS_VARIABLE: str(threads), "OMP_NUM_THREADS": str(threads)}
    own["OMP_WAIT_POLICY"] = "PASSIVE"
    return own | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
