"""One simulation, step by step: who ran when, and how full the cache was."""

import fluidgate as fg

hardware = fg.get_hardware("llama-3.1-8b", "h100-80gb")
workload = fg.generate("lmsys", n=500, rate=40, seed=3)
records = fg.simulate(workload, hardware, "greedy", record="steps")
steps = records.steps
used = records.total_blocks - steps.free_blocks
print(f"{len(steps):,} iterations, largest batch {steps.scheduled.max()}, most blocks in use {used.max():,}")
print(f"mean time to first token {1e3 * fg.summarize(records).mean_ttft_ms / 1e3:.1f} ms")
