"""What a training writes down: plain records that need neither torch nor MLflow to be read."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from protodl.core.errors import ProtodlError
from protodl.core.files import write_text


class ResultsError(ProtodlError):
    """Results that are missing or belong to other parameters; the message says what to run."""


class Record(BaseModel):
    """An immutable record that is stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record from its file.

        Raises:
            ResultsError: the file is missing, or is not such a record.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ResultsError(f"{path}: missing; run `dvc repro`") from None
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise ResultsError(f"{path}: cannot be read ({reason}); run `dvc repro`") from None


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

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.parameters["dataset"])


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

    def write(self, path: Path) -> None:
        """Write the log as JSON; it appears whole or not at all."""
        write_text(self.model_dump_json(indent=1) + "\n", path)


UNTRACKED = "untracked"  # a run's id where MLflow could not be used while it was trained
