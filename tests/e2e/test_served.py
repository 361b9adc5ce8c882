"""fluidgate inside `vllm serve`, over HTTP: the same answers, fewer preemptions, and it survives its clients."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .conftest import BENCH_REQUESTS, DIRECT_REQUESTS, Outcome
from .plans import CLASSES
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
    """Wait; after twenty minutes it is a fault, not a busy machine."""
    end_s = time.monotonic() + 1200
    while not true():
        assert time.monotonic() < end_s, "it did not come to that within twenty minutes"
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
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=1200)
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


def gate_is_on(server: Server) -> None:
    """It serves, its books count what enters, and it never gave way to stock scheduling nor lost its books."""
    still_serves(server)
    before = server.metrics()
    assert before["fluidgate_fallbacks_total"] == 0
    assert before["fluidgate_rebuilds_total"] == 0
    server.outputs([[7 + k] * 100 for k in range(40)], [60] * 40)
    assert at_rest(server)["fluidgate_admissions_total"] >= before["fluidgate_admissions_total"] + 40


def test_a_crowd_whose_grammars_compile(gated: Gated) -> None:
    """A hundred clients at once, a third of them with structured outputs: vLLM passes over those for a while."""
    server = gated[0]
    answered = server.metrics()["vllm:request_success_total"]

    def ask_for(k: int) -> int:
        request: dict[str, Any] = {"prompt": [5 + k] * 40, "max_tokens": 30}
        request["vllm_xargs"] = {"output_tokens": 30, "fluidgate_class": CLASSES[k % 2]}
        if k % 3 == 0:
            # no word may begin another: after `w1` no token goes on to `w10`
            request["structured_outputs"] = {"choice": [f"w{3 + k % 7}", f"w{3 + k // 7 % 7}"]}
            request["ignore_eos"] = False
        status, answer = server.complete(**request)
        assert status == 200, answer
        return len(answer["choices"][0]["token_ids"])

    with ThreadPoolExecutor(100) as clients:
        lengths = list(clients.map(ask_for, range(100)))
    assert [n for k, n in enumerate(lengths) if k % 3] == [30] * 66
    assert all(1 <= n <= 30 for n in lengths)
    at_rest(server)
    assert server.metrics()["vllm:request_success_total"] == answered + 100
    gate_is_on(server)


HOSTILE: list[Any] = ["abc", "", "250 tokens", [1], {}, True, None, -5, 0, 10**30, 2**63, 1e308, 0.5]


def test_what_a_request_says_never_ends_the_gate(gated: Gated) -> None:
    server = gated[0]
    answers = Counter[int]()
    for key in ("output_tokens", "fluidgate_class", "kv_transfer_params", "unknown"):
        for value in HOSTILE:
            answers[server.complete(prompt=[5, 6], max_tokens=3, vllm_xargs={key: value})[0]] += 1
    for raw in ("NaN", "Infinity", "-Infinity", "1e999", '"\\u0000"'):
        body = json.dumps({"model": server.model, "prompt": [5], "max_tokens": 3, "vllm_xargs": {"output_tokens": 0}})
        body = body.replace('"output_tokens": 0', f'"output_tokens": {raw}')
        answers[server.request("/v1/completions", body.encode())[0]] += 1
    for odd in ({"priority": 10**12}, {"priority": -7}, {"n": 3}, {"max_tokens": 10**12}, {"request_id": "same"}):
        for _ in range(2):
            answers[server.complete(**{"prompt": [5, 6], "max_tokens": 3, **odd})[0]] += 1
    assert set(answers) <= {200, 400, 422, 500}, answers
    assert answers[500] <= 8, "vLLM itself answers so to numbers beyond 64 bits, and to nothing else"
    assert answers[200] >= 30, answers
    gate_is_on(server)
    page = server.metrics()
    assert (page["fluidgate_bad_hints_total"] > 0) == gated[1].reads_hints
    assert page["fluidgate_unknown_classes_total"] >= 5


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
