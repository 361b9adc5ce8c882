"""From settings to what the page shows: the plan's closed form, and one short run. No server is needed for it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import Any

from fluidgate.engine import EngineConfig
from fluidgate.errors import FluidgateWarning, InputError, Stalled
from fluidgate.explore.settings import Settings
from fluidgate.fluid import FluidPlan
from fluidgate.metrics import Summary, Timeline, summarize, timeline
from fluidgate.report.html import Html
from fluidgate.report.over_time import kv_plot
from fluidgate.report.plots import Line, distributions
from fluidgate.report.svg import box_legend, colour, without_hover
from fluidgate.report.words import measured, or_dash, tenths
from fluidgate.runs import one_pool, plan_for, pool_of_run, simulate
from fluidgate.runs.prices import Prices
from fluidgate.runs.whatif import MachineSpec, Setup
from fluidgate.words import number, percent
from fluidgate.workload import Workload, generate

REQUESTS = 1500
"""Drawn for every answer; the plan sees all of them."""
FEWEST = 60
MOST_STEPS = 20_000
"""Of the run, about: it has fewer requests where they take more, so that an answer takes tens of milliseconds."""
SHORT = 4.0
"""A run that lasts less than so many times as long as its requests is mostly its own beginning and end."""

LATENCIES = {"ttft_s": "TTFT", "silence_s": "longest silence", "e2el_s": "E2E latency"}


@dataclass(frozen=True)
class _Run:
    """The requests that ran, and what came of them."""

    requests: Workload
    summary: Summary
    over_time: Timeline


def answer(settings: Settings) -> dict[str, Any]:
    """What the page shows, JSON-ready: `why_not` alone where the settings cannot be had.

    Returns:
        `boundary_rate` and `load` (numbers), `binding`, `verdict` (sentences), `numbers` (label and text), `figures`
        (SVG by name), `notes` (sentences).
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FluidgateWarning)
        try:
            setup = _setup(settings)
            plan = _plan(replace(settings, policy=Settings.policy, price=0.0))
            run = _run(setup, plan, settings.preset)
        except (InputError, Stalled) as reason:
            return {"why_not": str(reason)}
    stable = plan.stability
    warned = dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, FluidgateWarning))
    return {
        "boundary_rate": stable.boundary_rate,
        "load": stable.load,
        "binding": stable.binding,
        "verdict": list(plan.verdict),
        "numbers": [list(pair) for pair in _numbers(settings, setup, plan, run)],
        "figures": {"kv": _kv(settings, plan, run.over_time), "latency": _latency(run.over_time)},
        "notes": [*_notes(setup, plan, run), *warned],
    }


def _setup(settings: Settings) -> Setup:
    spec = MachineSpec(settings.model, settings.gpu, {"tp": settings.tp})
    return Setup(
        hardware=_machine(settings.model, settings.gpu, settings.tp),
        config=EngineConfig(max_num_seqs=settings.seats or None, max_num_batched_tokens=settings.budget or None),
        policy=settings.policy,
        rate=settings.rate,
        prompt_factor=settings.prompt_factor,
        output_factor=settings.output_factor,
        spec=spec,
    )


@lru_cache(maxsize=64)
def _machine(model: str, gpu: str, tp: int) -> Any:
    return MachineSpec(model, gpu, {"tp": tp}).load()


@lru_cache(maxsize=16)
def _draw(preset: str) -> Workload:
    return generate(preset, n=REQUESTS, seed=0)


@lru_cache(maxsize=256)
def _plan(settings: Settings) -> FluidPlan:
    """The plan, which neither policy nor price changes."""
    setup = _setup(settings)
    requests = setup.requests(_draw(settings.preset))
    return plan_for(requests, one_pool(requests, setup.hardware), setup.config)


def _run(setup: Setup, plan: FluidPlan, preset: str) -> _Run:
    """A run of as many requests as take about `MOST_STEPS` iterations, at the same rate."""
    requests = setup.requests(_draw(preset).take(slice(0, _requests(plan))))
    hardware = replace(pool_of_run(requests, setup.hardware, setup.config.on(setup.hardware)), calibration=None)
    records = simulate(requests, hardware, setup.policy, config=setup.config, fluid_plan=plan, record="steps")
    return _Run(requests, summarize(records), timeline(records, [0, 1]))


def _requests(plan: FluidPlan) -> int:
    """How many, by the model: an iteration for every token of a request that is alone, fewer where they share them."""
    stable, mix = plan.stability, plan.mix
    step_s = stable.iteration_time_s if plan.equilibrium is None else plan.equilibrium.iteration_time_s
    shared = 1.0 / (min(stable.rate, stable.boundary_rate) * step_s)
    steps_per_request = min(mix.mean_output_tokens, shared)
    return int(min(REQUESTS, max(FEWEST, MOST_STEPS / steps_per_request)))


def _numbers(settings: Settings, setup: Setup, plan: FluidPlan, run: _Run) -> list[tuple[str, str]]:
    stable, summary = plan.stability, run.summary
    evicted = summary.preemptions / max(1, summary.offered - summary.refused)
    shown = [
        ("Stability boundary", f"{number(stable.boundary_rate)} req/s"),
        ("Load", percent(stable.load)),
        ("Binds", stable.binding),
        ("Memory matters from", "never" if stable.onset_rate is None else f"{number(stable.onset_rate)} req/s"),
        ("TTFT, mean", measured("mean_ttft_ms", summary.mean_ttft_ms)),
        ("TTFT, p99", measured("p99_ttft_ms", summary.p99_ttft_ms)),
        ("TPOT, p95", measured("p95_tpot_ms", summary.p95_tpot_ms)),
        ("Longest silence, p99", measured("p99_longest_silence_s", summary.p99_longest_silence_s)),
        ("E2E latency, mean", measured("mean_e2el_ms", summary.mean_e2el_ms)),
        ("KV use, mean / peak", f"{tenths(summary.kv_mean)} / {tenths(summary.kv_peak)}"),
        ("Preemptions per request", number(evicted)),
        ("Output throughput", f"{or_dash(summary.output_throughput, number)} tok/s"),
        ("Prompt / output, mean", _lengths(plan)),
    ]
    if settings.price:
        cost = setup.million_tokens_cost(Prices(settings.price), summary.output_throughput)
        shown.append(("Cost of a million output tokens", or_dash(cost, number)))
    return shown


def _lengths(plan: FluidPlan) -> str:
    return f"{number(plan.mix.mean_prompt_tokens)} / {number(plan.mix.mean_output_tokens)} tokens"


def _kv(settings: Settings, plan: FluidPlan, over_time: Timeline) -> str:
    return without_hover(kv_plot(settings.policy, 1, plan.stability, over_time, over_time.edges_s[-1]))


def latency_legend() -> Html:
    """The latencies in the figure and their colours, which no setting changes."""
    return box_legend((name, {"fill": colour(place)}) for place, name in enumerate(LATENCIES.values(), 1))


def _latency(over_time: Timeline) -> str:
    lines = [Line(name, place, getattr(over_time, key)) for place, (key, name) in enumerate(LATENCIES.items(), 1)]
    medians = "; ".join(f"{line.label} {number(line.values[50])} s" for line in lines if line.values)
    title = "Share of requests below a latency"
    return without_hover(distributions(title, f"{title}; medians: {medians}.", lines))


def _notes(setup: Setup, plan: FluidPlan, run: _Run) -> list[str]:
    """What must be known beside the numbers."""
    notes, summary = [], run.summary
    span_s, stay_s = run.requests.duration_s, summary.mean_e2el_ms / 1e3
    notes.append(
        f"One run of {len(run.requests):,} requests, which arrive within {number(span_s)} s; fluidgate whatif runs "
        "more, with repeats."
    )
    if plan.stability.load > 1.0:
        notes.append("Overload: latencies grow for as long as it lasts, here for the length of the run.")
    elif isfinite(stay_s) and span_s < SHORT * stay_s:
        notes.append(
            f"A request stays {number(stay_s)} s, which is long against the run: read the boundary rather than the "
            "latencies."
        )
    if setup.hardware.source.startswith("ESTIMATE"):
        notes.append("The step time is an estimate from the GPU's data sheet, not measured.")
    return notes
