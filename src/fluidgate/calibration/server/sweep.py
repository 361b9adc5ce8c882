"""The load under which a server is measured: `lay_out_sweep` plans its phases, each with its command line."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from fluidgate.calibration.server.bench_process import bench_words
from fluidgate.calibration.server.running_server import RunningServer
from fluidgate.errors import InputError

DEFAULT_CONCURRENCY = 64
MIN_CONCURRENCY = 4
MIN_MODEL_LEN = 128
TOKEN_BUDGET = 2048
"""The least that vLLM allows a step by default; a longer prompt takes steps that give no token and are not counted."""
KV_SHARE = 0.9
"""Share of the KV cache to use, with every output at its longest: a preemption computes tokens again that no
counter shows."""
OUTPUT_SPREAD = 0.5
"""Outputs are uniform, ± half: with equal lengths all requests would end at once, and the engine would idle."""
SHORTEST_STEP_S = 0.004
MAX_PROMPTS = 2000
"""The benchmark makes all prompts before it sends the first; one that runs out of them ends its phase early."""


@dataclass(frozen=True)
class Phase:
    """A closed loop: a fixed number of requests at any time, a new one for each that ends.

    Attributes:
        name: what it is like.
        tells: the coefficients that it determines.
        concurrency: requests at any time.
        prompt_tokens: of every request.
        output_tokens: on average.
        num_prompts: requests at most.
    """

    name: str
    tells: str
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    num_prompts: int

    def arguments(self, server: RunningServer, seed: int, tokenizer: str | None = None) -> list[str]:
        """What follows `vllm bench serve`; another seed gives other prompts, which no prefix cache knows."""
        values = {
            "--backend": "openai",
            "--base-url": server.url,
            "--model": server.model,
            "--tokenizer": tokenizer or server.tokenizer,
            "--dataset-name": "random",
            "--random-input-len": self.prompt_tokens,
            "--random-output-len": self.output_tokens,
            "--random-range-ratio": json.dumps({"input": 0, "output": OUTPUT_SPREAD}),
            "--num-prompts": self.num_prompts,
            "--max-concurrency": self.concurrency,
            "--request-rate": "inf",
            "--temperature": 0,
            "--seed": seed,
        }
        return [*(str(word) for pair in values.items() for word in pair), "--ignore-eos", "--disable-tqdm"]


@dataclass(frozen=True)
class Sweep:
    """A planned load that has not begun.

    Attributes:
        server: the server to load.
        phases: in order.
        time_s: bound of the time under load, all phases together.
        bench: the words that call the benchmark.
        seed: of the first phase's prompts.
        tokenizer: for the benchmark; None: where the server has its model.
    """

    server: RunningServer
    phases: tuple[Phase, ...]
    time_s: float
    bench: tuple[str, ...]
    seed: int
    tokenizer: str | None = None

    def command(self, phase: Phase, run: int = 0) -> tuple[str, ...]:
        """The benchmark's command line for a run of a phase; each run has prompts of its own."""
        seed = self.seed + self.phases.index(phase) + run * len(self.phases)
        return (*self.bench, *phase.arguments(self.server, seed, self.tokenizer))


def lay_out_sweep(
    server: RunningServer,
    *,
    time_s: float,
    bench_command: str,
    concurrency: int | None = None,
    token_budget: int | None = None,
    tokenizer: str | None = None,
    seed: int | None = None,
) -> Sweep:
    """The sweep for a server; nothing is started.

    Args:
        time_s: seconds under load, all phases together.
        bench_command: how the benchmark is called.
        concurrency, token_budget: as in `lay_out`.
        tokenizer: for the benchmark, if not where the server has its model.
        seed: of the first phase's prompts; by default the time, because a server may remember an earlier sweep's.

    Raises:
        InputError: no room for the phases, no time, or no such benchmark.
    """
    if not 0.0 < time_s < 86400.0:
        raise InputError(f"--time-s {time_s:g} must be above 0 and below a day, in seconds")
    words = tuple(bench_words(bench_command))
    phases = lay_out(server, time_s, concurrency=concurrency, token_budget=token_budget)
    return Sweep(server, phases, time_s, words, int(time.time()) if seed is None else seed, tokenizer)


def lay_out(
    server: RunningServer, time_s: float, *, concurrency: int | None = None, token_budget: int | None = None
) -> tuple[Phase, ...]:
    """Phases that determine all coefficients together.

    Few, some and many decodes of short contexts separate c0 from what a decode costs, c_tok + c_seq; many with long
    contexts give c_kv; short and long prompts give what a token costs in a prefill, c_tok, and what c_attn adds. No
    phase has only one or two requests: such steps are faster than any line through the others, and a server with so
    little to do needs no plan.

    Args:
        time_s: seconds of all phases together.
        concurrency: most requests at a time; no more than the server has seats.
        token_budget: the server's `max_num_batched_tokens`; no prompt is longer.

    Raises:
        InputError: no room for such phases.
    """
    most = DEFAULT_CONCURRENCY if concurrency is None else concurrency
    budget = min(TOKEN_BUDGET, token_budget or TOKEN_BUDGET)
    longest = server.max_model_len
    if most < MIN_CONCURRENCY:
        raise InputError(f"--max-concurrency {most}: steps of so few requests tell little; give at least 4")
    if longest < MIN_MODEL_LEN:
        raise InputError(
            f"{server.url}: its max_model_len of {longest} tokens leaves no room for long and short prompts; start it "
            f"with at least {MIN_MODEL_LEN}"
        )
    brief, long_output = min(32, longest // 8), min(512, longest // 4)
    phases = (
        ("few decodes", "c0", MIN_CONCURRENCY, brief, min(256, longest // 4)),
        ("some decodes", "c0 and c_seq", max(MIN_CONCURRENCY, most // 4), brief, min(128, longest // 4)),
        ("many decodes", "c_seq", most, brief, min(128, longest // 4)),
        ("long contexts", "c_kv", most, _prompt(longest, long_output, budget), long_output),
        ("short prompts", "c_tok", 16, min(128, longest // 8, budget), 8),
        ("long prompts", "c_attn", 4, _prompt(longest, 16, budget), 16),
    )
    return tuple(_within(server, time_s / len(phases), most, *phase) for phase in phases)


def _longest_output(output_tokens: int) -> int:
    return int(output_tokens * (1 + OUTPUT_SPREAD)) + 1


def _prompt(max_model_len: int, output_tokens: int, budget: int) -> int:
    """The longest prompt that leaves room for the output, and for a special token that the server may add."""
    return min(budget, max_model_len - _longest_output(output_tokens)) - 1


def _within(
    server: RunningServer,
    slot_s: float,
    most: int,
    name: str,
    tells: str,
    concurrency: int,
    prompt_tokens: int,
    output_tokens: int,
) -> Phase:
    """The phase with as many requests as the KV cache holds."""
    room = int(KV_SHARE * server.kv_tokens) // (prompt_tokens + _longest_output(output_tokens) + server.block_size)
    if room < 1:
        raise InputError(
            f"{server.url}: {KV_SHARE:.0%} of its KV cache of {server.kv_tokens:,} tokens does not hold one request of "
            f"{prompt_tokens:,} and {output_tokens:,} tokens; give it more memory"
        )
    at_once = min(concurrency, most, room)
    waves = slot_s / (output_tokens * SHORTEST_STEP_S) + 2
    return Phase(name, tells, at_once, prompt_tokens, output_tokens, min(MAX_PROMPTS, int(at_once * waves)))
