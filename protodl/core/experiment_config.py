"""What params.yaml may say of one row: network, loss, augmentation, optimizer, and their bounds."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from protodl.core.dataset_config import LARGEST, PresetName, Seed
from protodl.core.mistakes import Section, one_of

# Encoders, decoders and optimizers by name, each with the place of its class or function,
# `module:name`. A new one needs that and its entry here; its module is imported when it is used.
ENCODERS: dict[str, str] = {
    "small": "protodl.network.layers:SmallEncoder",
    "large": "protodl.network.layers:LargeEncoder",
    "resnet": "protodl.network.residual:ResidualEncoder",
}
DECODERS: dict[str, str] = {
    "deconv": "protodl.network.layers:DeconvDecoder",
    "upconv": "protodl.network.layers:UpsampleDecoder",
    "resnet": "protodl.network.residual:ResidualDecoder",
}
OPTIMIZERS: dict[str, str] = {
    "adam": "protodl.training.optimizers:adam",
    "adamw": "protodl.training.optimizers:adam",
    "sgd": "protodl.training.optimizers:sgd",
    "muon": "protodl.training.optimizers:muon",
}

# Bounds that no data set or machine reaches; what these do allow, protodl.core.check knows.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
# The largest that float32 holds; a training says what is too much.
Rate = Annotated[float, Field(gt=0, le=1e30)]

ReconstructionNorm = Literal["l2", "squared_l2", "l1", "cross_entropy"]


def _registered_in(registry: Mapping[str, str]) -> Callable[[Any], Any]:
    """A validator that lets the names pass which stand in a registry when it is asked."""
    return lambda name: one_of(name, registry)


def _named_here(*others: str) -> Callable[[Any, ValidationInfo], Any]:
    """A validator that lets the data sets of the file pass that is being read, and `others`."""

    def check(name: Any, info: ValidationInfo) -> Any:
        return one_of(name, [*info.context, *others]) if info.context else name

    return check


DatasetName = Annotated[str, BeforeValidator(_named_here())]
RecipeName = Annotated[str, BeforeValidator(_named_here(*get_args(PresetName)))]


def registered(registry: Mapping[str, str], name: str) -> Any:
    """The class or function that a registry has under a name."""
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)


class ModelConfig(Section):
    """The network of one row."""

    renamed: ClassVar = {"partly": "until_class_nearest"}

    architecture: Annotated[str, BeforeValidator(_registered_in(ENCODERS))] = "small"
    decoder: Annotated[str, BeforeValidator(_registered_in(DECODERS))] = "deconv"
    # Between the decoder's layers; `port`: sigmoid for an upconv decoder of grey images, else relu.
    decoder_activation: Literal["relu", "sigmoid", "port"] = "relu"
    width: Annotated[int, Field(ge=1, le=1024)] = 32  # channels of the resnet's first maps
    code_size: Annotated[int, Field(ge=1, le=4096)] = 64  # of the part of its codes with distances
    num_prototypes: Count = 15
    # `none`: no prototypes, a fully connected layer with ReLU in their place (a baseline).
    distance: Literal["euclidean", "squared_euclidean", "none"] = "euclidean"
    head_bias: bool = True
    encoder_init: Literal["torch", "he"] = "torch"
    # `typical`: data that the data set's teacher is surest of.
    prototype_init: Literal["uniform", "xavier", "data", "typical"] = "data"
    # false: they stay where they began (a baseline); `follow_cases`: each stays the code of the
    # training image that it began at.
    train_prototypes: bool | Literal["follow_cases"] = True
    # After the training, onto training images; `until_class_nearest`: no farther than it takes for
    # the nearest one to be of the prototype's class.
    project: bool | Literal["until_class_nearest"] = False
    head_init: Literal["uniform", "kaiming", "class"] = "class"

    @model_validator(mode="after")
    def _prototypes_to_speak_of(self) -> Self:
        if self.distance == "none" and (self.project or self.train_prototypes is not True):
            raise ValueError(
                "distance is none: there are no prototypes to project or to hold; say project: "
                "false and train_prototypes: true"
            )
        return self

    @model_validator(mode="after")
    def _cases_to_follow(self) -> Self:
        if self.train_prototypes == "follow_cases" and (
            self.project or self.prototype_init not in ("data", "typical")
        ):
            raise ValueError(
                "train_prototypes is follow_cases: prototypes are the codes of training images "
                "from the start; say project: false and prototype_init: data or typical"
            )
        return self

    @model_validator(mode="after")
    def _code_in_two_parts(self) -> Self:
        halves = {self.architecture == "resnet", self.decoder == "resnet"}
        if len(halves) > 1:
            raise ValueError(
                "codes of the resnet have two parts, which its decoder alone reads; say "
                "architecture: resnet and decoder: resnet, or neither"
            )
        return self


class LossConfig(Section):
    """Weights (λ) of the loss terms, and the norm of the reconstruction term."""

    renamed: ClassVar = {
        f"prototype_{name}": f"decoded_prototype_{name}"
        for name in ("classification", "share", "start")
    }
    classification: Weight = 20.0
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)  # share of each label for all classes
    reconstruction: Weight = 1.0
    r1: Weight = 1.0
    r2: Weight = 1.0
    reconstruction_norm: ReconstructionNorm = "l2"
    reconstruction_share: float = Field(default=1.0, gt=0, le=1)  # of each batch that is decoded
    decoded_prototype_classification: Weight = 0.0
    cycle: Weight = 0.0
    diversity: Weight = 0.0
    distillation: Weight = 0.0  # of a teacher's answers for the images
    recognition: Weight = 0.0  # by the teacher, of decoded prototypes
    temperature: Annotated[float, Field(gt=0, le=1e3)] = 2.0  # by which these are softened
    # Share of the training without the terms of decoded prototypes, and of these in a step.
    decoded_prototype_start: float = Field(default=0.2, ge=0, lt=1)
    decoded_prototype_share: float = Field(default=1.0, gt=0, le=1)
    # Share of them that is decoded with another one's appearance: codes in two parts only.
    exchanged_appearance: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        if self.classification == 0:
            raise ValueError("classification is 0: nothing would teach the head; use a weight > 0")
        return self


class AugmentConfig(Section):
    """Random changes of each training image; 0 or false switches one off."""

    elastic_alpha: Annotated[float, Field(ge=0, le=1e4)] = 0.0
    elastic_sigma: Annotated[float, Field(gt=0, le=LARGEST)] = 4.0
    shift: Annotated[int, Field(ge=0, lt=LARGEST)] = 0
    flip: bool = False


class OptimizerConfig(Section):
    """Optimizer, learning-rate schedule, gradient clipping and weight averaging."""

    name: Annotated[str, BeforeValidator(_registered_in(OPTIMIZERS))] = "adamw"
    lr: Rate = 4e-3
    weight_decay: Weight = 4e-5
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["constant", "one_cycle"] = "one_cycle"
    warmup: float = Field(default=0.2, ge=0, lt=1)
    clip_norm: Weight = 10.0
    averaging: float = Field(default=0.0, ge=0, lt=1)


class JudgeConfig(Section):
    """The independent classifier of each data set: it never sees a prototype."""

    epochs: Count = 6
    lr: Rate = 5e-3
    batch_size: Count = 125
    seed: Seed = 0


class TeacherConfig(JudgeConfig):
    """The classifier of each data set whose answers the rows may learn from."""

    epochs: Count = 6
    width: Annotated[int, Field(ge=1, le=1024)] = 24  # channels of its first maps
    seed: Seed = 1


class Recipe(Section):
    """What `defaults` and each recipe may say of a training, and a row too."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: Count = 20
    batch_size: Count = 125
    shuffle: bool = True


class RowOrigin(Section):
    """What decides which recipe a row begins with: its data set's, or that of `preset`."""

    dataset: DatasetName
    preset: PresetName | None = None


class Experiment(Recipe, RowOrigin):
    """One row of the results table. (The keys of the last base class come first.)"""
