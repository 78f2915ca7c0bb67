"""Files that appear whole or not at all, and files of tensors that are read without running code.

Importing this module does not import torch.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from zipfile import BadZipFile, ZipFile

from protodl.core.errors import ProtodlError

if TYPE_CHECKING:
    import torch

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

    Raises:
        OSError: that names `path`; a full disk's own error names no file.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # a read-only disk refuses even what is not there
            temporary.unlink()


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
    found = [(path, TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
    return [
        path
        for path, parts in found
        if parts and name in ("", parts[1]) and not _is_at_work(int(parts[2]))
    ]


def _is_at_work(process: int) -> bool:
    """Whether it is alive; one that was killed keeps its number until its parent has noticed."""
    import psutil

    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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
        try:
            torch.save(data, file)  # a stream: a path would put its name into the archive
        except RuntimeError as error:  # torch's own, raised over that of a full disk
            raise error.__context__ or error from None


def load_tensors(path: Path, remedy: str) -> Any:
    """What a file of tensors and plain values holds, on the CPU; nothing in it is executed.

    Raises:
        CheckpointError: it is missing or damaged; the message ends with `remedy`.
    """
    import torch

    try:
        with path.open("rb") as file:
            _check_records(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not there; {remedy}") from None
    except Exception as error:  # zipfile and torch raise many kinds for damaged files
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); {remedy}") from error


def _check_records(file: BinaryIO) -> None:
    """Compare the checksum of every record of torch's archive; torch itself does not."""
    with ZipFile(file) as archive:
        # Where this is set torch takes a record for a folder, and its content for nothing.
        marked = (record.filename for record in archive.infolist() if record.external_attr)
        if damaged := archive.testzip() or next(marked, None):
            raise BadZipFile(f"wrong checksum of {damaged}")


def read_tensors(path: Path, kind: str, remedy: str, build: Callable[[dict[str, Any]], T]) -> T:
    """Load a file of tensors and plain values, and build from them what it holds.

    Args:
        path: the file.
        kind: what it should hold, such as `a network`.
        remedy: what to do where it does not.
        build: takes the file's content without its format.

    Raises:
        CheckpointError: it is missing, damaged, of another format or holds something else.
    """
    data = load_tensors(path, remedy)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a protodl file of format {FORMAT}; {remedy}")
    try:
        return build({name: value for name, value in data.items() if name != "format"})
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is not {kind} of this version; {remedy}") from error


def tensor_of(value: Any, dtype: "torch.dtype", *shape: int) -> "torch.Tensor":
    """The value, a tensor of that type and shape; -1 stands for any length.

    Raises:
        ValueError: it is something else.
    """
    import torch

    if not isinstance(value, torch.Tensor) or value.dtype != dtype or value.ndim != len(shape):
        raise ValueError(f"expected {dtype} of {len(shape)} dimensions")
    if any(n not in (-1, found) for n, found in zip(shape, value.shape, strict=True)):
        raise ValueError(f"expected the shape {shape}, not {tuple(value.shape)}")
    return value
