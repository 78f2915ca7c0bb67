"""A trained row in one file that explains without the data: for the clone, for others, for the Hub.

safetensors: numbers and one JSON text, nothing that could be executed. A digest over all of it
finds damage, which the format itself would let through.

Shapes: C channels, H x W pixels, P prototypes, K classes.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protodl.core.experiment_config import ModelConfig
from protodl.core.files import CheckpointError, write_bytes
from protodl.data.datasets import DatasetInfo
from protodl.explanation.model import Model
from protodl.explanation.types import Case
from protodl.network.network import PrototypeNetwork
from protodl.network.usual import Usual

PORTABLE_FORMAT = 1
KEY = "protodl"  # in the file's metadata
REMEDY = "fetch it again, or train the row and export it: protodl export <row> <folder>"


def portable_facts(model: Model, measured: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be known of a model beside its tensors, as JSON has it.

    Args:
        model: any.
        measured: accuracy and quality, and where they come from; kept as they are.
    """
    usual = {name: value for name, value in asdict(model.usual).items() if isinstance(value, float)}
    cases = [(case.index, case.label, case.distance) for case in model.prototype_cases]
    return {
        "format": PORTABLE_FORMAT,
        "row": model.row,
        "seed": model.seed,
        "dataset": asdict(model.info),
        "model": model.network.config.model_dump(),
        "usual": usual,
        "prototype_cases": cases,  # index in the training images, label, distance
        "measured": dict(measured),
    }


def save_portable(model: Model, measured: Mapping[str, Any], path: Path) -> None:
    """Write a model with all that its explanations need but the data."""
    from safetensors.torch import save

    tensors = {f"network.{name}": value for name, value in model.network.state_dict().items()}
    usual = asdict(model.usual)
    tensors |= {f"usual.{name}": v for name, v in usual.items() if isinstance(v, Tensor)}
    tensors["prototype_cases"] = torch.stack(
        [torch.as_tensor(case.picture) for case in model.prototype_cases]
    )
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    facts = json.dumps(portable_facts(model, measured), sort_keys=True)
    # One key: of several the library would write the order that a hash table has today.
    metadata = {KEY: json.dumps({"digest": _digest(facts, tensors), "facts": facts})}
    write_bytes(save(tensors, metadata), path)


def load_portable(path: Path) -> tuple[Model, dict[str, Any]]:
    """Read what `save_portable` wrote; returns the model and what was measured of it.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not there; {REMEDY}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    try:
        found = json.loads(metadata[KEY])
        if found["digest"] != _digest(found["facts"], tensors):
            raise ValueError("wrong digest")
        facts = json.loads(found["facts"])
        version = facts["format"]
    except (KeyError, TypeError, ValueError) as error:
        problem = f"damaged, or not written by protodl ({error})"
        raise CheckpointError(f"{path}: {problem}; {REMEDY}") from error
    if version != PORTABLE_FORMAT:
        problem = f"format {version}, this protodl reads {PORTABLE_FORMAT}"
        raise CheckpointError(f"{path}: {problem}; {REMEDY}")
    try:
        return _model(facts, tensors, path), facts["measured"]
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is not of this version ({error}); {REMEDY}") from error


def _model(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Model:
    known = facts["dataset"]
    for name in (facts["row"], known["name"]):  # folders are called by them
        if not re.fullmatch("[a-z0-9][a-z0-9-]*", name):
            raise ValueError(f"{name!r} is no name of a row or data set")
    info = DatasetInfo(**known | {"class_names": tuple(known["class_names"])})
    config = ModelConfig.model_validate(facts["model"])
    network = PrototypeNetwork(config, info.channels, info.size, info.num_classes)
    network.load_state_dict(_part(tensors, "network."))
    pictures = tensors["prototype_cases"].numpy()
    return Model(
        row=facts["row"],
        seed=facts["seed"],
        info=info,
        network=network.eval(),
        usual=Usual(**{**facts["usual"], **_part(tensors, "usual.")}),
        prototype_cases=[
            Case(index, label, distance, picture)
            for (index, label, distance), picture in zip(
                facts["prototype_cases"], pictures, strict=True
            )
        ],
        training_cases=None,
        file=path,
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the facts and of every tensor with its name, type and shape."""
    found = hashlib.sha256(facts.encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()
