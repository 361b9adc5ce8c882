"""fluidgate inside `vllm serve`, over HTTP: the same answers, fewer preemptions, and it survives its clients."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from .conftest import BENCH_REQUESTS, DIRECT_REQUESTS, Outcome
from .server import MODEL_LEN, Server

Gated = tuple[Server, Outcome]
AT_REST = (
    "fluidgate_held_requests",
    "fluidgate_paused_residents",
    "fluidgate_predicted_peak_kv_share",
    "fluidgate_fallbacks_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
)


def test_stock_vllm_preempts_under_this_load(stock: Outcome) -> None:
    assert stock.bench["completed"] == BENCH_REQUESTS
    assert stock.preemptions > BENCH_REQUESTS / 4


def test_a_watermark_changes_no_answer(stock: Outcome, watermark: Outcome) -> None:
    assert watermark.bench["completed"] == BENCH_REQUESTS
    assert watermark.outputs == stock.outputs
    assert watermark.preemptions < stock.preemptions


def test_every_request_completes(gated: Gated) -> None:
    assert gated[1].bench["completed"] == BENCH_REQUESTS


def test_answers_are_stock_vllms_token_for_token(gated: Gated, stock: Outcome) -> None:
    assert gated[1].outputs == stock.outputs


def test_preemptions_fall(gated: Gated, stock: Outcome) -> None:
    assert gated[1].preemptions < 0.75 * stock.preemptions


def test_metrics_are_on_the_page_and_agree_with_vllms(gated: Gated) -> None:
    page = at_rest(gated[0])
    assert gate_metric_names() <= set(page)
    assert page["fluidgate_preemptions_total"] == page["vllm:num_preemptions_total"]
    first_entries = page["fluidgate_admissions_total"] - page["fluidgate_preemptions_total"]
    assert first_entries >= BENCH_REQUESTS + DIRECT_REQUESTS
    assert page["fluidgate_computed_tokens_total"] >= page["vllm:generation_tokens_total"]
    assert page["fluidgate_held_steps_total"] > 0
    assert page["fluidgate_longest_silence_seconds"] > 0


def gate_metric_names() -> set[str]:
    """What `serving.metrics` defines, as Prometheus names it."""
    from prometheus_client import REGISTRY

    from fluidgate.serving.metrics import gate_metrics

    gate_metrics()
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith("fluidgate_")]
    names = {sample.name for metric in ours for sample in metric.samples}
    assert len(names) >= 12
    return {name for name in names if not name.endswith("_created")}


def until(true: Callable[[], bool]) -> None:
    """Wait, for three minutes at most: the server, the model and the client share two cores."""
    end_s = time.monotonic() + 180
    while not true():
        assert time.monotonic() < end_s, "it did not come to that within three minutes"
        time.sleep(0.1)


def at_rest(server: Server) -> dict[str, float]:
    """The metrics once nobody runs, waits or is held; fails if that does not come."""
    page: dict[str, float] = {}

    def rests() -> bool:
        page.update(server.metrics())
        return not any(page[name] for name in AT_REST)

    until(rests)
    return page


def still_serves(server: Server) -> None:
    """It answers, and its books are empty afterwards."""
    status, answer = server.complete(prompt=[5, 6, 7], max_tokens=5)
    assert status == 200, answer
    assert len(answer["choices"][0]["token_ids"]) == 5
    at_rest(server)


def ask(server: Server, output_tokens: int) -> socket.socket:
    """Send a request, and do not wait for the answer.

    It is not a stream: vLLM watches for the end of such a connection at all times, of a stream's only when it writes.
    """
    sizes = {"prompt": [9] * 40, "max_tokens": output_tokens}
    body = json.dumps({"model": server.model, "ignore_eos": True, **sizes})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=120)
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
    return connection


STREAMING_CLIENT = """
import json, sys, threading, urllib.request
def stream():
    body = {"model": sys.argv[2], "prompt": [9] * 40, "max_tokens": 450, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(sys.argv[1], json.dumps(body).encode(), {"Content-Type": "application/json"})
    for line in urllib.request.urlopen(request):
        print("token", flush=True)
for _ in range(16):
    threading.Thread(target=stream).start()
"""


def test_a_killed_client_leaves_nothing_behind(gated: Gated) -> None:
    server = gated[0]
    command = [sys.executable, "-c", STREAMING_CLIENT, f"{server.url}/v1/completions", server.model]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline().startswith(b"token")
        client.send_signal(signal.SIGKILL)
    still_serves(server)


def test_two_hundred_aborts_at_once(gated: Gated) -> None:
    server = gated[0]
    at_rest(server)
    clients = [ask(server, output_tokens=450) for _ in range(200)]
    until(lambda: server.metrics()["vllm:num_requests_running"] > 0)
    for client in clients:
        client.close()
    still_serves(server)
    assert server.metrics()["fluidgate_fallbacks_total"] == 0


def test_a_burst_of_a_thousand(gated: Gated) -> None:
    server = gated[0]
    status, answer = server.complete(prompt=[[3 + k % 900, 4, 5] for k in range(1000)], max_tokens=3)
    assert status == 200, answer
    assert [len(choice["token_ids"]) for choice in answer["choices"]] == [3] * 1000
    still_serves(server)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        ({"prompt": []}, 400),
        ({"prompt": ""}, 400),
        ({"max_tokens": -1}, 400),
        ({"max_tokens": "many"}, 400),
        ({"prompt": [5] * (MODEL_LEN + 1)}, 400),
        ({"prompt": [-1]}, 400),
        ({"model": "nobody's"}, 404),
    ],
    ids=["bad JSON", "no body", "no prompt", "empty text", "negative", "words", "too long", "no token", "no model"],
)
def test_malformed_requests_are_refused(gated: Gated, body: bytes | dict[str, object], status: int) -> None:
    server = gated[0]
    if isinstance(body, dict):
        body = json.dumps({"model": server.model, "prompt": [5, 6], "max_tokens": 4, **body}).encode()
    assert server.request("/v1/completions", body)[0] in {status, 422}
    still_serves(server)
