"""One file from an address: whole or not at all, and bounded in time and size.

A server may fall silent, drip, break off, answer with something else or send without end.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError
from urllib3.util import Retry

from protodl.core.errors import ProtodlError
from protodl.core.files import replacing

TIMEOUT_SECONDS = 20.0  # without a byte
SLOWEST = 1000  # bytes a second, on average over that time
ATTEMPTS = 4  # in a row that bring less than PROGRESS
PROGRESS = 2**20  # bytes
BACKOFF_SECONDS = 0.5
PASSING = (408, 425, 429, 500, 502, 503, 504)  # states of a server that another try may find better
LARGEST_FILE = 2 * 10**9  # bytes; more than any published file of the data sets has


class FetchError(ProtodlError):
    """A file that a source does not give; the message says why."""


class MissingError(FetchError):
    """A file that a source does not have."""


def fetch(url: str, target: Path, md5: str) -> None:
    """Bring what a file://, http:// or https:// address gives to `target`.

    Raises:
        MissingError, FetchError: it does not come from there, or is not what it should be.
        OSError: it cannot be written.
    """
    copy = _copy if url.startswith("file:") else _receive
    store(target, md5, lambda file: copy(url, file))


def store(target: Path, md5: str, write: Callable[[BinaryIO], None]) -> None:
    """Make `target` of what `write` writes; raises FetchError where its checksum is another."""
    with replacing(target) as temporary, temporary.open("w+b") as file:
        write(file)
        file.seek(0)
        if (found := hashlib.file_digest(file, "md5").hexdigest()) != md5:
            raise FetchError(f"wrong content: its MD5 is {found} instead of {md5}")


def without_password(text: str) -> str:
    """The text with *** in place of what addresses in it hold before an @."""
    return re.sub(r"//[^\s]*@", "//***@", text)


def _copy(url: str, file: BinaryIO) -> None:
    path = Path(url2pathname(urlsplit(url).path))
    try:
        if not path.is_file():
            raise MissingError(f"{path}: no such file")
        source = path.open("rb")
    except OSError as error:
        raise FetchError(str(error)) from None
    with source:
        shutil.copyfileobj(source, file)


def _receive(url: str, file: BinaryIO) -> None:
    """Write what a server gives; where it breaks off, ask it for the rest."""
    retries = Retry(
        ATTEMPTS - 1,
        connect=0,  # where nothing listens the next source is asked at once
        backoff_factor=BACKOFF_SECONDS,
        status_forcelist=PASSING,
        raise_on_status=False,
        respect_retry_after_header=False,  # it may say a year
    )
    furthest = failures = 0
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        while True:
            try:
                return _go_on(session, url, file)
            except requests.RequestException as error:
                raise FetchError(_reason(error)) from error
            except HTTPError as error:  # urllib3's own, while the content arrives
                got_on = file.tell() >= furthest + PROGRESS
                furthest, failures = max(furthest, file.tell()), 1 if got_on else failures + 1
                if failures == ATTEMPTS:
                    silent = isinstance(error, ReadTimeoutError)
                    how = f"nothing for {TIMEOUT_SECONDS:g} s" if silent else "broke off"
                    raise FetchError(f"{how} after {file.tell():,} bytes, tried again") from error
                time.sleep(BACKOFF_SECONDS * failures)


def _go_on(session: requests.Session, url: str, file: BinaryIO) -> None:
    """Write what comes after what is in the file; all of it where a server cannot do that."""
    begin = file.tell()
    headers = {"User-Agent": "protodl", "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            begin = file.seek(0)
            file.truncate()
        if response.status_code not in (200, 206):
            kind = MissingError if response.status_code in (404, 410) else FetchError
            raise kind(f"HTTP {response.status_code} {response.reason}")
        _write_content(response, file, begin, url.rpartition("/")[2])


def _write_content(response: requests.Response, file: BinaryIO, begin: int, name: str) -> None:
    said = response.headers.get("Content-Length", "")
    length = begin + int(said) if said.isdecimal() else None
    since, counted = time.monotonic(), begin
    # None shows the bar in a terminal only.
    with tqdm(
        desc=name, initial=begin, total=length, unit="B", unit_scale=True, disable=None
    ) as bar:
        while chunk := response.raw.read1(2**16):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > LARGEST_FILE:
                raise FetchError(f"more than {LARGEST_FILE:,} bytes")
            if time.monotonic() - since > TIMEOUT_SECONDS:
                if file.tell() - counted < SLOWEST * TIMEOUT_SECONDS:
                    raise FetchError(f"slower than {SLOWEST:,} bytes a second")
                since, counted = time.monotonic(), file.tell()


def _reason(error: requests.RequestException) -> str:
    """What went wrong, in a few words: urllib3's own are below those of requests."""
    below = error.args[0] if error.args else error
    return str(below.reason if isinstance(below, MaxRetryError) else below)
