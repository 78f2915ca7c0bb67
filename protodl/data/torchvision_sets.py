"""torchvision's data sets: their raw files, where these come from, and reading them.

torchvision names the files, their checksums and the public addresses, and parses the files.
Shapes: N images, C channels, H x W pixels.
"""

import gzip
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

from protodl.core.dataset_config import DatasetConfig
from protodl.core.errors import ProtodlError
from protodl.data.datasets import Split, problem_of

# The MD5 of files that many people have unpacked, by that of the published one, which is .gz:
# torchvision knows none. MNIST's and Fashion-MNIST's images and labels, training and test.
UNPACKED: Mapping[str, str] = MappingProxyType(
    {
        "f68b3c2dcbeaaa9fbdd348bbdeb94873": "6bbc9ace898e44ae57da46a324031adb",
        "d53e105ee54ea40749a09fcbcd1e9432": "a25bea736e30d166cdddb491f175f624",
        "9fb629c4189551a2d022fa330f9573f3": "2646ac647ad5339dbf082846283269ea",
        "ec29112dd5afa0611ce80d1b7f02629c": "27ae3e4e09519cfbb04c329615203637",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "25c81989df183df01b3e8a0aad5dffbe": "9018921c3c673c538a1fc5bad174d6f9",
        "bef4ecab320f06d8554ea6380940ec79": "8181f5470baa50b63fa0f6fddb340f0a",
        "bb300cfdad3c16e7a12a480ee83cd310": "15d484375f8d13e6eb1aabb0c3f46965",
    }
)

# All that arrays in a pickle are made with.
PICKLED = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }
)


class ReadError(ProtodlError):
    """A data set cannot be read as it is to be; the message says why, and what to do."""


@dataclass(frozen=True)
class Source:
    """One place to fetch raw files from.

    `base` is the URL that relative paths are appended to, after removing the prefix `cut`;
    with `archive_md5` it is instead the URL of one tar archive that holds all files.
    """

    name: str
    base: str
    cut: str = ""
    archive_md5: str | None = None


def torchvision_class(config: DatasetConfig) -> Any:
    """The class that params.yaml names."""
    from torchvision import datasets

    return getattr(datasets, str(config.torchvision))


def published_checksums(config: DatasetConfig) -> dict[str, str]:
    """MD5 of each raw file by its path in a mirror, as torchvision knows them."""
    published, folder = torchvision_class(config), f"{config.torchvision}/raw/"
    if hasattr(published, "tgz_md5"):
        folder = f"{published.base_folder}/"
        meta = (published.meta["filename"], published.meta["md5"])
        files = [*published.train_list, *published.test_list, meta]
    elif hasattr(published, "split_list"):
        folder, files = "", [published.split_list[name][1:] for name in ("train", "test")]
    elif config.split:
        files = [(Path(published.url).name, published.md5)]
    else:
        files = published.resources
    return {f"{folder}{name}": md5 for name, md5 in files}


def public_sources(config: DatasetConfig) -> list[Source]:
    """The public addresses torchvision knows."""
    published, folder = torchvision_class(config), f"{config.torchvision}/raw/"
    if hasattr(published, "tgz_md5"):
        return [Source(published.url, published.url, archive_md5=published.tgz_md5)]
    if hasattr(published, "split_list"):
        urls = [f"{published.split_list['train'][0].rpartition('/')[0]}/"]
    elif config.split:
        urls = [f"{published.url.rpartition('/')[0]}/"]
    else:
        urls = published.mirrors
    return [Source(url, url, cut=folder) for url in urls]


def read_files(name: str, config: DatasetConfig, files: Mapping[str, Path]) -> dict[str, Split]:
    """Read {"train": ..., "test": ...} from raw files with torchvision's own data set.

    `files` gives each by its path in a mirror.

    Labels without images are left out, and the others numbered from 0. The class names are those
    of params.yaml, or torchvision's, or numbers.

    Raises:
        ReadError: `classes` has another number of names, a package is missing, or the files hold
            something else.
    """
    content = dict(_contents(config, files))
    present = content["train"].labels.unique()
    names = config.classes or [_name(content["train"], label) for label in present.tolist()]
    if len(names) != len(present):
        raise ReadError(
            f"params.yaml: datasets.{name}.classes = {names}: {len(names)} names, the data set has "
            f"{len(present)} classes"
        )
    return {
        part: Split(split.images, torch.searchsorted(present, split.labels), tuple(names))
        for part, split in content.items()
    }


def _name(split: Split, label: int) -> str:
    return split.class_names[label] if split.class_names else str(label)


def _contents(config: DatasetConfig, files: Mapping[str, Path]) -> Iterator[tuple[str, Split]]:
    """Both parts as torchvision has them."""
    with tempfile.TemporaryDirectory(prefix="protodl-") as scratch:
        try:
            # torchvision never checks files it unpacked earlier: it finds those in this folder.
            for path, file in files.items():
                _unpack(file, Path(scratch) / path, config)
            for part in ("train", "test"):
                content = reader(config)(scratch, **_arguments(config, part))
                yield part, _split(config, content)
        except Exception as error:  # those who read formats raise many kinds
            if getattr(error, "errno", None):  # a disk's
                raise
            if isinstance(error, ModuleNotFoundError) and error.name == "scipy":
                raise ReadError(
                    f"{config.torchvision}: torchvision reads it with the package scipy; "
                    "install that: python -m pip install scipy"
                ) from error
            folder, reason = next(iter(files.values())).parent, " ".join(str(error).split())
            raise ReadError(
                f"{folder}: the files are no {config.torchvision} ({reason}); delete them, and "
                "they are fetched again"
            ) from error


def _split(config: DatasetConfig, content: Any) -> Split:
    """The images and labels of what torchvision has read."""
    labels = content.labels if hasattr(content, "labels") else content.targets
    labels = torch.as_tensor(labels, dtype=torch.int64)
    split = Split(_images(config, content.data), labels, _names(content))
    if problem := problem_of(split.images, split.labels, split.class_names):
        raise ValueError(problem)
    return split


def _unpack(file: Path, target: Path, config: DatasetConfig) -> None:
    """Put a raw file where torchvision looks for it, unpacked where it expects that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unpacked = target.with_suffix("") if target.suffix == ".gz" else target
    if file.suffix == ".gz":
        unpacked.write_bytes(gzip.decompress(file.read_bytes()))
    elif file.suffix == ".zip":
        with ZipFile(file) as archive:
            for member in archive.namelist():
                if f"emnist-{config.split}-" in member and member.endswith(".gz"):
                    unpacked = target.with_name(Path(member).name).with_suffix("")
                    unpacked.write_bytes(gzip.decompress(archive.read(member)))
    else:
        if hasattr(torchvision_class(config), "tgz_md5"):
            with file.open("rb") as batch:
                _Unpickler(batch, encoding="latin1").load()
        unpacked.symlink_to(file.absolute())


class _Unpickler(pickle.Unpickler):
    """Reads CIFAR's batches before torchvision does, and knows arrays alone: nothing runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("._core", ".core"), name) not in PICKLED:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return super().find_class(module, name)


def _arguments(config: DatasetConfig, part: str) -> dict[str, Any]:
    if config.torchvision == "SVHN":
        return {"split": part}
    return {"train": part == "train", **({"split": config.split} if config.split else {})}


def _images(config: DatasetConfig, data: Any) -> Tensor:
    """uint8 (N, C, H, W) of what torchvision has as (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    images = torch.from_numpy(np.ascontiguousarray(data))
    if config.torchvision == "EMNIST":  # its files hold every image transposed
        images = images.transpose(1, 2)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()


def _names(content: Any) -> tuple[str, ...]:
    return tuple(getattr(content, "classes", ()))


def reader(config: DatasetConfig) -> Any:
    """torchvision's data set, which takes files whose checksums were compared before."""
    published = torchvision_class(config)
    lists = ("train_list", "test_list")
    unchecked = {
        key: [[name, None] for name, _ in getattr(published, key)]
        for key in lists
        if hasattr(published, key)
    }
    # The name must stay: torchvision makes its folder from it.
    return type(published.__name__, (published,), unchecked)
