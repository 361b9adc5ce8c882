"""Ten million requests in one run under `greedy`: time and memory.

python benchmarks/memory.py [requests]
"""

import resource
import sys
import time

from fluidgate import generate, simulate, summarize
from fluidgate.hardware import load_profile
from fluidgate.policies import Greedy

requests = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
workload, hardware = generate("lmsys", n=requests, rate=40, seed=0), load_profile("llama-2-7b", "a100-80gb")
simulate(workload.take(slice(0, 10)), hardware, Greedy())  # compiled before the clock starts
start = time.perf_counter()
records = simulate(workload, hardware, Greedy())
seconds = time.perf_counter() - start
summary = summarize(records)
peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(
    f"{requests:,} requests, {summary.iterations:,} steps in {seconds:.0f} s "
    f"({requests / seconds:,.0f} requests/s); {summary.completed:,} completed; peak memory {peak_gib:.1f} GiB"
)
