"""How much of the traffic is too long for the model, in shares and in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from fluidgate.fluid.mix import RequestMix
from fluidgate.words import percent


@dataclass(frozen=True)
class RefusedShares:
    """What is too long for the model: shares of all requests that come, of their prompt and of their output tokens."""

    requests: float
    prompt_tokens: float
    output_tokens: float

    @classmethod
    def of(cls, mix: RequestMix) -> RefusedShares | None:
        """What of all that comes is the mix's `refused`; None: nothing."""
        refused = mix.refused
        if refused is None:
            return None

        def share(taken: float, lost: float) -> float:
            return lost / (taken + lost)

        def tokens_share(name: str) -> float:
            return share(*(part.total_rate * part.mean(getattr(part, name)) for part in (mix, refused)))

        return cls(
            share(mix.total_rate, refused.total_rate), tokens_share("prompt_tokens"), tokens_share("output_tokens")
        )

    def sentence(self, max_model_len: int) -> str:
        """What the server does with them, and the plan."""
        return (
            f"{percent(self.requests)} of the requests, with {percent(self.prompt_tokens)} of the prompt tokens and "
            f"{percent(self.output_tokens)} of the output tokens, have more than the {max_model_len:,} tokens, prompt "
            "and output, that the model takes: a server refuses them (HTTP 400; from vLLM 0.32 on it cuts the answers "
            "to prompts that fit), and this plan is for the others."
        )
