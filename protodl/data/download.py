"""From the sources of a data set to its two split files."""

import hashlib
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from protodl.core.dataset_config import PUBLISHED, DatasetConfig
from protodl.core.errors import ProtodlError
from protodl.core.files import scratch_folder
from protodl.data.datasets import Split, save_split
from protodl.data.fetch import FetchError, MissingError, fetch, store, without_password
from protodl.data.image_folder import read_folder
from protodl.data.torchvision_sets import (
    UNPACKED,
    Source,
    public_sources,
    published_checksums,
    read_files,
)

MIRROR_VARIABLE = "PROTODL_DATA_MIRROR"
CHECKSUMS_FILE = "checksums.json"


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

    A mirror may hold the files, or the public archive of them, or be that archive itself.

    Raises:
        DownloadError: the mirror is neither a folder nor a file://, http:// or https:// address.
    """
    public = public_sources(config)
    if not mirror:
        return public
    own = mirror_source(mirror)
    archives = []
    for place in public:
        if place.archive_md5:
            name = place.base.rpartition("/")[2]
            inside = "" if own.base.endswith(f"/{name}/") else name
            address = f"{own.base}{inside}".rstrip("/")
            archives.append(Source(own.name, address, archive_md5=place.archive_md5))
    return [own, *archives, *public]


def mirror_source(mirror: str) -> Source:
    """A mirror named by its folder or its address."""
    name = f"{MIRROR_VARIABLE}={without_password(mirror)}"
    base = mirror if "://" in mirror else Path(mirror).expanduser().absolute().as_uri()
    if urlsplit(base).scheme not in {"file", "http", "https"}:
        raise DownloadError(
            f"{name}: must be a folder, or an address that begins with file://, http:// or https://"
        )
    return Source(name, base.rstrip("/") + "/")


def obtain(dataset: str, checksums: Mapping[str, str], raw: Path, places: Sequence[Source]) -> None:
    """Make every file of `checksums` stand whole in `raw`, fetching only what is not there yet.

    Raises:
        DownloadError: some file came from no source.
        OSError: nothing can be written into `raw`.
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
        except (FetchError, tarfile.TarError) as error:
            tried.append(without_password(f"{place.name}: {error}"))
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


def _forms(path: str, md5: str) -> Iterator[tuple[str, str]]:
    """The path and MD5 of a raw file, and those of the same one unpacked."""
    yield path, md5
    if md5 in UNPACKED:
        yield path.removesuffix(".gz"), UNPACKED[md5]


def _whole(folder: Path, path: str, md5: str) -> Path | None:
    """A raw file that is there whole, as it is published or unpacked."""
    for name, expected in _forms(path, md5):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "md5").hexdigest() == expected:
                    return folder / name
    return None


def _inspect(folder: Path, checksums: Mapping[str, str]) -> dict[str, str]:
    """The files that are not there whole, and what is wrong with each."""
    return {
        path: "wrong checksum" if (folder / path).is_file() else "not there"
        for path, md5 in checksums.items()
        if not _whole(folder, path, md5)
    }


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
            try:
                _fetch_file(place, raw, path, md5)
            except FetchError as error:
                raise FetchError(f"{path}: {error}") from error
            yield path
        return
    with scratch_folder(raw / "archive") as scratch:
        archive = scratch / "archive"
        try:
            fetch(place.base, archive, place.archive_md5)
        except FetchError as error:
            raise FetchError(f"the archive: {error}") from error
        with tarfile.open(archive) as members:
            for path, md5 in checksums.items():
                _take(members, path, raw / path, md5)
                yield path


def _fetch_file(place: Source, raw: Path, path: str, md5: str) -> None:
    """Fetch a file in whatever form a source has it: in its folder or not, packed or not."""
    first: MissingError | None = None
    for name, expected in _forms(path, md5):
        for address in dict.fromkeys((name.removeprefix(place.cut), Path(name).name)):
            try:
                return fetch(place.base + address, raw / name, expected)
            except MissingError as error:
                first = first or error
    assert first is not None
    raise first


def _take(members: tarfile.TarFile, path: str, target: Path, md5: str) -> None:
    """Copy one member of an archive; no other one is unpacked, wherever its name points."""
    try:
        member = members.extractfile(path)
    except KeyError:
        member = None
    if member is None:
        raise FetchError(f"{path}: not in the archive")
    with member:
        store(target, md5, lambda file: shutil.copyfileobj(member, file))


def parse(
    dataset: str, config: DatasetConfig, folder: Path, checksums: Mapping[str, str]
) -> dict[str, Split]:
    """Read {"train": ..., "test": ...} from raw files.

    Raises:
        DownloadError: a file is missing or altered.
        ReadError: as `read_files`.
    """
    found = {path: file for path, md5 in checksums.items() if (file := _whole(folder, path, md5))}
    if len(found) < len(checksums):
        raise DownloadError(f"{folder}: {_summary(_inspect(folder, checksums))}")
    return read_files(dataset, config, found)
