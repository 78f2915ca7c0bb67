"""The seeds that the checkpoint store lacks, trained on a cluster."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from protodl.core.config import Params
from protodl.pipeline.dispatch import End, Listener, train_seeds
from protodl.pipeline.progress import say
from protodl.pipeline.seeds import Seed, seeds_of


def train_missing(
    project: Path,
    params: Params,
    rows: Sequence[str],
    address: str,
    epoch_seconds: Mapping[str, float],
) -> dict[str, str]:
    """Train every seed of these rows that the checkpoint store lacks, on a Ray cluster.

    Args:
        project: the project's folder, with the data of these rows and the store.
        params: the project's parameters, or a study's.
        rows: the rows, in the order in which they are to begin.
        address: host:port of the cluster, or `auto`.
        epoch_seconds: of an epoch of a row, where that is known.

    Returns:
        For each row of which a seed failed the reason; its other seeds are in the store.

    Raises:
        ClusterError: the cluster cannot be used, or the store cannot be written.
        ConfigError: PROTODL_GPU_SHARE is no share.
    """
    seeds = [seed for seed in seeds_of(project, params, rows) if not seed.finished]
    left, failed = Counter(seed.request.row for seed in seeds), dict[str, str]()

    def on_end(seed: Seed, end: End, reason: str) -> None:
        row = seed.request.row
        if end is End.FAILED:
            failed[row] = f"seed {seed.request.seed}: {reason}"
        left[row] -= end is End.FINISHED
        if not left[row]:
            say(f"{row}: trained, every seed is in the checkpoint store")

    train_seeds(seeds, address, Listener(on_end=on_end), epoch_seconds)
    return failed
