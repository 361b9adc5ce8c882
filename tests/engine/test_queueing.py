"""Long runs against queueing theory. Intervals are ±3.5 standard errors over independent replications."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy, Policy, RateLimited
from fluidgate.workload import Workload

AMPLE = Hardware("ample", StepTime(c0=1.0), num_gpu_blocks=1_000_000, block_size=16)
ONE_SEAT = EngineConfig(max_num_seqs=1)


def poisson(random: np.random.Generator, rate: float, output: NDArray[np.int64]) -> Workload:
    arrival_s = np.cumsum(random.exponential(1 / rate, len(output)))
    return Workload(arrival_s, np.ones(len(output), np.int64), output)


def assert_mean(replicate: Callable[[np.random.Generator], float], expected: float, replications: int = 20) -> None:
    values = [replicate(np.random.default_rng([seed, 11])) for seed in range(replications)]
    error = 3.5 * np.std(values, ddof=1) / np.sqrt(replications)
    assert error < 0.1 * expected, "the interval is too wide to say anything"
    assert abs(np.mean(values) - expected) < error


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_seat_and_one_token_is_m_d_1(load: float) -> None:
    """Mean wait ρ/(2(1-ρ)) services (Pollaczek-Khinchine); and Lindley's recursion, request by request."""

    def mean_wait_s(random: np.random.Generator) -> float:
        workload = poisson(random, load, np.ones(5_500, np.int64))
        records = run(workload, AMPLE, Greedy(), ONE_SEAT)
        wait_s = records.first_scheduled_s - records.arrival_s
        free_at_s = 0.0
        for arrival_s, start_s in zip(records.arrival_s, records.first_scheduled_s, strict=True):
            assert start_s == max(arrival_s, free_at_s)
            free_at_s = start_s + 1.0
        return float(wait_s[500:].mean())

    assert_mean(mean_wait_s, load / (2 * (1 - load)))


def test_one_seat_and_geometric_outputs_is_nearly_m_m_1() -> None:
    """Service of a geometric number of short steps: Pollaczek-Khinchine exactly, and 1/(μ-λ) within 2%."""
    mean, load = 50.0, 0.6
    second_moment = (2 - 1 / mean) * mean**2
    sojourn = mean + load / mean * second_moment / (2 * (1 - load))
    assert sojourn == pytest.approx(mean / (1 - load), rel=0.02)

    def mean_sojourn_s(random: np.random.Generator) -> float:
        workload = poisson(random, load / mean, random.geometric(1 / mean, 5_500))
        records = run(workload, AMPLE, Greedy(), ONE_SEAT)
        return float((records.last_token_s - records.arrival_s)[500:].mean())

    assert_mean(mean_sojourn_s, sojourn)


def test_ample_seats_are_m_g_infinity() -> None:
    """Residents λ·c0·E[o]; each waits half a step, on average, for the running one to end."""
    rate, outputs = 0.8, np.array([5, 20, 80])
    config = EngineConfig(max_num_seqs=100_000)

    def one_run(random: np.random.Generator) -> RunRecords:
        return run(poisson(random, rate, random.choice(outputs, 4_000)), AMPLE, Greedy(), config, record="steps")

    def mean_residents(random: np.random.Generator) -> float:
        steps = one_run(random).steps
        assert steps is not None
        steady = (steps.start_s > 200) & (steps.start_s < 4_500)
        return float(steps.running[steady].mean())

    def mean_wait_s(random: np.random.Generator) -> float:
        records = one_run(random)
        return float((records.first_scheduled_s - records.arrival_s)[200:].mean())

    assert_mean(mean_residents, rate * outputs.mean())
    assert_mean(mean_wait_s, 0.5)


def steady_completions(policy: Policy, prompt: int, output: int, blocks: int, requests: int) -> tuple[float, int]:
    """(completions per iteration, evictions) of a saturated queue of equal requests, without its two ends."""
    workload = Workload(np.zeros(requests), np.full(requests, prompt), np.full(requests, output))
    hardware = Hardware("one token a block", StepTime(c0=1.0), blocks + 1, block_size=1)
    config = EngineConfig(
        max_num_seqs=blocks,
        max_num_batched_tokens=10 * blocks,
        enable_prefix_caching=False,
        scheduler_reserve_full_isl=False,
        preemption="restart",
    )
    records = run(workload, hardware, policy, config)
    done_s = np.sort(records.last_token_s)
    a, b = requests // 4, 3 * requests // 4
    return (b - a) / (done_s[b] - done_s[a]), int(records.preemptions.sum())


@pytest.mark.parametrize(("prompt", "output"), [(10, 100), (100, 100)])
def test_greedy_admission_falls_into_the_limit_cycle(prompt: int, output: int) -> None:
    """Ao, Dong, Luo, Simchi-Levi, arXiv 2606.15555: greedy falls to (2l+o+1)/(2(l+o)) of x*, with evictions.

    Here to 55% and 75%; admitting at 98% of x* gets 98% of x*, without any.
    """
    blocks = 100 * output
    best = 2 * blocks / (output * (2 * prompt + output + 1))
    cycle = blocks / (output * (prompt + output))
    greedy, evictions = steady_completions(Greedy(), prompt, output, blocks, 4_000)
    paced, none = steady_completions(RateLimited(0.98 * best), prompt, output, blocks, 4_000)
    assert evictions > 0
    assert none == 0
    assert paced == pytest.approx(0.98 * best, rel=0.01)
    assert greedy == pytest.approx(cycle, rel=0.02)
