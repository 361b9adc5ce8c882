"""The fit recovers what made the steps, says what it cannot know, and refuses bad steps."""

import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.hardware import StepTime, fit_step_time
from fluidgate.hardware.calibration import COEFFICIENTS

TOKENS = np.array([1, 8, 64, 256, 512, 1024, 2048, 16, 32, 128], float)
KV_TOKENS = np.array([100, 9_000, 50_000, 200_000, 512, 1024, 2048, 120_000, 4_000, 64_000], float)
PAIRS = np.array([0, 0, 0, 0, 131_328, 524_800, 2_098_176, 0, 0, 0], float)
SEQUENCES = np.array([1, 8, 64, 256, 1, 3, 40, 16, 32, 128], float)


def steps(times: StepTime) -> dict[str, Any]:
    return {
        "tokens": TOKENS,
        "kv_tokens": KV_TOKENS,
        "attention_pairs": PAIRS,
        "sequences": SEQUENCES,
        "duration_s": times.duration_s(TOKENS, KV_TOKENS, PAIRS, SEQUENCES),
    }


@settings(max_examples=50)
@given(
    st.floats(1e-3, 5e-2), st.floats(1e-6, 2e-4), st.floats(1e-8, 1e-6), st.floats(1e-10, 1e-8), st.floats(1e-6, 1e-4)
)
def test_recovers_the_coefficients_of_exact_steps(
    c0: float, c_tok: float, c_kv: float, c_attn: float, c_seq: float
) -> None:
    fitted, report = fit_step_time(**steps(StepTime(c0, c_tok, c_kv, c_attn, c_seq)))
    assert fitted.c0 == pytest.approx(c0, rel=1e-6)
    assert fitted.c_tok == pytest.approx(c_tok, rel=1e-6)
    assert fitted.c_kv == pytest.approx(c_kv, rel=1e-6)
    assert fitted.c_attn == pytest.approx(c_attn, rel=1e-4)
    assert fitted.c_seq == pytest.approx(c_seq, rel=1e-4)
    assert report.max_error < 1e-9
    assert report.unidentifiable == ()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_noise_of_two_percent_moves_the_fit_by_few(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = StepTime(0.01, 5e-5, 1e-7, 3e-9, 4e-5)
    n = 400
    tokens, kv = rng.integers(1, 2048, n).astype(float), rng.integers(1, 400_000, n).astype(float)
    pairs = tokens * rng.integers(0, 4096, n)
    sequences = rng.integers(1, np.minimum(tokens, 1024) + 1).astype(float)
    duration_s = truth.duration_s(tokens, kv, pairs, sequences) * rng.uniform(0.98, 1.02, n)
    fitted, report = fit_step_time(tokens, kv, pairs, sequences, duration_s)
    for name in COEFFICIENTS:
        assert getattr(fitted, name) == pytest.approx(getattr(truth, name), rel=0.05)
    assert report.max_error < 0.03


def test_reports_errors_per_kind() -> None:
    times = StepTime(0.01, 5e-5, 1e-7, 3e-9)
    data = steps(times)
    data["duration_s"] = data["duration_s"] * np.where(PAIRS > 0, 1.3, 1.0)
    kind = ["prefill" if pairs else "decode" for pairs in PAIRS]
    fitted, report = fit_step_time(**data, kind=kind)
    error = np.abs(fitted.duration_s(TOKENS, KV_TOKENS, PAIRS, SEQUENCES) / data["duration_s"] - 1)
    assert report.mean_error == pytest.approx(error.mean())
    assert report.max_error == pytest.approx(error.max())
    assert report.error_by_kind["prefill"] == pytest.approx(error[PAIRS > 0].mean())
    assert report.error_by_kind["decode"] == pytest.approx(error[PAIRS == 0].mean())
    assert report.points == 10


def test_minimises_the_relative_error() -> None:
    rng = np.random.default_rng(3)
    data = steps(StepTime(0.01, 5e-5, 1e-7, 3e-9))
    data["duration_s"] = data["duration_s"] * rng.uniform(0.8, 1.2, 10)
    fitted, _ = fit_step_time(**data)

    def loss(times: StepTime) -> float:
        return float(np.sum((times.duration_s(TOKENS, KV_TOKENS, PAIRS, SEQUENCES) / data["duration_s"] - 1) ** 2))

    for name in COEFFICIENTS:
        for factor in (0.99, 1.01):
            values = {n: getattr(fitted, n) for n in COEFFICIENTS}
            values[name] = values[name] * factor if values[name] else 1e-12
            assert loss(StepTime(**values)) >= loss(fitted)


def test_says_which_coefficients_the_steps_do_not_determine() -> None:
    no_pairs = steps(StepTime(0.01, 5e-5, 1e-7)) | {"attention_pairs": np.zeros(10)}
    no_pairs["duration_s"] = StepTime(0.01, 5e-5, 1e-7).duration_s(TOKENS, KV_TOKENS, 0, SEQUENCES)
    fitted, report = fit_step_time(**no_pairs)
    assert report.unidentifiable == ("c_attn",)
    assert fitted.c_attn == 0

    same_context = no_pairs | {"kv_tokens": 100 * TOKENS}
    _, report = fit_step_time(**same_context)
    assert report.unidentifiable == ("c_tok", "c_kv", "c_attn")

    one_batch = no_pairs | {"tokens": np.full(10, 32.0)}
    _, report = fit_step_time(**one_batch)
    assert report.unidentifiable == ("c0", "c_tok", "c_attn")


def test_decodes_alone_do_not_tell_a_cost_per_sequence_from_one_per_token() -> None:
    """A decode is one sequence and one token; a prefill tells them apart."""
    truth = StepTime(0.01, 5e-5, 1e-7, 0.0, 2e-5)
    decodes = steps(truth) | {"attention_pairs": np.zeros(10), "sequences": TOKENS}
    decodes["duration_s"] = truth.duration_s(TOKENS, KV_TOKENS, 0, TOKENS)
    fitted, report = fit_step_time(**decodes)
    assert report.unidentifiable == ("c_tok", "c_attn", "c_seq")
    assert fitted.c_tok + fitted.c_seq == pytest.approx(7e-5)
    fitted, report = fit_step_time(**steps(truth))
    assert report.unidentifiable == ()
    assert (fitted.c_tok, fitted.c_seq) == pytest.approx((5e-5, 2e-5))


def test_unknown_sequences_cost_nothing_by_definition() -> None:
    truth = StepTime(0.01, 5e-5, 1e-7, 3e-9)
    fitted, report = fit_step_time(**steps(truth) | {"sequences": None})
    assert astuple(fitted) == pytest.approx(astuple(truth))
    assert fitted.c_seq == 0
    assert report.unidentifiable == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": TOKENS[:4]}, "tokens has 4 values for 10 durations"),
        ({"kv_tokens": KV_TOKENS * math.nan}, "step 0: kv_tokens = nan must be finite"),
        ({"attention_pairs": PAIRS - 1}, "step 0: attention_pairs = -1.0 must be finite and at least 0"),
        ({"duration_s": np.zeros(10)}, "step 0: duration_s = 0.0 must be above 0"),
        ({"duration_s": np.full(10, math.inf)}, "step 0: duration_s = inf"),
        ({"tokens": ["a"] * 10}, "tokens must hold numbers"),
        ({"tokens": TOKENS.reshape(2, 5)}, "tokens must be one-dimensional"),
        ({"kind": ["decode"]}, "kind has 1 values for 10 steps"),
    ],
)
def test_refuses_bad_steps(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        fit_step_time(**(steps(StepTime(0.01, 5e-5, 1e-7, 3e-9)) | changes))
    assert message in str(refusal.value)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_refuses_too_few_steps(n: int) -> None:
    data: dict[str, Any] = {name: column[:n] for name, column in steps(StepTime(0.01)).items()}
    with pytest.raises(InputError, match=f"{n} steps are too few"):
        fit_step_time(**data)


def test_refuses_steps_that_cost_nothing_but_kv() -> None:
    data = steps(StepTime(0.01)) | {"duration_s": 1e-7 * KV_TOKENS}
    with pytest.raises(InputError, match="no time per step, token or sequence"):
        fit_step_time(**data)
