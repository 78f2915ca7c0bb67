"""Trained networks and interrupted trainings on disk: tensors and plain values, nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protodl.core.experiment_config import ModelConfig
from protodl.core.files import FORMAT, read_tensors, write_tensors
from protodl.network.network import PrototypeNetwork


def save_network(network: PrototypeNetwork, path: Path) -> None:
    """Write a network's weights with all that is needed to build it again."""
    write_tensors(
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
    return read_tensors(path, "a network", "train it: dvc repro train@<row>", _network)


def _network(data: Mapping[str, Any]) -> PrototypeNetwork:
    config = ModelConfig.model_validate_json(data["model"])
    sizes = (data["channels"], data["image_size"], data["num_classes"])
    network = PrototypeNetwork(config, *sizes)
    network.load_state_dict(data["state_dict"])
    return network.eval()
