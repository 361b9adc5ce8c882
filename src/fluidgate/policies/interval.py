"""`interval`: prompts in one step of several, decodes alone in those between (vLLM's `--prefill-schedule-interval`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from fluidgate.policies.protocol import MANY, Policy
from fluidgate.policies.registry import policy

if TYPE_CHECKING:
    from fluidgate.fluid import FluidPlan


@policy("interval")
class Interval(Policy):
    """Compute prompts in one step of `steps`, unless requests pile up. Only in mode vllm, as in vLLM from 0.33 on."""

    steps: float

    def __post_init__(self) -> None:
        whole = 1 <= self.steps < MANY and self.steps % 1 == 0
        self.require(whole, f"steps = {self.steps} must be a whole number, at least 1")

    @property
    def engine_settings(self) -> dict[str, Any]:
        """vLLM's own setting does the work."""
        return {"prefill_schedule_interval": int(self.steps)}

    @classmethod
    def from_plan(cls, plan: FluidPlan, **overrides: Any) -> Self:
        """The interval with the least mean E2E by the plan (`FluidPlan.prefill_interval`); 1 where none gains."""
        return cls(**({"steps": plan.prefill_interval.steps} | overrides))
