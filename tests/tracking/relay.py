"""A server of MLflow as it can be met: an HTTP relay in front of one that can be made to fail."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW = 1.0  # seconds for an answer
OLD = ("logged-models",)  # what MLflow 2 does not know
FILES = ("mlflow-artifacts",)  # what a server refuses that takes no files
NOT_FOUND = b"<!doctype html><title>404 Not Found</title><h1>Not Found</h1>"
NO_FILES = b"Endpoint disabled due to the mlflow server running in `--no-serve-artifacts` mode."


class Relay(ThreadingHTTPServer):
    """An address whose `mode` says what becomes of a request; it may be changed at any time.

    Modes: `well`, `silent`, `slow`, `error 500`, `error 401`, `hang up`, `old`, `no files`,
    `other host`.
    """

    daemon_threads = True

    def __init__(self, mode: str, upstream: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode, self.upstream = mode, upstream  # port of the server behind it
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        """With a user and a password, as a server behind a proxy is often given."""
        return f"http://anna:hunter2@127.0.0.1:{self.server_address[1]}"


@contextmanager
def relay(mode: str, upstream: int = 0) -> Iterator[Relay]:
    """A relay while it is needed."""
    with Relay(mode, upstream) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        try:
            yield made
        finally:
            made.mode = "hang up"
            made.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Relay

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(self.path)
        while self.server.mode == "silent":
            time.sleep(0.05)
        if self.server.mode == "slow":
            time.sleep(SLOW)
        if self.server.mode == "hang up":
            self.close_connection = True
        elif refused := _refusal(self.server.mode, self.path):
            self._answer(*refused, [])
        else:
            self._forward(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _relay

    def _forward(self, body: bytes) -> None:
        upstream = HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name != "Connection"}
        if self.server.mode == "other host":
            headers["Host"] = "mlflow.example.org"
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            self._answer(answer.status, answer.read(), answer.getheaders())
        except OSError:
            self.close_connection = True  # the server behind it is gone
        finally:
            upstream.close()

    def _answer(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """Let clients hang up, too."""
        with suppress(OSError):
            super().handle()


def _refusal(mode: str, path: str) -> tuple[int, bytes] | None:
    """Status and body of what is answered in place of the server behind; None: it answers."""
    if mode.startswith("error"):
        return int(mode.split()[1]), b"no"
    if mode == "old" and any(part in path for part in OLD):
        return 404, NOT_FOUND
    if mode == "no files" and any(part in path for part in FILES):
        return 503, NO_FILES
    return None
