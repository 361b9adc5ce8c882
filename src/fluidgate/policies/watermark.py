"""`watermark`: the engine's own admission, with a share of the blocks kept free (vLLM's `--watermark`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from fluidgate.policies.protocol import Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan


@policy("watermark")
class Watermark(Policy):
    """Keep `share` of all KV blocks free at admission."""

    share: float

    def __post_init__(self) -> None:
        self.require(0 <= self.share < 1, f"share = {self.share} must be at least 0 and below 1")

    @property
    def engine_settings(self) -> dict[str, Any]:
        """vLLM's own setting does the work."""
        return {"watermark": self.share}

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """Two standard deviations of the residents' KV at the stability boundary (`FluidPlan.watermark`)."""
        return cls(**({"share": plan.watermark} | overrides))
