"""Parts that paced policies share: credits that accrue per iteration, and pausing instead of evicting."""

from __future__ import annotations

from fluidgate.kernel import kernel

MEMORY_SLACK = 0.98
"""Share of the largest pace that memory allows; the rest absorbs the spread of lengths within a class."""


@kernel
def accrue(credit, per_iteration, iterations):
    """Admissions allowed so far: a fraction is carried over, a long pause does not become a burst."""
    return min(credit + per_iteration * iterations, per_iteration + max(per_iteration, 1.0))


@kernel
def entering(out_quota):
    """How many may enter. With `out_quota.sum()`, loading the kept code would import SciPy's linear algebra."""
    total = 0
    for quota in out_quota:
        total += quota
    return total


@kernel
def never_idle(view, admitted):
    """How many may enter: those admitted, and at least one where nothing is resident."""
    return admitted if len(view.residents) > 0 else max(admitted, 1)


@kernel
def blocks_for_next_step(view, row):
    """KV blocks that a resident needs beyond its own if it runs in this iteration."""
    computed = view.computed_tokens[row]
    new = min(view.prompt_tokens[row] + view.generated_tokens[row] - computed, view.token_budget)
    size = view.block_size
    if new == 1:  # a decode: one division in place of two
        return 1 if computed % size == 0 else 0
    return (computed + new + size - 1) // size - (computed + size - 1) // size


@kernel
def blocks_short(view, mask):
    """Blocks that the residents not yet paused need beyond the free ones; at most 0 if they all fit."""
    short = -view.free_blocks
    for i in range(len(view.residents)):
        if mask[i] != 0:
            short += blocks_for_next_step(view, view.residents[i])
    return short


@kernel
def pause_for_memory(view, mask):
    """Pause residents, last admitted first, until the others fit; the first one always runs.

    The first one runs to its end and frees its blocks, and then the next one is first: every pause is bounded.
    """
    short = blocks_short(view, mask)
    i = len(view.residents) - 1
    while short > 0 and i > 0:
        need = blocks_for_next_step(view, view.residents[i])
        if mask[i] != 0 and need > 0:
            mask[i] = 0
            short -= need
        i -= 1
