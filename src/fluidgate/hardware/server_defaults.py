"""`ServerDefaults`: the limits that a vLLM server sets by itself, where no flag says otherwise.

Seats and token budget of `vllm serve` by the GPU's memory and name, as `EngineArgs.get_batch_defaults` in
vllm/engine/arg_utils.py has them for the OpenAI-compatible server, alike in 0.30 to 0.33. They bind each other as in
`_set_default_max_num_seqs_and_batched_tokens_args`, its caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from fluidgate.bounds import check_whole

KNOWN_SINCE = (0, 30)
"""The vLLM release from which on the table holds; older ones had other rows."""

FALLBACK_SEQS, FALLBACK_BATCHED_TOKENS = 256, 2048
"""vLLM's values for a GPU that it does not single out: the last row."""

# From this many GiB on; GPUs whose name holds this word are apart; seats; token budget.
_ROWS: tuple[tuple[float, str | None, int, int], ...] = (
    (160.0, None, 1024, 16384),
    (70.0, "a100", 1024, 8192),
    (0.0, None, FALLBACK_SEQS, FALLBACK_BATCHED_TOKENS),
)
# TPUs and Gaudi take theirs from plugins of their own; the GB10 has those of large GPUs up to 0.32, of small ones from
# 0.33 on.
_NOT_IN_THE_TABLE = ("tpu", "gaudi", "gb10")


@dataclass(frozen=True)
class ServerDefaults:
    """What vLLM sets on a machine by itself; None: not known.

    Attributes:
        max_num_seqs: seats.
        max_num_batched_tokens: token budget of an iteration.
        max_model_len: prompt and output tokens of the longest request that the model takes.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                check_whole(name, value)

    @property
    def is_known(self) -> bool:
        """Whether it is known of a server at all."""
        return self != ServerDefaults()

    def with_flags(
        self,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        max_model_len: int | None = None,
    ) -> LimitsInForce:
        """The limits of a server that was given these flags; None: not given.

        What is neither given nor known is vLLM's value for a GPU that it does not single out, and no longest request.
        """
        seats = max_num_seqs or self.max_num_seqs or FALLBACK_SEQS
        tokens = max_num_batched_tokens or self.max_num_batched_tokens or FALLBACK_BATCHED_TOKENS
        longest = max_model_len or self.max_model_len
        if max_num_batched_tokens is None and self.max_num_batched_tokens is not None and longest is not None:
            tokens = min(tokens, seats * longest)
        if max_num_seqs is None and self.max_num_seqs is not None:
            seats = min(seats, tokens)
        return LimitsInForce(seats, tokens, longest)


@dataclass(frozen=True)
class LimitsInForce:
    """A server's limits in force; `max_model_len` None: requests of any length are taken."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int | None


def server_defaults(gpu_name: str, memory_gib: float, max_model_len: int | None = None) -> ServerDefaults:
    """What vLLM sets by itself on a GPU.

    Args:
        gpu_name: any usual spelling.
        memory_gib: memory of one GPU, as the driver shows it.
        max_model_len: what the model's config says.
    """
    name = gpu_name.lower()
    if any(word in name for word in _NOT_IN_THE_TABLE):
        return ServerDefaults(max_model_len=max_model_len)
    seats, tokens = next(
        (seats, tokens)
        for least, apart, seats, tokens in _ROWS
        if memory_gib >= least and (apart is None or apart not in name)
    )
    return ServerDefaults(seats, tokens, max_model_len)
