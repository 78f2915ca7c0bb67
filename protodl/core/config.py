"""params.yaml as frozen, typed objects; every mistake in it is named before any work starts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from protodl.core.dataset_config import PUBLISHED, DatasetConfig, Datasets, PathText, Seed
from protodl.core.experiment_config import (
    Count,
    Experiment,
    JudgeConfig,
    Recipe,
    RecipeName,
    TeacherConfig,
)
from protodl.core.mistakes import (
    Section,
    explain,
    joined,
    listed,
    nearest,
    not_a_choice,
    shown,
)
from protodl.core.params_file import ConfigError as ConfigError
from protodl.core.params_file import base_of, on_base, read_file, resolved_rows

MOST_THREADS = 1024

# Folders below models/ that are not a row's, and the alias in MLflow that each data set has.
RESERVED_ROW_NAMES = ("judges", "teachers", "references", "champion")
LONGEST_ROW_NAME = 200  # a row names files: at most 255 characters with what is added to it


class DataConfig(Section):
    """Which images the download stages deliver."""

    source: Literal["full", "sample"] = "full"


class TrainingConfig(Section):
    """Settings that all rows share."""

    validation_size: Count = 5000
    split_seed: Seed = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Annotated[int, Field(ge=0, le=MOST_THREADS)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    cuda_graph: bool = False
    checkpoint_every: Count = 1
    pictures_every: Count = 5

    def num_validation(self, total: int, published: bool) -> int:
        """How many of `total` training images are validation images.

        `validation_size` suits the published data sets; of another one it is a fifth at most.
        """
        return self.validation_size if published else min(self.validation_size, max(1, total // 5))


def _row_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ValueError(f"row name {shown(name)}: use lower-case letters, digits and '-' only")
    if name in RESERVED_ROW_NAMES:
        raise ValueError(f"row name {name!r} stands for something else: choose another name")
    if len(name) > LONGEST_ROW_NAME:
        raise ValueError(
            f"this row name has {len(name)} characters, {LONGEST_ROW_NAME} are allowed"
        )
    return name


def _unique(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"{shown(seeds)}: each seed may stand once")
    return seeds


RowName = Annotated[str, AfterValidator(_row_name)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_unique)]


class Params(Section):
    """The whole of params.yaml; each row holds every key, those of defaults and recipe included."""

    seeds: Seeds
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    judge: JudgeConfig = JudgeConfig()
    teacher: TeacherConfig = TeacherConfig()
    datasets: Datasets = PUBLISHED
    defaults: Recipe = Recipe()
    recipes: dict[RecipeName, Recipe] = Field(default_factory=dict)
    experiments: dict[RowName, Experiment] = Field(min_length=1)

    @model_validator(mode="after")
    def _all_that_is_needed(self) -> Self:
        """What a stage would stop at: DVC follows the recipe of the data set of every row."""
        for name, each in self.datasets.items():
            if self.data.source == "sample" and not (each.folder or each.in_sample):
                raise ValueError(
                    f"data.source = 'sample': data/sample/ has no images of datasets.{name}; say "
                    "full, or take this data set and its rows out"
                )
        for row in self.experiments.values():
            if "datasets" in self.model_fields_set and row.dataset not in self.recipes:
                raise ValueError(
                    f"recipes.{row.dataset}: is missing; add `{row.dataset}: {{}}` to recipes, or "
                    "in its braces what this data set needs otherwise than the defaults"
                )
        return self

    def dataset(self, name: str) -> DatasetConfig:
        """What the file says of a data set; an unknown name raises ConfigError."""
        if name not in self.datasets:
            raise ConfigError(
                f"params.yaml: datasets.{name}: {not_a_choice(name, [*self.datasets])}"
            )
        return self.datasets[name]

    def experiment(self, row: str) -> Experiment:
        """Return a row's experiment; an unknown name raises ConfigError with the nearest."""
        if row not in self.experiments:
            rows = list(self.experiments)
            raise ConfigError(
                f"params.yaml: experiments has no row {row!r}{nearest(row, rows)}; "
                f"rows: {listed(rows)}"
            )
        return self.experiments[row]


class StudyRow(Experiment):
    """One row of a study: a row of the project, and what is changed of it."""

    row: str


class Study(Section):
    """The params.yaml of a study, read on top of the project's, which `base` names."""

    base: PathText
    seeds: Seeds = Field(default=[0])
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    overrides: Recipe = Recipe()  # of every row
    experiments: dict[RowName, StudyRow] = Field(min_length=1)


def load_params(path: Path | str) -> Params:
    """Read and check params.yaml, the project's or a study's.

    A row consists of `defaults`, then the recipe of its data set (or the one that it names as
    `preset`), then its own keys. In a study these are, one over the other, the keys of the
    project's row `row`, those of `overrides`, and the study's own.

    Raises:
        ConfigError: the file is missing, is not YAML, or a key, type or value in it is wrong; all
            mistakes are listed, each with file, key, value and the nearest valid choice.
    """
    path = Path(path)
    data = read_file(path)
    if "base" in data:
        _checked(Study, path, data)
        base = base_of(path, data)
        load_params(base)
        data = on_base(data, read_file(base), path, base)
    else:
        _checked(Params, path, data)  # as written: names the place of a mistake, also an unused one
    return _checked(Params, path, {**data, "experiments": resolved_rows(data, path)})


_File = TypeVar("_File", Params, Study)


def _checked(kind: type[_File], path: Path, data: Mapping[str, Any]) -> _File:
    datasets = data.get("datasets", PUBLISHED)  # a study's are those of its base
    names = list(datasets) if kind is Params and isinstance(datasets, Mapping) else None
    try:
        return kind.model_validate(data, context=names)
    except ValidationError as error:
        lines = (f"{path}: {explain(kind, problem)}" for problem in error.errors())
        raise ConfigError(joined(lines)) from None


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as `optimizer.lr: '0.004'`, the way MLflow holds them."""
    flat: dict[str, str] = {}
    for key, value in parameters.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": str(value)}
    return flat
