"""`known-lengths`: first come, first served, admitted only if memory suffices until all have ended.

The oracle of admission: with output lengths known it never evicts in mode vllm, nor holds anybody for a danger that is
not there. It is no bound on throughput: requests of one length stay in step, and pacing does better (arXiv 2606.15555).
The check is that of Jaillet et al., arXiv 2502.07115, in order of arrival and in whole blocks.
"""

from __future__ import annotations

import numpy as np

from fluidgate.policies.parts.lookahead import LookAhead, admissible
from fluidgate.policies.registry import policy


def _admit(params, memory, view, out_quota):
    out_quota[0] = admissible(memory, view, params[:0])
    return np.inf


@policy("known-lengths")
class KnownLengths(LookAhead):
    """Admit the requests that fit to their end, in order of arrival."""

    admit = staticmethod(_admit)
