"""`plan`: from a workload and a machine to every number that a policy, a table or a person needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fluidgate.arrays import BoolArray
from fluidgate.fluid.affine import affine_at_load, affine_step_time
from fluidgate.fluid.bursts import Burstiness, burstiness
from fluidgate.fluid.deadlines import Deadlines, deadlines
from fluidgate.fluid.equilibrium import Equilibrium, equilibrium
from fluidgate.fluid.interval import PrefillInterval, prefill_interval
from fluidgate.fluid.limits import Limits
from fluidgate.fluid.mix import RequestMix
from fluidgate.fluid.nested import NestedThresholds
from fluidgate.fluid.refused import RefusedShares
from fluidgate.fluid.safety_buffer import Guarantee, SafetyBuffer, best_nested, largest_guaranteed_rate
from fluidgate.fluid.segments import PromptBound
from fluidgate.fluid.stability import Stability, stability
from fluidgate.fluid.thresholds import WaitThresholds, wait_thresholds
from fluidgate.fluid.uncertainty import PlanUncertainty, plan_uncertainty, warn_if_extrapolated
from fluidgate.fluid.verdict import thresholds_verdict, verdict
from fluidgate.fluid.whole_nested import WholeNestedThresholds, whole_nested_thresholds
from fluidgate.hardware.core import Hardware
from fluidgate.jsonfile import plain
from fluidgate.workload.core import Workload
from fluidgate.workload.patience import Patience

LARGEST_LOAD = 0.98
"""Thresholds are made for at most this share of the boundary rate."""

OUTPUT_SHARES = (np.arange(64) + 0.5) / 64
"""The quantiles that stand for a law of output lengths in a plan."""

MAX_CLASSES = 8
"""Labels that a plan distinguishes; the last also stands for all higher numbers."""


@dataclass(frozen=True)
class ClassSummary:
    """The requests of one label of the workload.

    `output_quantiles` stand for the law of its output lengths: each is the middle of an equal share of the requests.
    """

    name: str
    share: float
    mean_prompt_tokens: float
    output_quantiles: tuple[int, ...]


@dataclass(frozen=True)
class MixSummary:
    """The mix in a few numbers: req/s, number of types, and tokens; all requests together, and by their labels.

    `refused` is not in the other numbers; None: every request is taken.
    """

    rate: float
    types: int
    mean_prompt_tokens: float
    mean_output_tokens: float
    max_prompt_tokens: int
    max_output_tokens: int
    output_quantiles: tuple[int, ...]
    classes: tuple[ClassSummary, ...]
    refused: RefusedShares | None = None


@dataclass(frozen=True, eq=False)
class FluidPlan:
    """The plan for one mix on one machine.

    Attributes:
        hardware: the machine.
        limits: its memory, and the engine's token budget and seats.
        mix: the traffic.
        equilibrium: the fluid equilibrium, or None when the load is above 1.
        stability: boundary, what binds, onset load.
        burstiness: of the arrivals, measured on a workload; a mix stands for Poisson arrivals.
        threshold_rate: the rate `wait` and `nested` are made for, req/s: at most 98% of the boundary.
        wait: WAIT thresholds, per class of output length.
        nested: Nested WAIT thresholds, per segment; their own `rate` may be lower still.
        nested_whole: the whole thresholds that Nested WAIT to the letter needs, at `threshold_rate`.
        safety_buffer: the memory `nested`'s shape needs at `threshold_rate`, with the plan's prompt bound.
        guaranteed_rate: the largest rate with the paper's guarantee (largest prompts), req/s; 0 if none.
        prefill_interval: the `prefill_schedule_interval` with the least mean E2E.
        uncertainty: intervals from the calibration of the step time; None where there is none, or where it does not
            determine the time at the boundary.
        verdict: what follows, in sentences.
        thresholds_verdict: what follows for the papers' algorithms, WAIT and Nested WAIT, in sentences.
        deadlines: how many can be served in time; None where the plan was made without a patience.
    """

    hardware: Hardware
    limits: Limits
    mix: MixSummary
    equilibrium: Equilibrium | None
    stability: Stability
    burstiness: Burstiness
    threshold_rate: float
    wait: WaitThresholds
    nested: NestedThresholds
    nested_whole: WholeNestedThresholds
    safety_buffer: SafetyBuffer
    guaranteed_rate: float
    prefill_interval: PrefillInterval
    uncertainty: PlanUncertainty | None
    verdict: tuple[str, ...]
    thresholds_verdict: tuple[str, ...]
    deadlines: Deadlines | None = None

    @property
    def rate_limit(self) -> float:
        """x*, admissions per iteration: the least that memory (C/E[a]), token budget and seats allow."""
        return self.stability.admissions_per_iteration

    @property
    def concurrency_cap(self) -> float:
        """n*, the residents at the boundary."""
        return self.stability.residents

    @property
    def watermark(self) -> float:
        """The share of KV blocks to keep free when admitting."""
        return self.stability.watermark

    @property
    def empty_tenth_cost(self) -> float:
        """The share of the boundary rate that leaving 10% of the KV memory empty at all times costs."""
        return self.stability.empty_memory_cost(0.1)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values; a number that is infinite or unknown is None."""
        values = plain(self, finite=True)
        if self.deadlines is None:
            del values["deadlines"]
        return {
            **values,
            "rate_limit": self.rate_limit,
            "concurrency_cap": self.concurrency_cap,
            "watermark": self.watermark,
            "empty_tenth_cost": self.empty_tenth_cost,
            "verdict": list(self.verdict),
            "thresholds_verdict": list(self.thresholds_verdict),
        }


def plan(
    workload: Workload | RequestMix,
    hardware: Hardware,
    *,
    rate: float | None = None,
    max_num_batched_tokens: int | Literal["default"] | None = "default",
    max_num_seqs: int | Literal["default"] | None = "default",
    max_model_len: int | Literal["default"] | None = "default",
    horizon_s: float = 1000.0,
    delta: float = 0.01,
    prompt_bound: PromptBound = "mean",
    prompts_computed: bool = False,
    shared_by: int = 1,
    patience: Patience | None = None,
) -> FluidPlan:
    """Plan admission for a workload, or a mix, on a machine.

    Args:
        workload: the traffic; a workload stands for the exact law of its lengths.
        hardware: step time and KV memory.
        rate: requests per second of those given; the workload's own by default. What is too long for the model is not
            in the plan's.
        max_num_batched_tokens: the engine's token budget per iteration; None for no limit.
        max_num_seqs: the engine's seats; None for no limit.
        max_model_len: prompt and output tokens of the longest request that is taken; None for no limit. "default" here
            and above is what a server sets by itself on the hardware.
        horizon_s, delta: Nested WAIT's guarantee, no overflow within the horizon with probability 1 - delta.
        prompt_bound: the prompt that Nested WAIT's thresholds and buffer assume: "mean", which works on
            average, or "max", the largest, which its guarantee needs.
        prompts_computed: the KV of prompts comes from another server; of a mix, as it says itself.
        shared_by: engines that share the workload's arrivals at random; all else is of one of them.
        patience: how long clients wait; the timeouts of the workload's own requests do not count.

    Raises:
        InputError: a value out of range, a request that can never fit, or none that the model takes.

    Warns:
        CalibrationWarning: the plan rests on steps beyond those that the step time was measured on.
    """
    mix = workload if isinstance(workload, RequestMix) else RequestMix.from_workload(workload, rate)
    if rate is not None:
        mix = mix.scaled(rate)
    if prompts_computed:
        mix = replace(mix, prompts_computed=True)
    limits = _limits(hardware, max_num_batched_tokens, max_num_seqs, max_model_len)
    mix = mix.within(limits.max_model_len)
    source = workload.within(limits.max_model_len)
    guarantee = Guarantee(horizon_s, delta)
    step_time = affine_step_time(mix, hardware, limits)
    at_load = affine_at_load(mix, hardware, limits, step_time)
    bursts = burstiness(source, mix, step_time, limits, shared_by)
    stable = stability(mix, step_time, limits, at_load, bursts.rate_variance)
    steady_state = equilibrium(mix, at_load, limits.law)
    threshold_rate = min(mix.total_rate, LARGEST_LOAD * stable.boundary_rate)
    threshold_mix = mix.scaled(threshold_rate)
    wait = wait_thresholds(threshold_mix, step_time, limits)
    nested, buffer = best_nested(threshold_mix, step_time, limits, guarantee, prompt_bound)
    whole = whole_nested_thresholds(threshold_mix, step_time, limits, prompt_bound)
    guaranteed_rate = largest_guaranteed_rate(threshold_mix, step_time, limits, guarantee)
    interval = prefill_interval(mix, hardware, limits, stable, steady_state)
    in_time = None if patience is None else deadlines(mix, step_time, limits, patience, at_load)
    warn_if_extrapolated(mix, hardware, limits, stable)
    return FluidPlan(
        hardware=hardware,
        limits=limits,
        mix=_summary(mix, source if isinstance(source, Workload) else None),
        equilibrium=steady_state if stable.load <= 1.0 else None,
        stability=stable,
        burstiness=bursts,
        threshold_rate=threshold_rate,
        wait=wait,
        nested=nested,
        nested_whole=whole,
        safety_buffer=buffer,
        guaranteed_rate=guaranteed_rate,
        prefill_interval=interval,
        uncertainty=plan_uncertainty(threshold_mix, hardware, limits, stable, nested, buffer),
        verdict=(
            *_too_long(mix, limits),
            *verdict(limits, stable, bursts, steady_state),
            *filter(None, [interval.sentence, "" if in_time is None else in_time.sentence]),
        ),
        thresholds_verdict=thresholds_verdict(limits, stable, threshold_rate, wait, whole, guarantee, guaranteed_rate),
        deadlines=in_time,
    )


def _limits(
    hardware: Hardware,
    max_num_batched_tokens: int | Literal["default"] | None,
    max_num_seqs: int | Literal["default"] | None,
    max_model_len: int | Literal["default"] | None,
) -> Limits:
    """The given limits; those of a server that was given the same where it says "default"."""

    def flag(value: int | Literal["default"] | None) -> int | None:
        return None if value == "default" else value

    server = hardware.server.with_flags(flag(max_num_seqs), flag(max_num_batched_tokens), flag(max_model_len))
    return Limits.of(
        hardware,
        server.max_num_batched_tokens if max_num_batched_tokens == "default" else max_num_batched_tokens,
        server.max_num_seqs if max_num_seqs == "default" else max_num_seqs,
        server.max_model_len if max_model_len == "default" else max_model_len,
    )


def _too_long(mix: RequestMix, limits: Limits) -> tuple[str, ...]:
    refused = RefusedShares.of(mix)
    return () if refused is None or limits.max_model_len is None else (refused.sentence(limits.max_model_len),)


def _summary(mix: RequestMix, workload: Workload | None) -> MixSummary:
    quantiles = tuple(mix.by_output.lengths_at(OUTPUT_SHARES).tolist())
    overall = ClassSummary("all", 1.0, mix.mean(mix.prompt_tokens), quantiles)
    return MixSummary(
        rate=mix.total_rate,
        types=len(mix.rate),
        mean_prompt_tokens=mix.mean(mix.prompt_tokens),
        mean_output_tokens=mix.mean(mix.output_tokens),
        max_prompt_tokens=int(mix.prompt_tokens.max()),
        max_output_tokens=int(mix.output_tokens.max()),
        output_quantiles=quantiles,
        classes=(overall,) if workload is None else _classes(workload, overall),
        refused=RefusedShares.of(mix),
    )


def _classes(workload: Workload, overall: ClassSummary) -> tuple[ClassSummary, ...]:
    """The workload's classes by number; those beyond the first `MAX_CLASSES` - 1 are one, the last."""
    labels = np.minimum(workload.class_id, MAX_CLASSES - 1)
    if labels.max() == 0:
        return (overall,)
    return tuple(_class(workload, label, labels == label, overall) for label in range(int(labels.max()) + 1))


def _class(workload: Workload, label: int, members: BoolArray, overall: ClassSummary) -> ClassSummary:
    """One class; a label without requests gets the lengths of the whole workload."""
    names = workload.class_names
    name = names[label] if label < len(names) else str(label)
    if not members.any():
        return replace(overall, name=name, share=1.0 / len(workload))
    quantiles = np.quantile(workload.output_tokens[members], OUTPUT_SHARES, method="inverted_cdf")
    mean_prompt = float(workload.prompt_tokens[members].mean())
    return ClassSummary(name, float(members.mean()), mean_prompt, tuple(int(q) for q in quantiles))
