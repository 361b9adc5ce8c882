"""`EngineConfig`: how batches are formed, in vLLM's words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from fluidgate.bounds import check_whole
from fluidgate.engine.modes import MODES, PRESETS, BatchFormation, Mode
from fluidgate.errors import InputError, unknown
from fluidgate.hardware import Hardware
from fluidgate.hardware.server_defaults import FALLBACK_SEQS

PreemptionMode = Literal["recompute", "restart", "offload"]


@dataclass(frozen=True)
class EngineConfig:
    """Limits and batch formation of the engine; names and defaults follow vLLM.

    What is None is as a server sets it by itself on the hardware that a run is on (`on`).

    Attributes:
        mode: `vllm` (V1: running first, chunked prefill, one token budget), `sarathi` (decodes first, then chunks
            up to a fixed budget), `prefill-first` (vLLM V0: whole prompts, and no decode beside a prefill).
        max_num_seqs: most residents. None: vLLM's own for the GPU, 256 where it is not known or the mode is not vllm.
        max_num_active_seqs: most residents that admission may reach; None: `max_num_seqs`.
        max_num_batched_tokens: token budget of an iteration. None: vLLM's own for the GPU, 2048 where it is not known;
            512 for sarathi; prefill-first takes what the longest request needs, at least 2048.
        max_model_len: prompt and output tokens of the longest request that is taken; longer ones are refused as they
            arrive. None: what the hardware states for its model; if it states none, requests of any length are taken.
        watermark: share of all blocks that admission keeps free while others are resident. None: 0 for vllm,
            0.01 for the others.
        enable_prefix_caching: reuse blocks of equal content, a preempted request's own among them.
        scheduler_reserve_full_isl: admit only where the whole prompt fits, not just its first chunk.
        long_prefill_token_threshold: most prompt tokens of one request in an iteration; 0: no limit.
        cut_lone_prefill: that threshold also cuts the prompt of a request that is alone, as in vLLM up to 0.30; from
            0.31 on such a prompt is not cut, since no other request waits for it.
        prefill_schedule_interval: prompts are computed in one step of so many, unless requests pile up
            (`engine.cadence`); 1: in every step. Only in mode vllm, as in vLLM from 0.33 on.
        preemption: a victim recomputes prompt and generated tokens (`recompute`, as vLLM does), starts from nothing
            (`restart`, the paper's model), or finds its KV again at no cost (`offload`, a perfect second memory).
        decodes_need_spare_block: a decode runs only where a block is free, even if it takes none, as in Vidur; not in
            mode vllm, nor with `restart`.
        prompts_arrive_computed: a decode-only server: another one has computed the prompt, and its KV is there when the
            request is admitted, all but the last token's, as vLLM's decode instance has it. A victim fetches nothing
            again: what it does is `preemption`.
        pad_prompt_batches: prompts that start together count as so many of the longest of them against
            `max_num_batched_tokens`, as in vLLM V0 and in Vidur; only in mode prefill-first.
        async_scheduling: a batch is formed while the one before it still runs, as in vLLM unless told otherwise
            (`engine.flight`). Only in mode vllm, and not with `restart`. None: where it can be, on hardware of which
            a server is known.
    """

    mode: Mode = "vllm"
    max_num_seqs: int | None = None
    max_num_active_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    watermark: float | None = None
    enable_prefix_caching: bool = True
    scheduler_reserve_full_isl: bool = True
    long_prefill_token_threshold: int = 0
    cut_lone_prefill: bool = False
    prefill_schedule_interval: int = 1
    preemption: PreemptionMode = "recompute"
    decodes_need_spare_block: bool = False
    prompts_arrive_computed: bool = False
    pad_prompt_batches: bool = False
    async_scheduling: bool | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown("engine mode", self.mode, MODES)
        if self.preemption not in get_args(PreemptionMode):
            raise unknown("preemption", self.preemption, get_args(PreemptionMode))
        for name in ("max_num_seqs", "max_num_active_seqs", "max_num_batched_tokens", "max_model_len"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value)
        active = self.max_num_active_seqs
        if active is not None and self.max_num_seqs is not None and active > self.max_num_seqs:
            raise InputError(
                f"max_num_active_seqs = {active} is above max_num_seqs = {self.max_num_seqs}; raise max_num_seqs"
            )
        if self.watermark is not None and not 0 <= self.watermark < 1:
            raise InputError(f"watermark = {self.watermark} must be a share of the blocks, at least 0 and below 1")
        if self.async_scheduling and not self._can_be_asynchronous:
            raise InputError(
                f"mode {self.mode} with preemption {self.preemption} has no asynchronous scheduling; set "
                "async_scheduling to False"
            )
        check_whole("long_prefill_token_threshold", self.long_prefill_token_threshold, 0)
        if self.long_prefill_token_threshold and not self.formation.cuts_long_prefills:
            raise InputError(f"mode {self.mode} has no long_prefill_token_threshold; leave it at 0")
        if self.cut_lone_prefill and not self.formation.cuts_long_prefills:
            raise InputError(f"mode {self.mode} has no cut_lone_prefill; leave it at False")
        check_whole("prefill_schedule_interval", self.prefill_schedule_interval)
        if self.prefill_schedule_interval > 1 and self.mode != "vllm":
            raise InputError(f"mode {self.mode} has no prefill_schedule_interval; leave it at 1")
        if self.decodes_need_spare_block and self.mode == "vllm":
            raise InputError("mode vllm has no decodes_need_spare_block; use mode sarathi or prefill-first")
        if self.decodes_need_spare_block and self.preemption == "restart":
            raise InputError(
                "with preemption restart and decodes_need_spare_block a request that fills the cache by itself starts "
                "again for ever; use preemption recompute, as Vidur does"
            )
        if self.pad_prompt_batches and self.formation.chunks_prompts:
            raise InputError(f"mode {self.mode} has no pad_prompt_batches; use mode prefill-first")

    @classmethod
    def preset(cls, name: str, **settings: Any) -> EngineConfig:
        """The settings of another simulator's scheduler or of a kind of server (`PRESETS`), and `settings` beside them.

        Raises:
            InputError: an unknown preset, a mode that it has not, or settings that cannot go together.
        """
        if name not in PRESETS:
            raise unknown("scheduler preset", name, PRESETS)
        modes, mode = PRESETS[name], settings.get("mode", cls.mode)
        if mode not in modes:
            raise InputError(f"scheduler preset {name} has no mode {mode}; use mode {' or '.join(modes)}")
        return cls(**{**modes[mode], **settings})

    def on(self, hardware: Hardware) -> EngineConfig:
        """The settings in force on `hardware`: what is None as vLLM sets it there by itself."""
        limits = hardware.server.with_flags(self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len)
        if self.mode != "vllm":
            return replace(self, max_num_seqs=self.max_num_seqs or FALLBACK_SEQS, max_model_len=limits.max_model_len)
        asynchronous = self.async_scheduling
        if asynchronous is None:
            asynchronous = hardware.server.is_known and self._can_be_asynchronous
        return replace(self, **vars(limits), async_scheduling=asynchronous)

    @property
    def _can_be_asynchronous(self) -> bool:
        return self.mode == "vllm" and self.preemption != "restart"

    @property
    def is_asynchronous(self) -> bool:
        """Whether a batch is formed while the one before it still runs."""
        return bool(self.async_scheduling)

    @property
    def batches_in_flight(self) -> int:
        """The most at once."""
        return 2 if self.is_asynchronous else 1

    @property
    def formation(self) -> BatchFormation:
        """The mode's row of `MODES`."""
        return MODES[self.mode]

    @property
    def most_seqs(self) -> int:
        """Most residents; 256 if not given."""
        return self.max_num_seqs or FALLBACK_SEQS

    @property
    def seats(self) -> int:
        """Most residents that admission may reach."""
        return self.max_num_active_seqs or self.most_seqs

    @property
    def watermark_share(self) -> float:
        """The watermark in force: the given one, or the mode's default."""
        return self.formation.watermark if self.watermark is None else self.watermark

    def token_budget(self, longest_request_tokens: int) -> int:
        """The token budget in force; `longest_request_tokens` is the largest prompt + output.

        Of a decode-only server it leaves room for as many decodes as there are seats, if not given.
        """
        if self.max_num_batched_tokens is not None:
            return self.max_num_batched_tokens
        budget = self.formation.token_budget or max(2048, longest_request_tokens)
        return max(budget, self.most_seqs) if self.prompts_arrive_computed else budget
