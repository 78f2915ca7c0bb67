"""`protodl clean`: what trainings and killed processes have left, by what it is still good for.

Results, models and runs are never touched.
"""

import json
import os
from collections.abc import Iterable, Iterator
from hashlib import md5
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from protodl.core.files import abandoned, remove
from protodl.pipeline.run import dvc_output

CHECKPOINTS, PICTURES = Path(".protodl") / "checkpoints", Path(".protodl") / "pictures"
# What is there, and what it is still good for.
KILLED = "temporary files of killed processes"
SPENT = "checkpoints within trainings that are finished"
OLD = "trainings of earlier results, which DVC's cache holds"
USED = "trainings that run now"
UNFINISHED = "trainings that the same command goes on from"
SHOWN = "trainings of the present results: no need to repeat them when a seed is added"
AWAITED = "pictures that MLflow lacks: `protodl sync` or the rest of the training records them"
STRAY = "pictures of trainings that are no more"


def clean(root: Path, everything: bool, dry_run: bool) -> list[str]:
    """Remove what nothing needs any more; returns a line for each kind of what was there.

    Args:
        root: the project's folder.
        everything: also what spares a training, unless it is in use.
        dry_run: only say it.
    """
    sizes: dict[str, list[int]] = {}
    removed = {KILLED, SPENT, OLD, STRAY} | ({UNFINISHED, SHOWN} if everything else set())
    pictures = sorted((root / PICTURES).glob("*/*.png"))  # before what may draw others is looked at
    needed = _shown(root)
    trainings = _checkpoints(root, needed)
    for path, kind in chain(_abandoned(root), trainings, _pictures(pictures, needed)):
        sizes.setdefault(kind, []).append(_bytes(path))
        if kind not in removed:
            needed.add(path.name)
        elif not dry_run:
            remove(path)
    said = dict.fromkeys(removed, "would be removed" if dry_run else "removed")
    lines = [
        f"{said.get(kind, 'kept')}: {sum(each) / 2**20:.1f} MiB, {kind} ({len(each)})"
        for kind, each in sizes.items()
    ]
    return lines or ["nothing to remove"]


def _shown(root: Path) -> set[str]:
    """The fingerprints of the present results."""
    logs = (root.glob(f"{top}results/rows/*/training/seed-*.json") for top in ("", "studies/*/"))
    return {_fingerprint(path) for path in chain(*logs)}


def _pictures(pictures: Iterable[Path], needed: set[str]) -> Iterator[tuple[Path, str]]:
    return ((path, AWAITED if path.parent.name in needed else STRAY) for path in pictures)


def _checkpoints(root: Path, shown: set[str]) -> Iterator[tuple[Path, str]]:
    """What the checkpoint store holds; each training is kept from others meanwhile."""
    cache = Path(dvc_output(root, "cache", "dir").strip()) / "files" / "md5"
    for folder in sorted((root / CHECKPOINTS).glob("*")):
        try:
            with FileLock(folder / "lock", blocking=False):
                finished = (folder / "log.json").exists()
                if finished and (folder / "training.pt").exists():
                    yield folder / "training.pt", SPENT
                yield folder, _reason(folder, shown, cache)
        except Timeout:
            yield folder, USED


def _reason(folder: Path, shown: set[str], cache: Path) -> str:
    if not (folder / "log.json").exists():
        return UNFINISHED
    digest = md5((folder / "network.pt").read_bytes(), usedforsecurity=False).hexdigest()
    if not (cache / digest[:2] / digest[2:]).exists():
        return UNFINISHED  # another seed of its row is, and DVC keeps whole rows only
    return SHOWN if folder.name in shown else OLD


def _fingerprint(log: Path) -> str:
    return str(json.loads(log.read_text()).get("fingerprint", ""))


def _abandoned(root: Path) -> Iterator[tuple[Path, str]]:
    for folder, names, _ in os.walk(root):
        names[:] = [name for name in names if name == ".protodl" or not name.startswith(".")]
        yield from ((path, KILLED) for path in abandoned(Path(folder)))


def _bytes(path: Path) -> int:
    """What a file or folder takes, a spent checkpoint within it left out."""
    files = [file for file in (path, *path.rglob("*")) if file.is_file()]
    spent = path / "training.pt" if (path / "log.json").exists() else None
    return sum(file.stat().st_size for file in files if file != spent)
