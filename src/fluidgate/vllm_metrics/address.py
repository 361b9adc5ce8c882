"""`Address`: where a server is and how to ask it, within a time and a size, without showing what lets us in."""

from __future__ import annotations

import http.client
import queue
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from fluidgate.errors import InputError

DEADLINE_S = 10.0
MAX_BYTES = 64 * 2**20
MAX_REDIRECTS = 5

_KEY = re.compile(r"[\x21-\x7e]+")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)?")


def without_credentials(typed: str) -> str:
    """An address, or what was meant as one, as it may be shown."""
    before, at, host = typed.rpartition("@")
    scheme = _SCHEME.match(typed)
    return f"{scheme[0] if scheme else ''}…@{host}" if at and ":" in before else typed


@dataclass(frozen=True)
class Address:
    """A page of a server.

    Attributes:
        url: without user and password, so that it can be shown.
        authorization: the header of that name; never shown, and not sent to another host.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, typed: str, api_key: str | None = None) -> Address:
        """The address `http://HOST:PORT/PATH`, with `USER:PASSWORD@` before the host, or with a key.

        Raises:
            InputError: not an address, or a key that no header can carry.
        """
        shown = without_credentials(typed)
        try:
            parts = urlsplit(typed)
            port_is_valid = parts.port is None or parts.port > 0
        except ValueError:
            port_is_valid = False
        if not port_is_valid or not typed.isprintable() or " " in typed:
            raise InputError(f"{shown}: is not an address; give http://HOST:PORT, with a port from 1 to 65535")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{shown}: is not an address of a server; give http://HOST:PORT")
        url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        return cls(url, _authorization(parts.username, parts.password, api_key))

    def at(self, path: str) -> Address:
        """Another page of the same server."""
        parts = urlsplit(self.url)
        return Address(urlunsplit((parts.scheme, parts.netloc, path, "", "")), self.authorization)

    def get(
        self,
        accept: str,
        *,
        deadline_s: float = DEADLINE_S,
        most_bytes: int = MAX_BYTES,
        may_be_empty: bool = False,
    ) -> bytes:
        """The page, whole.

        Args:
            accept: the types of content to ask for.
            deadline_s: for everything together: the name, the connection, redirects, and the last byte.
            may_be_empty: as the answer of vLLM's `/health` is.

        Raises:
            InputError: none that is whole, in time, and no larger than `most_bytes`; one sentence that says why.
        """
        visit = _Visit(self, accept, time.monotonic() + deadline_s, most_bytes)
        try:
            page = _within(deadline_s, visit.page, visit.give_up)
        except urllib.error.HTTPError as error:
            error.close()
            raise InputError(f"{self.url}: {_refusal(error.code, self.authorization)}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                why = f"no whole answer within {deadline_s:g} s; is the server up, or too busy?"
            else:
                why = f"no answer ({_printable(reason)}); is the server up, and the port right?"
            raise InputError(f"{self.url}: {why}") from None
        except http.client.IncompleteRead:
            raise InputError(f"{self.url}: the answer broke off before its end; ask again") from None
        except http.client.HTTPException:
            raise InputError(f"{self.url}: what answers there does not speak HTTP; is it vLLM's port?") from None
        if not (page.strip() or may_be_empty):
            raise InputError(f"{self.url}: the page is empty; is it vLLM's port?")
        return page

    def hide(self, text: str) -> str:
        """A text in which the server may have repeated what it was sent, without that."""
        scheme, _, token = (self.authorization or "").partition(" ")
        secrets = [token]
        if scheme == "Basic":
            secrets.append(b64decode(token).decode().partition(":")[2])
        for secret in filter(None, secrets):
            text = text.replace(secret, "…")
        return text


def _authorization(user: str | None, password: str | None, api_key: str | None) -> str | None:
    """User and password go before a key: they were given for this very server."""
    if user or password:
        both = f"{unquote(user or '')}:{unquote(password or '')}"
        return f"Basic {b64encode(both.encode()).decode()}"
    if api_key is None:
        return None
    if not _KEY.fullmatch(api_key):
        raise InputError(
            "--api-key, or OPENAI_API_KEY: holds spaces or characters that no header can carry; give the key alone"
        )
    return f"Bearer {api_key}"


def _refusal(code: int, authorization: str | None) -> str:
    name = f" ({http.client.responses[code]})" if code in http.client.responses else ""
    if code in (401, 403):
        advice = (
            "it does not accept the key, or the user and password, that it was given"
            if authorization
            else "give its key with --api-key or in OPENAI_API_KEY"
        )
    elif 300 <= code < 400:
        advice = "it redirects to where fluidgate does not follow; give the address of the page itself"
    else:
        advice = "is it vLLM's port?"
    return f"the server answers HTTP {code}{name}; {advice}"


def _printable(reason: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(reason))[:200]


def _within(deadline_s: float, work: Callable[[], bytes], give_up: Callable[[], None]) -> bytes:
    """What `work` returns or raises, in time: names are looked up, and headers read, in calls that know no deadline.

    So the work is done by a thread of its own, which is left behind when the time is over.
    """
    done: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(work())
        except Exception as error:
            done.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = done.get(timeout=deadline_s)
    except queue.Empty:
        give_up()
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result


class _Visit:
    """One request with its redirects; `give_up` may be called from another thread."""

    def __init__(self, address: Address, accept: str, end_s: float, most_bytes: int) -> None:
        self._address, self._accept, self._end_s, self._most_bytes = address, accept, end_s, most_bytes
        self._connections: list[http.client.HTTPConnection] = []

    def give_up(self) -> None:
        """End what waits for the server."""
        for connection in self._connections:
            with suppress(OSError, AttributeError):  # it may be closed, or not open yet
                connection.sock.shutdown(socket.SHUT_RDWR)

    def page(self) -> bytes:
        """The body of the answer that is no redirect."""
        opener, url = self._opener(), self._address.url
        for left in range(MAX_REDIRECTS, -1, -1):
            request = urllib.request.Request(url, headers={"Accept": self._accept})
            if self._address.authorization and urlsplit(url)[:2] == urlsplit(self._address.url)[:2]:
                request.add_unredirected_header("Authorization", self._address.authorization)
            try:
                with opener.open(request, timeout=self._left_s()) as answer:
                    return self._body(answer)
            except urllib.error.HTTPError as error:
                target = urljoin(url, error.headers.get("Location") or "")
                if error.code not in (301, 302, 303, 307, 308) or not left or target == url:
                    raise
                if urlsplit(target).scheme not in ("http", "https"):
                    raise
                error.close()
                url = target
        raise AssertionError("the last redirect is an error")

    def _opener(self) -> urllib.request.OpenerDirector:
        """For http and https alone, through the proxies of the environment; it keeps its connections at hand."""

        def kept(kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
            def connection(*place: Any, **options: Any) -> http.client.HTTPConnection:
                self._connections.append(kind(*place, **options))
                return self._connections[-1]

            return connection

        class Http(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(kept(http.client.HTTPConnection), request)

        class Https(urllib.request.HTTPSHandler):
            def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(kept(http.client.HTTPSConnection), request)

        opener = urllib.request.OpenerDirector()
        errors = (urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler())
        for handler in (urllib.request.ProxyHandler(), Http(), Https(), *errors):
            opener.add_handler(handler)
        return opener

    def _left_s(self) -> float:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        url = self._address.url
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise InputError(f"{url}: the answer is compressed, which was not asked for; is it vLLM's port?")
        expected, body = answer.length, bytearray()
        while max(len(body), expected or 0) <= self._most_bytes:
            part = answer.read1(2**16) if expected is None or len(body) < expected else b""
            if not part:
                break
            body += part
            self._left_s()
        else:
            raise InputError(f"{url}: the page is larger than {self._most_bytes / 2**20:g} MiB, so it is not vLLM's")
        if expected is not None and len(body) < expected:
            raise http.client.IncompleteRead(bytes(body), expected - len(body))
        return bytes(body[:expected])  # early versions of Python 3.11 may read on
