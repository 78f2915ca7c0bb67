"""Folders of images as data sets: what becomes of them, and every reason to refuse one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from protodl.core.config import TrainingConfig
from protodl.core.dataset_config import DatasetConfig
from protodl.core.files import hash_folder
from protodl.data.datasets import (
    DatasetError,
    DatasetInfo,
    Split,
    info_of,
    load_training,
    save_split,
)
from protodl.data.download import download
from protodl.data.image_folder import FolderError, read_folder
from protodl.data.pictures import as_input
from tests.factories import write_images

COLOURS = {"rose": (200, 0, 0), "tulip": (0, 200, 0), "water lily": (0, 0, 200)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten, twenty and thirty pictures of one colour each, of several sizes and formats."""
    path = tmp_path / "flowers"
    for index, (name, colour) in enumerate(COLOURS.items()):
        write_images(path / name, colour, 10 * (index + 1))
    return path


def config(folder: Path, **keys: object) -> DatasetConfig:
    """What params.yaml would say of it."""
    values = {"folder": str(folder), "size": 12, "channels": 3, **keys}
    return DatasetConfig.model_validate(values)


def read(folder: Path, **keys: object) -> dict[str, Split]:
    """The two parts."""
    return read_folder("flowers", config(folder, **keys), folder)


def black(count: int) -> torch.Tensor:
    """Images of nothing."""
    return torch.zeros(count, 1, 9, 9, dtype=torch.uint8)


def counts(split: Split) -> list[int]:
    """Images of each class."""
    return torch.bincount(split.labels, minlength=len(split.class_names)).tolist()


def test_classes_are_sub_folders_and_a_fifth_of_each_is_kept_for_the_test(folder: Path) -> None:
    parts = read(folder)
    assert parts["train"].class_names == parts["test"].class_names == tuple(COLOURS)
    assert counts(parts["train"]) == [8, 16, 24]
    assert counts(parts["test"]) == [2, 4, 6]
    for split in parts.values():
        assert split.images.shape[1:] == (3, 12, 12)
        assert (split.images.flatten(2).float().mean(dim=2).argmax(dim=1) == split.labels).all()
        assert len(split.labels[:8].unique()) > 1  # in no order


def test_the_same_folder_and_seed_give_the_same_parts(folder: Path) -> None:
    first, again, other = (read(folder, test_seed=seed)["test"] for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert counts(read(folder, test_share=0.5)["test"]) == [5, 10, 15]


def test_an_image_becomes_what_explanations_make_of_it(folder: Path) -> None:
    grey = read(folder, channels=1)
    info = DatasetInfo("f", "f", 1, 12, ("a", "b"), "grey photo")
    shown = as_input(folder / "rose" / "3.png", info).image
    both = torch.cat([part.images for part in grey.values()])
    assert both.shape[1:] == (1, 12, 12)
    assert ((shown * 255).round().to(torch.uint8) == both).flatten(1).all(dim=1).any()


def divided(folder: Path) -> Path:
    """The same pictures, with a train/ and a test/ that has the first ones."""
    target = folder.with_name("divided")
    for name in COLOURS:
        shutil.copytree(folder / name, target / "train" / name)
        (target / "test" / name).mkdir(parents=True)
        for number in range(3):
            (path,) = (target / "train" / name).glob(f"{number}.*")
            path.rename(target / "test" / name / path.name)
    return target


def test_a_divided_folder_is_taken_as_it_is_divided(folder: Path) -> None:
    parts = read(divided(folder))
    assert parts["train"].class_names == tuple(COLOURS)
    assert counts(parts["train"]) == [7, 17, 27]
    assert counts(parts["test"]) == [3, 3, 3]


def test_two_classes_will_do_and_hidden_files_do_not_count(folder: Path) -> None:
    shutil.rmtree(folder / "rose")
    (folder / "tulip" / ".DS_Store").write_text("x")
    (folder / ".cache").mkdir()
    (folder / "tulip" / "more").mkdir()
    (folder / "tulip" / "0.png").rename(folder / "tulip" / "more" / "0.png")
    assert counts(read(folder)["train"]) == [16, 24]


def test_a_class_may_lie_elsewhere_behind_a_link(folder: Path, tmp_path: Path) -> None:
    before, read_before = hash_folder(folder), read(folder)["train"]
    (folder / "rose").rename(tmp_path / "elsewhere")
    (folder / "rose").symlink_to(tmp_path / "elsewhere")
    assert hash_folder(folder) == before
    assert torch.equal(read(folder)["train"].images, read_before.images)
    (tmp_path / "elsewhere" / "0.png").unlink()
    assert hash_folder(folder) != before


def _empty(folder: Path) -> None:
    for path in (folder / "rose").iterdir():
        path.unlink()


def _few(folder: Path) -> None:
    for path in sorted((folder / "rose").iterdir())[2:]:
        path.unlink()


def _unreadable(folder: Path) -> None:
    (folder / "rose" / "1.png").write_bytes(b"not a picture")
    (folder / "rose" / "notes.txt").write_text("roses are red")


def _one_class(folder: Path) -> None:
    shutil.rmtree(folder / "rose")
    shutil.rmtree(folder / "tulip")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_empty, ["too few images of 'rose' (0)", "needs 3 or more", "take its sub-folder out"]),
        (_few, ["too few images of 'rose' (2)"]),
        (
            _unreadable,
            ["2 of the files cannot be read", "1.png: not an image", "notes.txt", "mend them"],
        ),
        (_one_class, ["two or more sub-folders", "only one, 'water lily'"]),
        (shutil.rmtree, ["there is no folder", "correct the path"]),
        (lambda folder: (folder / "rose").rename(folder / "train"), ["train, tulip", "expected"]),
    ],
    ids=["empty class", "few images", "unreadable", "one class", "missing", "train alone"],
)
def test_a_folder_that_cannot_be_used_is_refused(
    damage: Callable[[Path], object], named: list[str], folder: Path
) -> None:
    damage(folder)
    with pytest.raises(FolderError) as error:
        read(folder)
    message = str(error.value)
    assert message.startswith(f"params.yaml: datasets.flowers.folder = {str(folder)!r}: ")
    assert all(part in message for part in named), message


def test_the_parts_of_a_divided_folder_have_the_same_classes(folder: Path) -> None:
    target = divided(folder)
    _empty(target / "test")
    with pytest.raises(FolderError, match=r"too few images of 'rose' \(0\) in .*test"):
        read(target)
    (target / "test" / "rose").rename(target / "test" / "rosa")
    with pytest.raises(FolderError, match="sub-folders of different names"):
        read(target)


def test_a_hash_tells_any_change_and_nothing_else(folder: Path) -> None:
    before, file = hash_folder(folder), folder / "rose" / "0.png"
    shutil.copytree(folder, folder.with_name("copy"))
    assert hash_folder(folder.with_name("copy")) == before
    found = {before}
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    found.add(hash_folder(folder))
    file.rename(folder / "tulip" / "new.png")
    found.add(hash_folder(folder))
    (folder / "tulip" / "new.png").unlink()
    found.add(hash_folder(folder))
    assert len(found) == 4


def test_the_files_of_a_folder_name_its_classes(folder: Path, tmp_path: Path) -> None:
    out, own = tmp_path / "data" / "flowers", config(folder)
    for source in ("full", "sample"):
        sizes = download(
            "flowers", out, raw=tmp_path, sample=tmp_path, config=own, folder=folder, source=source
        )
        assert sizes == {"train": 48, "test": 12}
    assert not (tmp_path / "MNIST").exists()
    train, validation = load_training(out / "train.pt", TrainingConfig())
    assert (len(train), len(validation)) == (39, 9)
    expected = DatasetInfo("flowers", "flowers", 3, 12, tuple(COLOURS))
    assert info_of("flowers", train) == info_of("flowers", validation) == expected


def test_a_class_of_two_training_images_keeps_one_to_train_on(tmp_path: Path) -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    save_split(Split(black(6), labels, ("a", "b", "c")), tmp_path / "train.pt")
    for seed in range(5):
        settings = TrainingConfig(split_seed=seed)
        train, validation = load_training(tmp_path / "train.pt", settings)
        assert (len(validation), len(train.labels.unique())) == (1, 3)


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    split = Split(black(3), torch.tensor([0, 1, 2]), ("a", "b"))
    with pytest.raises(ValueError, match="label 2, but 2 class names"):
        save_split(split, tmp_path / "train.pt")


def test_files_that_name_no_classes_are_of_a_published_set_only() -> None:
    split = Split(black(2), torch.tensor([0, 1]))
    assert info_of("mnist", split).num_classes == 10
    with pytest.raises(DatasetError, match="dvc repro download@flowers"):
        info_of("flowers", split)
