"""Sources, verification and the download stage, on the embedded sample and loopback servers."""

import gzip
import hashlib
import importlib.util
import io
import json
import shutil
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from protodl.core.dataset_config import PUBLISHED
from protodl.data.datasets import DATASETS, load_split
from protodl.data.download import (
    DownloadError,
    download,
    mirror_source,
    obtain,
    parse,
    sample_checksums,
    sources,
)
from protodl.data.torchvision_sets import (
    Source,
    public_sources,
    published_checksums,
    reader,
    torchvision_class,
)
from stages.download import main
from tests.data.servers import Server, break_off

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "data" / "sample"
COUNTS = {"mnist": (2000, 500), "fashion-mnist": (2000, 500), "cifar10": (1200, 400)}
IMAGES = "MNIST/raw/train-images-idx3-ubyte.gz"
LABELS = "MNIST/raw/train-labels-idx1-ubyte.gz"
TEST_LABELS = "MNIST/raw/t10k-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protodl.data.fetch.BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("PROTODL_DATA_MIRROR", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A copy of the sample's MNIST and CIFAR-10 that a test may damage."""
    folder = tmp_path / "a mirror"
    for name in ("MNIST", "cifar-10-batches-py"):
        shutil.copytree(SAMPLE / name, folder / name)
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Where the raw files go."""
    return tmp_path / "raw"


@pytest.fixture
def closed() -> Iterator[str]:
    """An address on the loopback device where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound but not listening: refused, and not taken by others
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"


def checksums(dataset: str) -> dict[str, str]:
    """What the sample's files promise."""
    return sample_checksums(PUBLISHED[dataset], SAMPLE)


def files_in(folder: Path) -> set[str]:
    """Everything in a folder, hidden files too."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def load_maker() -> ModuleType:
    """data/make_sample.py as a module."""
    spec = importlib.util.spec_from_file_location("make_sample", ROOT / "data" / "make_sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The sample


@pytest.mark.parametrize("dataset", DATASETS)
def test_sample_becomes_two_balanced_splits(dataset: str, tmp_path: Path) -> None:
    counts = download(
        dataset, tmp_path / dataset, source="sample", raw=tmp_path / "raw", sample=SAMPLE
    )
    assert files_in(tmp_path) == {f"{dataset}/train.pt", f"{dataset}/test.pt"}
    for name, count in zip(("train", "test"), COUNTS[dataset], strict=True):
        split = load_split(tmp_path / dataset / f"{name}.pt")
        assert counts[name] == len(split) == count
        assert split.images.shape == (count, *DATASETS[dataset].shape)
        assert torch.bincount(split.labels).tolist() == [count // 10] * 10
        assert len({image.numpy().tobytes() for image in split.images}) == count
        assert (int(split.images.min()), int(split.images.max())) == (0, 255)


@pytest.mark.parametrize("dataset", DATASETS)
def test_output_has_the_same_bytes_each_time(dataset: str, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        download(dataset, tmp_path / folder, source="sample", raw=tmp_path, sample=SAMPLE)
    for name in ("train.pt", "test.pt"):
        first, second = tmp_path / "first" / name, tmp_path / "second" / name
        assert first.read_bytes() == second.read_bytes()


def test_images_and_labels_are_those_of_the_files() -> None:
    splits = parse("mnist", PUBLISHED["mnist"], SAMPLE, checksums("mnist"))
    pixels = gzip.decompress((SAMPLE / IMAGES).read_bytes())[16:]
    labels = gzip.decompress((SAMPLE / LABELS).read_bytes())[8:]
    assert splits["train"].images.numpy().tobytes() == pixels
    assert splits["train"].labels.tolist() == list(labels)


def test_colour_images_are_upright_with_the_channels_first() -> None:
    from torchvision.transforms.functional import pil_to_tensor

    config = PUBLISHED["cifar10"]
    splits = parse("cifar10", PUBLISHED["cifar10"], SAMPLE, checksums("cifar10"))
    published = reader(config)(SAMPLE, train=True)
    assert isinstance(published, torchvision_class(config))
    for index in (0, 17, 1199):
        picture, label = published[index]
        assert torch.equal(splits["train"].images[index], pil_to_tensor(picture))
        assert splits["train"].labels[index] == label


@pytest.mark.parametrize("dataset", ["fashion-mnist", "cifar10"])
def test_class_names_are_those_of_torchvision(dataset: str) -> None:
    published = reader(PUBLISHED[dataset])
    classes = published.classes if dataset == "fashion-mnist" else published(SAMPLE).classes
    assert tuple(classes) == DATASETS[dataset].class_names


def test_sample_never_uses_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for dataset in DATASETS:
        download(
            dataset,
            tmp_path,
            source="sample",
            raw=tmp_path,
            sample=SAMPLE,
            mirror="http://127.0.0.1:9/",
        )


def test_sample_is_small_and_complete() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 7.5e6
    listed = json.loads((SAMPLE / "checksums.json").read_text())
    assert {path: md5 for d in DATASETS for path, md5 in checksums(d).items()} == listed
    assert files_in(SAMPLE) - set(listed) == {"checksums.json", "FashionMNIST/LICENSE"}
    for dataset in DATASETS:  # laid out exactly like a mirror of the full data
        assert set(checksums(dataset)) == set(published_checksums(PUBLISHED[dataset]))


def test_damaged_sample_is_refused(mirror: Path, tmp_path: Path) -> None:
    shutil.copy(SAMPLE / "checksums.json", mirror)
    (mirror / LABELS).write_bytes(b"not labels")
    with pytest.raises(DownloadError, match=f"wrong checksum: {LABELS}.*git checkout"):
        download("mnist", tmp_path / "out", source="sample", raw=tmp_path, sample=mirror)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("listed", ["{}", "[1]", f'{{"{LABELS}": "x"}}'])
def test_sample_that_does_not_list_its_files_is_refused(
    listed: str, mirror: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mirror / "checksums.json").write_text(listed)
    assert main([*ARGUMENTS, "--sample", str(mirror)]) == 1
    assert f"error: the sample {mirror} is not usable" in capsys.readouterr().err
    assert not (project / "data").exists()


def test_absent_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"nowhere.*git checkout"):
        download("mnist", tmp_path, source="sample", raw=tmp_path, sample=tmp_path / "nowhere")


def test_sample_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    maker = load_maker()
    expected = json.loads((SAMPLE / "checksums.json").read_text())
    sizes = {"mnist": (50, 20), "fashion-mnist": (20, 10), "cifar10": (50, 10)}
    for folder in ("a", "b"):
        maker.make_sample(SAMPLE, tmp_path / folder, sizes, expected)
    assert len(files_in(tmp_path / "a")) == len(expected) + 1
    for path in files_in(tmp_path / "a"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    for dataset, (train, test) in sizes.items():
        small = parse(
            dataset,
            PUBLISHED[dataset],
            tmp_path / "a",
            sample_checksums(PUBLISHED[dataset], tmp_path / "a"),
        )
        large = parse(dataset, PUBLISHED[dataset], SAMPLE, checksums(dataset))
        assert (len(small["train"]), len(small["test"])) == (train, test)
        for name, split in small.items():
            assert torch.bincount(split.labels).tolist() == [len(split) // 10] * 10
            pictures = {
                (picture.numpy().tobytes(), int(label))
                for picture, label in zip(large[name].images, large[name].labels, strict=True)
            }
            drawn = zip(split.images, split.labels, strict=True)
            assert {(p.numpy().tobytes(), int(label)) for p, label in drawn} <= pictures


# Sources


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("kind", ["folder", "file", "http", "http/"])
def test_mirror_in_each_form(dataset: str, kind: str, mirror: Path, raw: Path) -> None:
    expected = checksums(dataset)
    with Server(mirror) as server:
        address = {
            "folder": str(mirror),
            "file": mirror.as_uri(),
            "http": server.url,
            "http/": f"{server.url}/",
        }[kind]
        obtain(dataset, expected, raw, [mirror_source(address)])
    assert files_in(raw) == set(expected)
    (raw / "another").touch()
    modes = {path.stat().st_mode for path in raw.rglob("*") if path.is_file()}
    assert len(modes) == 1  # readable by whoever may read what this user writes
    parse(dataset, PUBLISHED[dataset], raw, expected)


def test_archive_is_unpacked_and_not_kept(mirror: Path, raw: Path, tmp_path: Path) -> None:
    archive = tmp_path / "public" / "cifar.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(mirror / "cifar-10-batches-py", "cifar-10-batches-py")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    with Server(archive.parent) as server:
        address = f"{server.url}/cifar.tar.gz"
        obtain("cifar10", checksums("cifar10"), raw, [Source("public", address, archive_md5=md5)])
    assert files_in(raw) == set(checksums("cifar10"))


@pytest.mark.faults
def test_no_member_of_an_archive_leaves_its_folder(raw: Path, mirror: Path, tmp_path: Path) -> None:
    archive = tmp_path / "public.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(mirror / "cifar-10-batches-py", "cifar-10-batches-py")
        for name in ("../../evil", str(tmp_path / "evil"), "cifar-10-batches-py/../../../evil"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    before = set(tmp_path.rglob("*"))
    source = Source("public", archive.as_uri(), archive_md5=md5)
    obtain("cifar10", checksums("cifar10"), raw, [source])
    assert files_in(raw) == set(checksums("cifar10"))
    new = set(tmp_path.rglob("*")) - before
    assert all(raw in (path, *path.parents) for path in new)


def test_archive_with_wrong_checksum_or_lacking_a_file_is_refused(
    mirror: Path, raw: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "cifar.tar.gz"
    (mirror / "cifar-10-batches-py" / "data_batch_3").unlink()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(mirror / "cifar-10-batches-py", "cifar-10-batches-py")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    places = [
        Source("altered", archive.as_uri(), archive_md5="0" * 32),
        Source("incomplete", archive.as_uri(), archive_md5=md5),
    ]
    with pytest.raises(DownloadError) as failure:
        obtain("cifar10", checksums("cifar10"), raw, places)
    altered, incomplete = str(failure.value).splitlines()[-3:-1]
    assert "altered: the archive: wrong content" in altered
    assert "incomplete: cifar-10-batches-py/data_batch_3: not in the archive" in incomplete
    assert files_in(raw) < set(checksums("cifar10")) - {"cifar-10-batches-py/data_batch_3"}


def test_verified_files_are_not_fetched_again(raw: Path, mirror: Path, closed: str) -> None:
    places = [mirror_source(str(mirror))]
    obtain("mnist", checksums("mnist"), raw, places)
    stamp = (raw / IMAGES).stat().st_mtime_ns
    obtain("mnist", checksums("mnist"), raw, [mirror_source(closed)])
    assert (raw / IMAGES).stat().st_mtime_ns == stamp


def test_only_missing_and_wrong_files_are_fetched(raw: Path, mirror: Path) -> None:
    shutil.copytree(SAMPLE / "MNIST", raw / "MNIST")
    (raw / LABELS).unlink()
    (raw / IMAGES).write_bytes((raw / IMAGES).read_bytes()[:1000])
    with Server(mirror) as server:
        obtain("mnist", checksums("mnist"), raw, [mirror_source(server.url)])
    assert sorted(server.requested) == [f"/{IMAGES}", f"/{LABELS}"]
    assert (raw / IMAGES).read_bytes() == (SAMPLE / IMAGES).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "altered", "longer", "empty"])
def test_wrong_file_in_the_mirror_is_refused(damage: str, mirror: Path, raw: Path) -> None:
    content = (mirror / LABELS).read_bytes()
    (mirror / LABELS).write_bytes(
        {
            "truncated": content[:-1],
            "altered": content[:-1] + bytes([content[-1] ^ 1]),
            "longer": content + b"\n",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(DownloadError, match=f"{LABELS}: wrong content"):
        obtain("mnist", checksums("mnist"), raw, [mirror_source(str(mirror))])
    assert files_in(raw) == set(checksums("mnist")) - {LABELS}


def test_download_broken_off_leaves_nothing_and_is_resumed(mirror: Path, raw: Path) -> None:
    expected = checksums("mnist")
    shutil.copytree(SAMPLE / "MNIST", raw / "MNIST")
    (raw / IMAGES).unlink()
    with Server(mirror, break_off) as server, pytest.raises(DownloadError) as failure:
        obtain("mnist", expected, raw, [mirror_source(server.url)])
    size = (mirror / IMAGES).stat().st_size
    assert f"{IMAGES}: broke off after {size // 2:,} bytes" in str(failure.value)
    assert files_in(raw) == set(expected) - {IMAGES}
    with Server(mirror) as server:
        obtain("mnist", expected, raw, [mirror_source(server.url)])
    assert server.requested == [f"/{IMAGES}"]
    assert files_in(raw) == set(expected)


def test_next_source_completes_what_the_first_began(
    mirror: Path, raw: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(mirror / "MNIST" / "raw", flat)
    (mirror / LABELS).unlink()
    with Server(mirror) as first, Server(flat) as second:
        public = Source("public", f"{second.url}/", cut="MNIST/raw/")
        obtain("mnist", checksums("mnist"), raw, [mirror_source(first.url), public])
    assert files_in(raw) == set(checksums("mnist"))
    assert f"/{Path(IMAGES).name}" not in second.requested


def test_error_names_each_source_its_reason_and_the_next_step(
    mirror: Path, raw: Path, closed: str, tmp_path: Path
) -> None:
    (mirror / IMAGES).unlink()
    (raw / "MNIST/raw").mkdir(parents=True)
    (raw / IMAGES).write_bytes(b"half")
    server = Server(mirror)
    places = [
        mirror_source(server.url),
        mirror_source(str(tmp_path / "absent")),
        Source("public one", closed, cut="MNIST/raw/"),
    ]
    with server, pytest.raises(DownloadError) as failure:
        obtain("mnist", checksums("mnist"), raw, places)
    lines = str(failure.value).splitlines()
    assert f"already in {raw}" in lines[1]
    assert f"not there: MNIST/raw/t10k-images-idx3-ubyte.gz, {TEST_LABELS}, {LABELS}" in lines[1]
    assert f"wrong checksum: {IMAGES}" in lines[1]
    assert f"PROTODL_DATA_MIRROR={server.url}: {IMAGES}: HTTP 404" in lines[2]
    assert "absent" in lines[3]
    assert "no such file" in lines[3]
    assert f"public one: {IMAGES}" in lines[4]
    assert "refused" in lines[4]
    assert "PROTODL_DATA_MIRROR" in lines[5]
    assert "`dvc repro download@mnist`" in lines[5]
    assert "`make demo`" in lines[5]


def test_error_says_that_no_mirror_was_named(raw: Path, closed: str) -> None:
    with pytest.raises(DownloadError, match="PROTODL_DATA_MIRROR: not set"):
        obtain("mnist", checksums("mnist"), raw, [Source("public", closed)])


def test_silent_server_is_given_up(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protodl.data.fetch.TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        started = time.monotonic()
        with pytest.raises(DownloadError, match="timed out"):
            obtain("mnist", checksums("mnist"), raw, [Source("silent", address)])
    assert time.monotonic() - started < 5


def test_mirror_comes_before_the_public_sources() -> None:
    assert sources(PUBLISHED["mnist"], "/somewhere")[0] == mirror_source("/somewhere")
    assert (
        sources(PUBLISHED["mnist"], "/somewhere")[1:]
        == sources(PUBLISHED["mnist"], None)
        == sources(PUBLISHED["mnist"], "")
    )


def test_public_sources_are_those_of_torchvision() -> None:
    from torchvision import datasets

    assert [s.base for s in public_sources(PUBLISHED["mnist"])] == datasets.MNIST.mirrors
    assert [
        s.base for s in public_sources(PUBLISHED["fashion-mnist"])
    ] == datasets.FashionMNIST.mirrors
    assert [s.base for s in public_sources(PUBLISHED["cifar10"])] == [datasets.CIFAR10.url]
    assert public_sources(PUBLISHED["cifar10"])[0].archive_md5 == datasets.CIFAR10.tgz_md5


def test_full_data_is_known_by_the_checksums_of_torchvision() -> None:
    assert published_checksums(PUBLISHED["mnist"])[IMAGES] == "f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert published_checksums(PUBLISHED["cifar10"]) == {
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
        "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    }


def test_unknown_kind_of_mirror_is_refused_at_once(raw: Path) -> None:
    with pytest.raises(DownloadError, match="PROTODL_DATA_MIRROR=ftp://host/: must be a folder"):
        download("mnist", raw, raw=raw, sample=SAMPLE, mirror="ftp://host/")
    assert not raw.exists()


# The reading by torchvision


def test_files_unpacked_earlier_are_not_trusted(mirror: Path) -> None:
    expected = checksums("mnist")
    before = parse("mnist", PUBLISHED["mnist"], mirror, expected)["train"]
    (mirror / LABELS).with_suffix("").write_bytes(b"a leftover of an interrupted unpacking")
    assert torch.equal(
        parse("mnist", PUBLISHED["mnist"], mirror, expected)["train"].labels, before.labels
    )


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_what_is_read_is_checked_again(dataset: str, mirror: Path) -> None:
    expected = checksums(dataset)
    damaged = next(iter(expected))
    (mirror / damaged).write_bytes((mirror / damaged).read_bytes()[:-1])
    with pytest.raises(DownloadError, match=f"wrong checksum: {damaged}"):
        parse(dataset, PUBLISHED[dataset], mirror, expected)


# The stage


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project on the sample, as current folder."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    write_params(tmp_path, "sample")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(folder: Path, source: str) -> None:
    """A params.yaml that the stage accepts."""
    text = f"seeds: [0]\ndata: {{source: {source}}}\nexperiments: {{row: {{dataset: mnist}}}}\n"
    (folder / "params.yaml").write_text(text)


ARGUMENTS = ["mnist", "--output", "data/mnist", "--params", "params.yaml"]


def test_stage_writes_the_sample(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--sample", str(SAMPLE)]) == 0
    assert len(load_split(project / "data/mnist/train.pt")) == 2000
    assert "mnist: 2,000 training and 500 test images" in capsys.readouterr().out


def test_stage_finds_the_sample_of_its_checkout(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "sample").symlink_to(SAMPLE)
    assert main(ARGUMENTS) == 0
    assert len(load_split(project / "data/mnist/test.pt")) == 500


def test_stage_refuses_other_bytes_than_the_full_data_and_names_the_mirror(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed: str
) -> None:
    from torchvision import datasets

    write_params(project, "full")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [closed])
    monkeypatch.setenv("PROTODL_DATA_MIRROR", str(SAMPLE))
    assert main(ARGUMENTS) == 1
    error = capsys.readouterr().err
    assert "error: mnist: no source gave all the files" in error
    assert f"PROTODL_DATA_MIRROR={SAMPLE}: {IMAGES}: wrong content" in error
    assert f"{closed}: {IMAGES}: " in error
    assert "refused" in error
    assert not (project / "data" / "mnist").exists()


def test_stage_keeps_raw_files_at_the_root_of_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    # The sample's own checksums in place of the full data's: real files, real verification.
    names = [(Path(path).name, md5) for path, md5 in checksums("mnist").items()]
    monkeypatch.setattr(datasets.MNIST, "resources", names)
    monkeypatch.setenv("PROTODL_DATA_MIRROR", SAMPLE.as_uri())
    write_params(project, "full")
    copy = project / "experiment"
    copy.mkdir()
    write_params(copy, "full")
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(copy)
    assert main(ARGUMENTS) == 0
    assert files_in(project / "data" / "raw") == set(checksums("mnist"))
    monkeypatch.setenv("PROTODL_DATA_MIRROR", "ftp://host/")  # wrong, and nothing is left to fetch
    shutil.rmtree(copy / "data")
    assert main(ARGUMENTS) == 0
    assert len(load_split(copy / "data/mnist/train.pt")) == 2000


def test_stage_names_a_mistake_in_params(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(project, "samples")
    assert main(ARGUMENTS) == 1
    assert "data.source = 'samples'" in capsys.readouterr().err


def test_stage_refuses_an_unknown_data_set(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mnst", "--output", "data/mnst", "--params", "params.yaml"]) == 1
    assert "datasets.mnst: not a valid choice; did you mean 'mnist'?" in capsys.readouterr().err
    assert not (project / "data").exists()
