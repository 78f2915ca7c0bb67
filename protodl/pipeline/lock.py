"""What dvc.lock has of a stage's files, and files hashed as DVC does."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from protodl.core.training_log import ResultsError

CACHE = Path(".dvc/cache/files/md5")


def locked_hashes(root: Path, stage: str) -> Mapping[str, str]:
    """The hash of each dependency and output of a stage, by its path.

    Raises:
        ResultsError: dvc.lock is missing or damaged, or the stage was never run.
    """
    path = root / "dvc.lock"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"][stage]
        return {each["path"]: each["md5"] for each in [*found["deps"], *found["outs"]]}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = f"{path}: nothing of stage {stage} ({type(error).__name__}: {error})"
        raise ResultsError(f"{reason}; run `dvc repro {stage}`") from None


def locked_files(root: Path, folder: str, locked: str) -> dict[str, str]:
    """The hash of each file of a folder as dvc.lock means it; empty where that is not known here.

    Args:
        root: the project.
        folder: below `root`.
        locked: its hash in dvc.lock.
    """
    kept = root / CACHE / locked[:2] / locked[2:]
    if kept.is_file():
        return {each["relpath"]: each["md5"] for each in json.loads(kept.read_bytes())}
    here = root / folder
    return listing(here) if here.is_dir() and dvc_hash(here) == locked else {}


def listing(folder: Path) -> dict[str, str]:
    """The hash of each file below a folder, by its path there, in the order of these."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: dvc_hash(path) for name, path in sorted(files.items())}


def dvc_hash(path: Path) -> str:
    """The hash that DVC has of a file, or of a folder: then of the list of its files."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    files = [{"md5": md5, "relpath": name} for name, md5 in listing(path).items()]
    return hashlib.md5(json.dumps(files).encode(), usedforsecurity=False).hexdigest() + ".dir"
