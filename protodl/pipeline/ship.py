"""The weights that come with protodl: one seed of each row of the committed table that is small.

`python -m protodl.pipeline.ship` renews them after `make repro`.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from protodl.core.config import load_params
from protodl.core.errors import ProtodlError
from protodl.core.machine import project_root
from protodl.core.process import run_script
from protodl.core.stage import run_reporting
from protodl.core.training_log import Metrics, SeedEvaluation, SeedLog
from protodl.explanation.loading import SHIPPED, load
from protodl.explanation.portable import save_portable
from protodl.pipeline.lock import locked_hashes
from protodl.pipeline.run import ROWS

LARGEST = 5_000_000  # bytes of all files together
SOURCE = "measured on the test split by `make repro`"


def ship(root: Path) -> list[Path]:
    """Write the first seed of each row as it is trained in the project; returns the files.

    Where they are larger than LARGEST together, the largest are left out.

    Raises:
        ProtodlError: a row is not trained.
    """
    params = load_params(root / "params.yaml")
    written = []
    for row in params.experiments:
        model = load(row, params.seeds[0], root)
        if model.origin:
            raise ProtodlError(f"{row}: not trained here; run: make repro")
        locked = locked_hashes(root, f"train@{row}")[f"models/{row}"]
        measured = {**measurements(root, row, model.seed), "models_md5": locked}
        written.append(SHIPPED / f"{row}.safetensors")
        save_portable(model, measured, written[-1])
    written = fitting(written)
    for other in set(SHIPPED.glob("*.safetensors")) - set(written):
        other.unlink()
    return written


def fitting(files: Sequence[Path]) -> list[Path]:
    """Those of the files, the smallest first, that have no more than LARGEST bytes together."""
    sizes = {path: path.stat().st_size for path in files}
    smallest = sorted(files, key=lambda path: sizes[path])
    together = accumulate(sizes[path] for path in smallest)
    return [path for path, size in zip(smallest, together, strict=True) if size <= LARGEST]


def measurements(root: Path, row: str, seed: int) -> dict[str, Any]:
    """What was measured of one seed, and of its row; empty before the row is evaluated."""
    folder = root / ROWS / row
    if not (folder / "metrics.json").is_file():
        return {}
    log = SeedLog.read(folder / "training" / f"seed-{seed}.json")
    metrics = Metrics.read(folder / "metrics.json")
    return {
        "source": SOURCE,
        "fingerprint": log.fingerprint,
        "row_test_accuracy": {
            "mean": metrics.mean["test_accuracy"],
            "std": metrics.std["test_accuracy"],
            "num_seeds": metrics.num_seeds,
        },
        **SeedEvaluation.read(folder / "evaluation" / f"seed-{seed}.json").metrics,
    }


def main() -> int:
    """Renew the shipped weights and name them."""

    def work() -> None:
        for path in ship(project_root()):
            print(f"{path}: {path.stat().st_size:,} bytes")

    return run_reporting(work)


if __name__ == "__main__":
    run_script(main)
