"""Mirrors that misbehave, and data that people have in another form, on loopback servers."""

import gzip
import hashlib
import io
import itertools
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from protodl.core.dataset_config import PUBLISHED
from protodl.data import fetch as fetching
from protodl.data.download import DownloadError, mirror_source, obtain, parse, sources
from protodl.data.fetch import FetchError, fetch
from protodl.data.torchvision_sets import UNPACKED, Source, torchvision_class
from tests.data.servers import Answer, Handler, Server, break_off
from tests.disks import read_only_disk, small_disk

pytestmark = pytest.mark.faults
CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
MD5 = hashlib.md5(CONTENT).hexdigest()
NAMES = [
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(fetching, "TIMEOUT_SECONDS", 0.2)


@pytest.fixture(name="served")
def _served(tmp_path: Path) -> Path:
    """A folder with one file."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file.gz").write_bytes(CONTENT)
    return folder


@pytest.fixture(name="target")
def _target(tmp_path: Path) -> Iterator[Path]:
    """Where the file goes; nothing else may be left there."""
    folder = tmp_path / "raw"
    folder.mkdir()
    yield folder / "file.gz"
    assert {path.name for path in folder.iterdir()} <= {"file.gz"}


def _turns(*answers: Answer) -> Answer:
    """One answer after the other, over and over."""
    turn = itertools.cycle(answers)
    return lambda handler: next(turn)(handler)


def _rest(handler: Handler) -> None:
    """What was asked for, half of it at most; a server that knows ranges."""
    begin = int(handler.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
    whole = len(CONTENT)
    said = {"Content_Range": f"bytes {begin}-{whole - 1}/{whole}"} if begin else {}
    handler.head(206 if begin else 200, Content_Length=whole - begin, **said)
    handler.wfile.write(CONTENT[begin:][: max(100_000, (whole - begin) // 2)])


def _another_part(handler: Handler) -> None:
    """The first half, and then the first bytes again in place of the second half."""
    if "Range" not in handler.headers:
        return break_off(handler)
    handler.head(206, Content_Length=100, Content_Range=f"bytes 0-99/{len(CONTENT)}")
    handler.wfile.write(CONTENT[:100])
    return None


def _nothing(handler: Handler) -> None:
    handler.close_connection = True


def _silent(_: Handler) -> None:
    time.sleep(0.3)


def _silent_in_the_middle(handler: Handler) -> None:
    break_off(handler)
    handler.wfile.flush()
    time.sleep(0.3)


def _drip(handler: Handler) -> None:
    handler.head(200, Content_Length=len(CONTENT))
    for byte in CONTENT[:100]:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def _endless(handler: Handler) -> None:
    handler.head(200)
    while True:
        handler.wfile.write(CONTENT)


def _busy(handler: Handler) -> None:
    handler.head(503, Content_Length=0, Retry_After=86_400)


def _page(handler: Handler) -> None:
    page = b"<html>Please log in</html>"
    handler.head(200, Content_Length=len(page), Content_Type="text/html")
    handler.wfile.write(page)


def _shorter(handler: Handler) -> None:
    handler.head(200, Content_Length=1000)
    handler.wfile.write(CONTENT[:1000])


def _longer(handler: Handler) -> None:
    handler.head(200, Content_Length=len(CONTENT) + 1)
    handler.wfile.write(CONTENT)


def _in_chunks(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.head(200, Transfer_Encoding="chunked", Connection="close")
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT))


def _half_in_chunks(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.head(200, Transfer_Encoding="chunked", Connection="close")
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(CONTENT) // 2, CONTENT[: len(CONTENT) // 2]))


def _said_to_be_packed(handler: Handler) -> None:
    handler.head(200, Content_Encoding="gzip", Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT)


def _elsewhere(handler: Handler) -> None:
    if handler.path == "/moved/file.gz":
        handler.path = "/file.gz"
        return handler.whole()
    return handler.head(302, Location="/moved/file.gz", Content_Length=0)


def _in_circles(handler: Handler) -> None:
    handler.head(302, Location=handler.path, Content_Length=0)


def _to_a_file(handler: Handler) -> None:
    handler.head(302, Location="file:///etc/hostname", Content_Length=0)


def _not_there(handler: Handler) -> None:
    handler.send_error(404)


RECOVERED = {
    "drops every other request": _turns(_nothing, Handler.whole),
    "breaks off every other time": _turns(break_off, Handler.whole),
    "breaks off, and goes on where it was": _rest,
    "falls silent every other time": _turns(_silent, Handler.whole),
    "falls silent in the middle": _turns(_silent_in_the_middle, Handler.whole),
    "is busy at first": _turns(_busy, Handler.whole),
    "breaks off in chunks": _turns(_half_in_chunks, _in_chunks),
    "says it is packed": _said_to_be_packed,
    "redirects": _elsewhere,
}
REFUSED = {
    "drops every request": (_nothing, "closed connection"),
    "always breaks off": (break_off, "broke off after 256,000 bytes, tried again"),
    "always silent": (_silent, "timed out"),
    "always silent in the middle": (_silent_in_the_middle, "nothing for 0.2 s after 256,000 bytes"),
    "drips": (_drip, "slower than 1,000 bytes a second"),
    "has no end": (_endless, "more than 5,000,000 bytes"),
    "is busy": (_busy, "HTTP 503"),
    "shows a page": (_page, "wrong content"),
    "sends less than there is": (_shorter, "wrong content"),
    "announces more than there is": (_longer, "broke off after 512,000 bytes"),
    "sends another part": (_another_part, "wrong content"),
    "redirects in circles": (_in_circles, "redirects"),
    "redirects to a file": (_to_a_file, "file:///etc/hostname"),
    "does not have it": (_not_there, "HTTP 404"),
}


@pytest.mark.parametrize("name", RECOVERED)
def test_a_mirror_that_recovers_is_waited_for(name: str, served: Path, target: Path) -> None:
    with Server(served, RECOVERED[name]) as server:
        fetch(f"{server.url}/file.gz", target, MD5)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("name", REFUSED)
def test_a_mirror_that_does_not_is_given_up(
    name: str, served: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LARGEST_FILE", 5_000_000)
    answer, words = REFUSED[name]
    target.write_bytes(b"what was there")
    started = time.monotonic()
    with Server(served, answer) as server, pytest.raises(FetchError, match=words):
        fetch(f"{server.url}/file.gz", target, MD5)
    assert time.monotonic() - started < 8
    assert target.read_bytes() == b"what was there"


def test_what_has_arrived_is_not_asked_for_again(served: Path, target: Path) -> None:
    with Server(served, _rest) as server:
        fetch(f"{server.url}/file.gz", target, MD5)
    begins = [headers.get("Range") for headers in server.received]
    assert begins == [None, "bytes=256000-", "bytes=384000-", "bytes=484000-"]


def test_a_server_that_gets_on_is_asked_more_often(
    served: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "ATTEMPTS", 2)
    with Server(served, _rest) as server:
        with pytest.raises(FetchError, match="broke off after 384,000 bytes"):
            fetch(f"{server.url}/file.gz", target, MD5)
        monkeypatch.setattr(fetching, "PROGRESS", 20_000)
        fetch(f"{server.url}/file.gz", target, MD5)


# Passwords


def _needs_password(handler: Handler) -> None:
    if handler.headers.get("Authorization") != requests.auth._basic_auth_str("me", "s3:cr/t"):
        return handler.send_error(401)
    return handler.whole()


def test_a_password_opens_a_mirror(served: Path, target: Path) -> None:
    with Server(served, _needs_password) as server:
        address = server.url.replace("//", "//me:s3%3Acr%2Ft@")
        fetch(f"{address}/file.gz", target, MD5)
        with pytest.raises(FetchError, match="HTTP 401"):
            fetch(f"{server.url}/file.gz", target, MD5)


@pytest.mark.parametrize(
    "name",
    [
        *("is busy", "shows a page", "always breaks off", "redirects in circles"),
        *("does not have it", "closed", "no port", "no address", "another kind"),
    ],
)
def test_a_password_is_in_no_message(
    name: str,
    served: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "LARGEST_FILE", 5_000_000)
    answer = REFUSED[name][0] if name in REFUSED else Handler.whole
    with Server(served, answer) as server:
        address = {
            "closed": "http://me:s3cret@127.0.0.1:1",
            "no port": "http://me:s3cret@127.0.0.1:http",
            "no address": "http://me:s3/cret@[::/",
            "another kind": "ftp://me:s3cret@127.0.0.1/",
        }.get(name, server.url.replace("//", "//me:s3cret@"))
        with pytest.raises(DownloadError) as failure:
            obtain("mnist", {"file.gz": MD5}, tmp_path / "raw", [mirror_source(address)])
    said = str(failure.value) + capsys.readouterr().err
    assert "***@" in said
    assert "cret" not in said


# Forms that people have


@pytest.fixture(name="published")
def _published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Small files in place of the public ones, known by torchvision's own tables."""

    def prepare(dataset: str) -> dict[str, str]:
        config = PUBLISHED[dataset]
        known, sample = torchvision_class(config), Path(__file__).parents[2] / "data" / "sample"
        if dataset == "cifar10":
            files = {f"cifar-10-batches-py/{name}": name for name in BATCHES}
        else:
            files = {f"{config.torchvision}/raw/{name}": name for name in NAMES}
        contents = {path: (sample / path).read_bytes() for path in files}
        sums = {path: hashlib.md5(content).hexdigest() for path, content in contents.items()}
        for path, content in contents.items():
            file = tmp_path / "root" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if dataset == "cifar10":
            archive = tmp_path / "archive" / "cifar-10-python.tar.gz"
            archive.parent.mkdir()
            with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
                tar.add(tmp_path / "root" / "cifar-10-batches-py", "cifar-10-batches-py")
            md5 = hashlib.md5(archive.read_bytes()).hexdigest()
            monkeypatch.setattr(known, "tgz_md5", md5)
        else:
            unpacked = {path: gzip.decompress(content) for path, content in contents.items()}
            for path, content in unpacked.items():
                file = tmp_path / "unpacked" / path.removesuffix(".gz")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            sums_of = {sums[path]: hashlib.md5(data).hexdigest() for path, data in unpacked.items()}
            monkeypatch.setattr("protodl.data.download.UNPACKED", sums_of)
        return sums

    return prepare


@pytest.mark.parametrize(
    ("dataset", "form", "by"),
    [
        ("mnist", "root", "folder"),
        ("mnist", "root/MNIST/raw", "folder"),
        ("mnist", "unpacked", "folder"),
        ("mnist", "unpacked/MNIST/raw", "server"),
        ("fashion-mnist", "unpacked/FashionMNIST/raw", "folder"),
        ("cifar10", "root/cifar-10-batches-py", "folder"),
        ("cifar10", "archive", "server"),
        ("cifar10", "archive/cifar-10-python.tar.gz", "folder"),
    ],
)
def test_what_people_have_is_taken(
    dataset: str, form: str, by: str, published: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    sums, raw = published(dataset), tmp_path / "raw"
    with Server(tmp_path) as server:
        mirror = str(tmp_path / form) if by == "folder" else f"{server.url}/{form}"
        places = sources(PUBLISHED[dataset], mirror)
        obtain(dataset, sums, raw, places[: -len(sources(PUBLISHED[dataset], None))])
        asked = len(server.requested)
        obtain(dataset, sums, raw, places)
    assert len(server.requested) == asked
    splits = parse(dataset, PUBLISHED[dataset], raw, sums)
    assert (len(splits["train"]), len(splits["test"])) in ((2000, 500), (1200, 400))


def test_unpacked_files_are_compared_too(
    published: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    sums = published("mnist")
    (tmp_path / "unpacked" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"others")
    with pytest.raises(DownloadError, match="wrong content"):
        obtain("mnist", sums, tmp_path / "raw", [mirror_source(str(tmp_path / "unpacked"))])


def test_the_unpacked_files_of_the_real_data_are_known() -> None:
    for dataset in ("mnist", "fashion-mnist"):
        resources = torchvision_class(PUBLISHED[dataset]).resources
        assert {md5 for _, md5 in resources} <= set(UNPACKED)
    assert len(set(UNPACKED.values())) == len(UNPACKED) == 8


@pytest.mark.parametrize("kind", ["up", "absolute", "link"])
def test_members_of_an_archive_stay_in_their_folder(kind: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    member = tarfile.TarInfo({"up": "../../outside", "absolute": str(outside)}.get(kind, "file.gz"))
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, str(outside)
        outside.write_bytes(CONTENT)
    else:
        member.size = len(CONTENT)
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(member, io.BytesIO(CONTENT))
    place = Source(
        "bad", archive.as_uri(), archive_md5=hashlib.md5(archive.read_bytes()).hexdigest()
    )
    with pytest.raises(DownloadError, match=r"file\.gz: not in the archive"):
        obtain("mnist", {"file.gz": MD5}, tmp_path / "raw", [place])
    assert outside.exists() == (kind == "link")
    assert list((tmp_path / "raw").iterdir()) == []


# Disks


def test_a_full_disk_is_named_and_no_source_blamed(served: Path, tmp_path: Path) -> None:
    (served / "file.gz").write_bytes(CONTENT * 4)
    sums = {"file.gz": hashlib.md5(CONTENT * 4).hexdigest()}
    raw = tmp_path / "raw"
    with Server(served) as server, small_disk(raw) as words:
        for mirror in (str(served), server.url):
            with pytest.raises(OSError, match=f"{words}: '{raw / 'file.gz'}'"):
                obtain("mnist", sums, raw, [mirror_source(mirror)])
        assert list(raw.iterdir()) == []


def test_a_read_only_disk_is_named(served: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    with (
        read_only_disk(raw) as words,
        pytest.raises(OSError, match=f"{words}: '{raw / 'file.gz'}'"),
    ):
        obtain("mnist", {"file.gz": MD5}, raw, [mirror_source(str(served))])
