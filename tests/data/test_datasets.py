"""Split files, the validation part and the scaling to [0, 1]."""

import math
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from protodl.core.config import ConfigError
from protodl.core.dataset_config import PUBLISHED
from protodl.core.files import CheckpointError
from protodl.data.datasets import (
    DATASETS,
    DatasetError,
    Split,
    load_split,
    save_split,
    split_validation,
    to_unit_interval,
)


def make_split(counts: list[int], shape: tuple[int, int, int] = (1, 2, 3)) -> Split:
    """A shuffled split with counts[k] images of class k; each image carries its own number."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = torch.zeros(len(labels), *shape, dtype=torch.uint8)
    numbers = torch.arange(len(labels))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers % 256, numbers // 256
    return Split(images, labels)


def numbers_of(split: Split) -> list[int]:
    """The numbers that make_split wrote into the images."""
    pixels = split.images[:, 0, 0].long()
    return (pixels[:, 0] + 256 * pixels[:, 1]).tolist()


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_table_and_configuration_name_the_same_data_sets() -> None:
    assert list(DATASETS) == list(PUBLISHED)
    assert all(name == info.name for name, info in DATASETS.items())


@pytest.mark.parametrize("dataset", DATASETS)
def test_ten_different_class_names(dataset: str) -> None:
    assert DATASETS[dataset].num_classes == len(set(DATASETS[dataset].class_names)) == 10


def test_importing_datasets_is_light() -> None:
    loaded = python("import sys, protodl.data.datasets; print(*sys.modules)").split()
    assert not {"torch", "torchvision", "numpy", "pydantic"} & set(loaded)


def test_a_split_is_read_and_divided_without_torchvision(tmp_path: Path) -> None:
    save_split(make_split([6, 4]), tmp_path / "train.pt")
    loaded = python(
        "import sys; from pathlib import Path\n"
        "from protodl.data.datasets import split_validation, load_split\n"
        f"split = load_split(Path({str(tmp_path / 'train.pt')!r})); split_validation(split, 5)\n"
        "print(*sys.modules)"
    ).split()
    assert "torch" in loaded
    assert "torchvision" not in loaded


def test_split_survives_the_file(tmp_path: Path) -> None:
    split = make_split([3, 4], shape=(3, 4, 5))
    save_split(split, tmp_path / "new" / "train.pt")
    loaded = load_split(tmp_path / "new" / "train.pt")
    assert len(loaded) == 7
    assert torch.equal(loaded.images, split.images)
    assert torch.equal(loaded.labels, split.labels)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["train.pt"]


def test_same_content_gives_same_bytes_whatever_the_name(tmp_path: Path) -> None:
    split = make_split([30, 40])
    save_split(split, tmp_path / "a" / "train.pt")
    save_split(Split(split.images.clone(), split.labels.clone()), tmp_path / "b" / "other-name.pt")
    first, second = (tmp_path / "a/train.pt", tmp_path / "b/other-name.pt")
    assert first.read_bytes() == second.read_bytes()


def test_a_view_is_saved_without_the_rest_of_its_storage(tmp_path: Path) -> None:
    split = make_split([300, 400], shape=(3, 8, 8))
    view = Split(split.images.permute(0, 1, 3, 2)[:10], split.labels[:10])
    save_split(view, tmp_path / "train.pt")
    assert (tmp_path / "train.pt").stat().st_size < 5_000
    loaded = load_split(tmp_path / "train.pt")
    assert loaded.images.is_contiguous()
    assert torch.equal(loaded.images, view.images)


def test_saving_replaces_an_older_file_and_a_refused_split_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "train.pt"
    save_split(make_split([3, 4]), path)
    save_split(make_split([5, 6]), path)
    wrong = Split(torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="uint8"):
        save_split(wrong, path)
    assert len(load_split(path)) == 11


def test_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not there.*`dvc repro download@mnist`"):
        load_split(tmp_path / "mnist" / "train.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cifar10" / "train.pt"
    save_split(make_split([300, 400]), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(
        CheckpointError, match=r"train.pt: cannot be read.*`dvc repro download@cifar10`"
    ):
        load_split(path)


def test_altered_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mnist" / "train.pt"
    split = make_split([20, 20], shape=(1, 28, 28))
    save_split(split, path)
    content = bytearray(path.read_bytes())
    start = content.index(split.images.numpy().tobytes())
    content[start + 5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_split(path)


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04 nothing", b"\x80\x02]q\x00."])
def test_other_kinds_of_file_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mnist" / "train.pt"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"train.pt: .*`dvc repro download@mnist`"):
        load_split(path)


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 2, 2).byte(), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 1, 2, 2).byte(), torch.zeros(2), "int64"),
        (torch.zeros(2, 1, 2, 2).byte(), torch.zeros(3, dtype=torch.int64), "2 images and 3"),
        (torch.zeros(0, 1, 2, 2).byte(), torch.zeros(0, dtype=torch.int64), "0 images"),
        (torch.zeros(2, 1, 2, 2).byte(), torch.tensor([0, -1]), "negative"),
        ([1], torch.zeros(2, dtype=torch.int64), "tensors"),
    ],
)
def test_wrong_shapes_and_types_are_refused(
    tmp_path: Path, images: object, labels: object, problem: str
) -> None:
    torch.save({"images": images, "labels": labels}, tmp_path / "train.pt")
    with pytest.raises(DatasetError, match=problem):
        load_split(tmp_path / "train.pt")


def test_a_zip_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.pt", "w") as archive:
        archive.writestr("readme", "not written by torch")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_split(tmp_path / "train.pt")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"images": Path("x"), "labels": print}, tmp_path / "train.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_split(tmp_path / "train.pt")


@pytest.mark.parametrize("names", [None, 3, "ab", [1, 2]])
def test_other_class_names_are_refused(tmp_path: Path, names: object) -> None:
    images, labels = torch.zeros(2, 1, 2, 2).byte(), torch.zeros(2, dtype=torch.int64)
    content = {"images": images, "labels": labels, "class_names": names}
    torch.save(content, tmp_path / "train.pt")
    with pytest.raises(DatasetError, match=r"train\.pt: class names must be texts"):
        load_split(tmp_path / "train.pt")


def test_other_keys_are_refused(tmp_path: Path) -> None:
    torch.save({"images": torch.zeros(1)}, tmp_path / "train.pt")
    with pytest.raises(DatasetError, match="not a split"):
        load_split(tmp_path / "train.pt")


COUNTS = [[100] * 10, [59, 67, 60, 61, 58, 54, 59, 63, 59, 60], [1, 1, 1000], [5, 0, 7], [2, 2]]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("share", [0.001, 0.1, 0.33, 0.5, 0.97])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_hold_out_is_an_exact_stratified_partition(
    counts: list[int], share: float, seed: int
) -> None:
    split = make_split(counts)
    size = min(max(1, round(share * len(split))), len(split) - 1)
    train, validation = split_validation(split, size, seed)
    assert (len(train), len(validation)) == (len(split) - size, size)
    assert sorted(numbers_of(train) + numbers_of(validation)) == list(range(len(split)))
    for label, count in enumerate(counts):
        exact = Fraction(size * count, len(split))
        held = int((validation.labels == label).sum())
        assert math.floor(exact) <= held <= math.ceil(exact)


def test_hold_out_keeps_images_with_their_labels_and_in_order() -> None:
    split = make_split([50, 70, 30])
    for part in split_validation(split, 40, seed=3):
        numbers = numbers_of(part)
        assert numbers == sorted(numbers)
        assert torch.equal(part.labels, split.labels[numbers])


def test_hold_out_depends_on_the_seed_alone() -> None:
    split = make_split([500, 700, 300])
    torch.manual_seed(1)
    first = numbers_of(split_validation(split, 100, seed=3)[1])
    torch.manual_seed(2)
    assert numbers_of(split_validation(split, 100, seed=3)[1]) == first
    assert numbers_of(split_validation(split, 100, seed=4)[1]) != first


def test_hold_out_is_the_same_for_ever() -> None:
    validation = split_validation(make_split([20, 20, 20]), 6, seed=0)[1]
    assert numbers_of(validation) == [3, 25, 31, 44, 47, 49]


def test_hold_out_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    split_validation(make_split([50, 70]), 20, seed=9)
    assert torch.equal(torch.get_rng_state(), before)


def test_hold_out_copies() -> None:
    split = make_split([5, 5])
    split_validation(split, 4)[0].images.fill_(255)
    assert int(split.images.max()) < 255


@pytest.mark.parametrize("size", [-1, 0, 10, 11, 5000])
def test_hold_out_refuses_impossible_sizes(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"validation_size = {size}: must be between 1 and 9"):
        split_validation(make_split([5, 5]), size)


def test_scaling_is_exact_for_every_pixel_value() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    exact = torch.tensor([value / 255 for value in range(256)], dtype=torch.float64)
    scaled = to_unit_interval(pixels)
    assert torch.equal(scaled.flatten(), exact.float())
    assert (float(scaled.min()), float(scaled.max())) == (0.0, 1.0)


def test_scaling_gives_float32_and_keeps_shape_and_memory_format() -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8).to(memory_format=torch.channels_last)
    scaled = to_unit_interval(images)
    assert scaled.dtype == torch.float32
    assert scaled.shape == images.shape
    assert scaled.is_contiguous(memory_format=torch.channels_last)


def test_scaling_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_unit_interval(to_unit_interval(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)))
