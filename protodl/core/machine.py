"""The machine a run happens on: project root, device, precision, threads, seeds, facts."""

import ctypes
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from protodl.core.config import ConfigError, TrainingConfig
from protodl.core.dataset_config import DatasetConfig

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # names of malloc.h
BELOW_AVX512 = ("DEFAULT", "NO AVX", "AVX2")  # torch's names of instruction sets
# oneDNN's, of sets that lack the products of bfloat16: there they are computed six times slower.
BELOW_BFLOAT16 = "SSE41 AVX AVX2 AVX2_VNNI AVX2_VNNI_2 AVX512_CORE AVX512_CORE_VNNI".split()
THREADS_VARIABLE = "PROTODL_THREADS"  # set by `protodl run -j N` for each worker


def project_root() -> Path:
    """The main repository's folder, also where DVC runs a stage in a temporary copy of it.

    Raises:
        FileNotFoundError: neither DVC_ROOT is set nor does a folder above hold a dvc.yaml.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no dvc.yaml in {here} or above it; run this inside the project")


def own_folder(config: DatasetConfig) -> Path | None:
    """The folder of images of a data set that is one; a relative path begins at the project."""
    return project_root() / Path(config.folder).expanduser() if config.folder else None


@dataclass(frozen=True)
class Runtime:
    """Resolved settings of a run: what `auto` became on this machine."""

    device: "torch.device"
    dtype: "torch.dtype"  # of activations and matrix products; weights stay float32
    memory_format: "torch.memory_format"
    threads: int
    cuda_graph: bool = False  # whether steps are recorded and replayed


def prepare_machine(training: TrainingConfig) -> Runtime:
    """Turn `auto` into this machine's best choice; set how torch computes and keeps memory.

    Raises:
        ConfigError: device cuda is asked for and there is none.
    """
    import torch

    if training.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "params.yaml: training.device = 'cuda': torch sees no GPU; use 'auto' or 'cpu'"
        )
    auto_device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto_device if training.device == "auto" else training.device)
    threads = int(os.environ.get(THREADS_VARIABLE, "0")) or training.threads or available_cpus()
    torch.set_num_threads(threads)
    # The momentum of a filter that died decays to denormal numbers, with which Intel's processors
    # multiply matrices 80 times slower.
    torch.set_flush_denormal(True)
    keep_freed_memory()
    return Runtime(
        device=device,
        dtype=_resolve_precision(training.precision, device),
        memory_format=(
            torch.contiguous_format
            if training.memory_format == "contiguous"
            else torch.channels_last
        ),
        threads=threads,
        cuda_graph=training.cuda_graph and device.type == "cuda",
    )


def _resolve_precision(precision: str, device: "torch.device") -> "torch.dtype":
    """bfloat16 where the hardware multiplies it natively, else float32."""
    import torch

    if precision == "auto":
        cuda = device.type == "cuda"
        native = torch.cuda.is_bf16_supported() if cuda else _processor_multiplies_bfloat16()
        precision = "bfloat16" if native else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _processor_multiplies_bfloat16() -> bool:
    """Whether it can and may: ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA may forbid it."""
    import torch

    return (
        bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
        and torch.backends.cpu.get_cpu_capability() not in BELOW_AVX512
        and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in BELOW_BFLOAT16
    )


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors, where it is GNU's.

    By default it gives large blocks back to the system at once, and every step of a training pays
    for fresh pages again: a third of its time on small networks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)  # from the heap, whatever the size
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # and the heap does not shrink


def available_cpus() -> int:
    """Processors that this process may use (the scheduler's mask where the system has one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global random state is that of this seed; afterwards it is what it was."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def environment_facts(runtime: Runtime) -> dict[str, str]:
    """Versions, hardware and git revision, as a flat table of strings."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _device_name(runtime.device),
        "device": runtime.device.type,
        "threads": str(runtime.threads),
        "precision": str(runtime.dtype).removeprefix("torch."),
        "memory_format": str(runtime.memory_format).removeprefix("torch."),
        "git_revision": git_revision(),
    }


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


def processor_name() -> str:
    """The kind of processor, and how many of its cores may be used."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {available_cpus()} cores"
    return f"{platform.processor() or platform.machine()}, {available_cpus()} cores"


def git_revision() -> str:
    """The checked-out commit, `+` where tracked files differ from it; `unknown` outside git."""
    try:
        revision = _git("rev-parse", "HEAD")
        return revision + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
