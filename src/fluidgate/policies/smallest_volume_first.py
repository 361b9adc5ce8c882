"""`smallest-volume-first`: the least KV volume first (Kong, Qi, Ye, Zhou, arXiv 2606.22327, SVF with known lengths).

A request's volume is the KV it holds, summed over its iterations: l + s - 1 tokens in the s-th of o, which makes
o l + o (o - 1) / 2. Admission is the engine's own, as in the paper's layer on top of vLLM. The paper's variant that
knows one bit instead of the length is left out.
"""

from __future__ import annotations

from fluidgate.policies.protocol import Policy
from fluidgate.policies.registry import policy


def _rank(params, request):
    output = float(request.output_tokens)
    return output * request.prompt_tokens + 0.5 * output * (output - 1.0)


@policy("smallest-volume-first")
class SmallestVolumeFirst(Policy):
    """Queue by KV volume; admission is the engine's own."""

    needs_output_length = True
    rank = staticmethod(_rank)
