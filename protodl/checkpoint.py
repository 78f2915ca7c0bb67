"""Trained networks and interrupted trainings on disk: tensors and plain values, nothing else."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from protodl.config import ModelConfig
from protodl.models import PrototypeNetwork

FORMAT = 1


class CheckpointError(ValueError):
    """A file that is missing, damaged or not what it should be; the message says what to do."""


def write_atomically(data: Any, path: Path) -> None:
    """torch.save under a temporary name, then replace: a kill leaves the old file whole."""
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


def save_network(network: PrototypeNetwork, path: Path) -> None:
    """Write a network's weights with all that is needed to build it again."""
    write_atomically(
        {
            "format": FORMAT,
            "model": network.config.model_dump_json(),
            "channels": network.channels,
            "image_size": network.image_size,
            "num_classes": network.num_classes,
            "state_dict": {
                name: value.detach().cpu().contiguous()
                for name, value in network.state_dict().items()
            },
        },
        path,
    )


def load_network(path: Path) -> PrototypeNetwork:
    """Read a network written by `save_network`, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the file is missing or not a network.
    """
    remedy = "train it: dvc repro train@<row>"
    data = read(path, remedy)
    try:
        network = PrototypeNetwork(
            ModelConfig.model_validate_json(data["model"]),
            data["channels"],
            data["image_size"],
            data["num_classes"],
        )
        network.load_state_dict(data["state_dict"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a network of this version; {remedy}") from error
    return network.eval()


def fingerprint(facts: Mapping[str, Any], sources: Iterable[Path]) -> str:
    """Hash (16 hex digits) of everything an outcome depends on: plain facts and source files."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sorted(sources, key=lambda path: path.name):
        digest.update(f"\0{source.name}\0".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
