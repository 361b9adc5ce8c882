"""A million requests over 64 replicas: time and memory per router, beside one engine with the same work per request.

python benchmarks/replicas.py [requests [replicas]]
"""

import resource
import sys
import time

from fluidgate import Fleet, FleetRecords, Workload, generate, plan, simulate, summarize
from fluidgate.engine import ROUTERS
from fluidgate.hardware import load_profile
from fluidgate.policies import Policy, make_policy

HARDWARE = load_profile("llama-2-7b", "a100-80gb")
LOAD = 0.9


def measure(workload: Workload, policy: Policy, fleet: Fleet) -> None:
    """One line: how long a fleet takes, and what its router achieves."""
    start, cpu = time.perf_counter(), time.process_time()
    records = simulate(workload, HARDWARE, policy, fleet=fleet)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    summary = summarize(records)
    imbalance = records.imbalance if isinstance(records, FleetRecords) else 1.0
    print(
        f"{policy.name:8} {fleet.replicas:3} × {fleet.router:13} {seconds:6.1f} s ({cpu_seconds:.1f} s of one core), "
        f"{len(workload) / seconds:9,.0f} requests/s; {summary.completed:,} completed, mean TTFT "
        f"{summary.mean_ttft_ms:.0f} ms, busiest {imbalance:.3f} × mean",
        flush=True,
    )


def main(requests: int, replicas: int) -> None:
    """All routers with greedy, one with the gate, and one engine for comparison."""
    drawn = generate("azure-conv-2023", n=requests, rate=1.0)
    one = plan(drawn.take(slice(0, 20_000)), HARDWARE)
    at_load = plan(drawn.take(slice(0, 20_000)), HARDWARE, rate=LOAD * one.stability.boundary_rate)
    fleets = {
        "greedy": [Fleet(), *(Fleet(replicas, router) for router in ROUTERS)],
        "fluid": [Fleet(replicas)],
    }
    for name, own in fleets.items():
        policy = make_policy(name, at_load)
        simulate(drawn.take(slice(0, 10)), HARDWARE, policy, fleet=Fleet(2))  # compiled before the clock starts
        for fleet in own:
            rate = LOAD * fleet.replicas * one.stability.boundary_rate
            measure(drawn.scaled(rate / drawn.rate), policy, fleet)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]), *(1_000_000, 64)[len(sys.argv) - 1 :])
