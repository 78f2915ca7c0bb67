"""Files of tensors and plain values: written whole or not at all, read without running code."""

import os
from pathlib import Path
from typing import Any

from protodl.core.errors import ProtodlError

FORMAT = 1


class CheckpointError(ProtodlError):
    """A file that is missing, damaged or not what it should be; the message says what to do."""


def write_atomically(data: Any, path: Path) -> None:
    """torch.save under a temporary name, then replace: a kill leaves the old file whole."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:  # a stream: a path would put its name into the archive
            torch.save(data, file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, remedy: str) -> dict[str, Any]:
    """Load a file of tensors and plain values onto the CPU.

    Raises:
        CheckpointError: it is missing, damaged, or of another format; `remedy` says what to do.
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
    return data
