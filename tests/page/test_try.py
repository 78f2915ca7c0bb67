"""The page on which a row is tried: drawn on, uploaded to, and switched off in a real browser."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

import protodl
from tests.chromium import BINARY, Page, chromium
from tests.drawn import MANNERS, STROKES, draw

ROW = "mnist-small-deconv"
needs_chromium = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed")


@pytest.fixture(name="address", scope="module")
def _address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `protodl try` serves the shipped weights, outside of any project."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "protodl.cli", "try", "--port", str(port)]
    folder = tmp_path_factory.mktemp("anywhere")
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        assert address == f"http://127.0.0.1:{port}/"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}rows", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        listening = psutil.Process(server.pid).net_connections()
        assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
        yield address
        server.terminate()
        assert server.wait(20) in (0, -15)
    assert list(folder.iterdir()) == []  # nothing is stored


@pytest.fixture(name="page", scope="module")
def _page(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        page.open(address, 1200, 900)
        _until(lambda: page.evaluate("document.querySelector('#row').options.length > 1"))
        _choose(page, ROW)
        yield page
        foreign = [each for each in page.complaints if not each.startswith(f"asks for {address}")]
        assert [each for each in foreign if "blob:" not in each and "422" not in each] == []


def _until(is_so: Callable[[], Any]) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.05)
    raise TimeoutError


def _choose(page: Page, row: str) -> None:
    page.evaluate(
        f"const rows = document.querySelector('#row'); rows.value = {json.dumps(row)}; "
        "rows.dispatchEvent(new Event('change')); rows.value"
        .replace("const rows", "var rows")
    )  # fmt: skip


def _verdict(page: Page) -> str:
    return str(page.evaluate("document.querySelector('#verdict').textContent"))


def _draw(page: Page, digit: int) -> None:
    """Draw a digit with the mouse, and wait for the answer."""
    page.evaluate("document.querySelector('#clear').click()")
    page.evaluate("document.querySelector('#verdict').textContent = ''")
    box = page.evaluate("(({x, y, width}) => [x, y, width])(canvas.getBoundingClientRect())")
    left, top, side = box
    for stroke in STROKES[digit]:
        page.drag([(left + side * (0.2 + 0.6 * x), top + side * (0.15 + 0.7 * y))
                   for x, y in stroke])  # fmt: skip
    _until(lambda: _verdict(page) and page.evaluate("asked === answered"))


@needs_chromium
@pytest.mark.parametrize("digit", [0, 3, 7])
def test_a_drawn_digit_is_recognised_and_its_bars_sum_to_the_logit(page: Page, digit: int) -> None:
    _draw(page, digit)
    assert _verdict(page).startswith(f"{digit} (")
    shown = page.evaluate("document.querySelector('#sum').textContent")
    parts = page.evaluate(
        "[...document.querySelectorAll('#reasons tr')].map((row) => row.lastChild.textContent)"
    )
    numbers = [float(part.replace("−", "-")) for part in parts]
    words = shown.replace("−", "-").replace(";", " ").split()
    start, logit = float(words[2]), float(words[-1])
    assert start + sum(numbers) == pytest.approx(logit, abs=0.01 * len(numbers))
    assert numbers == sorted(numbers, reverse=True)
    assert page.evaluate("document.querySelectorAll('#reasons img').length") == 2 * len(numbers)


@needs_chromium
def test_a_prototype_that_is_switched_off_changes_the_decision(page: Page) -> None:
    _draw(page, 7)
    before = _verdict(page)
    switched = 0
    while _verdict(page).startswith("7 ("):
        page.evaluate("document.querySelector('#reasons input:checked').focus()")
        page.press(" ")
        switched += 1
        assert switched <= 10
    assert f"without {switched} of 15 prototypes" in _verdict(page)
    for _ in range(switched):
        page.evaluate("document.querySelector('#reasons input:not(:checked)').click()")
    assert _verdict(page) == before


@needs_chromium
def test_an_uploaded_photo_gets_the_answer_of_the_library(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    draw(STROKES[4], MANNERS[2], 5).save(path)
    expected = protodl.explain(protodl.load(ROW), path)
    page.evaluate("document.querySelector('#verdict').textContent = ''")
    page.give_file("#file", path)
    _until(lambda: _verdict(page))
    assert _verdict(page).startswith(f"{expected.prediction}, then {expected.runner_up}")
    assert expected.notes[0] in page.evaluate("document.querySelector('#notes').textContent")
    assert (
        page.evaluate("document.querySelector('#change').textContent") == expected.change_in_words
    )


@needs_chromium
def test_it_is_drawn_on_and_asked_by_keyboard(page: Page) -> None:
    page.evaluate("document.querySelector('#clear').click()")
    page.evaluate("document.querySelector('#verdict').textContent = ''")
    page.evaluate("Object.assign(cursor, {x: 140, y: 40, down: false}); canvas.focus()")
    page.press(" ")
    for _ in range(24):
        page.press("ArrowDown")
    page.press(" ")
    _until(lambda: _verdict(page))
    assert _verdict(page).startswith("1 (")


@needs_chromium
def test_what_shows_nothing_is_said_and_no_answer_stays(page: Page, tmp_path: Path) -> None:
    Image.new("L", (60, 60), 255).save(tmp_path / "blank.png")
    page.give_file("#file", tmp_path / "blank.png")
    _until(lambda: page.evaluate("document.querySelector('#problem').textContent"))
    problem = page.evaluate("document.querySelector('#problem').textContent")
    assert "nothing stands out from its ground" in problem
    assert page.evaluate("document.querySelector('#result').hidden")


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1440, True)])
def test_it_fits_a_phone_and_keeps_its_contrast(
    address: str, tmp_path: Path, width: int, dark: bool
) -> None:
    with chromium(tmp_path / "profile") as page:
        page.open(address, width, 800, dark=dark)
        _until(lambda: page.evaluate("document.querySelector('#row').options.length > 1"))
        _choose(page, ROW)
        _draw(page, 2)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        edges = "[...document.querySelectorAll('.bar')].map((b) => b.getBoundingClientRect().right)"
        assert max(page.evaluate(edges)) <= width  # nothing to scroll to
        colours = page.evaluate(
            "((style) => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
        )
        ink, ground = (_luminance(colour) for colour in colours)
        lighter, darker = max(ink, ground), min(ink, ground)
        assert (lighter + 0.05) / (darker + 0.05) > 7  # WCAG 2, level AAA
        assert (ink > ground) is dark


def _luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _status(address: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    asked = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_other_names_files_and_rows_are_refused(address: str) -> None:
    assert _status(f"{address}rows")[0] == 200
    assert _status(f"{address}rows", Host="evil.example")[0] == 400
    assert _status(f"{address}../server.py")[0] == 404
    assert _status(f"{address}explain/nothing", b"x")[0] == 404
    status, words = _status(f"{address}explain/{ROW}", b"no image")
    assert (status, "not an image" in words) == (422, True)
    assert _status(f"{address}explain/{ROW}", bytes(33 * 2**20))[0] == 413


@pytest.mark.faults
@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
def test_the_page_of_another_site_may_not_ask(address: str, origin: str) -> None:
    assert _status(f"{address}explain/{ROW}", b"x", Origin=origin)[0] == 403
    assert _status(f"{address}explain/{ROW}", b"x", Origin=address.rstrip("/"))[0] == 422
    with urllib.request.urlopen(address, timeout=60) as page:  # nor show this one in a frame
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


def test_a_taken_port_is_said(address: str, tmp_path: Path) -> None:
    port = address.rstrip("/").rpartition(":")[2]
    command = [sys.executable, "-m", "protodl.cli", "try", "--port", port]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert f"port {port} is taken" in answer.stderr
