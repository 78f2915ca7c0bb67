"""A folder of images as a data set: a sub-folder for each class, or train/ and test/ with these.

Shapes: N images, C channels, H x W pixels.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from protodl.core.dataset_config import DatasetConfig
from protodl.core.errors import ProtodlError
from protodl.core.files import visible_files
from protodl.data.datasets import Split, other_info, take_of_each
from protodl.data.pictures import InputError, training_image

PARTS = ("train", "test")
FEWEST = 3  # images of a class: one each to train, to validate and to test
NAMED = 5  # files that a message lists


class FolderError(ProtodlError):
    """A folder that cannot be used as a data set; the message says what to change in it."""


def read_folder(name: str, config: DatasetConfig, folder: Path) -> dict[str, Split]:
    """Read {"train": ..., "test": ...}, each in a random order that `test_seed` decides.

    Where the folder itself is not divided, `test_share` of each class are test images, drawn by
    `test_seed`. Pictures are made as `protodl.data.pictures.as_input` makes those to explain.

    Raises:
        FolderError: the folder is missing, has fewer than two classes, a class has too few
            images, or files are no images.
    """
    where = f"params.yaml: datasets.{name}.folder = {config.folder!r}"
    try:
        if not folder.is_dir():
            raise FolderError(f"there is no folder {folder}; correct the path")
        divided = _is_divided(folder)
        if not divided:
            whole = _read(name, config, folder, _classes(folder))
            counts = torch.bincount(whole.labels).tolist()
            _require_images(whole, folder, FEWEST)
            quotas = [max(1, round(config.test_share * count)) for count in counts]
            train, test = take_of_each(whole, quotas, config.test_seed)
            _require_images(train, folder, FEWEST - 1)
        else:
            names = _classes(folder / "train")
            if names != _classes(folder / "test"):
                raise FolderError("train/ and test/ have sub-folders of different names")
            train, test = (_read(name, config, folder / part, names) for part in PARTS)
            _require_images(train, folder / "train", FEWEST - 1)
            _require_images(test, folder / "test", 1)
    except FolderError as error:
        raise FolderError(f"{where}: {error}") from error
    return {"train": _shuffled(train, config.test_seed), "test": _shuffled(test, config.test_seed)}


def _is_divided(folder: Path) -> bool:
    """Whether there are train/ and test/; one of them, or something beside them, is a mistake."""
    found = _sub_folders(folder)
    if not set(PARTS) & set(found):
        return False
    if set(found) != set(PARTS):
        raise FolderError(
            f"has the sub-folders {_listed(found)}; expected train and test with a sub-folder for "
            "each class (validation images are taken from train), or only the classes"
        )
    return True


def _sub_folders(folder: Path) -> list[str]:
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path.name for path in found if path.is_dir())


def _classes(folder: Path) -> list[str]:
    names = _sub_folders(folder)
    if len(names) < 2:
        found = f"only one, {names[0]!r}" if names else "none"
        raise FolderError(
            f"{folder} needs two or more sub-folders, one for each class; it has {found}"
        )
    return names


def _read(name: str, config: DatasetConfig, folder: Path, names: list[str]) -> Split:
    """All images of the classes, in the order of their paths."""
    assert config.size is not None and config.channels is not None
    info = other_info(name, config.channels, config.size, tuple(names))
    images, labels, problems = [], [], []
    for label, class_name in enumerate(names):
        for path in visible_files(folder / class_name):
            try:
                pixels = training_image(path, info)
            except InputError as error:
                problems.append(str(error))
                continue
            images.append((pixels * 255).round().to(torch.uint8))
            labels.append(label)
    if problems:
        raise FolderError(
            f"{len(problems)} of the files cannot be read as images; mend them or take them out: "
            + _listed(problems, "; ")
        )
    if not images:
        raise FolderError(f"{folder} holds no images")
    return Split(torch.stack(images), torch.tensor(labels), tuple(names))


def _require_images(split: Split, folder: Path, fewest: int) -> None:
    counts = torch.bincount(split.labels, minlength=len(split.class_names)).tolist()
    few: Mapping[str, int] = {
        name: count for name, count in zip(split.class_names, counts, strict=True) if count < fewest
    }
    if few:
        listed = _listed(f"{name!r} ({count})" for name, count in few.items())
        raise FolderError(
            f"too few images of {listed} in {folder}: each class needs {fewest} or more there; "
            "add some, or take its sub-folder out"
        )


def _shuffled(split: Split, seed: int) -> Split:
    """In random order: the first images, which pictures are made of, are then of all classes."""
    return split.select(torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)))


def _listed(items: Iterable[str], separator: str = ", ") -> str:
    every = list(items)
    more = f"{separator}and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return separator.join(every[:NAMED]) + more
