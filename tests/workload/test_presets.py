"""Presets against their sources, and the promises of `generate`."""

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.workload import (
    PRESETS,
    AllAtOnce,
    Fixed,
    Gamma,
    LognormalMixture,
    Poisson,
    dispersion,
    generate,
    read_trace,
)

COUNT = 100_000


def ks(a, b):
    """Kolmogorov–Smirnov distance of two samples."""
    grid = np.union1d(a, b)
    a, b = (np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b))
    return abs(a - b).max()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_draws_names_itself_and_has_a_source(name):
    workload = generate(name, n=2_000)
    assert workload.name == name
    assert PRESETS[name].name == name
    assert PRESETS[name].source
    assert workload.class_names == PRESETS[name].lengths.class_names
    assert set(workload.class_id) == set(range(len(workload.class_names)))


def test_lmsys_meets_the_printed_facts():
    workload = generate("lmsys", n=COUNT)
    prompt, output = workload.prompt_tokens, workload.output_tokens
    assert prompt.mean() == pytest.approx(58.6, abs=1.5)
    assert np.median(prompt) == pytest.approx(21, abs=1)
    assert output.mean() == pytest.approx(147.3, abs=2)
    assert np.median(output) == pytest.approx(116, abs=2)
    assert np.mean(output <= 50) == pytest.approx(0.31, abs=0.007)
    assert np.mean(output > 300) == pytest.approx(0.14, abs=0.006)
    assert max(prompt.max(), output.max()) < 500
    lengths = PRESETS["lmsys"].lengths
    assert lengths.prompt.mean == pytest.approx(58.6, abs=1e-6)
    assert lengths.output.mean == pytest.approx(147.3, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "prompt", "outputs", "shares"),
    [
        ("p512-d20", 512, [20], [1]),
        ("p512-d1000", 512, [1000], [1]),
        ("p630-d20", 630, [20], [1]),
        ("p512-d20-d50-mix", 512, [20, 50], [0.7, 0.3]),
        ("three-types", 20, [100, 200, 300], [6 / 18, 4 / 18, 8 / 18]),
    ],
)
def test_paper_types(name, prompt, outputs, shares):
    workload = generate(name, n=COUNT)
    assert set(workload.prompt_tokens) == {prompt}
    assert workload.class_names == tuple(f"p{prompt}-d{output}" for output in outputs)
    np.testing.assert_array_equal(workload.output_tokens, np.array(outputs)[workload.class_id])
    np.testing.assert_allclose(np.bincount(workload.class_id) / COUNT, shares, atol=0.008)


@pytest.mark.parametrize(
    ("name", "file", "limits"),
    [
        ("azure-conv-2023", "AzureLLMInferenceTrace_conv.csv", (0.05, 0.045)),
        ("azure-code-2023", "AzureLLMInferenceTrace_code.csv", (0.045, 0.035)),
        ("r1-reasoning", "servegen_r1_1h.csv.gz", (0.035, 0.02)),
        ("sharegpt", "sharegpt_8k_lengths.csv.gz", (0.035, 0.035)),
        ("mooncake-conversation", "conversation_trace.jsonl", (0.045, 0.02)),
    ],
)
def test_fitted_presets_are_near_their_trace(shared_dir, name, file, limits):
    trace, _ = read_trace(shared_dir / "traces" / file)
    made = generate(name, n=COUNT, seed=3)
    assert ks(made.prompt_tokens, trace.prompt_tokens) < limits[0]
    assert ks(made.output_tokens, trace.output_tokens) < limits[1]
    for column in ("prompt_tokens", "output_tokens"):
        assert getattr(made, column).mean() == pytest.approx(getattr(trace, column).mean(), rel=0.04)
    pair = [np.corrcoef(w.prompt_tokens, w.output_tokens)[0, 1] for w in (made, trace)]
    assert pair[0] == pytest.approx(pair[1], abs=0.08)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("azure-conv-2023", "AzureLLMInferenceTrace_conv.csv"),
        ("azure-code-2023", "AzureLLMInferenceTrace_code.csv"),
        ("r1-reasoning", "servegen_r1_1h.csv.gz"),
    ],
)
def test_fitted_arrivals_are_as_bursty_as_their_trace(shared_dir, name, file):
    trace, _ = read_trace(shared_dir / "traces" / file)
    made = generate(name, n=COUNT, seed=4)
    for window_s in (1, 10, 60):
        assert dispersion(made.arrival_s, window_s) == pytest.approx(dispersion(trace.arrival_s, window_s), rel=0.3)


@pytest.mark.parametrize("name", ["azure-conv-2023", "azure-code-2023", "lmsys", "three-types"])
def test_the_same_requests_come_at_every_rate(name):
    base, fast = generate(name, n=3_000, rate=2.0, seed=9), generate(name, n=3_000, rate=8.0, seed=9)
    np.testing.assert_allclose(base.arrival_s, 4 * fast.arrival_s, rtol=1e-12)
    for column in ("prompt_tokens", "output_tokens", "class_id"):
        np.testing.assert_array_equal(getattr(base, column), getattr(fast, column))


def test_the_rate_is_the_rate_asked_for():
    assert generate("r1-reasoning", n=COUNT, rate=3.0).rate == pytest.approx(3.0, rel=0.06)
    assert generate("lmsys", n=COUNT, rate=3.0).rate == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("name", ["azure-conv-2023", "azure-code-2023", "r1-reasoning", "lmsys"])
def test_duration_cuts_the_same_stream(name):
    """A shorter time, or a count, gives the beginning of the longer draw; nothing arrives after the end."""
    long = generate(name, duration_s=400.0, seed=2)
    short = generate(name, duration_s=300.0, seed=2)
    counted = generate(name, n=len(long) + 1, seed=2)
    assert long.duration_s < 400 <= counted.duration_s
    assert len(short) == (long.arrival_s < 300).sum()
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_allclose(getattr(long, column)[: len(short)], getattr(short, column), rtol=1e-12)
        np.testing.assert_allclose(getattr(counted, column)[:-1], getattr(long, column), rtol=1e-12)


def test_duration_holds_rate_times_duration_requests():
    counts = [len(generate("lmsys", duration_s=20.0, rate=5.0, seed=s)) for s in range(40)]
    assert np.mean(counts) == pytest.approx(100, abs=5 * np.sqrt(100 / 40))


def test_a_very_bursty_process_reaches_the_end_of_the_duration():
    workload = generate((Gamma(10.0, 30.0), Fixed(1), Fixed(1)), duration_s=500.0, seed=0)
    assert workload.duration_s > 250


def test_same_seed_same_bits_and_other_seed_other_bits():
    digests = [generate("azure-conv-2023", n=500, seed=s).digest for s in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_lengths_do_not_depend_on_the_arrival_process():
    mix = LognormalMixture((1,), (5,), (1,))
    one, two = (generate((a, mix, mix), n=300) for a in (Poisson(1), AllAtOnce()))
    np.testing.assert_array_equal(one.prompt_tokens, two.prompt_tokens)
    np.testing.assert_array_equal(one.output_tokens, two.output_tokens)
    assert two.arrival_s.max() == 0


@pytest.mark.parametrize(
    ("what", "options", "why"),
    [
        ("lmsis", {"n": 5}, "unknown preset 'lmsis'; did you mean lmsys. Known: .*lmsys"),
        ("lmsys", {}, "give either n"),
        ("lmsys", {"n": 5, "duration_s": 5.0}, "give either n"),
        ("lmsys", {"n": 0}, "n = 0 must be between"),
        ("lmsys", {"n": -5}, "n = -5 must be between"),
        ("lmsys", {"n": 10**12}, "must be between"),
        ("lmsys", {"duration_s": 0.0}, "duration_s = 0.0 must be a finite"),
        ("lmsys", {"duration_s": float("nan")}, "duration_s = nan must be a finite"),
        ("lmsys", {"duration_s": float("inf")}, "duration_s = inf must be a finite"),
        ("lmsys", {"duration_s": 1e12}, "shorten it"),
        ("lmsys", {"duration_s": 1e-9}, "no request arrives within"),
        ("lmsys", {"n": 5, "rate": 0.0}, "rate = 0.0 must be a finite"),
        ("lmsys", {"n": 5, "rate": float("inf")}, "rate = inf must be a finite"),
        ("lmsys", {"n": 5, "seed": -1}, "seed = -1 must be a whole number"),
        ("lmsys", {"n": 5, "seed": 0.5}, "seed = 0.5 must be a whole number"),
        ((AllAtOnce(), Fixed(1), Fixed(1)), {"n": 5, "rate": 3.0}, "leave rate out"),
        ((AllAtOnce(), Fixed(1), Fixed(1)), {"duration_s": 3.0}, "give n instead"),
    ],
)
def test_impossible_requests_are_refused(what, options, why):
    with pytest.raises(InputError, match=why):
        generate(what, **options)
