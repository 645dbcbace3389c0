"""A web server on this machine that gives what a test wants it to give."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass
class Answer:
    """What a path answers with."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    gzipped: bool = False
    cut_off: bool = False
    """Hang up in the middle of the body."""
    wait_for: threading.Event | None = None
    """Send the second half once this is set."""


class FeedServer:
    """Answers by path, and remembers what it was asked; knows ETag and Last-Modified.

    ``answers[path]`` is an `Answer`, or a callable that makes one of the number of the request.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[int], Answer]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, path: str = "/gtfs.zip") -> str:
        return f"http://{self.host}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append((request.path, {name.lower(): value for name, value in request.headers.items()}))
        made = self.answers.get(path, Answer(b"not here", 404))
        answer = made if isinstance(made, Answer) else made(len(self.asked))
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if answer.status == 200 and (
            ("etag" in headers and request.headers.get("If-None-Match") == headers["etag"])
            or ("last-modified" in headers and request.headers.get("If-Modified-Since") == headers["last-modified"])
        ):
            answer = Answer(status=304)
        body = gzip.compress(answer.body) if answer.gzipped else answer.body
        request.send_response(answer.status)
        if answer.gzipped:
            request.send_header("Content-Encoding", "gzip")
        for name, value in headers.items():
            request.send_header(name, value)
        if answer.status != 304 and "content-length" not in headers:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        half = len(body) // 2
        try:
            request.wfile.write(body[:half])
            request.wfile.flush()
            if answer.wait_for is not None:
                answer.wait_for.wait(30)
            if not answer.cut_off:
                request.wfile.write(body[half:])
        except OSError:
            pass  # the client has gone
        request.close_connection = True
