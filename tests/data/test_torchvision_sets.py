"""torchvision's other data sets, as real files of theirs with invented content, from a mirror."""

import gzip
import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import torch
from torchvision import datasets

from protodl.core.dataset_config import DatasetConfig
from protodl.data.datasets import Split, info_of, load_split
from protodl.data.download import download
from protodl.data.torchvision_sets import ReadError, public_sources, published_checksums

Bytes = npt.NDArray[np.uint8]
TRAIN, TEST = 40, 20
RANDOM = np.random.default_rng(3)
GREY, COLOUR = (RANDOM.integers(0, 256, (TRAIN, *s), np.uint8) for s in ((28, 28), (32, 32, 3)))


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(values: Bytes) -> bytes:
    """The format of MNIST and its followers, compressed."""
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return gzip.compress(head + values.tobytes(), mtime=0)


def idx_files(prefixes: Mapping[str, int], labels: Bytes) -> dict[str, bytes]:
    """Images and labels of each part."""
    return {
        f"{prefix}-{kind}-ubyte.gz": idx(values[:count])
        for prefix, count in prefixes.items()
        for kind, values in (("images-idx3", GREY), ("labels-idx1", labels))
    }


def write(mirror: Path, files: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Write files of a mirror; their names and checksums."""
    mirror.mkdir(parents=True)
    for name, content in files.items():
        (mirror / name).write_bytes(content)
    return [(name, md5(content)) for name, content in files.items()]


def cycle(first: int, count: int) -> Bytes:
    """Labels that take turns."""
    return (first + np.arange(TRAIN) % count).astype(np.uint8)


def kmnist(mirror: Path, patch: pytest.MonkeyPatch) -> None:
    files = idx_files({"train": TRAIN, "t10k": TEST}, cycle(0, 10))
    patch.setattr(datasets.KMNIST, "resources", write(mirror / "KMNIST" / "raw", files))


def letters(mirror: Path, patch: pytest.MonkeyPatch) -> None:
    """Labels from 1, images transposed, all in one archive."""
    parts = {f"emnist-letters-{part}": n for part, n in (("train", TRAIN), ("test", TEST))}
    (mirror / "EMNIST" / "raw").mkdir(parents=True)
    path = mirror / "EMNIST" / "raw" / "gzip.zip"
    with ZipFile(path, "w") as archive:
        for name, content in idx_files(parts, cycle(1, 4)).items():
            archive.writestr(f"gzip/{name}", content)
        archive.writestr("gzip/emnist-digits-train-labels-idx1-ubyte.gz", b"of another split")
    patch.setattr(datasets.EMNIST, "md5", md5(path.read_bytes()))


def svhn(mirror: Path, patch: pytest.MonkeyPatch) -> None:
    """Matrices of MATLAB, in which 0 has the label 10."""
    mirror.mkdir(parents=True)
    listed = dict(datasets.SVHN.split_list)
    for part, count in (("train", TRAIN), ("test", TEST)):
        url, name, _ = listed[part]
        labels = (1 + np.arange(count) % 10)[:, None].astype(np.uint8)
        matrices = {"X": COLOUR[:count].transpose(1, 2, 3, 0), "y": labels}
        scipy.io.savemat(mirror / name, matrices)
        listed[part] = [url, name, md5((mirror / name).read_bytes())]
    patch.setattr(datasets.SVHN, "split_list", listed)


def cifar100(mirror: Path, patch: pytest.MonkeyPatch) -> None:
    data = {"data": COLOUR.transpose(0, 3, 1, 2).reshape(TRAIN, -1)}
    labels = {"fine_labels": [int(label) for label in cycle(0, 20)]}
    names = {"fine_label_names": [f"thing {k}" for k in range(20)]}
    contents = {"train": data | labels, "test": data | labels, "meta": names}
    files = {name: pickle.dumps(content) for name, content in contents.items()}
    sums = dict(write(mirror / "cifar-100-python", files))
    patch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    patch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    patch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": sums["meta"]})


def usps(mirror: Path, patch: pytest.MonkeyPatch) -> None:
    """Lines of text, compressed."""
    import bz2

    mirror.mkdir(parents=True)
    listed = {}
    for part, (url, name, _) in datasets.USPS.split_list.items():
        pixels = " ".join(f"{k}:{k / 128 - 1:.3f}" for k in range(1, 257))
        content = bz2.compress("".join(f"{1 + n % 10} {pixels}\n" for n in range(TEST)).encode())
        (mirror / name).write_bytes(content)
        listed[part] = [url, name, md5(content)]
    patch.setattr(datasets.USPS, "split_list", listed)


Maker = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def obtained(
    make: Maker, config: DatasetConfig, folder: Path, patch: pytest.MonkeyPatch
) -> tuple[Split, Split]:
    """Both parts of a data set, by way of a mirror and files on disk."""
    make(folder / "mirror", patch)
    out, mirror = folder / "out", str(folder / "mirror")
    download("other", out, raw=folder / "raw", sample=folder, config=config, mirror=mirror)
    return load_split(out / "train.pt"), load_split(out / "test.pt")


@pytest.mark.parametrize(
    ("make", "config", "shape", "names"),
    [
        (kmnist, DatasetConfig(torchvision="KMNIST"), (1, 28, 28), ["o", "ki", "su"]),
        (letters, DatasetConfig(torchvision="EMNIST", split="letters"), (1, 28, 28), list("abcd")),
        (svhn, DatasetConfig(torchvision="SVHN"), (3, 32, 32), list("0123456789")),
        (cifar100, DatasetConfig(torchvision="CIFAR100"), (3, 32, 32), ["thing 0", "thing 1"]),
        (usps, DatasetConfig(torchvision="USPS"), (1, 16, 16), list("0123456789")),
    ],
)
def test_a_data_set_of_torchvision_has_its_shape_and_its_class_names(
    make: Maker,
    config: DatasetConfig,
    shape: tuple[int, int, int],
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, test = obtained(make, config, tmp_path, monkeypatch)
    info = info_of("other", train)
    assert info.shape == shape == tuple(test.images.shape[1:])
    assert list(info.class_names[: len(names)]) == names
    assert train.labels.unique().tolist() == list(range(info.num_classes))
    if make is svhn:
        assert train.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    if make in (svhn, cifar100):
        assert torch.equal(train.images[7], torch.from_numpy(COLOUR[7]).permute(2, 0, 1))
    if make in (kmnist, letters):
        assert torch.equal(train.images[7, 0], torch.from_numpy(GREY[7]).T if make is letters
                           else torch.from_numpy(GREY[7]))  # fmt: skip


def test_names_of_ones_own_take_the_place_of_torchvisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = DatasetConfig(torchvision="KMNIST", classes=[f"sign {k}" for k in range(10)])
    train, _ = obtained(kmnist, own, tmp_path / "ten", monkeypatch)
    assert train.class_names[3] == "sign 3"
    short = DatasetConfig(torchvision="KMNIST", classes=["a", "b"])
    with pytest.raises(ReadError, match=r"datasets\.other\.classes = .* 2 names, .* 10 classes"):
        obtained(kmnist, short, tmp_path / "two", monkeypatch)


def test_a_published_set_under_another_name_has_torchvisions_class_names(tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "data" / "sample"
    config = DatasetConfig(torchvision="FashionMNIST")
    download("clothes", tmp_path, raw=tmp_path, sample=sample, config=config, source="sample")
    assert load_split(tmp_path / "train.pt").class_names == tuple(datasets.FashionMNIST.classes)
    download("fashion-mnist", tmp_path, raw=tmp_path, sample=sample, source="sample")
    assert load_split(tmp_path / "train.pt").class_names == ()


@pytest.mark.parametrize("name", ["KMNIST", "EMNIST", "SVHN", "CIFAR100", "USPS"])
def test_its_files_come_from_where_torchvision_says(name: str) -> None:
    split = "letters" if name == "EMNIST" else None
    keys = {"torchvision": name, **({"split": split} if split else {})}
    config, published = DatasetConfig.model_validate(keys), getattr(datasets, name)
    (source,) = public_sources(config)
    if name == "CIFAR100":
        assert (source.base, source.archive_md5) == (published.url, published.tgz_md5)
        return
    addresses = {
        source.base + path.removeprefix(source.cut) for path in published_checksums(config)
    }
    if name == "KMNIST":
        assert addresses == {published.mirrors[0] + file for file, _ in published.resources}
    elif name == "EMNIST":
        assert addresses == {published.url}
    else:
        assert addresses == {published.split_list[part][0] for part in ("train", "test")}
