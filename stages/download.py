"""DVC stage download@<dataset>: bring one data set here as train.pt and test.pt."""

import os
import time
from argparse import Namespace
from pathlib import Path

from protodl.core.config import load_params
from protodl.core.machine import own_folder, project_root
from protodl.core.process import run_script
from protodl.core.stage import Options, Stage
from protodl.data.download import MIRROR_VARIABLE, download


def fetch(options: Namespace) -> None:
    """Write the two files of the data set and say how many images they hold."""
    started = time.monotonic()
    params = load_params(options.params)
    config = params.dataset(options.dataset)
    counts = download(
        options.dataset,
        options.output,
        config=config,
        folder=own_folder(config),
        source=params.data.source,
        # Under the project's root, so that experiments in temporary folders find it too.
        raw=options.raw or project_root() / "data" / "raw",
        sample=options.sample,
        mirror=os.environ.get(MIRROR_VARIABLE),
    )
    print(
        f"{options.dataset}: {counts['train']:,} training and {counts['test']:,} test images in "
        f"{options.output} ({time.monotonic() - started:.1f} s)"
    )


OPTIONS: Options = {
    "dataset": "key of datasets in params.yaml",
    "--output": "folder for the two files",
    "--params": "params.yaml",
    "--sample": {"default": Path("data/sample"), "help": "embedded sample"},
    "--raw": {"default": None, "help": "raw files, default <project root>/data/raw"},
}
main = Stage(fetch, OPTIONS)

if __name__ == "__main__":
    run_script(main)
