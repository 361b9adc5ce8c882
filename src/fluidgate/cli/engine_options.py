"""The options of `EngineConfig`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from fluidgate.cli import names
from fluidgate.cli.groups import option as _option

if TYPE_CHECKING:
    from fluidgate.engine import EngineConfig

_E = "Engine"


@dataclass(frozen=True)
class EngineOptions:
    """Limits and batch formation; the fields are those of `EngineConfig`, after the preset that they change."""

    scheduler_preset: Annotated[
        str | None,
        _option(
            _E,
            "--scheduler-preset",
            help="Schedule as this does where an option is not given: vidur (with --mode sarathi or prefill-first), or "
            "decode-server, whose prompts are computed elsewhere.",
            autocompletion=names.completed(names.scheduler_presets),
        ),
    ] = None
    mode: Annotated[
        str,
        _option(
            _E,
            "--mode",
            help="Batch formation: vllm, sarathi or prefill-first.",
            autocompletion=names.completed(names.modes),
        ),
    ] = "vllm"
    max_num_seqs: Annotated[
        int | None,
        _option(_E, "--max-num-seqs", help="Largest number of residents; vLLM's own for the GPU if not given."),
    ] = None
    max_num_active_seqs: Annotated[
        int | None, _option(_E, "--max-num-active-seqs", help="Largest number of residents that admission may reach.")
    ] = None
    max_num_batched_tokens: Annotated[
        int | None,
        _option(
            _E, "--max-num-batched-tokens", help="Token budget per iteration; vLLM's own for the GPU if not given."
        ),
    ] = None
    max_model_len: Annotated[
        int | None,
        _option(
            _E,
            "--max-model-len",
            help="Prompt + output tokens of a request, at most: longer ones are refused. The model's own if not given.",
        ),
    ] = None
    watermark: Annotated[
        float | None, _option(_E, "--watermark", help="Share of blocks that admission keeps free.")
    ] = None
    enable_prefix_caching: Annotated[
        bool | None,
        _option(
            _E,
            "--enable-prefix-caching/--no-enable-prefix-caching",
            help="Reuse blocks of equal content; on unless the preset says otherwise.",
        ),
    ] = None
    scheduler_reserve_full_isl: Annotated[
        bool,
        _option(
            _E,
            "--scheduler-reserve-full-isl/--no-scheduler-reserve-full-isl",
            help="Admit a request only if its whole prompt fits.",
        ),
    ] = True
    long_prefill_token_threshold: Annotated[
        int, _option(_E, "--long-prefill-token-threshold", help="Tokens of one prompt per iteration, at most; 0: any.")
    ] = 0
    cut_lone_prefill: Annotated[
        bool,
        _option(
            _E,
            "--cut-lone-prefill/--no-cut-lone-prefill",
            help="Apply that threshold to a lone request as well, as in vLLM up to 0.30.",
        ),
    ] = False
    prefill_schedule_interval: Annotated[
        int,
        _option(
            _E,
            "--prefill-schedule-interval",
            help="Compute prompts in one step of so many, unless requests pile up; as in vLLM from 0.33 on.",
        ),
    ] = 1
    decodes_need_spare_block: Annotated[
        bool | None,
        _option(
            _E,
            "--decodes-need-spare-block/--no-decodes-need-spare-block",
            help="Run a decode only where a block is free, even if it takes none, as Vidur does; not in mode vllm.",
        ),
    ] = None
    prompts_arrive_computed: Annotated[
        bool | None,
        _option(
            _E,
            "--prompts-arrive-computed/--no-prompts-arrive-computed",
            help="The KV of a prompt is there at admission, computed by another server.",
        ),
    ] = None
    pad_prompt_batches: Annotated[
        bool | None,
        _option(
            _E,
            "--pad-prompt-batches/--no-pad-prompt-batches",
            help="Count prompts that start together as so many of the longest, as vLLM V0 does; in mode prefill-first.",
        ),
    ] = None
    async_scheduling: Annotated[
        bool | None,
        _option(
            _E,
            "--async-scheduling/--no-async-scheduling",
            help="Form a batch while the one before it still runs; on in mode vllm, as in a server.",
        ),
    ] = None
    preemption: Annotated[
        str,
        _option(
            _E,
            "--preemption",
            help="How a victim returns: recompute, restart or offload.",
            autocompletion=names.completed(names.preemptions),
        ),
    ] = "recompute"

    def load(self) -> EngineConfig:
        """The engine's settings."""
        from fluidgate.engine import EngineConfig

        given = {name: value for name, value in asdict(self).items() if value is not None}
        preset = given.pop("scheduler_preset", None)
        return EngineConfig(**given) if preset is None else EngineConfig.preset(preset, **given)
