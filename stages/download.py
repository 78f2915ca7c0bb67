"""DVC stage download@<dataset>: bring one data set here as train.pt and test.pt."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from protodl.core.config import load_params
from protodl.core.errors import ProtodlError
from protodl.core.machine import project_root
from protodl.data.datasets import DATASETS
from protodl.data.download import MIRROR_VARIABLE, download


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage; return the exit status, 1 when the data could not be obtained."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    try:
        counts = download(
            options.dataset,
            options.output,
            source=load_params(options.params).data.source,
            # Under the project's root, so that experiments in temporary folders find it too.
            raw=options.raw or project_root() / "data" / "raw",
            sample=options.sample,
            mirror=os.environ.get(MIRROR_VARIABLE),
        )
    except (ProtodlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.dataset}: {counts['train']:,} training and {counts['test']:,} test images in "
        f"{options.output} ({time.monotonic() - started:.1f} s)"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.download", description=__doc__)
    parser.add_argument("dataset", choices=list(DATASETS))
    parser.add_argument("--output", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--params", type=Path, required=True, help="params.yaml (data.source)")
    parser.add_argument("--sample", type=Path, default=Path("data/sample"), help="embedded sample")
    parser.add_argument("--raw", type=Path, help="raw files, default <project root>/data/raw")
    return parser


if __name__ == "__main__":
    sys.exit(main())
