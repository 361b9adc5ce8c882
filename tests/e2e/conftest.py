"""Servers and what they did under the same load, shared by the tests: a start takes half a minute or more."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluidgate.hardware import StepTime
from fluidgate.policies import policy_class

from .plans import MEAN_OUTPUT, MEAN_PROMPT, SPREAD, write_plan
from .server import GATE, Server, served
from .tiny_model import VOCABULARY, write_tiny_model

GATED = ("wait", "nested-wait", "fluid")
BENCH_REQUESTS, DIRECT_REQUESTS = 120, 64
ROUGH_STEP = StepTime(c0=0.003, c_tok=5e-5)
RATE = 20.0


@dataclass(frozen=True)
class Outcome:
    """One server's answers, the benchmark's results, and the preemptions during the benchmark.

    `reads_hints`: its policy needs output lengths.
    """

    outputs: list[list[int]]
    bench: dict[str, Any]
    preemptions: float
    reads_hints: bool = False


def measure(server: Server) -> Outcome:
    """Direct requests first, from which a learning policy learns; then `vllm bench serve`, all at once."""
    rng = np.random.default_rng(1)
    prompts, lengths = (
        rng.integers(round(mean * (1 - SPREAD)), round(mean * (1 + SPREAD)), DIRECT_REQUESTS).tolist()
        for mean in (MEAN_PROMPT, MEAN_OUTPUT)
    )
    words = [rng.integers(3, VOCABULARY, length).tolist() for length in prompts]
    outputs = server.outputs(words, lengths)
    assert [len(tokens) for tokens in outputs] == lengths
    before = server.metrics()["vllm:num_preemptions_total"]
    mean = ["--random-input-len", str(MEAN_PROMPT), "--random-output-len", str(MEAN_OUTPUT)]
    count = ["--num-prompts", str(BENCH_REQUESTS), "--request-rate", "inf", "--seed", "1"]
    bench = server.bench(*mean, "--random-range-ratio", str(SPREAD), *count)
    return Outcome(outputs, bench, server.metrics()["vllm:num_preemptions_total"] - before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model; skips where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here; `make test` runs these in an environment of their own")
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def stock(model: Path) -> Outcome:
    """vLLM as it is."""
    with served(model) as server:
        return measure(server)


@pytest.fixture(scope="session")
def watermark(model: Path) -> Outcome:
    """vLLM with a fifth of its blocks kept free, about what the plan says."""
    with served(model, flags=["--watermark", "0.2"]) as server:
        return measure(server)


@pytest.fixture(scope="module", params=GATED)
def gated(request: pytest.FixtureRequest, model: Path, tmp_path_factory: Any) -> Iterator[tuple[Server, Outcome]]:
    """A server that runs a plan, and what it did."""
    path = tmp_path_factory.mktemp("plans") / f"{request.param}.json"
    plan = write_plan(path, request.param, rate=RATE, step=ROUGH_STEP)
    with served(model, GATE, plan=plan) as server:
        yield server, replace(measure(server), reads_hints=policy_class(request.param).needs_output_length)
