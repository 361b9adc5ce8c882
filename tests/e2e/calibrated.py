"""A server that is calibrated from outside, and what the calibration predicts of loads that it has not seen."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluidgate import EngineConfig, Hardware, simulate, summarize
from fluidgate.workload.formats import vllm_bench

from .server import HANGS_S, SEATS, TOKEN_BUDGET, VLLM, Server, served
from .tiny_model import write_tiny_model

LAYERS, HEADS = 8, 16
"""So large that a step takes as long as on a GPU, 10 to 40 ms, and HTTP does not count most."""
NUM_BLOCKS = 257
FLAGS = ("--num-gpu-blocks-override", str(NUM_BLOCKS), "--no-enable-prefix-caching")
"""A prefix cache would know most prompts again: of a thousand words there are a thousand prompts."""
CONFIG = EngineConfig(max_num_seqs=SEATS, max_num_batched_tokens=TOKEN_BUDGET, enable_prefix_caching=False)
STEPS = "vllm:iteration_tokens_total_count"
METRICS = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput", "preemptions")


@dataclass(frozen=True)
class Load:
    """Poisson arrivals of requests with uniform lengths, the mean ± a share of it."""

    name: str
    rate: float
    prompt_tokens: int
    output_tokens: int
    spread: float
    requests: int

    @property
    def arguments(self) -> list[str]:
        """As `vllm bench serve` takes them."""
        lengths = ["--random-input-len", str(self.prompt_tokens), "--random-output-len", str(self.output_tokens)]
        count = ["--random-range-ratio", str(self.spread), "--num-prompts", str(self.requests)]
        return [*lengths, *count, "--request-rate", str(self.rate), "--percentile-metrics", "ttft,tpot,e2el"]


@contextmanager
def calibrated_server(*flags: str) -> Iterator[Server]:
    """The server to calibrate."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_model(Path(folder, "model"), layers=LAYERS, heads=HEADS)
        with served(model, flags=[*FLAGS, *flags]) as server:
            yield server


class Refused(Exception):
    """A calibration that ended without a file.

    Attributes:
        sentence: what it said.
        steps: that the server took meanwhile.
    """

    def __init__(self, sentence: str, steps: float) -> None:
        super().__init__(sentence)
        self.sentence, self.steps = sentence, steps


def calibrate(server: Server, out: Path, time_s: float, *options: str) -> dict[str, Any]:
    """`fluidgate calibrate server` as a user types it: the report that it prints.

    Raises:
        Refused: it ends with a sentence.
    """
    program = Path(sys.executable).with_name("fluidgate")
    bench = shlex.join([sys.executable, str(VLLM), "bench", "serve"])
    limits = ["--max-concurrency", str(SEATS), "--max-num-batched-tokens", str(TOKEN_BUDGET)]
    words = ["calibrate", "server", server.url, "--yes", "--out", str(out), "--time-s", str(time_s)]
    command = [str(program), *words, *limits, "--bench-command", bench, "--format", "json", *options]
    before = server.metrics()[STEPS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=time_s + 2 * HANGS_S)
    if done.returncode == 1:
        raise Refused(done.stderr.splitlines()[-1], server.metrics()[STEPS] - before)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@dataclass(frozen=True)
class Measured:
    """What `vllm bench serve` measured under a load.

    Attributes:
        metrics: those of `METRICS`.
        sent: its detailed result, a file.
        start_s: how long it took to start and to end.
    """

    metrics: dict[str, float]
    sent: Path
    start_s: float


def measured(server: Server, load: Load, folder: Path) -> Measured:
    """Run a load; its detailed result is kept in `folder`."""
    before, began_s = server.metrics()["vllm:num_preemptions_total"], time.monotonic()
    result = server.bench(*load.arguments, "--seed", "1", "--save-detailed")
    start_s = time.monotonic() - began_s - result["duration"]
    result["preemptions"] = server.metrics()["vllm:num_preemptions_total"] - before
    assert result["completed"] == load.requests
    sent = folder / f"{load.name}.json"
    sent.write_text(json.dumps(result), encoding="utf-8")
    return Measured({name: float(result[name]) for name in METRICS}, sent, start_s)


def predicted(result: Path, hardware: Hardware) -> dict[str, float]:
    """What the simulator says of the requests that a benchmark sent, at the times it sent them."""
    workload, _ = vllm_bench.read(result)
    summary = summarize(simulate(workload, hardware, "greedy", config=CONFIG))
    return {name: float(getattr(summary, name)) for name in METRICS}
