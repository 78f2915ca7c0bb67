"""Where a row's weights are found: trained here, shipped with protodl, or exported to a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from protodl.core.config import ConfigError, Params, load_params
from protodl.core.files import CheckpointError
from protodl.core.machine import project_root
from protodl.core.mistakes import nearest
from protodl.data.datasets import info_of, load_training
from protodl.explanation.model import Model
from protodl.explanation.portable import load_portable
from protodl.network.cases import load_case_base
from protodl.network.checkpoint import load_network

WEIGHTS_NAME = "model.safetensors"  # in a folder that was exported
SHIPPED = Path(str(files("protodl"))) / "weights"


def load(row: str | Path, seed: int | None = None, root: Path | str | None = None) -> Model:
    """Load a trained row.

    What was trained here wins over the weights that are shipped with protodl, which need neither
    data nor training. Explanations by the latter say so, and leave out what the data would show.

    Args:
        row: key of experiments in params.yaml; or a folder that `protodl export` wrote.
        seed: of the training; default: the first of params.yaml, or the one that there is.
        root: the project's folder; default: the one that the working directory lies in, if any.

    Raises:
        ConfigError: params.yaml is wrong, or there is no such row or seed.
        CheckpointError, DatasetError: the row is not trained and evaluated yet, or a file is bad.
    """
    folder = Path(row)
    if (folder / WEIGHTS_NAME).is_file():
        model, _ = load_portable(folder / WEIGHTS_NAME)
        return replace(model, origin=f"By the weights in {folder}: {model.row}, seed {model.seed}.")
    row, project = str(row), _project(root)
    known = project is not None and row in project.params.experiments
    if project is not None and known and project.is_trained(row, seed):
        return project.load(row, seed)
    if row in shipped_rows():
        model, measured = load_portable(SHIPPED / f"{row}.safetensors")
        if seed in (None, model.seed):
            return replace(model, origin=_origin(model, measured))
    if project is None:
        raise ConfigError(
            f"{row}: not among the rows whose weights are shipped"
            f"{nearest(row, shipped_rows())}; for others run this inside their project"
        )
    chosen = project.seed(row, seed)  # raises where there is no such row or seed
    missing = next(path for path in project.files(row, chosen) if not path.is_file())
    raise CheckpointError(
        f"{missing}: not there; make it: protodl run {row} (it says first how long that takes)"
    )


@dataclass(frozen=True)
class Project:
    """The rows that are trained in a project's folder."""

    root: Path
    params: Params

    def seed(self, row: str, seed: int | None) -> int:
        """The seed asked for, or the first.

        Raises:
            ConfigError: there is no such row or seed.
        """
        self.params.experiment(row)
        seeds = self.params.seeds
        if seed is not None and seed not in seeds:
            raise ConfigError(f"params.yaml: seeds = {seeds}: has no seed {seed}; add it there")
        return seeds[0] if seed is None else seed

    def files(self, row: str, seed: int) -> tuple[Path, Path]:
        """Where a trained network and its case base are kept."""
        models = self.root / "models"
        return models / row / f"seed-{seed}.pt", models / "references" / row / f"seed-{seed}.pt"

    def is_trained(self, row: str, seed: int | None) -> bool:
        """Whether both files of a row of params.yaml are there."""
        return all(path.is_file() for path in self.files(row, self.seed(row, seed)))

    def load(self, row: str, seed: int | None) -> Model:
        """Read a trained row with its training images."""
        dataset = self.params.experiment(row).dataset
        seed = self.seed(row, seed)
        network, case_base = self.files(row, seed)
        data = self.root / "data" / dataset / "train.pt"
        train, _ = load_training(data, self.params.training)
        info = info_of(dataset, train)
        parts = load_network(network), load_case_base(case_base)
        return Model.of_training(row, seed, info, *parts, train)


def _project(root: Path | str | None) -> Project | None:
    """The project of that folder; without one that of the working directory, if there is one."""
    try:
        folder = project_root() if root is None else Path(root)
    except FileNotFoundError:
        return None
    return Project(folder, load_params(folder / "params.yaml"))


def _origin(model: Model, measured: Mapping[str, Any]) -> str:
    accuracy = 100 * measured["test_accuracy"]
    return (
        f"By the weights shipped with protodl: seed {model.seed} of the published table, "
        f"{accuracy:.2f} % of the test images right ({measured['source']})."
    )


def shipped_rows() -> list[str]:
    """The rows whose weights are shipped, in alphabetical order."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def shipped_model(row: str) -> Model:
    """The shipped seed of a row, whatever was trained here."""
    return load_portable(SHIPPED / f"{row}.safetensors")[0]


def shipped_accuracy(row: str) -> float:
    """Test accuracy in % of the shipped seed of a row."""
    return 100 * float(load_portable(SHIPPED / f"{row}.safetensors")[1]["test_accuracy"])


def known_rows(root: Path | str | None = None) -> dict[str, str]:
    """The rows that can be loaded, and where each comes from: trained here, or shipped."""
    project = _project(root)
    shipped = shipped_rows()
    rows = list(project.params.experiments) if project else []
    found = {}
    for row in dict.fromkeys([*rows, *shipped]):
        if project and row in rows and project.is_trained(row, None):
            found[row] = "trained here"
        elif row in shipped:
            found[row] = "shipped"
    return found
