"""The data sets of params.yaml: each one of torchvision's, or a folder of images."""

import os
import re
from typing import Annotated, Literal, NamedTuple, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from protodl.core.mistakes import Section, shown

# Those whose images have one size. Images of other sources: a folder.
TorchvisionName = Literal[
    "MNIST", "FashionMNIST", "KMNIST", "EMNIST", "USPS", "SVHN", "CIFAR10", "CIFAR100"
]
EmnistSplit = Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]
LONGEST_PATH, LONGEST_NAME = 1000, 100  # characters of a path, and of a class's name
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what torch's generators take
SMALLEST, LARGEST = 9, 512  # pixels a side: what the encoders can halve, what memory can hold
OF_TORCHVISION, OF_FOLDER = ("split", "classes"), ("size", "channels", "test_share", "test_seed")
PresetName = Literal["paper", "port", "resnet-gpu"]  # recipes that are no data set's
RESERVED_NAMES = ("raw", "sample", *get_args(PresetName))  # no data set can have them


class Facts(NamedTuple):
    """What is known of a data set before it is fetched."""

    size: int  # pixels a side
    num_train: int  # training images
    num_classes: int


TORCHVISION: dict[str, Facts] = {
    "MNIST": Facts(28, 60_000, 10),
    "FashionMNIST": Facts(28, 60_000, 10),
    "KMNIST": Facts(28, 60_000, 10),
    "USPS": Facts(16, 7_291, 10),
    "SVHN": Facts(32, 73_257, 10),
    "CIFAR10": Facts(32, 50_000, 10),
    "CIFAR100": Facts(32, 50_000, 100),
    "byclass": Facts(28, 697_932, 62),
    "bymerge": Facts(28, 697_932, 47),
    "balanced": Facts(28, 112_800, 47),
    "letters": Facts(28, 124_800, 26),
    "digits": Facts(28, 240_000, 10),
    "mnist": Facts(28, 60_000, 10),
}  # EMNIST by its splits
SAMPLED = {"MNIST": 2_000, "FashionMNIST": 2_000, "CIFAR10": 1_200}  # training images in the sample


def _class_names(names: list[str]) -> list[str]:
    if len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise ValueError(f"{shown(names)}: each class needs a name of its own")
    for name in names:
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"{shown(name)}: a name has at most {LONGEST_NAME} characters that can be printed"
            )
    return names


def _path(text: str) -> str:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError("no path of this system has such characters")
    return text


PathText = Annotated[str, Field(min_length=1, max_length=LONGEST_PATH), AfterValidator(_path)]


class DatasetConfig(Section):
    """One data set: `torchvision` and its keys, or `folder` and its keys."""

    torchvision: TorchvisionName | None = None
    split: EmnistSplit | None = None  # of EMNIST
    classes: Annotated[list[str], Field(min_length=2), AfterValidator(_class_names)] | None = None
    folder: PathText | None = None
    size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)] | None = None  # pixels a side
    channels: Literal[1, 3] | None = None
    test_share: float = Field(default=0.2, gt=0, lt=1)  # where the folder has no test/
    test_seed: Seed = 0  # decides which images these are

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.torchvision is None) == (self.folder is None):
            raise ValueError("say either torchvision: (its class) or folder: (of images)")
        source, foreign = (
            ("torchvision", OF_FOLDER) if self.torchvision else ("folder", OF_TORCHVISION)
        )
        for key in foreign:
            if key in self.model_fields_set:
                raise ValueError(f"{key} does not belong to {source}: take it out")
        if self.folder and (self.size is None or self.channels is None):
            raise ValueError(
                "a folder needs size (pixels a side that its images are brought to) and "
                "channels (1: grey, 3: colour)"
            )
        if (self.torchvision == "EMNIST") != (self.split is not None):
            raise ValueError("split (letters, digits, ...) belongs to EMNIST, which needs it")
        return self

    @property
    def facts(self) -> Facts | None:
        """Those of torchvision's data set; None of a folder."""
        return TORCHVISION.get(self.split or self.torchvision or "")

    @property
    def in_sample(self) -> bool:
        """Whether data/sample/ has some of its images."""
        return self.torchvision in SAMPLED


def _dataset_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name) or name in RESERVED_NAMES:
        raise ValueError(
            f"data set name {shown(name)}: use at most 64 lower-case letters, digits and '-', and "
            f"none of {', '.join(RESERVED_NAMES)}"
        )
    return name


Datasets = Annotated[
    dict[Annotated[str, AfterValidator(_dataset_name)], DatasetConfig], Field(min_length=1)
]
PUBLISHED: dict[str, DatasetConfig] = {
    "mnist": DatasetConfig(torchvision="MNIST"),
    "fashion-mnist": DatasetConfig(torchvision="FashionMNIST"),
    "cifar10": DatasetConfig(torchvision="CIFAR10"),
}
