"""torchvision's data sets: their raw files, where these come from, and reading them.

torchvision names the files, their checksums and the public addresses, and parses the files.
Shapes: N images, C channels, H x W pixels.
"""

import gzip
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

from protodl.core.dataset_config import DatasetConfig
from protodl.core.errors import ProtodlError
from protodl.data.datasets import Split


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


def read_files(
    name: str, config: DatasetConfig, folder: Path, checksums: Mapping[str, str]
) -> dict[str, Split]:
    """Read {"train": ..., "test": ...} from raw files with torchvision's own data set.

    Labels without images are left out, and the others numbered from 0. The class names are those
    of params.yaml, or torchvision's, or numbers.

    Raises:
        ReadError: `classes` has another number of names, or a package is missing.
    """
    content = dict(_contents(config, folder, checksums))
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


def _contents(
    config: DatasetConfig, folder: Path, checksums: Mapping[str, str]
) -> Iterator[tuple[str, Split]]:
    """Both parts as torchvision has them."""
    with tempfile.TemporaryDirectory(prefix="protodl-") as scratch:
        # torchvision never checks files it unpacked earlier: it finds those of this folder only.
        for path in checksums:
            _unpack(folder / path, Path(scratch) / path, config)
        for part in ("train", "test"):
            try:
                content = reader(config)(scratch, **_arguments(config, part))
            except ModuleNotFoundError as error:  # SciPy, for SVHN
                raise ReadError(
                    f"{config.torchvision}: torchvision reads it with the package {error.name}; "
                    f"install that: python -m pip install {error.name}"
                ) from error
            labels = content.labels if hasattr(content, "labels") else content.targets
            labels = torch.as_tensor(labels, dtype=torch.int64)
            yield part, Split(_images(config, content.data), labels, _names(content))


def _unpack(file: Path, target: Path, config: DatasetConfig) -> None:
    """Put a raw file where torchvision looks for it, unpacked where it expects that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".gz":
        target.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    elif file.suffix == ".zip":
        with ZipFile(file) as archive:
            for member in archive.namelist():
                if f"emnist-{config.split}-" in member and member.endswith(".gz"):
                    unpacked = target.with_name(Path(member).name).with_suffix("")
                    unpacked.write_bytes(gzip.decompress(archive.read(member)))
    else:
        target.symlink_to(file.absolute())


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
