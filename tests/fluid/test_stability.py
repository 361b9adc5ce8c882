"""The boundary against the printed table of theory §2, its limits, and the onset load by definition."""

from dataclasses import astuple
from math import cos, inf, pi, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

from fluidgate.errors import InputError
from fluidgate.fluid import Limits, RequestMix, Stability, equilibrium, stability
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.kv_law import KvLaw

A100_7B = (12e-3, 70e-6, 30e-6, 0.35e-6)
A100_8B = (13e-3, 75e-6, 30e-6, 0.085e-6)
RTX4090_8B = (18e-3, 150e-6, 40e-6, 0.145e-6)

SINGLE = RequestMix([1.0], [512], [512])
THREE = RequestMix([6.0, 4.0, 8.0], [20] * 3, [100, 200, 300])


def lognormal(prompt: float, output: float, sigma: float) -> RequestMix:
    """Independent lognormal lengths with the given means, on a grid of quantiles."""
    from scipy.special import ndtri

    z = ndtri((np.arange(150) + 0.5) / 150)
    shape = np.exp(sigma * z)
    shape /= shape.mean()
    lengths = [np.maximum(1, np.rint(mean * shape)).astype(int) for mean in (prompt, output)]
    prompts, outputs = (grid.ravel() for grid in np.meshgrid(*lengths))
    return RequestMix(np.ones(len(prompts)), prompts, outputs)


CHAT = lognormal(961, 198, 1.0)
REASONING = lognormal(199, 1998, 0.5)


def step_of(mix: RequestMix, costs: tuple[float, float, float, float]) -> StepTime:
    """Theory's costs per prompt and per output token as one cost per token, with the same mean work."""
    c0, prompt_s, output_s, kv_s = costs
    per_request = prompt_s * mix.mean(mix.prompt_tokens) + output_s * mix.mean(mix.output_tokens)
    return StepTime(c0=c0, c_tok=per_request / mix.mean(mix.tokens), c_kv=kv_s)


def stable(mix: RequestMix, costs: tuple[float, float, float, float], kv_tokens: float) -> Stability:
    return stability(mix, step_of(mix, costs), Limits(kv_tokens, block_size=16))


@pytest.mark.parametrize(
    ("mix", "kv_tokens", "x", "residents", "rate", "iteration_ms", "eta"),
    [
        (SINGLE, 110e3, 0.277, 142, 4.31, 64, 0.19),
        (THREE, 110e3, 3.46, 730, 46.0, 75, 0.16),
        (SINGLE, 16e3, 0.040, 21, 2.06, 20, 0.61),
        (THREE, 16e3, 0.50, 106, 23.7, 21, 0.57),
    ],
)
def test_table_of_known_lengths(mix, kv_tokens, x, residents, rate, iteration_ms, eta) -> None:
    s = stable(mix, A100_7B, kv_tokens)
    assert s.binding == s.limit == "memory"
    assert s.admissions_per_iteration == pytest.approx(x, abs=5e-4 if x < 0.3 else 5e-3)
    assert s.residents == pytest.approx(residents, abs=0.5)
    assert s.boundary_rate == pytest.approx(rate, rel=2.5e-3)
    assert 1e3 * s.iteration_time_s == pytest.approx(iteration_ms, abs=0.5)
    assert s.eta == pytest.approx(eta, abs=5e-3)


@pytest.mark.parametrize(
    ("mix", "costs", "kv_tokens", "x", "residents", "rate", "iteration_ms", "eta"),
    [
        (CHAT, A100_7B, 110e3, 0.459, 91, 5.47, 84, 0.14),
        (REASONING, A100_7B, 110e3, 0.037, 74, 0.70, 53, 0.23),
        (CHAT, A100_7B, 16e3, 0.067, 13, 2.97, 22, 0.53),
        (REASONING, A100_7B, 40e3, 0.0135, 27, 0.50, 27, 0.45),
        (REASONING, RTX4090_8B, 41.4e3, 0.014, 28, 0.55, 26, 0.71),
        (CHAT, RTX4090_8B, 41.4e3, 0.173, 34, 3.44, 50, 0.36),
        (CHAT, A100_8B, 420e3, 1.75, 346, 9.46, 185, 0.07),
        (REASONING, A100_8B, 420e3, 0.142, 283, 2.40, 59, 0.22),
    ],
)
def test_table_of_random_lengths(mix, costs, kv_tokens, x, residents, rate, iteration_ms, eta) -> None:
    # The lengths behind the printed rows are random draws, cut at some largest one: 8% is what that moves.
    if mix.peak_kv_tokens.max() > kv_tokens:
        fits = mix.peak_kv_tokens <= kv_tokens
        mix = RequestMix(mix.rate[fits], mix.prompt_tokens[fits], mix.output_tokens[fits])
    s = stable(mix, costs, kv_tokens)
    assert s.admissions_per_iteration == pytest.approx(x, rel=0.08)
    assert s.residents == pytest.approx(residents, rel=0.08)
    assert s.boundary_rate == pytest.approx(rate, rel=0.08)
    assert 1e3 * s.iteration_time_s == pytest.approx(iteration_ms, rel=0.08)
    assert s.eta == pytest.approx(eta, abs=0.01)


@pytest.mark.parametrize(
    ("mix", "costs", "kv_tokens", "onset", "within"),
    [
        (SINGLE, A100_7B, 110e3, 0.930, 0.001),
        (THREE, A100_7B, 110e3, 0.969, 0.0015),
        (THREE, A100_7B, 16e3, 0.851, 0.002),
        (CHAT, A100_7B, 110e3, 0.917, 0.015),
        (REASONING, A100_7B, 110e3, 0.888, 0.01),
        (REASONING, RTX4090_8B, 41.4e3, 0.687, 0.01),
    ],
)
def test_onset_loads_of_the_table(mix, costs, kv_tokens, onset, within) -> None:
    assert stable(mix, costs, kv_tokens).onset_load == pytest.approx(onset, abs=within)


@pytest.mark.parametrize(("mix", "kv_tokens"), [(SINGLE, 110e3), (THREE, 16e3), (CHAT, 110e3)])
def test_onset_load_is_the_root_of_its_definition(mix: RequestMix, kv_tokens: float) -> None:
    """M*(ρ) + 2·sqrt(V(ρ)) = C, with V as in theory §2.4, sums over stages taken one by one."""
    step = step_of(mix, A100_7B)
    s = stable(mix, A100_7B, kv_tokens)
    share = mix.rate / mix.total_rate
    kv = [length + 7.5 + np.arange(o) for length, o in zip(mix.prompt_tokens, mix.output_tokens, strict=True)]
    a = share @ [stage.sum() for stage in kv]
    a2 = share @ [(stage**2).sum() for stage in kv]
    iterations = share @ mix.output_tokens

    def excess(load: float) -> float:
        rate = load * s.boundary_rate
        steady_state = equilibrium(mix.scaled(rate), step)
        assert steady_state is not None
        admitted, slower = rate * steady_state.iteration_time_s, steady_state.iteration_time_s / step.c0
        variance = admitted * a2 + admitted * iterations * (a / iterations) ** 2 * (slower - 1)
        return admitted * a + 2 * sqrt(variance) - kv_tokens

    assert s.onset_load == pytest.approx(brentq(excess, 1e-6, 1.0, xtol=1e-13), rel=1e-9)
    for load in (0.3, 0.8):
        reached = stable(mix.scaled(load * s.boundary_rate), A100_7B, kv_tokens).kv_peak
        assert reached == pytest.approx(1 + excess(load) / kv_tokens, rel=1e-9)


def test_one_type_is_the_formula_of_the_memory_bound() -> None:
    """1/λ_max = w + c0·a/C (model.md §2)."""
    step = StepTime(0.012, 3e-5, 4e-7, 2e-9)
    s = stability(SINGLE, step, Limits(50_000))
    a = 512 * 512 + 512 * 511 / 2
    work = 3e-5 * 1023 + 4e-7 * a + 2e-9 * 512 * 513 / 2
    assert 1 / s.boundary_rate == pytest.approx(work + 0.012 * a / 50_000)
    assert s.kv_use_at_boundary == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("limit", "name"), [({"max_num_seqs": 8}, "seats"), ({"max_num_batched_tokens": 20}, "token budget")]
)
def test_other_limits_bind_first(limit: dict[str, int], name: str) -> None:
    step = StepTime(0.012, 3e-5, 4e-7)
    s = stability(SINGLE, step, Limits(110e3, 16, **limit))
    assert s.limit == s.binding == name
    x = 8 / 512 if name == "seats" else 20 / 1023
    assert s.admissions_per_iteration == pytest.approx(x)
    assert s.boundary_rate == pytest.approx(x / (0.012 + x * SINGLE.work_s(step)[0]))
    assert s.onset_load is None
    assert s.kv_use_at_boundary == pytest.approx(x * SINGLE.memory_token_iterations(KvLaw.full(16))[0] / 110e3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("mix", [SINGLE, THREE, CHAT])
@pytest.mark.parametrize("limit", [{}, {"max_num_seqs": 60}, {"max_num_batched_tokens": 200}])
def test_empty_memory_costs_the_difference_of_two_boundaries(mix, share, limit) -> None:
    step = step_of(mix, A100_7B)
    whole, less = (stability(mix, step, Limits(110e3 * kept, 16, **limit)) for kept in (1.0, 1.0 - share))
    assert whole.empty_memory_cost(share) == pytest.approx(1 - less.boundary_rate / whole.boundary_rate, abs=1e-12)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_of_empty_memory_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="at least 0 and below 1"):
        stable(SINGLE, A100_7B, 110e3).empty_memory_cost(share)


def test_an_eviction_costs_what_a_mean_resident_holds() -> None:
    """Residents of every stage of every type, one by one: each computes all its KV again."""
    step = StepTime(0.012, 3e-5, 4e-7, 2e-9)
    rate, outputs = np.array([6.0, 4.0, 8.0]), [100, 200, 300]
    s = stability(THREE, step, Limits(110e3))
    kv = [20 + np.arange(o) for o in outputs]  # at the end of each iteration
    weight = [rate[j] for j, o in enumerate(outputs) for _ in range(o)]
    held = np.concatenate(kv)
    again_s = np.average(step.c_tok * held + step.c_attn * held * (held + 1) / 2, weights=weight)
    w = THREE.mean(THREE.work_s(step))
    per_request_s = w + again_s + step.c0 / s.admissions_per_iteration
    assert s.eviction_cost == pytest.approx(1 - 1 / (s.boundary_rate * per_request_s))
    # in tokens: the prompt and E[o²]/(2E[o]), less half a one
    tokens = 20 + np.average(np.square(outputs), weights=rate) / (2 * np.average(outputs, weights=rate)) - 0.5
    assert np.average(held, weights=weight) == pytest.approx(tokens)


def test_kv_use_is_the_equilibriums_share_of_memory() -> None:
    step = StepTime(0.012, 3e-5, 4e-7)
    limits = Limits(110e3, 16, max_num_seqs=60)
    boundary = stability(THREE, step, limits).boundary_rate
    mix = THREE.scaled(0.7 * boundary)
    steady_state = equilibrium(mix, step, KvLaw.full(16))
    assert steady_state is not None
    s = stability(mix, step, limits)
    assert s.load == pytest.approx(0.7)
    assert s.kv_use == pytest.approx(steady_state.memory_tokens / 110e3)
    assert stability(THREE.scaled(2 * boundary), step, limits).kv_use == pytest.approx(s.kv_use_at_boundary)


def test_time_shares_are_elasticities() -> None:
    costs = {"c0": 0.012, "c_tok": 3e-5, "c_kv": 4e-7, "c_attn": 5e-9, "c_seq": 2e-5}
    s = stability(SINGLE, StepTime(**costs), Limits(110e3))
    shares = astuple(s.time_shares)
    assert sum(shares) == pytest.approx(1.0)
    for name, share in zip(costs, shares, strict=True):
        faster = stability(SINGLE, StepTime(**{**costs, name: costs[name] * (1 - 1e-6)}), Limits(110e3))
        assert (faster.boundary_rate / s.boundary_rate - 1) / 1e-6 == pytest.approx(share, rel=1e-3)
    larger = stability(SINGLE, StepTime(**costs), Limits(110e3 * (1 + 1e-6)))
    assert (larger.boundary_rate / s.boundary_rate - 1) / 1e-6 == pytest.approx(s.eta, rel=1e-3)


def test_endless_memory_leaves_the_work() -> None:
    step = StepTime(0.012, 3e-5, 4e-7)
    s = stability(SINGLE, step, Limits(1e12))
    assert s.boundary_rate == pytest.approx(1 / SINGLE.work_s(step)[0], rel=1e-5)
    assert s.binding == "compute"
    assert s.token_limit == s.seat_limit == inf


def test_no_fixed_time_leaves_the_work() -> None:
    work = SINGLE.work_s(StepTime(1.0, 3e-5, 4e-7))[0]
    nearly = stability(SINGLE, StepTime(1e-9, 3e-5, 4e-7), Limits(110e3))
    none = stability(SINGLE, StepTime(0.0, 3e-5, 4e-7), Limits(110e3))
    assert none.boundary_rate == pytest.approx(1 / work)
    assert nearly.boundary_rate == pytest.approx(1 / work, rel=1e-6)
    assert nearly.onset_load == pytest.approx(1.0, abs=1e-3)
    assert none.onset_load == 1.0
    assert none.binding == nearly.binding == "compute"
    assert (none.eta, none.kv_use) == (0.0, pytest.approx(0.0, abs=1e-12))


@pytest.mark.parametrize(("prompt", "output"), [(1, 1), (10, 100), (512, 512), (1, 50_000)])
def test_greedy_admissions_worst_cycle(prompt: int, output: int) -> None:
    """Model.md §5 counts l + 1 ... l + o KV tokens: x* = 2C/(o(2l + o + 1)), cycle C/(o(l + o))."""
    mix = RequestMix([1.0], [prompt + 1], [output])
    limits = Limits(1e6)
    x = stability(mix, StepTime(0.01), limits).admissions_per_iteration
    assert x == pytest.approx(2e6 / (output * (2 * prompt + output + 1)))
    cycle = 1e6 / (output * mix.peak_kv_tokens[0])
    assert cycle / x == pytest.approx((2 * prompt + output + 1) / (2 * (prompt + output)))
    if output == 50_000:
        assert cycle / x == pytest.approx(0.5, abs=1e-3)


def test_rate_limit_of_several_classes() -> None:
    """Model.md §5: x* = C / Σ p_k o_k (l_k + (o_k + 1)/2)."""
    share, prompts, outputs = [0.2, 0.5, 0.3], [10, 300, 40], [50, 70, 900]
    mix = RequestMix(share, [p + 1 for p in prompts], outputs)
    expected = 1e6 / sum(p * o * (n + (o + 1) / 2) for p, n, o in zip(share, prompts, outputs, strict=True))
    assert stability(mix, StepTime(0.01), Limits(1e6)).admissions_per_iteration == pytest.approx(expected)


def test_watermark_is_two_deviations_of_sizes() -> None:
    # n* residents of one type, stages equally likely: KV uniform on 512..1023, in memory 7.5 more.
    kv = np.arange(512, 1024)
    residents = 110e3 / (kv.mean() + 7.5)
    assert stable(SINGLE, A100_7B, 110e3).watermark == pytest.approx(2 * sqrt(residents * kv.var()) / 110e3)
    flat = RequestMix([1.0], [500], [1])
    assert stability(flat, StepTime(0.01), Limits(1e6)).watermark == 0.01
    assert stability(CHAT, StepTime(0.01), Limits(float(CHAT.peak_kv_tokens.max()))).watermark == 0.3


def test_coherence_of_lattices_and_of_spread_lengths() -> None:
    def chi(outputs: np.ndarray, weights: np.ndarray) -> float:
        return stability(RequestMix(weights, np.ones_like(outputs), outputs), StepTime(0.01), Limits(1e9)).coherence

    assert chi(np.array([512]), np.ones(1)) == pytest.approx(1.0)
    assert chi(np.array([2, 3]), np.ones(2)) == 1.0
    assert stable(THREE, A100_7B, 110e3).coherence == pytest.approx(1.0, abs=0.005)
    # Geometric with mean 200: |φ(ω)| = p/|1 - qe^iω|, largest at the lowest ω of the band.
    p, q, length = 0.005, 0.995, np.arange(1, 6001)
    omega = 0.7 * 2 * pi * p
    exact = p / sqrt(1 + q * q - 2 * q * cos(omega))
    assert chi(length, p * q ** (length - 1)) == pytest.approx(exact, rel=0.01)


def test_what_can_never_fit_is_refused_by_its_lengths() -> None:
    mix = RequestMix([1.0, 1.0], [10, 90], [10, 12])
    step = StepTime(0.01)
    assert stability(mix, step, Limits(101)).limit == "memory"
    with pytest.raises(InputError, match=r"a request of 90 prompt and 12 output tokens.*101 KV tokens.*100 tokens"):
        stability(mix, step, Limits(100))


@pytest.mark.parametrize(
    "bad",
    [
        {"kv_tokens": 0},
        {"kv_tokens": float("nan")},
        {"kv_tokens": inf},
        {"kv_tokens": 10, "block_size": 0},
        {"kv_tokens": 10, "max_num_seqs": 0},
        {"kv_tokens": 10, "max_num_batched_tokens": -5},
        {"kv_tokens": 10, "max_num_seqs": float("nan")},
    ],
)
def test_bad_limits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be"):
        Limits(**bad)


@pytest.mark.parametrize(("trace", "printed"), [("conv", 0.67), ("code", 0.54)])
def test_coherence_of_the_azure_traces(shared_dir: Path, trace: str, printed: float) -> None:
    """The values measured in theory §2.6."""
    file = shared_dir / "traces" / f"AzureLLMInferenceTrace_{trace}.csv"
    outputs, counts = np.unique(np.loadtxt(file, int, delimiter=",", skiprows=1, usecols=2), return_counts=True)
    mix = RequestMix(counts[outputs > 0], np.ones(np.count_nonzero(outputs)), outputs[outputs > 0])
    assert stability(mix, StepTime(0.01), Limits(1e9)).coherence == pytest.approx(printed, abs=0.02)
