"""How the workers of one machine share its memory, processors and GPUs."""

import os
import subprocess
import sys
from pathlib import Path

from protodl.core.limits import THREADS_VARIABLE, available_cpus

# What a row may need, by data.source: the largest one was seen to take 2.4 and 1.4 GiB.
WORKER_GIB = {"full": 3.0, "sample": 1.5}


def workers_in_memory(workers: int, source: str, free_gib: float) -> int:
    """As many of the workers as the free memory is enough for, at least one; says if fewer."""
    fitting = max(1, min(workers, int(free_gib / WORKER_GIB[source])))
    if fitting < workers:
        print(
            f"{free_gib:.1f} GiB of memory are free and a row may need {WORKER_GIB[source]}: "
            f"{fitting} at a time, not {workers}",
            flush=True,
        )
    return fitting


def worker_environments(workers: int, device: str = "auto") -> list[dict[str, str]]:
    """The variables of each worker: its share of the processors, and its GPU of several."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    common = {"PATH": path}  # dvc.yaml says `python`, whether this environment is activated or not
    if workers == 1:
        return [common]
    threads = str(max(1, available_cpus() // workers))
    common |= {THREADS_VARIABLE: threads, "OMP_NUM_THREADS": threads}
    # Threads that spin while they wait would take the processors of the other workers.
    common |= {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    gpus = [] if device == "cpu" else visible_gpus()
    if len(gpus) < 2:
        return [common] * workers
    return [common | {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(workers)]


def visible_gpus() -> list[str]:
    """Names of the usable GPUs for CUDA_VISIBLE_DEVICES; empty without NVIDIA's driver."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        chosen = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        return [gpu for gpu in chosen if gpu not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    if "MIG " in listed.stdout:
        return []  # slices of one GPU: the owner of the machine has already shared it out
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
