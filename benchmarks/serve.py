"""`vllm bench serve` against stock vLLM and fluidgate's policies, each on a server of its own, on this machine's CPU.

    make bench-serve     or, where vLLM is installed: python benchmarks/serve.py [requests per second]

A Llama with random weights and a KV cache of 1,536 tokens: it shows who preempts and who waits, not how fast a model is
on a GPU. Every server is warmed up with as many requests as it is measured with.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2e.plans import MEAN_OUTPUT, MEAN_PROMPT, SPREAD, write_plan
from e2e.server import GATE, Server, served
from e2e.tiny_model import write_tiny_model
from fluidgate.hardware import StepTime

REQUESTS = 120
LAYERS, HEADS = 8, 16
STEP = StepTime(c0=0.008, c_tok=5e-4)
FULL_RATE = 8.0
"""Above what the server can do, req/s: the plan of a server to which all requests come at once."""

ROWS: dict[str, tuple[str | None, list[str]]] = {
    "stock vLLM": (None, []),
    "watermark 0.1": (None, ["--watermark", "0.1"]),
    "watermark 0.2": (None, ["--watermark", "0.2"]),
    "fluid": ("fluid", []),
    "wait": ("wait", []),
    "nested-wait": ("nested-wait", []),
}
COLUMNS = (
    ("tok/s", "output_throughput"),
    ("TTFT mean ms", "mean_ttft_ms"),
    ("TTFT p99 ms", "p99_ttft_ms"),
    ("TPOT mean ms", "mean_tpot_ms"),
    ("ITL p99 ms", "p99_itl_ms"),
)


def bench_arguments(rate: str) -> list[str]:
    """The load, as `vllm bench serve` takes it."""
    lengths = ["--random-input-len", str(MEAN_PROMPT), "--random-output-len", str(MEAN_OUTPUT)]
    load = ["--random-range-ratio", str(SPREAD), "--num-prompts", str(REQUESTS), "--request-rate", rate]
    return [*lengths, *load, "--percentile-metrics", "ttft,tpot,itl", "--metric-percentiles", "99"]


def measured(server: Server, rate: str) -> dict[str, Any]:
    """Results of the second of two benchmarks, with its preemptions."""
    server.bench(*bench_arguments(rate), "--seed", "1")
    before = server.metrics()["vllm:num_preemptions_total"]
    result = server.bench(*bench_arguments(rate), "--seed", "2")
    return result | {"preemptions": server.metrics()["vllm:num_preemptions_total"] - before}


def main() -> None:
    rate = sys.argv[1] if len(sys.argv) > 1 else "inf"
    print(f"vllm bench serve --dataset-name random --ignore-eos --temperature 0 {' '.join(bench_arguments(rate))}")
    print(f"| policy | completed | {' | '.join(name for name, _ in COLUMNS)} | preemptions |")
    print("|---|" + "---:|" * (len(COLUMNS) + 2))
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_model(Path(folder, "model"), layers=LAYERS, heads=HEADS)
        for name, (policy, flags) in ROWS.items():
            planned_rate = FULL_RATE if rate == "inf" else float(rate)
            plan = write_plan(Path(folder, "plan.json"), policy, rate=planned_rate, step=STEP) if policy else None
            with served(model, GATE if policy else None, plan=plan, flags=flags) as server:
                result = measured(server, rate)
            cells = [f"{result[key]:,.1f}" for _, key in COLUMNS]
            cells = [str(result["completed"]), *cells, f"{result['preemptions']:.0f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
