"""A policy of one's own: admit while at most a given share of the KV blocks is in use."""

import numpy as np

import fluidgate as fg
from fluidgate.kernel import kernel


@kernel
def used_share(view):
    return 1 - view.free_blocks / view.total_blocks


@fg.policy("half-full")
class HalfFull(fg.Policy):
    """Hold everyone while more than `share` of the blocks is in use."""

    share: float = 0.5

    @staticmethod
    def admit(params, memory, view, out_quota):
        if used_share(view) > params.share and len(view.residents) > 0:
            out_quota[:] = 0
        return np.inf


hardware = fg.get_hardware("llama-2-7b", "a100-80gb")
workload = fg.generate("azure-conv-2023", n=2000, rate=6, seed=1)
for policy in ("greedy", HalfFull(), HalfFull(share=0.9)):
    summary = fg.summarize(fg.simulate(workload, hardware, policy))
    print(f"{policy!s:20s} E2E {summary.mean_e2el_ms / 1000:5.1f} s   preemptions {summary.preemptions}")
