"""AISimulate's replay of a Mooncake trace, timed: runs in AISimulate's own environment and prints one JSON object.

python aisimulate_replay.py TRACE.jsonl SETTINGS     (settings: JSON with seats, token_budget, blocks, block_size)

Its A100-SXM data for Llama-3.1-8B come with the wheel. Prefix caching is off, since the trace shares no prefixes.
"""

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from aisimulate import _runtime
from aisimulate.config.cli import CorePredictionConfig
from aisimulate.predict import run_prediction
from aisimulate.runner import EngineReplayRunnerFactory

HASH_TOKENS = 512


class TimedRuntime:
    """AISimulate's compiled engine, with the processor time of its last replay."""

    cpu_s = 0.0

    def run_replay_json(self, payload: str) -> str:
        start = time.process_time()
        report = _runtime.run_replay_json(payload)
        self.cpu_s = time.process_time() - start
        return report


def configuration(trace: Path, settings: dict) -> CorePredictionConfig:
    """One aggregated vLLM worker on an A100."""
    worker = {
        "scheduler": {"max_batched_tokens": settings["token_budget"], "max_sequences": settings["seats"]},
        "kv_cache": {
            "block_size": settings["block_size"],
            "prefix_caching": False,
            "capacity": {"type": "fixed", "blocks": settings["blocks"]},
        },
    }
    engine = {
        "mode": "aggregated",
        "model": "meta-llama/Meta-Llama-3.1-8B",
        "hardware": "a100_sxm",
        "backend": "vllm",
        "workers": {"aggregated": worker},
    }
    source = {"type": "trace", "paths": [str(trace)], "format": "mooncake", "block_size": HASH_TOKENS}
    return CorePredictionConfig.model_validate(
        {"engine": engine, "traffic": {"source": source, "load": {"type": "trace_timestamps"}}}
    )


def replay(trace: Path, settings: dict) -> tuple[dict, float]:
    """AISimulate's summary, and the processor time of its engine: loading its step times, then the replay."""
    runtime = TimedRuntime()
    factory = EngineReplayRunnerFactory(runtime=runtime)
    summary = run_prediction(configuration(trace, settings), stack="engine", runner_factory=factory).summary
    return summary, runtime.cpu_s


def with_own_prefixes(trace: Path) -> list[str]:
    """The lines with hash ids, which AISimulate demands: no two requests have one in common."""
    lines, used = [], 0
    for line in trace.read_text().splitlines():
        row = json.loads(line)
        count = -(-row["input_length"] // HASH_TOKENS)
        lines.append(json.dumps(row | {"hash_ids": list(range(used, used + count))}) + "\n")
        used += count
    return lines


def main(trace: Path, settings: dict) -> None:
    """Its processor time is what the first request alone does not cost; its wall time is its own statement."""
    lines = with_own_prefixes(trace)
    with tempfile.TemporaryDirectory() as folder:
        first, whole = Path(folder) / "first.jsonl", Path(folder) / "whole.jsonl"
        first.write_text(lines[0])
        whole.write_text("".join(lines))
        _, loading_s = replay(first, settings)
        summary, cpu_s = replay(whole, settings)
    answer = {
        "version": version("aisimulate"),
        "wall_s": summary["wall_time_ms"] / 1e3,
        "cpu_s": cpu_s - loading_s,
        "finished": summary["completed_requests"],
        "output_tokens": summary["total_output_tokens"],
        "makespan_s": summary["duration_ms"] / 1e3,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), json.loads(sys.argv[2]))
