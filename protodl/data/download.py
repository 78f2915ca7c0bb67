"""From the sources of a data set to its two split files.

torchvision's data sets name the files, their checksums and the public addresses, and parse them.
Fetching is done here, because theirs has no time-out and writes under the final name.
"""

import functools
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from protodl.core.errors import ProtodlError
from protodl.core.files import replacing
from protodl.data.datasets import DATASETS, DatasetInfo, Split, save_split

MIRROR_VARIABLE = "PROTODL_DATA_MIRROR"
CHECKSUMS_FILE = "checksums.json"
TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 1 << 18


class DownloadError(ProtodlError):
    """A data set could not be obtained; the text names every source and why it failed."""


class IntegrityError(Exception):
    """A file is not the one its checksum promises."""


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


def download(
    dataset: str,
    target: Path,
    *,
    raw: Path,
    sample: Path,
    source: Literal["full", "sample"] = "full",
    mirror: str | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Write target/train.pt and target/test.pt; return the number of images in each.

    The full data set comes from what `raw` already holds, then the mirror, then the public
    sources, and is kept in `raw`. The sample comes from the folder `sample`, never a network.

    Raises:
        DownloadError: no source gave all the files, or the sample is damaged.
    """
    if source == "sample":
        folder, checksums = sample, sample_checksums(dataset, sample)
    else:
        folder, checksums = raw, published_checksums(dataset)
        if _inspect(raw, checksums):  # else not even a wrong mirror matters
            obtain(dataset, checksums, raw, sources(dataset, mirror), progress=progress)
    splits = parse(dataset, folder, checksums)
    for name, split in splits.items():
        save_split(split, target / f"{name}.pt")
    return {name: len(split) for name, split in splits.items()}


def published_checksums(dataset: str) -> dict[str, str]:
    """MD5 of each raw file by its path in a mirror, as torchvision knows them."""
    info = DATASETS[dataset]
    published = _torchvision_class(info)
    if hasattr(published, "resources"):
        files = published.resources
    else:
        meta = (published.meta["filename"], published.meta["md5"])
        files = [*published.train_list, *published.test_list, meta]
    return {f"{info.folder}/{name}": md5 for name, md5 in files}


def sample_checksums(dataset: str, sample: Path) -> dict[str, str]:
    """MD5 of each raw file of the committed sample, after checking the files against it."""
    remedy = f"restore it with `git checkout -- {sample}`"
    prefix = f"{DATASETS[dataset].folder}/"
    try:
        everything = dict(json.loads((sample / CHECKSUMS_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DownloadError(f"the sample {sample} is not usable ({error}); {remedy}") from error
    checksums = {path: md5 for path, md5 in everything.items() if path.startswith(prefix)}
    unknown = published_checksums(dataset).keys() - checksums.keys()
    problems = dict.fromkeys(sorted(unknown), f"not in {CHECKSUMS_FILE}")
    if problems := problems | _inspect(sample, checksums):
        raise DownloadError(f"the sample {sample} is not usable ({_summary(problems)}); {remedy}")
    return checksums


def sources(dataset: str, mirror: str | None) -> list[Source]:
    """Where to fetch from, in order: the mirror if there is one, then the public sources.

    Raises:
        DownloadError: the mirror is neither a folder nor a file://, http:// or https:// address.
    """
    return ([mirror_source(mirror)] if mirror else []) + public_sources(dataset)


def mirror_source(mirror: str) -> Source:
    """A mirror named by its folder or its address."""
    base = mirror
    if "://" not in mirror:
        base = Path(mirror).expanduser().absolute().as_uri()
    elif urlsplit(mirror).scheme not in {"file", "http", "https"}:
        raise DownloadError(
            f"{MIRROR_VARIABLE}={mirror}: must be a folder, or an address that begins with "
            "file://, http:// or https://"
        )
    return Source(f"{MIRROR_VARIABLE}={mirror}", base.rstrip("/") + "/")


def public_sources(dataset: str) -> list[Source]:
    """The public addresses torchvision knows."""
    info = DATASETS[dataset]
    published = _torchvision_class(info)
    if hasattr(published, "mirrors"):
        return [Source(url, url, cut=f"{info.folder}/") for url in published.mirrors]
    return [Source(published.url, published.url, archive_md5=published.tgz_md5)]


def obtain(
    dataset: str,
    checksums: Mapping[str, str],
    raw: Path,
    places: Sequence[Source],
    *,
    progress: bool = True,
    timeout: float = TIMEOUT_SECONDS,
) -> None:
    """Make every file of `checksums` stand whole in `raw`, fetching only what is not there yet.

    Raises:
        DownloadError: some file came from no source.
    """
    missing = _inspect(raw, checksums)
    tried = [f"already in {raw}: {_summary(missing)}"]
    fetch = functools.partial(_fetch, progress=progress, timeout=timeout)
    for place in places:
        if not missing:
            return
        _say(f"{dataset}: fetching {len(missing)} files from {place.name}", progress)
        try:
            for path in _fetch_from(place, raw, {p: checksums[p] for p in missing}, fetch):
                del missing[path]
        except (OSError, tarfile.TarError, IntegrityError) as error:
            tried.append(f"{place.name}: {error}")
            _say(f"{dataset}: {tried[-1]}", progress)
    if missing:
        raise DownloadError(_nothing_left(dataset, missing, tried))


def _nothing_left(dataset: str, missing: Mapping[str, str], tried: list[str]) -> str:
    if not any(line.startswith(MIRROR_VARIABLE) for line in tried):
        tried = [tried[0], f"{MIRROR_VARIABLE}: not set", *tried[1:]]
    return "\n".join(
        [
            f"{dataset}: no source gave all the files, {len(missing)} are missing. "
            "Tried, in this order:",
            *(f"  - {line}" for line in tried),
            f"Next: connect to the network, or set {MIRROR_VARIABLE} to a folder or address that "
            f"holds {DATASETS[dataset].folder}/, then run `dvc repro download@{dataset}` again. "
            "What has arrived whole is kept. Without any network, `make demo` runs everything on "
            "the embedded sample.",
        ]
    )


def _inspect(folder: Path, checksums: Mapping[str, str]) -> dict[str, str]:
    """The files that are not there whole, and what is wrong with each."""
    problems = {}
    for path, expected in checksums.items():
        if not (folder / path).is_file():
            problems[path] = "not there"
        elif _md5(folder / path) != expected:
            problems[path] = "wrong checksum"
    return problems


def _summary(problems: Mapping[str, str]) -> str:
    """Problems with the files they concern, such as `not there: a, b; wrong checksum: c`."""
    kinds = dict.fromkeys(problems.values())
    return "; ".join(
        f"{kind}: {', '.join(path for path, why in problems.items() if why == kind)}"
        for kind in kinds
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_md5).hexdigest()


def _new_md5() -> Any:
    # Not for security, and said so: machines in FIPS mode refuse MD5 otherwise.
    return hashlib.md5(usedforsecurity=False)


def _fetch_from(
    place: Source, raw: Path, checksums: Mapping[str, str], fetch: "functools.partial[None]"
) -> Iterator[str]:
    """Fetch each file into `raw`, yielding its path once it stands there whole."""
    if place.archive_md5 is None:
        for path, md5 in checksums.items():
            fetch(place.base + path.removeprefix(place.cut), raw / path, md5, path)
            yield path
        return
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=raw, prefix=".archive-") as scratch:
        archive = Path(scratch) / "archive"
        fetch(place.base, archive, place.archive_md5, "the archive")
        with tarfile.open(archive) as tar:
            for path, md5 in checksums.items():
                with _member(tar, path) as stream:
                    _store(stream, raw / path, md5, path)
                yield path


def _member(tar: tarfile.TarFile, path: str) -> IO[bytes]:
    try:
        stream = tar.extractfile(path)
    except KeyError:
        stream = None
    if stream is None:
        raise IntegrityError(f"{path} is not in the archive")
    return stream


def _fetch(url: str, target: Path, md5: str, label: str, *, progress: bool, timeout: float) -> None:
    """Bring `url` to `target`, which comes to exist only when it is whole."""
    try:
        with _open(url, timeout) as (stream, length):
            _store(stream, target, md5, label, length=length, progress=progress)
    except HTTPError as error:
        error.close()
        raise OSError(f"{label}: {error}") from error
    except (OSError, HTTPException) as error:
        raise OSError(f"{label}: {error or type(error).__name__}") from error


@contextmanager
def _open(url: str, timeout: float) -> Iterator[tuple[IO[bytes], int | None]]:
    request = Request(url, headers={"User-Agent": "protodl"})
    with urlopen(request, timeout=timeout) as response:
        length = response.headers.get("Content-Length", "")
        yield response, int(length) if length.isdecimal() else None


def _store(
    stream: IO[bytes],
    target: Path,
    md5: str,
    label: str,
    *,
    length: int | None = None,
    progress: bool = False,
) -> None:
    """Copy a stream to a temporary name and rename it when its checksum is right."""
    from tqdm import tqdm

    digest, received = _new_md5(), 0
    hide = None if progress else True  # None shows the bar in a terminal only
    bar = tqdm(total=length, unit="B", unit_scale=True, desc=target.name, disable=hide)
    with replacing(target) as part:
        with part.open("wb") as file, bar:
            while chunk := stream.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
        if digest.hexdigest() != md5:
            size = f"{received:,} of {length:,} bytes" if length else f"{received:,} bytes"
            raise IntegrityError(
                f"{label}: wrong content, {size} with MD5 {digest.hexdigest()} instead of {md5}"
            )


def parse(dataset: str, folder: Path, checksums: Mapping[str, str]) -> dict[str, Split]:
    """Read {"train": ..., "test": ...} from raw files with torchvision's own data set.

    Raises:
        RuntimeError: torchvision finds a file missing or altered.
    """
    info = DATASETS[dataset]
    if not hasattr(_torchvision_class(info), "resources"):
        return _read(info, _with_checksums(info, checksums), folder)
    # torchvision never checks files it unpacked earlier, so it unpacks into an empty folder.
    with tempfile.TemporaryDirectory(prefix="protodl-") as scratch:
        (Path(scratch) / info.folder).mkdir(parents=True)
        for path in checksums:
            shutil.copyfile(folder / path, Path(scratch) / path)
        return _read(info, _with_checksums(info, checksums), Path(scratch), download=True)


def _read(info: DatasetInfo, published: Any, root: Path, **options: bool) -> dict[str, Split]:
    import numpy as np
    import torch

    splits = {}
    for name in ("train", "test"):
        content = published(root, train=name == "train", **options)
        images = torch.from_numpy(np.ascontiguousarray(content.data))
        images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
        labels = torch.as_tensor(content.targets, dtype=torch.int64)
        assert tuple(images.shape[1:]) == info.shape, f"{info.name}: {tuple(images.shape)}"
        assert int(labels.max()) < info.num_classes, f"{info.name}: label {int(labels.max())}"
        splits[name] = Split(images.contiguous(), labels)
    return splits


def _torchvision_class(info: DatasetInfo) -> Any:
    from torchvision import datasets

    return getattr(datasets, info.torchvision_class)


def _with_checksums(info: DatasetInfo, checksums: Mapping[str, str]) -> Any:
    """The data set of torchvision, expecting these checksums and unable to reach any network."""
    published = _torchvision_class(info)
    md5 = {Path(path).name: value for path, value in checksums.items()}
    changes: dict[str, Any]
    if hasattr(published, "resources"):
        nowhere = ["file:///nonexistent/"]
        changes = {"resources": list(md5.items()), "mirrors": nowhere}
    else:
        meta = {**published.meta, "md5": md5[published.meta["filename"]]}
        trains, tests = (
            [[name, md5[name]] for name, _ in files]
            for files in (published.train_list, published.test_list)
        )
        changes = {"train_list": trains, "test_list": tests, "meta": meta}
    # The name must stay: torchvision makes its folder from it.
    return type(published.__name__, (published,), changes)


def _say(line: str, progress: bool) -> None:
    if progress:
        print(line, file=sys.stderr, flush=True)
