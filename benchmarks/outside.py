"""The gate outside beside the one inside and stock vLLM: stalls, evictions and throughput.

    python benchmarks/outside.py table [seeds [replicas …]]    by load and replicas
    python benchmarks/outside.py seen [seeds]                  by what gates see, on four replicas at 1.1
    python benchmarks/outside.py prefix TRACE                  by how strongly prefixes draw, on Mooncake's trace

DeepSeek-R1 reasoning and Azure conversations on Llama-2-7B, A100-80GB, at 0.9 to 1.2 of the boundary, gauges 5 s old.
The router before stock engines and before those with the policy inside is least-loaded. Numbers are means over the
seeds; the process exits with 1 where a target is missed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluidgate import plan, summarize
from fluidgate.engine import EngineConfig, Fleet, FleetRecords, Outside, RunRecords
from fluidgate.hardware import load_profile
from fluidgate.runs import simulate
from fluidgate.workload import Workload, generate, read_trace

HARDWARE = load_profile("llama-2-7b", "a100-80gb")
CONFIG = EngineConfig(max_num_seqs=1024, max_model_len=131_072)
REQUESTS = {"r1-reasoning": 600, "azure-conv-2023": 2000}
"""Of each replica."""
LOADS = (0.9, 1.0, 1.1, 1.2)
LEAST_GAIN, LEAST_RATE, MOST_EVICTED = 0.9, 0.98, 0.2
STALL_S = 1.0


@dataclass(frozen=True)
class Means:
    """Of one way to run a fleet: evictions, silence beyond a second, streams that had one, tokens per second."""

    evictions: float
    silence_s: float
    stalled: float
    rate: float


def numbers(records: RunRecords) -> tuple[float, float, float, float]:
    """The `Means` of one run. Tokens count while requests come: how long the last one takes is chance."""
    gaps_s = records.longest_gap_s[records.last_token_s > records.first_token_s]
    end_s = float(records.arrival_s[-1])
    in_time = records.finished & (records.last_token_s <= end_s)
    rate = float(records.generated_tokens[in_time].sum()) / end_s
    beyond_s = np.maximum(gaps_s - STALL_S, 0.0)
    return float(records.preemptions.sum()), float(beyond_s.mean()), float((gaps_s > STALL_S).mean()), rate


def workload(preset: str, load: float, replicas: int, seed: int) -> Workload:
    """Requests at a share of the boundary of so many replicas."""
    drawn = generate(preset, n=4000, rate=1.0, seed=99)
    boundary = plan(drawn, HARDWARE, max_num_seqs=1024, max_model_len=131_072).stability.boundary_rate
    return generate(preset, n=REQUESTS[preset] * replicas, rate=load * replicas * boundary, seed=seed)


def means(preset: str, load: float, replicas: int, seeds: int) -> list[Means]:
    """Stock, inside, outside."""
    router = Fleet(replicas, "least-loaded")
    ways = (
        ("greedy", router),
        ("fluid", router),
        ("fluid", Fleet(replicas, outside=Outside(replicas, gauge_age_s=5.0))),
    )
    runs = []
    for seed in range(1, seeds + 1):
        drawn = workload(preset, load, replicas, seed)
        runs.append([numbers(simulate(drawn, HARDWARE, p, config=CONFIG, fleet=fleet)) for p, fleet in ways])
    return [Means(*values) for values in np.mean(runs, axis=0).tolist()]


def row(preset: str, load: float, replicas: int, seeds: int) -> tuple[str, bool]:
    """A row of the table, and whether it meets the targets."""
    stock, inside, outside = means(preset, load, replicas, seeds)
    gained = stock.silence_s - inside.silence_s
    gain = (stock.silence_s - outside.silence_s) / gained if gained > 0.001 else np.nan
    rate = outside.rate / inside.rate
    met = not gain < LEAST_GAIN and rate >= LEAST_RATE and outside.evictions <= MOST_EVICTED * stock.evictions
    each = (stock, inside, outside)
    evictions = " / ".join(f"{one.evictions:,.0f}" for one in each)
    stalled = " / ".join(f"{one.stalled:.1%}" for one in each)
    words = "–" if np.isnan(gain) else f"{gain:.2f}"
    return f"| {preset} | {replicas} | {load:g} | {evictions} | {stalled} | {words} | {rate:.3f} |", met


def table(seeds: int, replicas: list[int]) -> int:
    """By load and replicas, row by row; returns how many rows miss a target."""
    print("| requests | replicas | load | evictions | silent for over 1 s | gain in silence | output ÷ inside |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    missed = 0
    for preset in REQUESTS:
        for count in replicas:
            for load in LOADS:
                words, met = row(preset, load, count, seeds)
                missed += not met
                print(words if met else f"{words} missed", flush=True)
    return missed


SEEN = {
    "gauges 0.1 s old": Outside(gauge_age_s=0.1),
    "gauges 5 s old": Outside(),
    "gauges 30 s old": Outside(gauge_age_s=30.0),
    "no gauges": Outside(gauge_age_s=None),
    "gauges that stop for a minute": Outside(gauges_stop_s=(600.0, 660.0)),
    "ends alone, no streams": Outside(streams=False),
    "ends alone, no gauges": Outside(streams=False, gauge_age_s=None),
    "two gates": Outside(gates=2),
    "four gates": Outside(gates=4),
    "four gates, gauges 30 s old": Outside(gates=4, gauge_age_s=30.0),
    "four gates, no gauges": Outside(gates=4, gauge_age_s=None),
}


def seen(seeds: int) -> None:
    """R1 reasoning on four replicas at 1.1 of their boundary, by what the gates see."""
    print("| what gates see | evictions | silent for over 1 s | p99 silence, s | output, tok/s | mean E2E, s |")
    print("|---|--:|--:|--:|--:|--:|")
    ways = {"(stock vLLM)": ("greedy", Fleet(4, "least-loaded")), "(inside)": ("fluid", Fleet(4, "least-loaded"))}
    ways |= {name: ("fluid", Fleet(4, outside=outside)) for name, outside in SEEN.items()}
    for name, (policy, fleet) in ways.items():
        each = []
        for seed in range(1, seeds + 1):
            drawn = workload("r1-reasoning", 1.1, 4, seed)
            records = simulate(drawn, HARDWARE, policy, config=CONFIG, fleet=fleet)
            summary = summarize(records)
            each.append((*numbers(records), summary.p99_longest_silence_s, summary.mean_e2el_ms))
        evictions, _, stalled, rate, p99_s, e2el_ms = np.mean(each, axis=0).tolist()
        print(
            f"| {name} | {evictions:,.0f} | {stalled:.1%} | {p99_s:.1f} | {rate:,.0f} | {e2el_ms / 1e3:.0f} |",
            flush=True,
        )


def prefix(trace: Path) -> None:
    """The first 2,400 requests on four H100s with Llama 3.1 8B, by the room that a cached prefix is worth."""
    hardware, config = load_profile("llama-3.1-8b", "h100-80gb"), EngineConfig(max_num_seqs=256, max_model_len=131_072)
    drawn = read_trace(trace)[0].take(slice(0, 2400))
    boundary = plan(drawn, hardware, max_num_seqs=256, max_model_len=131_072).stability.boundary_rate
    print("| load | affinity | prompt tokens cached | mean TTFT, s | p99 TTFT, s | output, tok/s | busiest ÷ mean |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for load in (0.9, 1.1):
        scaled = drawn.scaled(load * 4 * boundary / drawn.rate)
        for loss in (None, 0.05, 0.2, 0.5):
            fleet = Fleet(4, outside=Outside(affinity_loss=loss))
            records = simulate(scaled, hardware, "fluid", config=config, fleet=fleet)
            assert isinstance(records, FleetRecords)
            summary, name = summarize(records), "none" if loss is None else f"{loss:g}"
            seconds = f"{summary.mean_ttft_ms / 1e3:.1f} | {summary.p99_ttft_ms / 1e3:.1f}"
            words = (
                f"{summary.cached_share:.1%} | {seconds} | {summary.output_throughput:,.0f} | {records.imbalance:.2f}"
            )
            print(f"| {load:g} | {name} | {words} |", flush=True)


def main(what: str = "table", *more: str) -> None:
    """One of the tables."""
    if what == "prefix":
        prefix(Path(more[0]))
    elif what == "seen":
        seen(int(more[0]) if more else 3)
    else:
        sys.exit(table(int(more[0]) if more else 3, [int(count) for count in more[1:]] or [1, 4, 8]) > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
