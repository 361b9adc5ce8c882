"""The residents in a forecast of memory: what each holds, and what all do together.

Laws of output lengths lie one behind the other in memory: `laws` of them from `first_law` on, `law_size` apart.
"""

from __future__ import annotations

from fluidgate.kernel import inlined_kernel, kernel
from fluidgate.policies.parts.forecast import add_requests, clear_forecast
from fluidgate.policies.parts.length_law import table_row


@kernel
def unshared_share(view):
    """The share of prompt tokens that need blocks of their own."""
    size = view.block_size
    blocks, prompts = 0, 0
    for row in view.residents:
        blocks += int((view.computed_tokens[row] + size - 1) / size)  # exact, and faster than a division of integers
        prompts += view.prompt_tokens[row]
    shared_tokens = (blocks - (view.total_blocks - view.free_blocks)) * size
    return 1.0 - min(0.95, max(0.0, shared_tokens / max(1, prompts)))


@inlined_kernel
def kv_tokens(view, row, unshared):
    """KV tokens of a request, the free half of its last block included."""
    return unshared * view.prompt_tokens[row] + view.generated_tokens[row] + 0.5 * (view.block_size - 1)


@inlined_kernel
def law_of(class_id, first_law, laws, law_size):
    """Where the law of a class begins; labels that the plan did not know share the last one."""
    return first_law + min(max(class_id, 0), laws - 1) * law_size


@kernel
def forecast_residents(memory, at, grid, view, unshared, first_law, laws, law_size):
    """Make the forecast at `at` that of the residents.

    They are in order of admission, so those of one age mostly come one behind the other, and are added at once.
    """
    clear_forecast(memory, at)
    row, count, held, squared = -1, 0.0, 0.0, 0.0
    for resident in view.residents:
        law = law_of(view.class_id[resident], first_law, laws, law_size)
        own_row = table_row(memory, law, view.generated_tokens[resident])
        if own_row != row:
            if count > 0.0:
                add_requests(memory, at, grid, row, count, held, squared)
            row, count, held, squared = own_row, 0.0, 0.0, 0.0
        own_held = kv_tokens(view, resident, unshared)
        count += 1.0
        held += own_held
        squared += own_held * own_held
    if count > 0.0:
        add_requests(memory, at, grid, row, count, held, squared)
