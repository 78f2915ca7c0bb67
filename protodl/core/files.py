"""Files that appear whole or not at all, and files of tensors that are read without running code.

Importing this module does not import torch.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from protodl.core.errors import ProtodlError

FORMAT = 1
TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.part")  # name of the file, process
T = TypeVar("T")


class CheckpointError(ProtodlError):
    """A file that is missing, damaged or not what it should be; the message says what to do."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what was written there becomes `path` at the end.

    A kill or an error leaves the file that was there before. The folder is created, and what a
    process that was killed has left in it under such a name for this file is removed.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path` that is gone in the end, also where a kill left it before."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        remove(temporary)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in abandoned(path.parent, path.name):
        remove(left)
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def abandoned(folder: Path, name: str = "") -> list[Path]:
    """What killed processes left in a folder under temporary names, all or those of one name."""
    from psutil import pid_exists

    found = [(path, TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
    return [
        path
        for path, parts in found
        if parts and name in ("", parts[1]) and not pid_exists(int(parts[2]))
    ]


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(text: str, path: Path) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_bytes(text.encode(), path)


def write_json(data: Any, path: Path) -> None:
    """Write plain values as indented JSON, whole or not at all."""
    write_text(json.dumps(data, indent=1) + "\n", path)


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted by their paths; hidden ones and a desktop's own left out."""
    found = (
        Path(parent, name).relative_to(folder)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
    )
    return sorted(
        folder / path
        for path in found
        if not any(part.startswith(".") for part in path.parts)
        and path.name not in ("Thumbs.db", "desktop.ini")
    )


def hash_folder(folder: Path) -> str:
    """Hash (32 hex digits) of the names and the content of a folder's visible files."""
    digest = blake2b(digest_size=16)
    for path in visible_files(folder):
        own = blake2b(path.read_bytes(), digest_size=16).digest()
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + own)
    return digest.hexdigest()


def write_tensors(data: Any, path: Path) -> None:
    """Write tensors and plain values; the bytes depend on `data` only, not on the file's name."""
    import torch

    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(data, file)  # a stream: a path would put its name into the archive


def read_tensors(path: Path, kind: str, remedy: str, build: Callable[[dict[str, Any]], T]) -> T:
    """Load a file of tensors and plain values onto the CPU, and build from them what it holds.

    Args:
        path: the file.
        kind: what it should hold, such as `a network`.
        remedy: what to do where it does not.
        build: takes the file's content without its format.

    Raises:
        CheckpointError: it is missing, damaged, of another format or holds something else.
    """
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not there; {remedy}") from None
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); {remedy}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a protodl file of format {FORMAT}; {remedy}")
    try:
        return build({name: value for name, value in data.items() if name != "format"})
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: is not {kind} of this version; {remedy}") from error
