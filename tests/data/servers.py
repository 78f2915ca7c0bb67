"""Web servers on the loopback device that serve a folder, or do not do that as they should."""

import functools
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and writes down the paths asked for."""

    requested: list[str]
    received: list[dict[str, str]]  # headers
    answer: ClassVar[Callable[["Handler"], None]]

    def do_GET(self) -> None:
        """Answer one request."""
        self.requested.append(self.path)
        self.received.append(dict(self.headers))
        self.answer()

    @property
    def content(self) -> bytes:
        """The file that is asked for."""
        return Path(self.translate_path(self.path)).read_bytes()

    def head(self, status: int, **headers: object) -> None:
        """Send the lines before the content; an underscore stands for a dash."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def whole(self) -> None:
        """Answer as one should."""
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


Answer = Callable[[Handler], None]


def break_off(handler: Handler) -> None:
    """Announce a file, and send half of it."""
    handler.head(200, Content_Length=len(handler.content))
    handler.wfile.write(handler.content[: len(handler.content) // 2])


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Clients that give up are what some tests want."""


class Server:
    """A web server on the loopback device for one folder."""

    def __init__(self, folder: Path, answer: Answer = Handler.whole) -> None:
        self.requested: list[str] = []
        self.received: list[dict[str, str]] = []
        traits = {"requested": self.requested, "received": self.received, "answer": answer}
        handler = functools.partial(type("Traits", (Handler,), traits), directory=str(folder))
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
