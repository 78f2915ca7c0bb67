"""From the sources of a data set to its two split files.

pooch fetches: torchvision's own download has no time-out and writes under the final name.
"""

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pooch

from protodl.core.dataset_config import PUBLISHED, DatasetConfig
from protodl.core.errors import ProtodlError
from protodl.core.files import scratch_folder
from protodl.data.datasets import Split, save_split
from protodl.data.image_folder import read_folder
from protodl.data.torchvision_sets import Source, public_sources, published_checksums, read_files

MIRROR_VARIABLE = "PROTODL_DATA_MIRROR"
CHECKSUMS_FILE = "checksums.json"
TIMEOUT_SECONDS = 30.0


class DownloadError(ProtodlError):
    """A data set could not be obtained; the text names every source and why it failed."""


def download(
    dataset: str,
    target: Path,
    *,
    raw: Path,
    sample: Path,
    config: DatasetConfig | None = None,
    folder: Path | None = None,
    source: Literal["full", "sample"] = "full",
    mirror: str | None = None,
) -> dict[str, int]:
    """Write target/train.pt and target/test.pt; return the number of images in each.

    The full data set comes from what `raw` already holds, then the mirror, then the public
    sources, and is kept in `raw`. The sample comes from the folder `sample`, never a network.
    A folder of images is read as it is, whatever `source` says.

    Args:
        dataset: its name in params.yaml.
        target: folder of the two files.
        raw: folder of the raw files.
        sample: folder of the sample.
        config: what params.yaml says of it; default: that it is the published one of this name.
        folder: the folder of images, if it is one.
        source: see above.
        mirror: folder or address.

    Raises:
        DownloadError: no source gave all the files, or the sample is damaged.
        ReadError, FolderError: what is there cannot be used.
    """
    config = config or PUBLISHED[dataset]
    if folder is not None:
        splits = read_folder(dataset, config, folder)
    elif source == "sample":
        splits = parse(dataset, config, sample, sample_checksums(config, sample))
    else:
        checksums = published_checksums(config)
        if _inspect(raw, checksums):  # else not even a wrong mirror matters
            obtain(dataset, checksums, raw, sources(config, mirror))
        splits = parse(dataset, config, raw, checksums)
    if config == PUBLISHED.get(dataset):  # the classes of these are known
        splits = {name: Split(split.images, split.labels) for name, split in splits.items()}
    for name, split in splits.items():
        save_split(split, target / f"{name}.pt")
    return {name: len(split) for name, split in splits.items()}


def sample_checksums(config: DatasetConfig, sample: Path) -> dict[str, str]:
    """MD5 of each raw file of the committed sample, after checking the files against it."""
    remedy = f"restore it with `git checkout -- {sample}`"
    published = published_checksums(config)
    prefix = f"{Path(next(iter(published))).parent.as_posix()}/"
    try:
        everything = dict(json.loads((sample / CHECKSUMS_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DownloadError(f"the sample {sample} is not usable ({error}); {remedy}") from error
    checksums = {path: md5 for path, md5 in everything.items() if path.startswith(prefix)}
    unknown = published.keys() - checksums.keys()
    problems = dict.fromkeys(sorted(unknown), f"not in {CHECKSUMS_FILE}")
    if problems := problems | _inspect(sample, checksums):
        raise DownloadError(f"the sample {sample} is not usable ({_summary(problems)}); {remedy}")
    return checksums


def sources(config: DatasetConfig, mirror: str | None) -> list[Source]:
    """Where to fetch from, in order: the mirror if there is one, then the public sources.

    Raises:
        DownloadError: the mirror is neither a folder nor a file://, http:// or https:// address.
    """
    return ([mirror_source(mirror)] if mirror else []) + public_sources(config)


def mirror_source(mirror: str) -> Source:
    """A mirror named by its folder or its address."""
    base = mirror if "://" in mirror else Path(mirror).expanduser().absolute().as_uri()
    if urlsplit(base).scheme not in {"file", "http", "https"}:
        raise DownloadError(
            f"{MIRROR_VARIABLE}={mirror}: must be a folder, or an address that begins with "
            "file://, http:// or https://"
        )
    return Source(f"{MIRROR_VARIABLE}={mirror}", base.rstrip("/") + "/")


def obtain(dataset: str, checksums: Mapping[str, str], raw: Path, places: Sequence[Source]) -> None:
    """Make every file of `checksums` stand whole in `raw`, fetching only what is not there yet.

    Raises:
        DownloadError: some file came from no source.
    """
    missing = _inspect(raw, checksums)
    tried = [f"already in {raw}: {_summary(missing)}"]
    if not any(place.name.startswith(MIRROR_VARIABLE) for place in places):
        tried.append(f"{MIRROR_VARIABLE}: not set")
    for place in places:
        if not missing:
            return
        print(f"{dataset}: fetching {len(missing)} files from {place.name}", file=sys.stderr)
        try:
            for path in _fetch_from(place, raw, {p: checksums[p] for p in missing}):
                del missing[path]
        except (OSError, tarfile.TarError) as error:
            tried.append(f"{place.name}: {error}")
            print(f"{dataset}: {tried[-1]}", file=sys.stderr)
    if missing:
        listed = "".join(f"\n  - {line}" for line in tried)
        raise DownloadError(
            f"{dataset}: no source gave all the files, {len(missing)} are missing. "
            f"Tried, in this order:{listed}\n"
            f"Next: connect to the network, or set {MIRROR_VARIABLE} to a folder or address that "
            f"holds {next(iter(checksums))}, then run `dvc repro download@{dataset}` again. "
            "What has arrived whole is kept. Without any network, `make demo` runs everything on "
            "the embedded sample."
        )


def _inspect(folder: Path, checksums: Mapping[str, str]) -> dict[str, str]:
    """The files that are not there whole, and what is wrong with each."""
    problems = {}
    for path, expected in checksums.items():
        if not (folder / path).is_file():
            problems[path] = "not there"
        elif pooch.file_hash(str(folder / path), "md5") != expected:
            problems[path] = "wrong checksum"
    return problems


def _summary(problems: Mapping[str, str]) -> str:
    """Problems with the files they concern, such as `not there: a, b; wrong checksum: c`."""
    kinds = dict.fromkeys(problems.values())
    return "; ".join(
        f"{kind}: {', '.join(path for path, why in problems.items() if why == kind)}"
        for kind in kinds
    )


def _fetch_from(place: Source, raw: Path, checksums: Mapping[str, str]) -> Iterator[str]:
    """Fetch each file into `raw`, yielding its path once it stands there whole."""
    if place.archive_md5 is None:
        for path, md5 in checksums.items():
            _fetch(place.base + path.removeprefix(place.cut), raw / path, md5, path)
            yield path
        return
    with scratch_folder(raw / "archive") as scratch:
        archive = scratch / "archive"
        _fetch(place.base, archive, place.archive_md5, "the archive")
        pooch.Untar(extract_dir="unpacked")(str(archive), "download", None)
        unpacked = Source(place.name, f"{(scratch / 'unpacked').absolute().as_uri()}/")
        yield from _fetch_from(unpacked, raw, checksums)


def _fetch(url: str, target: Path, md5: str, label: str) -> None:
    """Bring `url` to `target`, which comes to exist only when it is whole; raises OSError."""
    pooch.get_logger().setLevel("WARNING")
    try:
        with scratch_folder(target) as scratch:  # pooch's own temporary names stay after a kill
            pooch.retrieve(url, f"md5:{md5}", target.name, scratch, downloader=_copy)
            os.replace(scratch / target.name, target)
    except ValueError as error:  # the checksum is another
        raise OSError(f"{label}: wrong content: {error}") from error
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise OSError(f"{label}: {error or type(error).__name__}") from error


def _copy(url: str, output: str, _pooch: object) -> None:
    """Copy what a file://, http:// or https:// address gives, byte by byte, into a file.

    pooch's own downloaders know no file://, and unpack what a server calls compressed.
    """
    from tqdm import tqdm

    Path(output).unlink()  # pooch has made it, readable by its owner alone
    request = Request(url, headers={"User-Agent": "protodl"})
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response, Path(output).open("xb") as file:
        said = response.headers.get("Content-Length", "")
        length = int(said) if said.isdecimal() else 0
        name = url.rpartition("/")[2]
        # None shows the bar in a terminal only.
        with tqdm.wrapattr(response, "read", length or None, desc=name, disable=None) as stream:
            shutil.copyfileobj(stream, file)
        if file.tell() < length:
            raise OSError(f"only {file.tell():,} of {length:,} bytes arrived")


def parse(
    dataset: str, config: DatasetConfig, folder: Path, checksums: Mapping[str, str]
) -> dict[str, Split]:
    """Read {"train": ..., "test": ...} from raw files.

    Raises:
        DownloadError: a file is missing or altered.
        ReadError: as `read_files`.
    """
    if problems := _inspect(folder, checksums):
        raise DownloadError(f"{folder}: {_summary(problems)}")
    return read_files(dataset, config, folder, checksums)
