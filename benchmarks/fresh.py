"""One training in a fresh process: `python -m benchmarks.fresh <row> <seconds>`.

Prints its memory as JSON after a few steps, then trains for `seconds` at every line it reads and
prints images a second.
"""

import json
import resource
import sys
import time
from pathlib import Path

from benchmarks.measure import build_trainer, training
from protodl.core.config import load_params
from protodl.core.machine import prepare_machine

STEPS = 3  # the second one has all of the optimizer's state


def peak_mebibytes() -> float:
    """Most memory that this process has had resident so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss starts at what the parent process had
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    scale = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def main(row: str, seconds: float) -> None:
    """Train a row on random images."""
    params = load_params("params.yaml")
    runtime = prepare_machine(params.training.model_copy(update={"device": "cpu"}))
    imported = peak_mebibytes()
    work = training(build_trainer(params.experiment(row), runtime))
    for _ in range(STEPS):
        work.do()
    print(json.dumps({"imported": imported, "peak": peak_mebibytes()}), flush=True)
    for _ in sys.stdin:
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            done += work.do()
        print(done / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
