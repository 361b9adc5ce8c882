"""`greedy`: the engine's own admission, as stock vLLM does it."""

from __future__ import annotations

from fluidgate.policies.protocol import Policy
from fluidgate.policies.registry import policy


@policy("greedy")
class Greedy(Policy):
    """Admit whatever the engine can take."""
