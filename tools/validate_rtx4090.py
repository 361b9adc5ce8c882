"""Validate the simulator against a measured vLLM run, and print the tables of docs/validation.md.

    python tools/validate_rtx4090.py TRACE.csv.gz [--figures docs/measured]

TRACE is ../shared/traces/vllm_measured_RTX4090_Llama-3.1-8B.csv.gz. The step time is fitted to the timings of the
first half of the requests; the second half is compared.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from fluidgate.engine import EngineConfig
from fluidgate.hardware import StepTime, get_hardware
from fluidgate.report import standalone
from fluidgate.report.plots import Line, lines_over_time
from fluidgate.runs import timings_of
from fluidgate.studies.measured import (
    Gauges,
    WatchedRun,
    fit_to_timings,
    read_watched_run,
    replay,
    simulated_gauges,
)
from fluidgate.workload import Timings

NUM_GPU_BLOCKS = 2588
CONFIG = EngineConfig(max_num_batched_tokens=2048, max_num_seqs=256)
OTHER_SETTINGS = {
    "as assumed": CONFIG,
    "watermark 1%": replace(CONFIG, watermark=0.01),
    "no full-prompt reservation": replace(CONFIG, scheduler_reserve_full_isl=False),
    "no prefix caching": replace(CONFIG, enable_prefix_caching=False),
    "512 tokens per step": replace(CONFIG, max_num_batched_tokens=512),
}
STATISTICS = ("mean", "p50", "p90", "p99")


def halves(run: WatchedRun) -> tuple[slice, slice]:
    """The requests that are fitted, and those that are predicted."""
    middle = len(run.workload) // 2
    return slice(0, middle), slice(middle, len(run.workload))


def data_sheet() -> StepTime:
    """What is known of the step time before any run."""
    return get_hardware("llama-3.1-8b", "rtx-4090").step_time


def fit(run: WatchedRun, config: EngineConfig = CONFIG) -> StepTime:
    """The step time fitted to the first half."""
    return fit_to_timings(run, data_sheet(), NUM_GPU_BLOCKS, config, halves(run)[0])


def errors(measured: Timings, simulated: Timings, part: slice) -> dict[str, float]:
    """Relative error of each statistic (`TTFT p99`), and the mean over requests of |relative error| (`TTFT each`)."""
    found = {}
    for name, values in measured.latencies_s.items():
        own, other = values[part], simulated.latencies_s[name][part]
        for statistic in STATISTICS:
            found[f"{name} {statistic}"] = _statistic(other, statistic) / _statistic(own, statistic) - 1
        found[f"{name} each"] = float(np.mean(np.abs(other / own - 1)))
    return found


def drain_s(timings: Timings, part: slice) -> float:
    """From the first start of the predicted half to its last token: no second of it was there for the fit."""
    return float(timings.last_token_s[part].max() - timings.first_scheduled_s[part].min())


def gauge_errors(measured: Gauges, simulated: Gauges, after_s: float) -> dict[str, tuple[float, float, float]]:
    """Per gauge from `after_s` on: measured mean, simulated mean, mean absolute difference."""
    late = measured.at_s >= after_s
    found = {}
    for name in ("running", "waiting", "kv_use"):
        own, other = getattr(measured, name)[late], getattr(simulated, name)[late]
        found[name] = float(own.mean()), float(other.mean()), float(np.abs(other - own).mean())
    return found


def _statistic(values: np.ndarray, name: str) -> float:
    return float(values.mean() if name == "mean" else np.percentile(values, float(name[1:])))


def print_latencies(measured: Timings, simulated: Timings, part: slice) -> None:
    print("| second half | measured | simulated | error |\n|---|---|---|---|")
    found = errors(measured, simulated, part)
    for name, values in measured.latencies_s.items():
        unit, scale = ("ms", 1e3) if name == "TPOT" else ("s", 1.0)
        for statistic in STATISTICS:
            both = (_statistic(v, statistic) * scale for v in (values[part], simulated.latencies_s[name][part]))
            own, other = (f"{value:.4g} {unit}" for value in both)
            print(f"| {name} {statistic} | {own} | {other} | {found[f'{name} {statistic}']:+.1%} |")
    drains = drain_s(measured, part), drain_s(simulated, part)
    print(f"| time to serve it | {drains[0]:.1f} s | {drains[1]:.1f} s | {drains[1] / drains[0] - 1:+.1%} |")


def print_gauges(measured: Gauges, simulated: Gauges, after_s: float) -> None:
    print(
        f"\n| from {after_s:.0f} s on | measured mean | simulated mean | mean difference at a time |\n|---|---|---|---|"
    )
    for name, (own, other, apart) in gauge_errors(measured, simulated, after_s).items():
        shown = (f"{v:.1%}" if name == "kv_use" else f"{v:.1f}" for v in (own, other, apart))
        print(f"| {name} | {' | '.join(shown)} |")


def print_settings(run: WatchedRun) -> None:
    print(
        "\n| engine | step time from | TTFT mean | TTFT p99 | TPOT mean | E2E mean | TPOT each | evictions | c_kv, µs |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = [("as assumed", "data sheet", CONFIG, data_sheet())]
    rows += [(name, "first half", config, fit(run, config)) for name, config in OTHER_SETTINGS.items()]
    for name, source, config, step_time in rows:
        records = replay(run, step_time, NUM_GPU_BLOCKS, config)
        found = errors(run.timings, timings_of(records), halves(run)[1])
        cells = [f"{found[key]:+.1%}" for key in ("TTFT mean", "TTFT p99", "TPOT mean", "E2E mean")]
        cells += [f"{found['TPOT each']:.1%}", str(int(records.preemptions.sum())), f"{1e6 * step_time.c_kv:.3f}"]
        print(f"| {name} | {source} | {' | '.join(cells)} |")


def draw(measured: Gauges, simulated: Gauges, folder: Path) -> None:
    """Measured (grey) and simulated (blue) gauges over time."""
    edges = np.append(measured.at_s - 1.0, measured.at_s[-1]).tolist()
    for name, title in (("running", "running"), ("waiting", "waiting"), ("kv_use", "KV blocks in use, %")):
        scale = 100.0 if name == "kv_use" else 1.0
        both = (("measured", measured), ("simulated", simulated))
        lines = [
            Line(label, series, (scale * getattr(gauges, name)).tolist(), edges)
            for series, (label, gauges) in enumerate(both)
        ]
        picture = lines_over_time(title, f"{title} over time, measured (grey) and simulated (blue)", lines)
        (folder / f"rtx4090-{name.replace('_', '-')}.svg").write_text(standalone(picture), encoding="utf-8")


def main() -> None:
    """Fit, replay, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--figures", type=Path)
    arguments = parser.parse_args()
    run = read_watched_run(arguments.trace)
    step_time, second = fit(run), halves(run)[1]
    print(f"step time: {step_time}\ndata sheet: {data_sheet()}\n")
    records = replay(run, step_time, NUM_GPU_BLOCKS, CONFIG, steps=True)
    gauges = simulated_gauges(records, run.gauges.at_s)
    print_latencies(run.timings, timings_of(records), second)
    print_gauges(run.gauges, gauges, float(run.timings.first_scheduled_s[second].min()))
    print_settings(run)
    if arguments.figures is not None:
        draw(run.gauges, gauges, arguments.figures)


if __name__ == "__main__":
    main()
