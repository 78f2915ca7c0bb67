"""params.yaml as frozen, typed objects; every mistake in it is named before any work starts."""

import difflib
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

# Encoders and decoders by name, each with the place of its class, `module:Class`. A new one needs
# its class and its entry here; no module of the network is imported until a network is built.
ENCODERS: dict[str, str] = {
    "small": "protodl.network.layers:SmallEncoder",
    "large": "protodl.network.layers:LargeEncoder",
}
DECODERS: dict[str, str] = {
    "deconv": "protodl.network.layers:DeconvDecoder",
    "upconv": "protodl.network.layers:UpsampleDecoder",
}

from protodl.core.errors import ProtodlError

DatasetName = Literal["mnist", "fashion-mnist", "cifar10"]
PresetName = Literal["paper", "port"]
ReconstructionNorm = Literal["l2", "squared_l2", "l1"]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what torch's generators take

# The two published variants (Li et al. 2018 with its TensorFlow code; the PyTorch port): what a row
# with `preset:` starts from. A key written in the row wins over the preset.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "model": {
            "distance": "squared_euclidean",
            "head_bias": False,
            "prototype_init": "uniform",
            "head_init": "uniform",
            "decoder_activation": "relu",
        },
        "loss": {"classification": 20, "reconstruction_norm": "squared_l2"},
        "augment": {"elastic_alpha": 20, "elastic_sigma": 4, "shift": 0, "flip": False},
        "optimizer": {
            "name": "adam",
            "lr": 2e-3,
            "weight_decay": 0,
            "schedule": "constant",
            "clip_norm": 0,
            "averaging": 0,
        },
        "epochs": 1500,
        "batch_size": 250,
    },
    "port": {
        "model": {
            "distance": "euclidean",
            "head_bias": True,
            "prototype_init": "xavier",
            "head_init": "kaiming",
            "decoder_activation": "port",
        },
        "loss": {"classification": 20, "reconstruction_norm": "l2"},
        "augment": {"elastic_alpha": 20, "elastic_sigma": 4, "shift": 0, "flip": False},
        "optimizer": {
            "name": "adam",
            "lr": 2e-3,
            "weight_decay": 4e-5,
            "schedule": "constant",
            "clip_norm": 1,
            "averaging": 0,
        },
        "epochs": 1500,
        "batch_size": 250,
    },
}


class ConfigError(ProtodlError):
    """A mistake in params.yaml; the message names the file, the key, the value and the remedy."""


class Section(BaseModel):
    """A part of params.yaml: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _registered_in(registry: Mapping[str, str]) -> Callable[[Any], Any]:
    """A validator that lets the names pass which stand in a registry when it is asked."""

    def check(name: Any) -> Any:
        if isinstance(name, str) and name in registry:
            return name
        text = _not_a_choice(str(name), list(registry))
        raise PydanticCustomError("unknown_name", "{text}", {"text": text})

    return check


class ModelConfig(Section):
    """The network of one row."""

    architecture: Annotated[str, BeforeValidator(_registered_in(ENCODERS))] = "small"
    decoder: Annotated[str, BeforeValidator(_registered_in(DECODERS))] = "deconv"
    # Between the decoder's layers; `port`: sigmoid for an upconv decoder of grey images, else relu.
    decoder_activation: Literal["relu", "sigmoid", "port"] = "relu"
    num_prototypes: PositiveInt = 15
    # `none`: no prototypes, a fully connected layer with ReLU in their place (a baseline).
    distance: Literal["euclidean", "squared_euclidean", "none"] = "euclidean"
    head_bias: bool = True
    encoder_init: Literal["torch", "he"] = "torch"
    prototype_init: Literal["uniform", "xavier", "data"] = "data"
    train_prototypes: bool = True  # false: they stay where they began (a baseline)
    # After the training, onto training cases; `partly`: until one of its own class is the nearest.
    project: bool | Literal["partly"] = False
    head_init: Literal["uniform", "kaiming", "class"] = "class"

    @model_validator(mode="after")
    def _prototypes_to_speak_of(self) -> Self:
        if self.distance == "none" and (self.project or not self.train_prototypes):
            raise ValueError(
                "distance is none: there are no prototypes to project or to hold; leave out "
                "project and train_prototypes"
            )
        return self


class LossConfig(Section):
    """Weights (λ) of the loss terms, and the norm of the reconstruction term."""

    classification: NonNegativeFloat = 20.0
    reconstruction: NonNegativeFloat = 1.0
    r1: NonNegativeFloat = 1.0
    r2: NonNegativeFloat = 1.0
    reconstruction_norm: ReconstructionNorm = "l2"
    reconstruction_share: float = Field(default=1.0, gt=0, le=1)  # of each batch that is decoded
    prototype_classification: NonNegativeFloat = 0.0
    cycle: NonNegativeFloat = 0.0
    diversity: NonNegativeFloat = 0.0
    prototype_start: float = Field(default=0.2, ge=0, lt=1)  # share of training without these two
    prototype_share: float = Field(default=1.0, gt=0, le=1)  # of the prototypes that a step takes

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if self.classification == 0:
            raise ValueError("classification is 0: nothing would teach the head; use a weight > 0")
        return self


class AugmentConfig(Section):
    """Random changes of each training image; 0 or false switches one off."""

    elastic_alpha: NonNegativeFloat = 0.0
    elastic_sigma: PositiveFloat = 4.0
    shift: NonNegativeInt = 0
    flip: bool = False


class OptimizerConfig(Section):
    """Optimizer, learning-rate schedule, gradient clipping and weight averaging."""

    name: Literal["adam", "adamw", "sgd", "muon"] = "adamw"
    lr: PositiveFloat = 4e-3
    weight_decay: NonNegativeFloat = 4e-5
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["constant", "one_cycle"] = "one_cycle"
    warmup: float = Field(default=0.2, ge=0, lt=1)
    clip_norm: NonNegativeFloat = 10.0
    averaging: float = Field(default=0.0, ge=0, lt=1)


class JudgeConfig(Section):
    """The plain classifier of each data set that judges pictures without knowing prototypes."""

    epochs: PositiveInt = 6
    lr: PositiveFloat = 5e-3
    batch_size: PositiveInt = 125
    seed: Seed = 0


class Experiment(Section):
    """One row of the results table."""

    dataset: DatasetName
    preset: PresetName | None = None
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 125
    shuffle: bool = True

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, data: Any) -> Any:
        name = data.get("preset") if isinstance(data, Mapping) else None
        return _merge(PRESETS[name], data) if isinstance(name, str) and name in PRESETS else data


class DataConfig(Section):
    """Which images the download stages deliver."""

    source: Literal["full", "sample"] = "full"


class TrainingConfig(Section):
    """Settings that all rows share."""

    validation_size: PositiveInt = 5000
    split_seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: NonNegativeInt = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    cuda_graph: bool = False
    checkpoint_every: PositiveInt = 1
    pictures_every: PositiveInt = 5


class Params(Section):
    """The whole of params.yaml."""

    seeds: list[Seed] = Field(min_length=1)
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    judge: JudgeConfig = JudgeConfig()
    experiments: dict[str, Experiment] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound_names_and_seeds(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: each seed may stand once")
        for row in self.experiments:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", row):
                raise ValueError(
                    f"experiments: row name {row!r}: use lower-case letters, digits and '-' only"
                )
        return self

    def experiment(self, row: str) -> Experiment:
        """Return a row's experiment; an unknown name raises ConfigError with the nearest."""
        if row not in self.experiments:
            rows = list(self.experiments)
            raise ConfigError(
                f"params.yaml: experiments has no row {row!r}{_nearest(row, rows)}; "
                f"rows: {', '.join(rows)}"
            )
        return self.experiments[row]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats and without silent duplicates."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = None
            if not isinstance(key, Hashable):
                problem = f"{key!r} cannot be a key"
            elif key in seen:
                problem = f"key {key!r} stands twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 6e-4 is a string; `dvc exp run -S` writes exactly such numbers.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def load_params(path: Path | str) -> Params:
    """Read and check params.yaml.

    Raises:
        ConfigError: the file is missing, is not YAML, or a key, type or value in it is wrong; all
            mistakes are listed, each with file, key, value and the nearest valid choice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a YAML file") from error
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys {', '.join(Params.model_fields)}, found {data!r}")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        lines = [f"{path}: {_explain(problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `over` on top, section by section."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(problem: Mapping[str, Any]) -> str:
    """One line for one pydantic error: key, value, what is wrong, nearest valid choice."""
    location = [part for part in problem["loc"] if part != "[key]"]
    key = ".".join(str(part) for part in location)
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        valid = list(_section_at(location[:-1]).model_fields)
        return (
            f"{key} = {value!r}: unknown key{_nearest(str(location[-1]), valid)}; valid keys: "
            + (", ".join(valid))
        )
    if problem["type"] == "missing":
        return f"{key}: is missing; add it"
    if problem["type"] == "literal_error":
        return f"{key} = {value!r}: {_not_a_choice(str(value), _choices_at(location))}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        valid = list(_section_at(location).model_fields)
        return f"{key} = {value!r}: should hold keys; valid keys: {', '.join(valid)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {value!r}: {message[:1].lower()}{message[1:]}"


def _section_at(location: list[Any]) -> type[Section]:
    """The config class that stands at a key path such as ('experiments', row, 'loss')."""
    section: type[Section] = Params
    parts = iter(location)
    for part in parts:
        if section is Params and part == "experiments":
            next(parts, None)  # the row's name, which may be that of a section
            section = Experiment
        else:
            annotation = section.model_fields[part].annotation
            assert isinstance(annotation, type) and issubclass(annotation, Section)
            section = annotation
    return section


def _choices_at(location: list[Any]) -> list[str]:
    """The values that the Literal at a key path allows."""
    annotation = _section_at(location[:-1]).model_fields[location[-1]].annotation
    choices: list[str] = []
    for choice in get_args(annotation):
        choices += [str(value) for value in get_args(choice)] or [str(choice)]
    return [choice for choice in choices if choice != "<class 'NoneType'>"]


def _not_a_choice(word: str, valid: list[str]) -> str:
    return f"not a valid choice{_nearest(word, valid)}; choices: {', '.join(valid)}"


def _nearest(word: str, valid: list[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no valid word is close."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as `optimizer.lr: '0.004'`, the way MLflow holds them."""
    flat: dict[str, str] = {}
    for key, value in parameters.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": str(value)}
    return flat
