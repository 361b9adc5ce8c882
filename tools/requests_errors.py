"""How far a step time fitted to one moderate load misses others, on machines whose true step time is known.

    python tools/requests_errors.py [--machines 12] [--seed 0]

A machine is a profile whose every coefficient is off from the estimate by a random factor, log-normal with a deviation
of 30%. It serves a quarter of its stability boundary for some minutes, with jitter, and behind HTTP. From what the
client saw and the estimate, `calibrate_requests` fits a step time, which predicts loads of a sixth and of three times
that rate; the truth serves them too. Printed: the errors of mean TTFT, TPOT and E2E latency, and how many of the
coefficients' 95% intervals hold the truth.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from fluidgate.calibration.requests.report import LATENCIES, RequestsReport
from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime, get_hardware
from fluidgate.hardware.calibration import COEFFICIENTS
from fluidgate.policies import Greedy
from fluidgate.runs import calibrate_requests, plan_for, simulate, timings_of
from fluidgate.workload import MeasuredRun, Timings, Workload, generate

PAIRS = (("llama-3.1-8b", "h100-80gb"), ("llama-2-7b", "a100-80gb"), ("llama-3.1-8b", "rtx-4090"))
PRESETS = ("azure-conv-2023", "lmsys")
SPREAD = 0.3
MODERATE = 0.25
SECONDS = 200.0
RATES = (1 / 6, 1.0, 3.0)
FEWEST, FEWEST_PREDICTED = 150, 600
JITTER, JITTER_S = 0.05, 0.05
OVERHEAD_S, OVERHEAD_SPREAD_S = 0.014, 0.002
CONFIG = EngineConfig()


def machine_like(estimate: Hardware, rng: np.random.Generator) -> Hardware:
    """A machine whose coefficients are off from the estimate's by random factors."""
    step_time = {
        name: getattr(estimate.step_time, name) * float(np.exp(SPREAD * rng.standard_normal())) for name in COEFFICIENTS
    }
    any_length = replace(estimate.server, max_model_len=None)
    return replace(estimate, step_time=StepTime(**step_time), grid=None, server=any_length)


def poisson(preset: str, rate: float, requests: int, seed: int) -> Workload:
    """Lengths of a preset, arriving at random."""
    lengths = generate(preset, n=requests, rate=rate, seed=seed)
    arrival_s = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))
    return replace(lengths, arrival_s=arrival_s)


def served(workload: Workload, machine: Hardware, config: EngineConfig = CONFIG) -> Timings:
    """When the machine serves the requests, seen from inside."""
    return timings_of(simulate(workload, machine, Greedy(), config=config))


def measured(
    workload: Workload, machine: Hardware, rng: np.random.Generator, config: EngineConfig = CONFIG
) -> MeasuredRun:
    """What a client sees of it: the machine's clock runs a little faster and slower, and HTTP adds its share."""
    inside = served(workload, machine, config)
    pieces = int(inside.last_token_s.max() / JITTER_S) + 2
    ticks = np.append(0.0, np.cumsum(JITTER_S * np.exp(JITTER * rng.standard_normal(pieces))))

    def seen(time_s: np.ndarray) -> np.ndarray:
        return np.interp(time_s, JITTER_S * np.arange(pieces + 1), ticks)

    offered = replace(workload, arrival_s=seen(workload.arrival_s))
    outside_s = OVERHEAD_S + rng.exponential(OVERHEAD_SPREAD_S, len(workload))
    timings = Timings(
        seen(inside.arrival_s),
        seen(inside.first_token_s) + outside_s,
        seen(inside.last_token_s) + outside_s,
        offered.output_tokens,
    )
    return MeasuredRun(workload=offered, timings=timings, name=f"{workload.rate:.3g} req/s")


def moderate_rate(preset: str, machine: Hardware) -> float:
    """A quarter of the machine's stability boundary."""
    return MODERATE * plan_for(poisson(preset, 1.0, 3000, 1), machine, CONFIG).stability.boundary_rate


def errors_elsewhere(report: RequestsReport, machine: Hardware, preset: str, rate: float, seed: int) -> np.ndarray:
    """Relative errors of the means at each of `RATES` times the rate; shape (rates, latencies)."""
    fitted = replace(machine, step_time=report.posterior.step_time)
    outside_s = np.array([1.0, 0.0, 1.0])
    found = []
    for factor in RATES:
        workload = poisson(preset, factor * rate, max(FEWEST_PREDICTED, int(SECONDS * factor * rate)), seed)
        truth, predicted = (
            np.array([np.nanmean(served(workload, one).latencies_s[name]) for name in LATENCIES])
            for one in (machine, fitted)
        )
        truth += outside_s * (OVERHEAD_S + OVERHEAD_SPREAD_S)
        found.append((predicted + outside_s * (report.overhead_s or 0.0)) / truth - 1.0)
    return np.array(found)


def covered(report: RequestsReport, machine: Hardware) -> list[bool]:
    """Whether each fitted coefficient's 95% interval, in logarithms, holds the truth."""
    own, truth = report.posterior, machine.step_time
    return [
        abs(np.log(getattr(own.step_time, name) / getattr(truth, name))) <= 1.96 * sigma
        for name, sigma in zip(own.fitted, own.sigma, strict=False)
    ]


def main() -> None:
    """Fit and predict, machine after machine; print a row for each and the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    every, holds = [], list[bool]()
    headings = (f"{name} at {factor:.3g}×" for factor in RATES for name in LATENCIES)
    print(f"| machine | lengths | requests | {' | '.join(headings)} |\n|{'---|' * (3 + len(RATES) * len(LATENCIES))}")
    for k in range(arguments.machines):
        pair, preset = PAIRS[k % len(PAIRS)], PRESETS[k % len(PRESETS)]
        estimate = get_hardware(*pair)
        machine = machine_like(estimate, rng)
        rate = moderate_rate(preset, machine)
        run = measured(poisson(preset, rate, max(FEWEST, int(SECONDS * rate)), 7 + k), machine, rng)
        report = calibrate_requests([run], replace(estimate, grid=None), CONFIG)
        every.append(errors_elsewhere(report, machine, preset, rate, 100 + k))
        holds += covered(report, machine)
        cells = (f"{error:+.1%}" for error in every[-1].ravel())
        print(f"| {pair[0]} on {pair[1]} | {preset} | {len(run.workload):,} | {' | '.join(cells)} |", flush=True)
    worst = np.abs(np.array(every)).max(axis=(0, 1))
    print(f"\nworst: {', '.join(f'{name} {error:.1%}' for name, error in zip(LATENCIES, worst, strict=True))}")
    print(f"95% intervals that hold the truth: {np.mean(holds):.0%} of {len(holds)}")


if __name__ == "__main__":
    main()
