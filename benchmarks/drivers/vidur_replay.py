"""Vidur's Sarathi scheduler on a Mooncake trace, timed: runs in Vidur's own environment and prints one JSON object.

python vidur_replay.py TRACE.jsonl SETTINGS     (in a checkout of github.com/microsoft/vidur: it reads data/profiling)

Meta-Llama-3-8B on an A100. The prompts' chunk is the token budget, and the watermark is Vidur's 1%.
"""

import csv
import json
import sys
import tempfile
import time
from pathlib import Path

from vidur.config import SimulationConfig
from vidur.simulator import Simulator


def options(requests: Path, longest: int, settings: dict, folder: str) -> list[str]:
    """Vidur's command line for one replica."""
    predictor = "--random_forrest_execution_time_predictor_config_prediction_max"
    pairs = {
        "--replica_config_device": "a100",
        "--replica_config_model_name": "meta-llama/Meta-Llama-3-8B",
        "--cluster_config_num_replicas": 1,
        "--request_generator_config_type": "trace_replay",
        "--trace_request_generator_config_trace_file": requests,
        "--trace_request_generator_config_max_tokens": longest,
        "--replica_scheduler_config_type": "sarathi",
        "--sarathi_scheduler_config_batch_size_cap": settings["seats"],
        "--sarathi_scheduler_config_chunk_size": settings["token_budget"],
        "--sarathi_scheduler_config_block_size": settings["block_size"],
        "--sarathi_scheduler_config_num_blocks": settings["blocks"],
        f"{predictor}_tokens_per_request": longest,
        f"{predictor}_batch_size": settings["seats"],
        "--metrics_config_output_dir": folder,
    }
    switches = ["--no-metrics_config_write_metrics", "--no-metrics_config_enable_chrome_trace"]
    return [str(part) for pair in pairs.items() for part in pair] + switches


def main(trace: Path, settings: dict) -> None:
    """The event loop alone is timed: the step times are learned before it, when the simulator is made."""
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    longest = max(row["input_length"] + row["output_length"] for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.csv"
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("arrived_at", "num_prefill_tokens", "num_decode_tokens"))
            table.writerows((row["timestamp"] / 1e3, row["input_length"], row["output_length"]) for row in rows)
        sys.argv[1:] = options(path, longest, settings, folder)
        simulator = Simulator(SimulationConfig.create_from_cli_args())
        simulator._write_output = lambda: None  # it would draw figures as the process ends
        requests = [entry[-1]._request for entry in simulator._event_queue]
        wall, cpu = time.perf_counter(), time.process_time()
        simulator.run()
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    finished = [request for request in requests if request.completed]
    answer = {
        "version": "a checkout",
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "finished": len(finished),
        "output_tokens": sum(request.num_decode_tokens for request in finished),
        "makespan_s": max(r.completed_at for r in finished) - min(r.arrived_at for r in requests),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), json.loads(sys.argv[2]))
