"""A server that answers with bytes, as they come: what speaks on a port that is not vLLM's, or not well."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, repeat

TLS = b"\x16"
"""How a client begins that wants an encrypted connection."""

STAYS_S = 20.0
"""No connection lasts longer, so that a test of a fetch that never ends does."""

Answer = Callable[[str], Iterator[bytes]]
"""From the request to what is sent, piece by piece."""


@dataclass
class HostileServer:
    """Answers `path` with `answer`, all else with `good`."""

    answer: Answer
    path: str = "/metrics"
    good: bytes = b""
    port: int = 0
    requests: list[str] = field(default_factory=list)

    @property
    def place(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def authorizations(self) -> list[str]:
        """The header of that name in each request; empty where there was none."""
        found = [
            [line for line in request.splitlines() if line.startswith("Authorization: ")] for request in self.requests
        ]
        return [lines[0].removeprefix("Authorization: ") if lines else "" for lines in found]

    def serve(self, connection: socket.socket) -> None:
        """One connection."""
        end_s = time.monotonic() + STAYS_S
        with connection, suppress(OSError):
            connection.settimeout(STAYS_S)
            request = b""
            while b"\r\n\r\n" not in request and request[:1] != TLS and (part := connection.recv(65536)):
                request += part
            self.requests.append(request.decode("latin-1"))
            if not request:
                return
            hostile = request[:1] == TLS or path_of(self.requests[-1]).startswith(self.path)
            for piece in self.answer(self.requests[-1]) if hostile else [page(self.good)]:
                connection.sendall(piece)
                if time.monotonic() > end_s:
                    break


@contextmanager
def hostile(answer: Answer, path: str = "/metrics", good: bytes = b"") -> Iterator[HostileServer]:
    """The server on a port of its own."""
    server = HostileServer(answer, path, good)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=server.serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def page(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""])
    return head.encode() + body


def path_of(request: str) -> str:
    """What it asks for."""
    return request.split(" ")[1]


def sends(*pieces: bytes) -> Answer:
    """Those bytes, and the end of the connection."""
    return lambda _: iter(pieces)


def slowly(*pieces: bytes) -> Answer:
    """The first piece at once, then the others over and over, a byte at a time."""

    def answer(_: str) -> Iterator[bytes]:
        yield pieces[0]
        for byte in chain.from_iterable(repeat(b"".join(pieces[1:]))):
            time.sleep(0.02)
            yield bytes([byte])

    return answer


def endlessly(first: bytes, then: bytes) -> Answer:
    """As fast as it is read."""
    return lambda _: chain([first], repeat(then))


def silence(_: str) -> Iterator[bytes]:
    """Nothing, and the connection stays."""
    yield b""
    time.sleep(STAYS_S)


def redirects(target: str, status: str = "302 Found") -> Answer:
    """To a place."""
    return sends(page(b"", f"Location: {target}", status=status))


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NOT_HTTP, BROKE_OFF, LATE = "does not speak HTTP", "broke off before its end", "no whole answer within"
TOO_LARGE, ELSEWHERE, REFUSED = "is larger than", "it redirects to where fluidgate does not follow", "no answer ("

FAST: dict[str, tuple[Answer, str]] = {
    "redis": (sends(b"-ERR unknown command 'GET'\r\n"), NOT_HTTP),
    "ssh": (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), NOT_HTTP),
    "smtp": (sends(b"220 mail.example ESMTP\r\n"), NOT_HTTP),
    "a TLS alert": (sends(b"\x15\x03\x01\x00\x02\x02\x46"), NOT_HTTP),
    "an echo": (lambda request: iter([request.encode()]), NOT_HTTP),
    "a status that is no number": (sends(b"HTTP/1.1 abc Fine\r\n\r\n"), NOT_HTTP),
    "another version of HTTP": (sends(b"HTTP/9.9 200 OK\r\n\r\n"), NOT_HTTP),
    "half a status line": (sends(b"HTTP/1.1"), NOT_HTTP),
    "a line without an end": (sends(b"HTTP/1.1 200 " + b"x" * 70_000), NOT_HTTP),
    "a header above 64 KiB": (sends(OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n"), NOT_HTTP),
    "above 100 headers": (sends(OK + b"X: x\r\n" * 200 + b"\r\n"), NOT_HTTP),
    "nothing": (sends(), REFUSED),
    "a chunk without a size": (sends(CHUNKED + b"zz\r\nup 1\r\n"), BROKE_OFF),
    "a chunk of a negative size": (sends(CHUNKED + b"-1\r\nup 1\r\n"), BROKE_OFF),
    "half a chunk": (sends(CHUNKED + b"10\r\nup 1"), BROKE_OFF),
    "chunks without an end": (sends(CHUNKED + b"5\r\nup 1\n\r\n"), BROKE_OFF),
    "half a page": (sends(OK + b"Content-Length: 1000\r\n\r\nup 1\n"), BROKE_OFF),
    "no page at all": (sends(OK + b"Content-Length: 1000\r\n\r\n"), BROKE_OFF),
    "an empty page": (sends(page(b"")), "the page is empty"),
    "an empty page without a length": (sends(OK + b"\r\n"), "the page is empty"),
    "no content": (sends(b"HTTP/1.1 204 No Content\r\n\r\n"), "the page is empty"),
    "too large a page": (sends(OK + b"Content-Length: 99999999999999999999\r\n\r\n"), TOO_LARGE),
    "an endless page": (endlessly(OK + b"\r\n", b"# x\n" * 2**16), TOO_LARGE),
    "endless chunks": (endlessly(CHUNKED, b"40000\r\n" + b"# x\n" * 2**16 + b"\r\n"), TOO_LARGE),
    "a bomb of gzip": (sends(page(gzip.compress(b"0" * 2**24), "Content-Encoding: gzip")), "is compressed"),
    "a redirect to itself": (lambda request: redirects(path_of(request))(request), ELSEWHERE),
    "redirects on and on": (lambda request: redirects(path_of(request) + "x")(request), ELSEWHERE),
    "a redirect to a file": (redirects("file:///etc/passwd"), ELSEWHERE),
    "a redirect to ftp": (redirects("ftp://127.0.0.1/metrics"), ELSEWHERE),
    "a redirect to nowhere": (sends(page(b"", status="302 Found")), ELSEWHERE),
    "a redirect to a broken address": (redirects("http://[::1"), REFUSED),
    "a redirect to a port that is none": (redirects("http://127.0.0.1:abc/"), NOT_HTTP),
    "a redirect with an endless page": (
        endlessly(b"HTTP/1.1 302 Found\r\nLocation: file:///\r\n\r\n", b"x" * 2**16),
        ELSEWHERE,
    ),
    "401": (sends(page(b"no", status="401 Unauthorized")), "does not accept the key, or the user and password"),
    "403": (sends(page(b"no", status="403 Forbidden")), "does not accept the key, or the user and password"),
    "404": (sends(page(b"no", status="404 Not Found")), "the server answers HTTP 404 (Not Found)"),
    "500": (sends(page(b"no", status="500 Oops")), "the server answers HTTP 500 (Internal Server Error)"),
    "599 with what was sent": (
        lambda request: iter(
            [f"HTTP/1.1 599 \x1b[31m{request.replace(chr(13), '').replace(chr(10), ' ')}\r\n\r\n".encode()]
        ),
        "the server answers HTTP 599; is it",
    ),
}
"""What the answer is, and what the refusal says; either page may have it."""

SLOW: dict[str, tuple[Answer, str]] = {
    "silence": (silence, LATE),
    "a byte of a status line": (slowly(b"", b"HTTP/1.1 200 OK "), LATE),
    "a byte of a header": (slowly(OK, b"X: x"), LATE),
    "a byte of the page": (slowly(OK + b"\r\n", b"up 1\n"), LATE),
    "a byte of the page that was announced": (slowly(OK + b"Content-Length: 100000\r\n\r\n", b"up 1\n"), LATE),
    "endless continuations": (endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), LATE),
    "an end of chunks that does not end": (endlessly(CHUNKED + b"0\r\n", b"X: x\r\n" * 100), LATE),
}

METRICS: dict[str, tuple[bytes, str]] = {
    "HTML": (b"<html>hello</html>", "is not a page of metrics but HTML"),
    "bytes": (b"\xff\xfe\x00\x01" * 50, "is not a line of Prometheus metrics"),
    "another engine": (b"sglang:num_running_reqs 1\n", "the metrics are SGLang's"),
    "no grammar": (b"foo" + b" " * 200_000 + b"x y z", "is not a line of Prometheus metrics"),
}
"""Whole pages that are no metrics of vLLM."""

MODELS: dict[str, bytes] = {
    "HTML": b"<html>hello</html>",
    "bytes": b"\xff\xfe\x00\x01" * 50,
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"data":' * 100_000,
    "null": b"null",
    "a list": b"[]",
    "no models": b'{"data": []}',
    "a model that is null": b'{"data": [null]}',
    "a huge number": b'{"data": [{"id": "m", "max_model_len": ' + b"9" * 5000 + b"}]}",
    "a large number": b'{"data": [{"id": "m", "max_model_len": ' + b"9" * 50 + b"}]}",
    "infinity": b'{"data": [{"id": "m", "max_model_len": 1e400}]}',
    "no number": b'{"data": [{"id": "m", "max_model_len": NaN}]}',
    "text": b'{"data": [{"id": "m", "max_model_len": "4096"}]}',
    "truth": b'{"data": [{"id": "m", "max_model_len": true}]}',
    "zero": b'{"data": [{"id": "m", "max_model_len": 0}]}',
    "a number as a name": b'{"data": [{"id": 7, "max_model_len": 4096}]}',
    "an empty name": b'{"data": [{"id": "", "max_model_len": 4096}]}',
    "an option as a name": b'{"data": [{"id": "--header", "max_model_len": 4096}]}',
    "a terminal's command as a name": b'{"data": [{"id": "m\\u001b[2J", "max_model_len": 4096}]}',
    "a list as a root": b'{"data": [{"id": "m", "root": ["x"], "max_model_len": 4096}]}',
}
"""Whole pages that are no list of models."""
