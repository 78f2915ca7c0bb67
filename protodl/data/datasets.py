"""Data sets: what they are, their splits as one uint8 tensor, and the validation part.

Shapes: N images, C channels, H, W. Importing this module costs milliseconds: torch comes late,
torchvision never (protodl.data.download has it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from protodl.core.errors import ProtodlError
from protodl.core.files import load_tensors, write_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from protodl.core.config import TrainingConfig
    from protodl.core.training_log import SeedFacts


class DatasetError(ProtodlError):
    """A split file that is not of the expected kind."""


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of one data set."""

    name: str
    title: str
    channels: int
    size: int
    class_names: tuple[str, ...]
    preparation: str = (
        "photo"  # of people's own pictures: a key of protodl.data.photos.PREPARATIONS
    )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: (C, H, W)."""
        return (self.channels, self.size, self.size)


_CLOTHES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
_THINGS = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
_INFOS = (
    DatasetInfo("mnist", "MNIST", 1, 28, tuple("0123456789"), "digit"),
    DatasetInfo("fashion-mnist", "Fashion-MNIST", 1, 28, tuple(_CLOTHES.split(", ")), "garment"),
    DatasetInfo("cifar10", "CIFAR-10", 3, 32, tuple(_THINGS.split(", ")), "photo"),
)
# The published ones, whose files hold no class names. Of others `info_of` gives the same facts.
DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in _INFOS})


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, C, H, W), their labels int64 (N,), and the names of the K classes."""

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...] = ()  # none in the files of the published data sets

    def __len__(self) -> int:
        """Number of images N."""
        return self.labels.shape[0]

    def select(self, indices: torch.Tensor) -> Split:
        """The images at `indices` (int64, any length), copied."""
        return Split(self.images[indices], self.labels[indices], self.class_names)


def info_of(dataset: str, split: Split) -> DatasetInfo:
    """Facts of a data set, from one of its splits."""
    if not split.class_names:
        return _published(dataset)
    channels, size = split.images.shape[1:3]
    return other_info(dataset, channels, size, split.class_names)


def recorded_info(facts: SeedFacts) -> DatasetInfo:
    """Facts of the data set that a seed was trained on, from its log."""
    if not facts.class_names:
        return _published(facts.dataset)
    channels, size, _ = facts.image_shape
    return other_info(facts.dataset, channels, size, facts.class_names)


def other_info(dataset: str, channels: int, size: int, class_names: tuple[str, ...]) -> DatasetInfo:
    """Facts of a data set that is not one of the published ones."""
    preparation = "grey photo" if channels == 1 else "photo"
    return DatasetInfo(dataset, dataset, channels, size, class_names, preparation)


def _published(dataset: str) -> DatasetInfo:
    if dataset not in DATASETS:
        raise DatasetError(
            f"data/{dataset}: its files do not name its classes; run `dvc repro download@{dataset}`"
        )
    return DATASETS[dataset]


def save_split(split: Split, path: Path) -> None:
    """Write a split; the same content gives the same bytes whatever the file is called.

    Raises:
        ValueError: images or labels have the wrong shape or type.
    """
    import torch

    if problem := problem_of(split.images, split.labels, split.class_names):
        raise ValueError(f"{path}: cannot write this split: {problem}")
    # A view would be saved with its whole storage.
    images, labels = (
        t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for t in (split.images, split.labels)
    )
    names = {"class_names": list(split.class_names)} if split.class_names else {}
    write_tensors({"images": images, "labels": labels, **names}, path)


def load_split(path: Path) -> Split:
    """Read a split written by the download stage.

    Raises:
        CheckpointError: the file is missing or damaged.
        DatasetError: it holds something else.
    """
    content = load_tensors(path, _advice(path))
    needed = {"images", "labels"}
    if not isinstance(content, dict) or set(content) - {"class_names"} != needed:
        raise DatasetError(f"{path}: not a split of images and labels; {_advice(path)}")
    names = content.get("class_names", ())
    if problem := problem_of(content["images"], content["labels"], names):
        raise DatasetError(f"{path}: {problem}; {_advice(path)}")
    return Split(content["images"], content["labels"], tuple(names))


def _advice(path: Path) -> str:
    name = Path(path).absolute().parent.name
    return f"run `dvc repro download@{name}`"


def problem_of(images: object, labels: object, class_names: object) -> str | None:
    """What keeps this from being uint8 (N, C, H, W) and int64 (N,) of the classes, or None."""
    import torch

    if not isinstance(images, torch.Tensor) or not isinstance(labels, torch.Tensor):
        return "images and labels must be tensors"
    if not isinstance(class_names, list | tuple) or not {*map(type, class_names)} <= {str}:
        return "class names must be texts"
    if images.dtype != torch.uint8 or images.ndim != 4:
        return f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}"
    if labels.dtype != torch.int64 or labels.ndim != 1:
        return f"labels must be int64 (N,), not {labels.dtype} {tuple(labels.shape)}"
    if not 0 < images.shape[0] == labels.shape[0]:
        return f"{images.shape[0]} images and {labels.shape[0]} labels"
    if int(labels.min()) < 0:
        return f"label {int(labels.min())} is negative"
    if class_names and int(labels.max()) >= len(class_names):
        return f"label {int(labels.max())}, but {len(class_names)} class names"
    return None


def load_training(path: Path, settings: TrainingConfig) -> tuple[Split, Split]:
    """Read train.pt, divided into training and validation images as params.yaml says.

    Raises:
        CheckpointError, DatasetError, ConfigError: as `load_split` and `split_validation`.
    """
    split = load_split(path)
    size = settings.num_validation(len(split), published=not split.class_names)
    return split_validation(split, size, settings.split_seed)


def split_validation(split: Split, size: int = 5000, seed: int = 0) -> tuple[Split, Split]:
    """Divide into (training, validation), `size` images in the latter, stratified by class.

    Each class is represented in proportion, to within one image. Depends on labels, size and seed
    only; the global random state is neither read nor changed. Both parts keep the original order.

    Raises:
        ConfigError: `size` is not between 1 and N - 1.
    """
    import torch

    from protodl.core.config import ConfigError  # late: this module is to be light

    total = len(split)
    if not 0 < size < total:
        raise ConfigError(
            f"params.yaml: training.validation_size = {size}: must be between 1 and {total - 1}, "
            f"as there are {total} training images (the embedded sample is small: use 400)"
        )
    return take_of_each(split, _quotas(torch.bincount(split.labels).tolist(), size), seed)


def take_of_each(split: Split, quotas: Sequence[int], seed: int) -> tuple[Split, Split]:
    """Take quotas[k] images of class k, drawn by `seed`; what is left, and what was taken."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator)
    shuffled_labels = split.labels[order]
    taken = torch.zeros(len(split), dtype=torch.bool)
    for label, quota in enumerate(quotas):
        taken[order[shuffled_labels == label][:quota]] = True
    return split.select((~taken).nonzero()[:, 0]), split.select(taken.nonzero()[:, 0])


def _quotas(counts: list[int], size: int) -> list[int]:
    """Share `size` among classes of these counts: whole parts, then the largest remainders."""
    parts = [divmod(size * count, sum(counts)) for count in counts]
    quotas = [whole for whole, _ in parts]
    by_remainder = sorted(range(len(counts)), key=lambda label: -parts[label][1])
    for label in by_remainder[: size - sum(quotas)]:
        quotas[label] += 1
    return quotas


def to_unit_interval(images: torch.Tensor) -> torch.Tensor:
    """Scale uint8 images of any shape to exactly x / 255 in [0, 1], as float32.

    Raises:
        ValueError: the images are not uint8 (scaled twice, most likely).
    """
    import torch

    if images.dtype != torch.uint8:
        raise ValueError(f"images to scale must be uint8, not {images.dtype}")
    # A Python scalar becomes a multiplication by its reciprocal on CUDA, a bit off x / 255.
    divisor = torch.full((), 255, dtype=torch.float32, device=images.device)
    return images.float() / divisor


EVALUATION_BATCH = 500


def batches(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (N, C, H, W) in [0, 1] and labels (N,) in order, batch by batch."""
    for images, labels in zip(
        split.images.split(EVALUATION_BATCH), split.labels.split(EVALUATION_BATCH), strict=True
    ):
        yield to_unit_interval(images.to(device)), labels.to(device)
