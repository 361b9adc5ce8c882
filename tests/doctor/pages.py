"""Pages of metrics written by hand: a server at rest, and what a test changes about it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from fluidgate.errors import InputError

TOKEN_EDGES = [m * 10**k for k in range(5) for m in (1, 2, 5)]
STEP_EDGES = [2**k for k in (0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)]
GAP_EDGES = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
PHASE_EDGES = [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 20.0, 60.0]
FIRST_EDGES = [0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 40.0]

BLOCKS, BLOCK_SIZE = 1001, 16
"""16,000 tokens of KV."""


def histogram(name: str, values: Sequence[float], edges: Sequence[float], labels: str) -> list[str]:
    """The lines of a histogram of `values`, counted here by bisection."""
    places = [bisect_left(edges, value) for value in values]
    lines = []
    for k, edge in enumerate([*map(str, edges), "+Inf"]):
        lines.append(f'vllm:{name}_bucket{{{labels},le="{edge}"}} {sum(place <= k for place in places)}')
    return [*lines, f"vllm:{name}_sum{{{labels}}} {sum(values)}", f"vllm:{name}_count{{{labels}}} {len(values)}"]


def page(
    *,
    running: float = 8,
    waiting: float = 0,
    deferred: float = 0,
    kv_use: float = 0.3,
    finished: int = 100,
    preemptions: int = 0,
    prompts: Sequence[float] = (100,) * 100,
    outputs: Sequence[float] = (50,) * 100,
    steps: Sequence[float] = (64,) * 100,
    first_s: Sequence[float] = (0.2,) * 100,
    gaps_s: Sequence[float] = (0.02,) * 4900,
    queue_s: Sequence[float] = (0.01,) * 100,
    prefill_s: Sequence[float] = (0.19,) * 100,
    prefix: tuple[int, int] = (0, 0),
    unfinished: tuple[float, float] = (0.0, 0.0),
    config: Mapping[str, object] | None = None,
    gate: Mapping[str, float] | None = None,
    model: str = "m",
    engine: str = "0",
    replica: str | None = None,
    extra: Sequence[str] = (),
) -> str:
    """A page of one engine; by default nothing is wrong. `unfinished`: prompt and output tokens of others."""
    labels = f'engine="{engine}",model_name="{model}"' + ("" if replica is None else f',pod="{replica}"')
    settings = {
        "num_gpu_blocks": BLOCKS,
        "block_size": BLOCK_SIZE,
        "gpu_memory_utilization": "0.92",
        "cache_dtype": "auto",
        "enable_prefix_caching": "True",
    }
    settings |= dict(config or {})
    told = ",".join(f'{name}="{value}"' for name, value in settings.items())
    values = {
        "num_requests_running": running,
        "num_requests_waiting": waiting + deferred,
        "kv_cache_usage_perc": kv_use,
        "num_preemptions_total": preemptions,
        "generation_tokens_total": sum(outputs) + unfinished[1],
        "prefix_cache_queries_total": prefix[0],
        "prefix_cache_hits_total": prefix[1],
    }
    lines = ["# HELP vllm:num_requests_running Number of requests in model execution batches."]
    lines += ["# TYPE vllm:num_requests_running gauge"]
    lines += [f"vllm:{name}{{{labels}}} {value}" for name, value in values.items()]
    lines += [f'vllm:num_requests_waiting_by_reason{{{labels},reason="capacity"}} {waiting}']
    lines += [f'vllm:num_requests_waiting_by_reason{{{labels},reason="deferred"}} {deferred}']
    lines += [f'vllm:request_success_total{{{labels},finished_reason="stop"}} {finished}']
    lines += [f'vllm:prompt_tokens_by_source_total{{{labels},source="local_compute"}} {sum(prompts) + unfinished[0]}']
    lines += [f'vllm:prompt_tokens_by_source_total{{{labels},source="local_cache_hit"}} {prefix[1]}']
    pod = "" if replica is None else f',pod="{replica}"'
    lines += [f'vllm:cache_config_info{{engine="{engine}"{pod},{told}}} 1.0']
    lines += histogram("request_prompt_tokens", prompts, TOKEN_EDGES, labels)
    lines += histogram("request_generation_tokens", outputs, TOKEN_EDGES, labels)
    lines += histogram("iteration_tokens_total", steps, STEP_EDGES, labels)
    lines += histogram("time_to_first_token_seconds", first_s, FIRST_EDGES, labels)
    lines += histogram("inter_token_latency_seconds", gaps_s, GAP_EDGES, labels)
    lines += histogram("request_queue_time_seconds", queue_s, PHASE_EDGES, labels)
    lines += histogram("request_prefill_time_seconds", prefill_s, PHASE_EDGES, labels)
    if gate is not None:
        ours = {
            'fallbacks_total{where="decide"}': 0,
            "held_requests": 0,
            "computed_tokens_total": 1000,
            "recomputed_tokens_total": 0,
            "longest_silence_seconds": 0.1,
            "predicted_peak_kv_share": 0.5,
        }
        lines += [f"fluidgate_{name} {value}" for name, value in (ours | dict(gate)).items()]
    return "\n".join([*lines, *extra]) + "\n"


def log_line(
    *,
    time: str = "11-21 12:30:10",
    engine: str = "Engine 000",
    running: int = 8,
    waiting: int = 0,
    kv_use: float = 30.0,
    more: str = "",
    tokens_per_s: tuple[float, float] = (455.0, 479.2),
) -> str:
    """A line of vLLM's statistics."""
    return (
        f"(APIServer pid=1) INFO {time} [loggers.py:335] {engine}: Avg prompt throughput: {tokens_per_s[0]} tokens/s, "
        f"Avg generation throughput: {tokens_per_s[1]} tokens/s, "
        f"Running: {running} reqs, Waiting: {waiting} reqs{more}, "
        f"GPU KV cache usage: {kv_use:.1f}%, Prefix cache hit rate: 0.0%"
    )


def refusal(read: Callable[[], object]) -> str | None:
    """The sentence with which `read` refuses its input; None if it takes it. Any other error is a bug."""
    try:
        read()
    except InputError as error:
        return str(error)
    return None
