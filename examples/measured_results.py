"""Results as `vllm bench serve` writes them, slow.json and fast.json, for `fluidgate calibrate requests`.

Of a server that is a quarter faster than its data sheet and adds 15 ms to every request.
"""

import json

import numpy as np

from fluidgate import Hardware, StepTime, Workload, simulate

server = Hardware("server", StepTime(c0=0.0131, c_tok=8e-5, c_kv=1.2e-7, c_attn=5e-9), num_gpu_blocks=2588)
for name, rate, n in (("slow", 0.5, 100), ("fast", 4.0, 600)):
    rng = np.random.default_rng(n)
    prompt, output = rng.integers(50, 1500, n), rng.integers(20, 300, n)
    run = simulate(Workload(np.cumsum(rng.exponential(1 / rate, n)), prompt, output), server, "greedy")
    gap_s = (run.last_token_s - run.first_token_s) / np.maximum(output - 1, 1) * rng.normal(1, 0.02, n)
    result = {
        "num_prompts": n,
        "request_rate": rate,
        "input_lens": prompt.tolist(),
        "output_lens": output.tolist(),
        "start_times": run.arrival_s.tolist(),
        "ttfts": (run.first_token_s - run.arrival_s + 0.015).tolist(),
        "itls": [[gap] * (k - 1) for gap, k in zip(gap_s.tolist(), output.tolist(), strict=True)],
    }
    with open(f"{name}.json", "w") as file:
        json.dump(result, file)
    print(f"wrote {n} requests to {name}.json")
