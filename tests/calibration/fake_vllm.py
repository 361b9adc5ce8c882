"""A small vLLM whose step time is known: its engine, its metrics as vLLM 0.32 counts them, and its address."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fluidgate.calibration.server import live_load
from fluidgate.calibration.server.running_server import RunningServer
from fluidgate.hardware import StepTime
from fluidgate.vllm_metrics import fetch

BENCH = [sys.executable, str(Path(__file__).with_name("fake_bench.py"))]
BLOCK_SIZE, NUM_BLOCKS, BUDGET, MODEL_LEN = 16, 2001, 2048, 1024
STEP_EDGES = (1, 8, *(2**k for k in range(4, 15)))
HISTOGRAMS = (
    "iteration_tokens_total",
    "time_to_first_token_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
)


@dataclass
class Request:
    """One that runs."""

    prompt: int
    output: int
    cached: int
    computed: int = 0
    generated: int = 0


@dataclass
class Engine:
    """vLLM's batch formation over a known step time: running first, one token budget, a closed loop of clients.

    Attributes:
        elapsed_share, host_s: "iteration elapsed time" is that share of the step, less so much.
        hits: share of prompts that the prefix cache knows.
        preemptions: counted, not played.
    """

    step_time: StepTime
    budget: int = BUDGET
    elapsed_share: float = 1.0
    host_s: float = 0.0
    hits: float = 0.0
    now_s: float = 0.0
    running: list[Request] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    steps: list[tuple[int, int, int, int, float]] = field(default_factory=list)
    preemptions: int = 0
    extra_running: int = 0

    def __post_init__(self) -> None:
        self._load: tuple[int, int, int] | None = None
        self._random = Random(1)
        self._values: dict[str, list[float]] = {name: [] for name in HISTOGRAMS}
        self._counters = dict.fromkeys(("prompt_tokens_total", "prompt_tokens_cached_total", "generation"), 0)

    def load(self, concurrency: int, prompt: int, output: int) -> None:
        """From now on so many requests at a time."""
        self._load = (concurrency, prompt, output)
        self.running = [self._request() for _ in range(concurrency)]

    def unload(self) -> None:
        """Abort all."""
        self._load, self.running = None, []

    def advance(self, until_s: float) -> None:
        """Run all steps that end by then."""
        while self.running:
            batch = self._batch()
            tokens = sum(chunk for _, chunk in batch)
            kv_tokens = sum(request.computed + chunk for request, chunk in batch)
            pairs = sum(
                chunk * request.computed + chunk * (chunk + 1) // 2
                for request, chunk in batch
                if request.computed < request.prompt
            )
            duration_s = self.step_time.duration_s(tokens, kv_tokens, pairs, len(batch))
            if self.now_s + duration_s > until_s:
                return
            self.now_s += duration_s
            self.steps.append((tokens, kv_tokens, pairs, len(batch), duration_s))
            self._commit(batch, duration_s)
        self.now_s = until_s

    def _request(self) -> Request:
        assert self._load is not None
        _, prompt, output = self._load
        known = (prompt - 1) // BLOCK_SIZE * BLOCK_SIZE if self._random.random() < self.hits else 0
        return Request(prompt, max(1, round(output * self._random.uniform(0.5, 1.5))), known, computed=known)

    def _batch(self) -> list[tuple[Request, int]]:
        left, batch = self.budget, []
        for request in self.running:
            chunk = min(left, max(request.prompt - request.computed, 1))
            if chunk:
                batch.append((request, chunk))
                left -= chunk
        return batch

    def _commit(self, batch: list[tuple[Request, int]], duration_s: float) -> None:
        context = [(request, chunk) for request, chunk in batch if request.computed < request.prompt]
        counted, outputs = 0, 0
        for request, chunk in batch:
            first = request.computed < request.prompt
            request.computed += chunk
            if request.computed < request.prompt:
                continue
            request.generated += 1
            outputs += 1
            if first:
                counted += request.prompt - request.cached
                self._counters["prompt_tokens_total"] += request.prompt
                self._counters["prompt_tokens_cached_total"] += request.cached
                self._values["time_to_first_token_seconds"].append(1.0)
        self._counters["generation"] += outputs
        if outputs:
            self._values["iteration_tokens_total"].append(counted + outputs)
        self._replace_finished()
        decodes, elapsed_ms = len(batch) - len(context), (duration_s * self.elapsed_share - self.host_s) * 1e3
        self.log.append(
            f"(APIServer pid=7) INFO 11-21 14:08:33 [loggers.py:199] Engine 000: Iteration({len(self.log)}): "
            f"{len(context)} context requests, {sum(chunk for _, chunk in context)} context tokens, "
            f"{decodes} generation requests, {decodes} generation tokens, iteration elapsed time: {elapsed_ms:.2f} ms, "
            f"GPU KV cache usage: {100 * self.kv_use:.1f}%\n"
        )

    def _replace_finished(self) -> None:
        for k, request in enumerate(self.running):
            if request.generated == request.output:
                self._values["request_prompt_tokens"].append(request.prompt)
                self._values["request_generation_tokens"].append(request.output)
                self.running[k] = self._request()

    @property
    def kv_use(self) -> float:
        """Share of the blocks in use."""
        return sum(-(-request.computed // BLOCK_SIZE) for request in self.running) / (NUM_BLOCKS - 1)

    def page(self) -> str:
        """What /metrics shows."""
        labels = 'engine="0",model_name="m"'
        values = {
            "num_requests_running": len(self.running) + self.extra_running,
            "num_requests_waiting": 0,
            "kv_cache_usage_perc": self.kv_use,
            "num_preemptions_total": self.preemptions,
            "prompt_tokens_total": self._counters["prompt_tokens_total"],
            "prompt_tokens_cached_total": self._counters["prompt_tokens_cached_total"],
            "generation_tokens_total": self._counters["generation"],
            "request_success_total": len(self._values["request_prompt_tokens"]),
        }
        lines = [f"vllm:{name}{{{labels}}} {value}" for name, value in values.items()]
        lines.append(f'vllm:cache_config_info{{engine="0",block_size="{BLOCK_SIZE}",num_gpu_blocks="{NUM_BLOCKS}"}} 1')
        for name, seen in self._values.items():
            values_seen = np.array(seen)
            for edge in (*STEP_EDGES, np.inf):
                count = np.count_nonzero(values_seen <= edge)
                lines.append(f'vllm:{name}_bucket{{{labels},le="{"+Inf" if edge == np.inf else edge}"}} {count}')
            lines += [f"vllm:{name}_sum{{{labels}}} {sum(seen)}", f"vllm:{name}_count{{{labels}}} {len(seen)}"]
        return "\n".join(lines) + "\n"


class Clock:
    """Takes the place of `time`: passes only while somebody sleeps, so a busy machine changes nothing."""

    def __init__(self) -> None:
        self.now_s = 1e9

    def time(self) -> float:
        """Seconds."""
        return self.now_s

    monotonic = time

    def sleep(self, seconds: float) -> None:
        """Let it pass, and real processes get on."""
        time.sleep(0.005)
        self.now_s += seconds

    def rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Measure on this clock. A benchmark is a real process, whose start this clock cannot tell."""
        monkeypatch.setattr(live_load, "time", self)
        monkeypatch.setattr(live_load, "START_WITHIN_S", 1e6)
        monkeypatch.setattr(RunningServer, "scrape", lambda it: replace(fetch(it.url), taken_s=self.now_s))


@dataclass
class FakeServer:
    """An engine behind an address. `page` and `models` replace an answer.

    Attributes:
        loads: the prompts' seeds of the loads that came, in order.
        load_s: how long each was on the engine.
        starts_after_s: how long a benchmark is there before its load begins.
        ends: seconds after which the n-th load's benchmark ends, and whether it then fails.
        slow: loads in which a step takes as many times longer.
    """

    engine: Engine
    clock: Clock = field(default_factory=Clock)
    url: str = ""
    page: str | None = None
    models: str | None = None
    loads: list[int] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    starts_after_s: float = 0.0
    ends: dict[int, tuple[float, bool]] = field(default_factory=dict)
    slow: dict[int, float] = field(default_factory=dict)
    log: Path | None = None

    def __post_init__(self) -> None:
        self._lock, self._step_time = threading.Lock(), self.engine.step_time
        self._began_s, self._ends_s = 0.0, np.inf

    def metrics(self) -> str:
        """The page now."""
        with self._lock:
            if self.clock.now_s >= self._ends_s:
                self._unload(self._ends_s)
            self.engine.advance(self.clock.now_s)
            if self.log is not None:
                self.log.write_text("".join(self.engine.log))
            return self.engine.page() if self.page is None else self.page

    def serve_load(self, connection: socket.socket, size: dict[str, int]) -> bool:
        """Until the client goes, or its time is over; whether it should then think that all went well."""
        arrived_s = self.clock.now_s
        while self.clock.now_s < arrived_s + self.starts_after_s:
            time.sleep(0.001)
        number = self._load(size)
        if number not in self.ends:
            connection.makefile("rb").read()
            with self._lock:
                self._unload(self.clock.now_s)
        while self._ends_s < np.inf:
            time.sleep(0.001)
        return number in self.ends and not self.ends[number][1]

    def _load(self, size: dict[str, int]) -> int:
        with self._lock:
            now_s, number = self.clock.now_s, len(self.loads)
            self.engine.advance(now_s)
            if number in self.ends:
                self._ends_s = now_s + self.ends[number][0]
            self._began_s = now_s
            self.loads.append(size["seed"])
            self.engine.step_time = StepTime(
                *(self.slow.get(number, 1.0) * value for value in astuple(self._step_time))
            )
            self.engine.load(size["concurrency"], size["prompt"], size["output"])
        return number

    def _unload(self, at_s: float) -> None:
        self.engine.advance(at_s)
        self.engine.unload()
        self.load_s.append(at_s - self._began_s)
        self._ends_s = np.inf


@contextmanager
def fake_server(engine: Engine) -> Iterator[FakeServer]:
    """The engine on a port of its own."""
    fake = FakeServer(engine)
    listed = {"data": [{"id": "m", "root": "/models/m", "max_model_len": MODEL_LEN}]}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = fake.metrics() if self.path == "/metrics" else fake.models or json.dumps(listed)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            size = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if fake.serve_load(self.connection, size):
                self.send_response(200)
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield fake
        finally:
            server.shutdown()
