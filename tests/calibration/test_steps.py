"""Calibration recovers what made the steps within its stated errors, and says what the steps cannot tell."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.calibration import StepPoints, calibrate_steps, read_steps, write_steps
from fluidgate.calibration.robust import fit_robust
from fluidgate.errors import InputError
from fluidgate.hardware import Calibration, Hardware, StepTime, read_hardware, write_hardware
from fluidgate.hardware.calibration import COEFFICIENTS

TRUTH = StepTime(0.0168, 9.7e-5, 1.3e-7, 6e-9, 4e-5)
SHEET = StepTime(0.0175, 1.06e-4, 1.37e-7, 5.8e-9, 3e-5)


def steps(
    seed: int,
    n: int = 200,
    *,
    noise: float = 0.03,
    gross: float = 0.1,
    context: tuple[int, int] = (100, 1500),
    prefill: float = 0.4,
) -> StepPoints:
    """Decodes with prefill chunks in some steps; a share `gross` of the durations is off by 2 to 10 times."""
    rng = np.random.default_rng(seed)
    decodes = rng.integers(1, 64, n).astype(float)
    chunk = np.where(rng.random(n) < prefill, rng.integers(64, 2048, n), 0).astype(float)
    kv_tokens = decodes * rng.integers(*context, n) + chunk
    pairs = chunk * rng.integers(0, 3000, n) + chunk * (chunk + 1) / 2
    sequences = decodes + (chunk > 0)
    mean_s = TRUTH.duration_s(decodes + chunk, kv_tokens, pairs, sequences)
    duration_s = mean_s * (1 + noise * rng.standard_normal(n))
    wild = rng.random(n) < gross
    held_up = rng.random(n) < 0.8
    duration_s[wild] *= np.where(held_up, rng.uniform(2, 10, n), rng.uniform(0.1, 0.5, n))[wild]
    kind = np.where(chunk > 0, "mixed", "decode")
    return StepPoints(kind, decodes + chunk, kv_tokens, pairs, sequences, duration_s)


def test_95_percent_intervals_hold_the_truth_95_times_in_100_despite_gross_outliers() -> None:
    # 100 seeds × 5 coefficients; correlated within a seed, so the bounds are those of 100 draws: 0.95 ± 3 sd.
    held = np.zeros(5)
    for seed in range(100):
        found = calibrate_steps(steps(seed))
        fitted = [getattr(found.step_time, name) for name in COEFFICIENTS]
        widths = np.array(found.calibration.plus_minus, dtype=float)
        held += np.abs(np.array(fitted) - dataclasses.astuple(TRUTH)) <= widths
    assert np.all(held >= 88)
    assert held.sum() < 500, "intervals that never miss say nothing"


def test_gross_outliers_are_named_and_the_rest_kept() -> None:
    clean, wild = steps(1, gross=0.0), steps(1)
    gross = np.abs(wild.duration_s / clean.duration_s - 1) > 0.4
    assert 10 < gross.sum() < 40
    found = calibrate_steps(wild)
    assert np.all(found.outlier[gross])
    assert np.count_nonzero(found.outlier & ~gross) <= 2
    assert found.noise == pytest.approx(0.03, rel=0.3)
    assert np.median(found.held_out_error) < 0.03


@settings(max_examples=20)
@given(
    st.floats(1e-3, 5e-2), st.floats(1e-6, 2e-4), st.floats(1e-8, 1e-6), st.floats(1e-10, 1e-8), st.floats(1e-6, 1e-4)
)
def test_exact_steps_give_exact_coefficients(c0: float, c_tok: float, c_kv: float, c_attn: float, c_seq: float) -> None:
    made, times = steps(3), StepTime(c0, c_tok, c_kv, c_attn, c_seq)
    exact = made._replace(duration_s=times.duration_s(*made[1:5]))
    found = calibrate_steps(exact)
    for name in COEFFICIENTS:
        assert getattr(found.step_time, name) == pytest.approx(getattr(times, name), rel=1e-5)
    assert found.relative_error < 1e-6


@pytest.mark.filterwarnings("error")
def test_a_first_guess_without_any_time_for_a_step_does_not_end_the_fit() -> None:
    """One step that is 30 times too short leaves the first guess a cost per pair alone; another step has no pairs."""
    for seed in range(10):  # three of them fall into it
        rng = np.random.default_rng(seed)
        tokens, kv_tokens = rng.integers(1, 600, 25).astype(float), rng.integers(500, 90_000, 25).astype(float)
        pairs = rng.integers(100_000, 1_000_000, 25).astype(float)
        pairs[:2] = 0.0, 30_000.0
        without = dataclasses.replace(TRUTH, c_seq=0.0)
        none = np.zeros(25)
        duration_s = without.duration_s(tokens, kv_tokens, pairs, none)
        duration_s[1] /= 30.0
        points = StepPoints(np.array(["step"] * 25), tokens, kv_tokens, pairs, none, duration_s)
        found = calibrate_steps(points, has_sequences=False)
        assert dataclasses.astuple(found.step_time) == pytest.approx(dataclasses.astuple(without), rel=1e-3)
        assert found.outlier.nonzero()[0].tolist() == [1]


def test_range_and_number_of_steps() -> None:
    made = steps(4)
    calibration = calibrate_steps(made).calibration
    assert calibration.steps == 200
    assert calibration.tokens == (made.tokens.min(), made.tokens.max())
    assert calibration.kv_tokens == (made.kv_tokens.min(), made.kv_tokens.max())


def test_one_context_does_not_determine_the_kv_coefficient() -> None:
    same = steps(5, context=(300, 301), prefill=0.0)
    alone = calibrate_steps(same)
    assert alone.calibration.plus_minus[1:] == (None, None, None, None)
    assert any("c_kv is not determined: the KV tokens do not vary" in remark for remark in alone.remarks)

    nearly = calibrate_steps(steps(5, context=(300, 310), prefill=0.0))
    assert any("c_kv is not determined: its 95% interval holds 0" in remark for remark in nearly.remarks)
    width = nearly.calibration.plus_minus[2]
    assert width is not None
    assert width >= nearly.step_time.c_kv


@pytest.mark.parametrize("context", [(300, 301), (300, 310)])
def test_a_data_sheet_gives_what_the_steps_cannot(context: tuple[int, int]) -> None:
    found = calibrate_steps(steps(5, context=context, prefill=0.0), sheet=SHEET)
    assert found.step_time.c_attn == pytest.approx(SHEET.c_attn)
    assert found.calibration.plus_minus[3] == pytest.approx(0.5 * SHEET.c_attn, rel=0.02)
    # c_tok + 300·c_kv + c_seq is what decodes do tell; the sheet only splits it.
    together = found.step_time.c_tok + 300 * found.step_time.c_kv + found.step_time.c_seq
    assert together == pytest.approx(TRUTH.c_tok + 300 * TRUTH.c_kv + TRUTH.c_seq, rel=0.1)
    assert found.step_time.c_kv == pytest.approx(SHEET.c_kv, rel=0.25)
    assert any("c_kv is not determined" in r and "its value is the data sheet's, ±50%" in r for r in found.remarks)
    assert any("c_seq is not determined" in r and "its value is the estimate's, ±100%" in r for r in found.remarks)


def test_a_data_sheet_changes_nothing_that_the_steps_determine() -> None:
    assert calibrate_steps(steps(6), sheet=SHEET).step_time == calibrate_steps(steps(6)).step_time


def test_without_attention_pairs_their_cost_is_left_out_and_said() -> None:
    found = calibrate_steps(steps(7), has_pairs=False)
    assert found.step_time.c_attn == 0
    assert found.calibration.plus_minus[3] == 0
    assert found.remarks == (
        "c_attn is 0: the file has no attention pairs, so a token costs the same in long and short prompts",
    )


def test_without_sequences_their_cost_is_left_out_and_said() -> None:
    found = calibrate_steps(steps(7), has_sequences=False)
    assert found.step_time.c_seq == 0
    assert found.calibration.plus_minus[4] == 0
    assert found.remarks == ("c_seq is 0: the file has no sequences, so what a request costs counts with its tokens",)
    neither = calibrate_steps(steps(7), has_pairs=False, has_sequences=False)
    assert (neither.step_time.c_attn, neither.step_time.c_seq) == (0, 0)
    assert len(neither.remarks) == 2


def test_misfit_is_what_noise_does_not_explain() -> None:
    made = steps(8, n=800, gross=0.0)
    assert calibrate_steps(made).calibration.misfit < 0.005
    bent = made._replace(duration_s=made.duration_s * np.where(made.kv_tokens > 40_000, 1.15, 1.0))
    assert 0.015 < calibrate_steps(bent).calibration.misfit < 0.10


def test_half_width_of_a_step_is_that_of_the_sum_of_its_terms() -> None:
    made = steps(9, gross=0.0)
    calibration = calibrate_steps(made).calibration
    point = np.array([1.0, 500.0, 30_000.0, 1e5, 30.0])
    # Independently: the spread of the fitted time over repeats of the noise.
    fitted = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        mean = TRUTH.duration_s(*made[1:5])
        design = np.column_stack([np.ones(200), *made[1:5]])
        again = mean * (1 + 0.03 * rng.standard_normal(200))
        fitted.append(point @ fit_robust(design, again).coefficients)
    half_width = calibration.half_width_s(500.0, 30_000.0, 1e5, 30.0)
    assert half_width == pytest.approx(1.96 * np.std(fitted), rel=0.35)


def test_half_width_is_unknown_where_a_coefficient_is() -> None:
    calibration = calibrate_steps(steps(10, prefill=0.0), has_sequences=False).calibration
    assert calibration.half_width_s(10.0, 5_000.0, 1.0, 10.0) is None
    assert calibration.half_width_s(10.0, 5_000.0, 0.0, 10.0) is not None
    with_sequences = calibrate_steps(steps(10, prefill=0.0)).calibration
    assert with_sequences.half_width_s(10.0, 5_000.0, 0.0, 10.0) is None


@pytest.mark.parametrize(
    ("tokens", "kv_tokens", "found"),
    [
        ((1, 120), (1_000, 12_000), None),
        ((1, 121), (1_000, 10_000), "up to 121 tokens (measured: up to 100)"),
        ((1, 100), (1_000, 12_001), "up to 12,001 KV tokens (measured: up to 10,000)"),
        ((1, 100), (800, 10_000), "fewer KV tokens than 1,000, the least measured"),
    ],
)
def test_a_fifth_beyond_the_range_is_outside(
    tokens: tuple[float, float], kv_tokens: tuple[float, float], found: str | None
) -> None:
    identity = tuple(tuple(float(i == j) for j in range(5)) for i in range(5))
    calibration = Calibration(50, (0.0,) * 5, identity, 0.0, (1, 100), (1_000, 10_000))
    assert calibration.outside(tokens, kv_tokens) == found


@pytest.mark.parametrize("prefill", [0.4, 0.0])
def test_a_hardware_file_keeps_the_calibration(tmp_path: Path, prefill: float) -> None:
    found = calibrate_steps(steps(11, prefill=prefill))
    machine = Hardware(
        "mine", found.step_time, 1000, relative_error=found.relative_error, calibration=found.calibration
    )
    write_hardware(machine, tmp_path / "h.json")
    assert read_hardware(tmp_path / "h.json") == machine


def test_a_file_from_before_sequences_had_a_cost_still_reads(tmp_path: Path) -> None:
    found = calibrate_steps(steps(11), has_sequences=False)
    machine = Hardware("mine", found.step_time, 1000, calibration=found.calibration)
    write_hardware(machine, tmp_path / "h.json")
    file = json.loads((tmp_path / "h.json").read_text())
    known = file["calibration"]
    del file["step_time"]["c_seq"], known["plus_minus"]["c_seq"]
    known["correlation"] = [row[:4] for row in known["correlation"][:4]]
    (tmp_path / "old.json").write_text(json.dumps(file))
    back = read_hardware(tmp_path / "old.json")
    assert back.step_time == machine.step_time
    assert back.calibration == machine.calibration
    known["plus_minus"]["c_seq"] = 1e-6
    (tmp_path / "mixed.json").write_text(json.dumps(file))
    with pytest.raises(InputError, match="plus_minus: 'c_seq' is not a known key"):
        read_hardware(tmp_path / "mixed.json")


@pytest.mark.parametrize("correlation", [[[1.0]], [[1.0, 0.0, 0.0]] * 3, "none", [1.0] * 4])
def test_a_correlation_of_another_shape_is_refused(tmp_path: Path, correlation: object) -> None:
    found = calibrate_steps(steps(11))
    write_hardware(Hardware("mine", found.step_time, 1000, calibration=found.calibration), tmp_path / "h.json")
    file = json.loads((tmp_path / "h.json").read_text())
    file["calibration"]["correlation"] = correlation
    (tmp_path / "h.json").write_text(json.dumps(file))
    with pytest.raises(InputError, match=r"calibration: 'correlation' (has shape|must be)"):
        read_hardware(tmp_path / "h.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"misfit": ', '"misfit": -', "'misfit' = -"),
        ('"steps": 200', '"steps": 0', "'steps' = 0 must be at least 1"),
        ('"misfit"', '"mis_fit"', "'mis_fit' is not a known key"),
        ('"c_kv": null', '"c_kv": "a"', "'c_kv' = 'a' must be a number"),
    ],
)
def test_a_broken_calibration_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    found = calibrate_steps(steps(5, context=(300, 301), prefill=0.0))
    calibration = dataclasses.replace(found.calibration, misfit=0.01)
    path = tmp_path / "h.json"
    write_hardware(Hardware("mine", found.step_time, 1000, calibration=calibration), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as refusal:
        read_hardware(path)
    assert str(path) in str(refusal.value)
    assert message in str(refusal.value)


def test_refuses_too_few_steps() -> None:
    with pytest.raises(InputError, match="19 steps are too few"):
        calibrate_steps(steps(0, n=19))


def test_reads_a_file_whatever_its_columns_are_called(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(
        "Step MS,num-tokens,context_tokens,note,Prefill Pairs,phase\n12.5,3,900,x,0,decode\n40,512,700,y,1e5,mixed\n"
    )
    file = read_steps(path)
    assert (file.has_pairs, file.has_sequences) == (True, False)
    assert file.unused == ("note",)
    np.testing.assert_array_equal(file.points.duration_s, [0.0125, 0.04])
    np.testing.assert_array_equal(file.points.tokens, [3, 512])
    np.testing.assert_array_equal(file.points.kv_tokens, [900, 700])
    np.testing.assert_array_equal(file.points.attention_pairs, [0, 1e5])
    assert file.points.kind.tolist() == ["decode", "mixed"]


@pytest.mark.parametrize("name", ["sequences", "Num Reqs", "num-seqs"])
def test_reads_how_many_requests_a_step_had(tmp_path: Path, name: str) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(f"tokens,kv_tokens,ms,{name}\n3,900,12.5,3\n512,700,40,1.5\n")
    file = read_steps(path)
    assert file.has_sequences
    assert file.points.sequences.tolist() == [3, 1.5]
    write_steps(file.points, path)
    assert read_steps(path).points.sequences.tolist() == [3, 1.5]


HEADER = "tokens,kv_tokens,attention_pairs,ms\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: the file is empty"),
        (HEADER, ":1: a header and no rows"),
        ("tokens,ms\n1,2\n", ":1: no column for kv_tokens in the header (tokens, ms)"),
        ("tokens,kv,kv_tokens,ms\n1,2,3,4\n", ":1: 'kv' and 'kv_tokens' both mean kv_tokens; keep one"),
        (HEADER + "1,2,3,4\n1,2,3,-4\n", ":3: ms = '-4' must be a finite number above 0"),
        (HEADER + "1,2,3,0\n", ":2: ms = '0' must be a finite number above 0"),
        (HEADER + "1,nan,3,4\n", ":2: kv_tokens = 'nan' must be a finite number, at least 0"),
        (HEADER + "1,2,-3,4\n", ":2: attention_pairs = '-3' must be a finite number, at least 0"),
        (HEADER + "1,2,3,inf\n", ":2: ms = 'inf' must be a finite number above 0"),
        ("tokens,kv,sequences,ms\n8,9,8,5\n8,9,9,5\n", ":3: 9 sequences and 8 tokens, and each has at least one"),
        ("tokens,kv,sequences,ms\n8,9,0,5\n", ":2: sequences = '0' must be a finite number above 0"),
        (HEADER + "one,2,3,4\n", ":2: tokens = 'one' must be a finite number above 0"),
        (HEADER + "1,2,3\n", ":2: 3 fields where the header has 4"),
        (HEADER + "1,2,3,4\n\n1,2,3,4\n", ":3: 0 fields where the header has 4"),
    ],
)
def test_a_malformed_file_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_steps(path)
    assert f"{path}{message}" in str(refusal.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_steps(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_steps(tmp_path / "bytes.csv")
