"""What a training and its evaluation write down, as records: no torch or MLflow to read them."""

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from protodl.core.errors import ProtodlError
from protodl.core.files import write_json

DIGEST = "digest"  # key of a record's file


class ResultsError(ProtodlError):
    """Results that are missing or belong to other parameters; the message says what to run."""


class Record(BaseModel):
    """An immutable record that is stored as JSON, with a digest that finds damage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _undamaged(cls, data: Any) -> Any:
        """The content without its digest; files of earlier versions have none."""
        if not isinstance(data, dict) or DIGEST not in data:
            return data
        content = {name: value for name, value in data.items() if name != DIGEST}
        if data[DIGEST] != _digest(content):
            raise ValueError("damaged: its digest is that of another content")
        return content

    @classmethod
    def read(cls, path: Path, remedy: str = "run `dvc repro`") -> Self:
        """Read a record from its file.

        Raises:
            ResultsError: the file is missing or damaged, or is not such a record.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ResultsError(f"{path}: missing; {remedy}") from None
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise ResultsError(f"{path}: cannot be read ({reason}); {remedy}") from None

    def write(self, path: Path) -> None:
        """Write the record as JSON; it appears whole or not at all."""
        content = self.model_dump()
        write_json({**content, DIGEST: _digest(content)}, path)


def _digest(content: Any) -> str:
    """Hash (16 hex digits) of plain values, however their JSON is laid out."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class EpochRecord(Record):
    """One epoch of one seed; `loss` is the weighted sum of the terms, the terms are unweighted."""

    epoch: int  # 1 is the first
    step: int  # optimizer steps so far
    timestamp_ms: int
    seconds: float
    images_per_second: float
    learning_rate: float
    train: dict[str, float]  # accuracy, loss and terms, means over augmented training images
    validation: dict[str, float]  # the same of the validation images; r1 over all of them at once
    selected: bool  # the best validation accuracy so far


class SeedFacts(Record):
    """What is known of a seed before it is trained."""

    row: str  # key of experiments in params.yaml
    seed: int
    fingerprint: str  # hash of everything that the outcome depends on
    parameters: dict[str, Any]  # nested, as in params.yaml, presets resolved; without seeds
    environment: dict[str, str]  # machine and code
    num_train: int  # images
    num_validation: int
    data_digest: str  # MD5 of the training file
    # Of a data set that is not one of the published ones, whose facts are known without.
    image_shape: tuple[int, ...] = ()  # channels, height, width
    class_names: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.parameters["dataset"])

    @property
    def title(self) -> str:
        """Row and seed, as they are shown."""
        return f"{self.row} seed {self.seed}"


class SeedLog(SeedFacts):
    """Everything about one trained seed that MLflow shows, so that a lost store can be refilled."""

    experiment_name: str
    run_id: str
    parent_run_id: str
    start_ms: int
    end_ms: int
    train_seconds: float
    num_epochs: int
    selected_epoch: int
    history: list[EpochRecord]

    @property
    def selected_accuracy(self) -> float:
        """Validation accuracy, a share, of the epoch whose weights were kept."""
        return self.history[self.selected_epoch - 1].validation["accuracy"]


class SeedEvaluation(Record):
    """What the evaluate stage measured of one seed."""

    row: str
    seed: int
    metrics: dict[str, int | float]
    # The same before prototypes were moved onto training cases; empty unless model.project.
    unprojected: dict[str, int | float]
    confusion: list[list[int]]  # (K, K) test images: row = true class, column = predicted class
    prototypes: dict[str, list[int | float]]  # facts of each of the P prototypes


class Means(Record):
    """Means over the seeds: what a study measures, and a part of a row's Metrics."""

    model_config = ConfigDict(extra="ignore")

    mean: dict[str, float]


class Metrics(Record):
    """A row's metrics.json: means and sample standard deviations over its seeds."""

    num_seeds: int
    mean: dict[str, float]
    std: dict[str, float]  # 0 for a single seed
    unprojected: dict[str, float]  # means; see SeedEvaluation


UNTRACKED = "untracked"  # a run's id where MLflow could not be used while it was trained
