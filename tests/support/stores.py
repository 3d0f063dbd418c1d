"""Stores on loopback: a real S3 API behind a proxy that makes faults, and a server of files."""

import contextlib
import functools
import http.client
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, Signature=0"
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
WAIT = 2  # seconds of a client that expects them
STALL, SLOW = 3, 0.8  # seconds before an answer; between its quarters
OWN_HEADERS = {"connection", "content-length", "date", "server", "transfer-encoding"}


class Proxy(ThreadingHTTPServer):
    """Passes requests on, or answers with the next fault: see `Handler.pass_on`.

    Attributes:
        faults: of the next requests, one each; None is none. down: a fault of all requests.
        requests: (method, path, range) of all, in their order.
    """

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.faults, self.down, self.requests = port, [], None, []

    def next_fault(self) -> str | None:
        if self.down is not None:
            return self.down
        return self.faults.pop(0) if self.faults else None

    def fail(self, fault: str | None) -> None:
        """From now on, at every request; None: no more."""
        self.down = fault

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict | None = None
    ) -> tuple[int, dict, bytes]:
        """The answer of the server behind: status, headers, content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.target)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def put(self, key: str, content: bytes) -> None:
        """Write an object of the bucket, past the proxy."""
        status, _, text = self.ask("PUT", f"/bucket/{key}", content, {"Authorization": SIGNED})
        assert status == 200, text


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        fault = self.server.next_fault()
        if fault == "cut upload":
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(length)
        if fault in ("busy", "denied"):
            self._answer(503 if fault == "busy" else 403, {}, BUSY if fault == "busy" else DENIED)
            return
        if fault == "stalled":
            time.sleep(STALL)
        status, headers, content = self.server.ask(
            self.command, self.path, body, dict(self.headers)
        )
        with contextlib.suppress(OSError):  # a client that has left
            self._answer(status, headers, content, fault)

    def _answer(self, status: int, headers: dict, content: bytes, fault: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in OWN_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(content))))
        self.end_headers()
        self.close_connection = fault == "cut"
        if self.command == "HEAD":
            return
        if fault == "slow":
            quarter = len(content) // 4
            for start in range(0, len(content) - quarter, quarter):
                self.wfile.write(content[start : start + quarter])
                time.sleep(SLOW)
            content = content[start + quarter :]
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class FileHandler(SimpleHTTPRequestHandler):
    """Serves whole files, and folders as pages of links: python -m http.server."""

    def log_message(self, *_: object) -> None:
        pass


class RangeHandler(FileHandler):
    """Serves files, and parts of them, but no listings."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if found is None or not path.is_file():
            super().do_GET()
            return
        content = path.read_bytes()
        part = content[int(found[1]) : int(found[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {found[1]}-{found[2]}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)

    def list_directory(self, path: object) -> None:
        self.send_error(403)


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """The address of a server that answers in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path, handler: type = RangeHandler) -> ThreadingHTTPServer:
    """A server of a folder's files."""
    return ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
