"""The machine a run happens on: project root, device, precision, threads, seeds, facts."""

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from protodl.core.config import ConfigError, TrainingConfig
from protodl.core.dataset_config import DatasetConfig
from protodl.core.limits import available_cpus, threads_of_variable

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # names of malloc.h
BELOW_AVX512 = ("DEFAULT", "NO AVX", "AVX2")  # torch's names of instruction sets
# oneDNN's, of sets that lack the products of bfloat16: there they are computed six times slower.
BELOW_BFLOAT16 = "SSE41 AVX AVX2 AVX2_VNNI AVX2_VNNI_2 AVX512_CORE AVX512_CORE_VNNI".split()


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
    """The folder of images of a data set that is one; a relative path begins at the project.

    Raises:
        ConfigError: it begins with `~`, and this user has no home.
    """
    try:
        return project_root() / Path(config.folder).expanduser() if config.folder else None
    except RuntimeError:
        raise ConfigError(
            f"params.yaml: folder = {config.folder!r}: there is no such home; write the whole path"
        ) from None


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
        ConfigError: the device that is asked for cannot compute, or PROTODL_THREADS is no number.
    """
    import torch

    device = _usable_device(training.device)
    threads = use_threads(training.threads)
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


def use_threads(asked: int = 0) -> int:
    """Set and return the threads that torch computes with; 0: all processors there are for it.

    Raises:
        ConfigError: PROTODL_THREADS, which goes before `asked`, is no number.
    """
    import torch

    threads = threads_of_variable() or asked or available_cpus()
    torch.set_num_threads(threads)
    return threads


def _usable_device(asked: str) -> "torch.device":
    """The device to compute on; `auto`: a GPU of NVIDIA's that works, else the processors."""
    import torch

    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda" if asked == "auto" else asked)
    trouble = device_trouble(device)
    if trouble is None:
        return device
    if asked != "auto":
        raise ConfigError(
            f"params.yaml: training.device = {asked!r}: {trouble}; use 'auto' or 'cpu'"
        )
    print(f"warning: the processors compute, as the GPU cannot: {trouble}", file=sys.stderr)
    return torch.device("cpu")


@cache
def device_trouble(device: "torch.device") -> str | None:
    """Why a device that torch may even see cannot do a small piece of a training; None: it can."""
    import torch

    backend = torch.backends.mps if device.type == "mps" else torch.cuda
    if not backend.is_available():
        return "torch sees no GPU"
    try:
        images = torch.ones(2, 1, 8, 8, device=device)
        kernel = torch.ones(4, 1, 3, 3, device=device, requires_grad=True)
        codes = torch.conv2d(images, kernel, stride=2).flatten(1)
        torch.cdist(codes, codes + 1).sum().backward()
        torch.nn.functional.grid_sample(images, images.new_zeros(2, 8, 8, 2), align_corners=True)
        torch.rand(4, generator=torch.Generator(device), device=device).sum().item()
    except (RuntimeError, AssertionError) as error:  # the latter: torch was built without it
        return f"{type(error).__name__}: {first_sentence(error)}"
    return None


def first_sentence(error: BaseException) -> str:
    """What an error of torch says before it becomes a page."""
    return str(error).strip().partition("\n")[0].partition(". ")[0]


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
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {available_cpus()} cores"
    return f"{platform.processor() or platform.machine()}, {available_cpus()} cores"


def git_revision() -> str:
    """The checked-out commit, `+` where tracked files differ from it; `unknown` outside git.

    Says why where git refuses, as it does in a folder of another user.
    """
    try:
        revision = _git("rev-parse", "HEAD")
        return revision + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError:
        return "unknown"
    except subprocess.CalledProcessError as error:
        if advice := re.search(r"git config --global --add safe\.directory .*", error.stderr):
            print(
                "warning: the revision is recorded as unknown, as this folder is another user's; "
                f"if you trust it: {advice.group()}",
                file=sys.stderr,
            )
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], capture_output=True, text=True, errors="replace", check=True
    ).stdout.strip()
