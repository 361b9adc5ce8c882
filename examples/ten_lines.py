"""Compare policies on a workload near and past the stability boundary, in under ten lines."""

import fluidgate as fg

hardware = fg.get_hardware("llama-2-7b", "a100-80gb")
workload = fg.generate("azure-conv-2023", n=2000, seed=1)
plan = fg.plan(workload, hardware)
print(*plan.verdict, sep="\n")
result = fg.compare(workload, hardware, ["greedy", "watermark", "wait"], loads=[0.9, 1.1])
for cell in result.cells:
    silence = cell.intervals["p99_longest_silence_s"].mean
    print(f"load {cell.scenario.load:.1f}  {cell.policy:10s} p99 silence {silence:.2f} s")
