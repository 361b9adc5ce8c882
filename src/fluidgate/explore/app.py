"""The page's server: three files, and an answer for every move of a slider. On this machine's loopback alone."""

from __future__ import annotations

import socket
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from fluidgate.errors import InputError
from fluidgate.explore.answer import answer, latency_legend
from fluidgate.explore.form import form
from fluidgate.explore.settings import POLICIES, Settings, read_settings
from fluidgate.jsonfile import decode, plain
from fluidgate.report.html import asset
from fluidgate.version import version

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
"""Never another: the page is for the one who sits here."""
NAMES = [HOST, "localhost"]
"""What a browser may call this server: under another name it was sent here by someone else's page (DNS rebinding)."""
MOST_BYTES = 10_000
"""Of a question; the page's have some 300."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MISSING = "`fluidgate explore` needs Starlette and uvicorn; run `pip install 'fluidgate[explore]'`"

Answer = Callable[[Settings], dict[str, Any]]


def make_app(start: Settings, answer: Answer = answer) -> Starlette:
    """The application, whose page opens with `start`.

    Raises:
        InputError: Starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise InputError(MISSING) from None
    one_at_a_time = threading.Lock()

    def timed(settings: Settings) -> dict[str, Any]:
        with one_at_a_time:
            begun = time.perf_counter()
            found = answer(settings)
            return {**plain(found, finite=True), "took_ms": round(1e3 * (time.perf_counter() - begun), 1)}

    def file(text: str, kind: str) -> Callable[[Request], Response]:
        return lambda request: Response(text, media_type=kind, headers=HEADERS)

    async def answered(request: Request) -> Response:
        try:
            settings = read_settings(_decoded(request.headers.get("content-type", ""), await _body(request)))
        except InputError as refused:
            return JSONResponse({"error": str(refused)}, status_code=400, headers=HEADERS)
        return JSONResponse(await run_in_threadpool(timed, settings), headers=HEADERS)

    return Starlette(
        routes=[
            Route("/", file(page(start), "text/html")),
            Route("/page.js", file(_asset("page.js"), "text/javascript")),
            Route("/page.css", file(style(), "text/css")),
            Route("/answer", answered, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False)],
    )


def page(start: Settings) -> str:
    """The page with its controls at `start`."""
    return Template(_asset("page.html")).substitute(version=version(), form=form(start), legend=latency_legend())


def style() -> str:
    """The report's style, and what this page has beside it."""
    return "".join((asset("page.css"), asset("chart.css"), _asset("page.css")))


async def _body(request: Request) -> bytes:
    """The question, of at most `MOST_BYTES`.

    Raises:
        InputError: it is longer.
    """
    read = b""
    async for part in request.stream():
        read += part
        if len(read) > MOST_BYTES:
            raise InputError(f"settings: are longer than {MOST_BYTES:,} bytes; send those of the page")
    return read


def _decoded(kind: str, body: bytes) -> Any:
    """The JSON of a question. Pages of other origins cannot send that kind without being asked first.

    Raises:
        InputError: it is no JSON.
    """
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise InputError("settings: must be sent as application/json")
    try:
        return decode(body.decode())
    except (ValueError, RecursionError):
        raise InputError("settings: are not JSON; send an object of names and values") from None


def warm_up(start: Settings, say: Callable[[str], None], answer: Answer = answer) -> None:
    """Compile what answers need, for every policy that the page offers.

    Raises:
        InputError: `start` cannot be had.
    """
    begun = time.monotonic()
    refused = answer(start).get("why_not")
    if refused:
        raise InputError(refused)
    for policy in POLICIES:
        if time.monotonic() - begun > 5.0:
            say(f"compiling {policy} …")
        answer(replace(start, policy=policy))


def serve(start: Settings, port: int, *, open_browser: bool, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; `say` gets the address.

    Args:
        port: 0 takes any that is free.

    Raises:
        InputError: Starlette or uvicorn is missing, the port is taken, or `start` cannot be had.
    """
    try:
        import uvicorn
    except ImportError:
        raise InputError(MISSING) from None
    app = make_app(start)
    with _listening(port) as listening:
        warm_up(start, say)
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        say(f"{address} (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open_new_tab(address)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        cause = error.strerror or str(error)
        raise InputError(f"port {port} cannot be had on {HOST} ({cause}); give another --port, or 0 for any") from None


def _asset(name: str) -> str:
    return files("fluidgate.explore").joinpath(name).read_text(encoding="utf-8")
