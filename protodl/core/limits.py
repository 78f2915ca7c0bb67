"""What this process may use of the machine: processors, memory, threads; containers counted in."""

import os
from collections.abc import Iterator
from pathlib import Path

from protodl.core.config import MOST_THREADS, ConfigError

THREADS_VARIABLE = "PROTODL_THREADS"  # set by `protodl run -j N` for each worker
ROOT = Path("/")


def available_cpus(root: Path = ROOT) -> int:
    """Processors that this process may use: the scheduler's mask, a container's share of them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shares = [quota for folder in _control_groups("cpu", root) if (quota := _quota(folder))]
    return max(1, int(min([allowed or 1, *shares])))


def memory(root: Path = ROOT) -> int:
    """Bytes of memory that this process may have, at most."""
    import psutil

    limits = [limit for folder in _control_groups("memory", root) if (limit := _limit(folder))]
    return min([int(psutil.virtual_memory().total), *limits])


def free_memory() -> int:
    """Bytes that programs can still get; in a container not more than its limit."""
    import psutil

    return min(int(psutil.virtual_memory().available), memory())


def threads_of_variable() -> int:
    """What PROTODL_THREADS says; 0 where it is not set.

    Raises:
        ConfigError: it is no number of threads.
    """
    text = os.environ.get(THREADS_VARIABLE, "").strip() or "0"
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= MOST_THREADS):
        raise ConfigError(
            f"the variable {THREADS_VARIABLE} = {text[:40]!r}: should be a whole number from 0 (all"
            f" processors) to {MOST_THREADS}; set it so, or unset it"
        )
    return int(text)


def _quota(folder: Path) -> float | None:
    """Processors' worth of time that a control group gets, in version 2 or 1; None: no limit."""
    quota, period = [*_words(folder / "cpu.max"), "", ""][:2]
    if not quota:
        quota, period = (
            "".join(_words(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")
        )
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _limit(folder: Path) -> int | None:
    names = ("memory.max", "memory.limit_in_bytes")
    found = [int(word) for name in names for word in _words(folder / name) if word.isdecimal()]
    return min(found, default=None)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control groups that this process is in, from its own one outwards.

    Of version 2, and of version 1 those of the controller. In a container the mounted folder may
    be the process's own group, whatever path the system gives it.
    """
    groups: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        groups |= dict.fromkeys(names.split(","), path)
    for line in _lines(root / "proc/self/mountinfo"):
        place, _, kind = line.partition(" - ")
        mounted, mount = place.split()[3:5]
        system, _, options = kind.split(maxsplit=2)
        name = {"cgroup2": "", "cgroup": controller}.get(system)
        if name not in groups or (name and name not in options.split(",")):
            continue
        top = root / mount.lstrip("/")
        own = groups[name].removeprefix(mounted.rstrip("/")).strip("/")
        folder = top / own
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(top))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux, or not for us
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
