"""sched-sim's chunked-prefill scheduler on a Mooncake trace, timed: prints one JSON object.

python sched_sim_replay.py TRACE.jsonl SETTINGS     (settings: JSON with seats and token_budget)

Its A100 preset serves Meta-Llama-3-8B, with a KV capacity of its own.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from sched_sim.core.event_engine import Simulator
from sched_sim.core.request import Request
from sched_sim.hardware.presets import PRESETS
from sched_sim.schedulers.factory import create_scheduler


def main(trace: Path, settings: dict) -> None:
    """The event loop alone is timed."""
    hardware = PRESETS["a100"]
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    requests = [
        Request(
            request_id=str(i),
            arrived_at=row["timestamp"] / 1e3,
            prompt_tokens=row["input_length"],
            output_tokens=row["output_length"],
        )
        for i, row in enumerate(rows)
    ]
    scheduler = create_scheduler(
        "chunked", hardware, token_budget=settings["token_budget"], max_batch_size=settings["seats"]
    )
    simulator = Simulator(hardware, scheduler)
    simulator.submit_workload(requests)
    wall, cpu = time.perf_counter(), time.process_time()
    simulator.run()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    finished = [request for request in simulator.all_requests if request.completed_at is not None]
    batches = simulator.iteration_batch_sizes
    answer = {
        "version": version("sched-sim"),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "finished": len(finished),
        "output_tokens": sum(request.decoded_tokens for request in finished),
        "makespan_s": max(request.completed_at for request in finished) - min(r.arrived_at for r in requests),
        "steps": len(batches),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
