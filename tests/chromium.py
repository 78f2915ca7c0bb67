"""Headless Chromium, spoken to by its DevTools protocol over a pipe; needs no further package.

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Where the variable is set, tests that need a browser fail without one; elsewhere they are skipped.
REQUIRED = "PROTODL_REQUIRE_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
BINARY = next(filter(None, map(shutil.which, NAMES)), None)
if BINARY is None and os.environ.get(REQUIRED):
    BINARY = NAMES[0]
SECONDS = 120  # for an answer; processors may be busy
# No sandbox: it does not start for root, and only the project's own pages are opened.
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
OPTIONS += ["--disable-background-networking", "--no-first-run", "--remote-debugging-pipe"]
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32}
KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """A tab. What its pages complain of gathers in `complaints`."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._seen: set[str] = set()
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reading], [], [], max(0, end - time.monotonic()))
            assert ready, f"Chromium did not answer within {SECONDS} s"
            data = os.read(self._reading, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, params: dict[str, Any]) -> None:
        self._seen.add(event)
        if event in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(params))
        elif event == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:")):
                self.complaints.append(f"asks for {url}")

    def close(self) -> None:
        """Ask Chromium to end, which it does once it has cleared up."""
        message = {"id": 0, "method": "Browser.close"}
        os.write(self._writing, json.dumps(message).encode() + b"\0")

    def open(self, path: Path | str, width: int, height: int, dark: bool = False) -> None:
        """Open a file or address in a window of this size, in CSS pixels, and wait for it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **metrics)
        self._seen.discard("Page.loadEventFired")
        self.call("Page.navigate", url=path if isinstance(path, str) else path.as_uri())
        while "Page.loadEventFired" not in self._seen:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in JavaScript; a promise's once it is kept."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key of KEYS."""
        event: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r" if key == "Enter" else key} if key in ("Enter", " ") else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def drag(self, points: Sequence[tuple[float, float]]) -> None:
        """Press the mouse at the first point, in CSS pixels, and let it go at the last one."""
        for index, (x, y) in enumerate(points):
            kind = "mouseMoved" if index else "mousePressed"
            at = {"x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **at)
        x, y = points[-1]
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def give_file(self, selector: str, path: Path) -> None:
        """Choose a file for an input of the page."""
        document = self.call("DOM.getDocument")["root"]["nodeId"]
        found = self.call("DOM.querySelector", nodeId=document, selector=selector)
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=found["nodeId"])

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write what is to be seen, or the whole page, as a PNG file."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Start Chromium with an empty profile in this folder; ends it."""
    assert BINARY
    assert shutil.which(BINARY), f"{REQUIRED} is set, and no Chromium is installed"
    (reads, ours_to_write), (ours_to_read, writes) = os.pipe(), os.pipe()
    options = [*OPTIONS, f"--user-data-dir={profile}"]
    process = _start([BINARY, *options, "about:blank"], reads, writes)
    os.close(reads)
    os.close(writes)
    try:
        page = Page(ours_to_read, ours_to_write)
        yield page
        page.close()
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(ours_to_read)
        os.close(ours_to_write)


def _start(command: Sequence[str], reads: int, writes: int) -> subprocess.Popen[bytes]:
    """Start a program that reads file descriptor 3 and writes 4."""
    # Numbers above both, so that neither is overwritten before it is copied.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
    shell = f'exec "$@" 3<&{high[0]} 4>&{high[1]}'
    try:
        return subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        for end in high:
            os.close(end)


def shown_text(page: Page, address: str, awaited: str) -> str:
    """What a page shows as soon as it shows this, a regular expression."""
    page.call("Page.navigate", url="about:blank")  # else only the part after the # would change
    size = {"width": 1920, "height": 1200, "deviceScaleFactor": 1}
    page.call("Emulation.setDeviceMetricsOverride", mobile=False, **size)
    page.call("Page.navigate", url=address)
    end, text = time.monotonic() + 2 * SECONDS, ""
    while time.monotonic() < end:
        text = str(page.evaluate("document.body ? document.body.innerText : ''"))
        if re.search(awaited, text):
            return text
        time.sleep(0.5)
    raise TimeoutError(f"{address} does not show {awaited}, but {text}")
