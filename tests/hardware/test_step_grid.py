"""Step grids: what they say between their knots, how far they reach, and their place in a hardware file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepGrid, StepTime, read_hardware, write_hardware
from fluidgate.hardware.fit import fit_step_grid
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.hardware.step_grid import TABLES

DECODES, CONTEXTS, CHUNKS = knots_to(64), knots_to(4096), knots_to(512)
TOKENS = knots_to(576, TOKEN_KNOTS_PER_OCTAVE)


def affine_grid(c0: float = 0.01, c_tok: float = 5e-5, c_kv: float = 1e-7, c_attn: float = 3e-9) -> StepGrid:
    """What four terms say, as tables; the KV of a prefill costs nothing."""
    n, c = np.meshgrid(DECODES, CONTEXTS, indexing="ij")
    p, q = np.meshgrid(CHUNKS, CONTEXTS, indexing="ij")
    return StepGrid(c0 + c_tok * n + c_kv * n * c, c_kv * n * c, c0 + c_tok * TOKENS, c_attn * p * q)


def random_grid(seed: int = 0) -> StepGrid:
    rng = np.random.default_rng(seed)
    return StepGrid(
        rng.uniform(1, 2, (len(DECODES), len(CONTEXTS))),
        rng.uniform(-0.1, 1, (len(DECODES), len(CONTEXTS))),
        rng.uniform(1, 2, len(TOKENS)),
        rng.uniform(-0.1, 1, (len(CHUNKS), len(CONTEXTS))),
    )


def test_knots() -> None:
    assert knots_to(4).tolist() == [1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4]
    assert knots_to(5.1).tolist()[-2:] == [5, 6]
    assert knots_to(3, 2).tolist() == [1, 1.5, 2, 3]


@given(st.integers(0, 64), st.floats(1, 4096), st.integers(0, 512), st.floats(1, 4096), st.integers(0, 5))
def test_between_the_knots_it_is_linear(decodes: int, context: float, chunk: int, reach: float, seed: int) -> None:
    """Against scipy's interpolation of the same tables."""
    grid = random_grid(seed)
    expected = 0.0
    if decodes:
        table = grid.decode_attention_s if chunk else grid.decode_s
        expected += RegularGridInterpolator((DECODES, CONTEXTS), table)((decodes, context))
    if chunk:
        expected += np.interp(decodes + chunk, TOKENS, grid.shared_s)
        expected += RegularGridInterpolator((CHUNKS, CONTEXTS), grid.prefill_attention_s)((chunk, reach))
    assert grid.tables_s(decodes, decodes * context, chunk, chunk * reach) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(0, 512), st.integers(1, 3000))
def test_a_grid_of_five_terms_says_what_they_say(decodes: int, context: int, chunk: int, before: int) -> None:
    pairs = chunk * before + chunk * (chunk + 1) / 2
    chunks = min(chunk, 3)
    five = StepTime(0.01, 5e-5, 1e-7, 3e-9, 2e-5).duration_s(
        decodes + chunk, decodes * context, pairs, decodes + chunks
    )
    grid = replace(affine_grid(), sequence_s=2e-5)
    assert grid.duration_s(decodes, decodes * context, chunk, pairs, chunks) == pytest.approx(five)


def test_four_terms_are_found_again_in_their_table() -> None:
    found, report = fit_step_grid(affine_grid(), kv_capacity_tokens=200_000)
    assert found.c0 == pytest.approx(0.01, rel=1e-3)
    assert found.c_tok == pytest.approx(5e-5, rel=1e-2)
    assert found.c_kv == pytest.approx(1e-7, rel=1e-2)
    assert report.mean_error < 0.001
    assert set(report.error_by_kind) == {"decode", "prefill", "mixed"}


def test_a_machine_takes_its_grid_before_its_four_terms() -> None:
    plain = Hardware("mine", StepTime(1.0), 100)
    assert plain.step_s(3, 300, 10, 10, 55, 1) == 1.0
    assert replace(plain, step_time=StepTime(1.0, c_seq=0.5)).step_s(3, 300, 10, 10, 55, 2) == 3.5
    gridded = replace(plain, grid=affine_grid())
    assert gridded.step_s(3, 300, 0, 0, 0, 0) == pytest.approx(0.01 + 3 * 5e-5 + 300e-7)
    assert (plain.sequence_s, gridded.sequence_s) == (0.0, 0.0)
    assert replace(gridded, grid=replace(affine_grid(), sequence_s=2e-5)).sequence_s == 2e-5


@pytest.mark.parametrize(
    "step",
    [(1, 0, 0, 0), (np.nan, 5, 0, 0), (-1, 5, 0, 0), (65, 650, 0, 0), (1, 4097, 0, 0), (0, 0, 5, 4), (0, 0, 700, 9e5)],
)
def test_what_is_no_step_or_beyond_the_tables_has_no_time(step: tuple[float, ...]) -> None:
    grid = random_grid()
    with pytest.raises(InputError, match="step 1 is none, or beyond the tables"):
        grid.tables_s(*(np.array([usual, value]) for usual, value in zip((1, 100, 0, 0), step, strict=True)))


@pytest.mark.parametrize("chunks", [0, 11])
def test_prefill_tokens_come_in_chunks_of_at_least_one(chunks: int) -> None:
    with pytest.raises(InputError, match="a prefill chunk is at least one token"):
        random_grid().duration_s(1, 100, 10, 55, chunks)


def test_the_cost_per_sequence_is_part_of_a_grid() -> None:
    plain, priced = random_grid(), replace(random_grid(), sequence_s=0.5)
    assert plain != priced
    assert plain.digest != priced.digest != replace(plain, sequence_s=0.25).digest
    assert priced.shortest_step_s == plain.shortest_step_s + 0.5
    found, _ = fit_step_grid(replace(affine_grid(), sequence_s=2e-5), kv_capacity_tokens=200_000)
    assert found == replace(fit_step_grid(affine_grid(), kv_capacity_tokens=200_000)[0], c_seq=2e-5)
    for wrong in (-1e-9, np.nan, 1e9):
        with pytest.raises(InputError, match="sequence_s = "):
            replace(plain, sequence_s=wrong)


def test_a_grid_is_told_from_another_by_values_and_shapes() -> None:
    def constant(decodes: int, contexts: int) -> StepGrid:
        table = np.ones((decodes, contexts))
        return StepGrid(table, table, np.ones(20), np.ones((5, contexts)))

    assert constant(5, 9) != constant(9, 5)
    digests = {random_grid(1).digest, random_grid(2).digest, constant(5, 9).digest, constant(9, 5).digest}
    assert len(digests) == 4
    assert random_grid(1).digest in digests


def test_equal_tables_are_equal_grids() -> None:
    assert random_grid(1) == random_grid(1) != random_grid(2)
    assert hash(random_grid(1)) == hash(random_grid(1))
    assert random_grid(1) != "a grid"


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ((65, 4096, 512), "up to 64 requests at once, and 65"),
        ((64, 4097, 512), "up to 4,096 tokens of context, and 4,097"),
        ((64, 4096, 513), "up to 512 tokens in a step, and 513"),
    ],
)
def test_beyond_the_tables_it_refuses(wanted: tuple[int, int, int], named: str) -> None:
    grid = random_grid()
    grid.refuse_beyond(64, 4096, 512, "mine")
    with pytest.raises(InputError, match=f"mine: .*{named}.*larger grid"):
        grid.refuse_beyond(*wanted, "mine")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"decode_s": np.ones(5)}, "decode_s has shape"),
        ({"shared_s": np.ones((2, 2))}, "shared_s has shape"),
        ({"shared_s": np.ones(1)}, r"shared_s has shape \(1,\); give 2 to 640 knots on one axis"),
        ({"shared_s": np.ones(40_000)}, r"shared_s has shape \(40000,\)"),
        ({"prefill_attention_s": np.full((2, 9), -1.5)}, "a step with 1 prefill tokens would take no time"),
        ({"decode_attention_s": np.full((25, 49), -2.5)}, "would take no time"),
        ({"decode_s": np.ones((5, 5))}, "share their axes"),
        ({"shared_s": np.array([1.0, np.nan])}, "shared_s holds a value that is not finite"),
        ({"shared_s": np.array([1.0, 0.0])}, "above 0"),
    ],
)
def test_tables_that_cannot_be_are_refused(changes: dict[str, Any], named: str) -> None:
    tables = {name: getattr(random_grid(), name) for name in TABLES}
    with pytest.raises(InputError, match=named):
        StepGrid(**tables | changes)


def test_a_file_keeps_six_digits(tmp_path: Path) -> None:
    machine = Hardware("mine", StepTime(0.01), 100, grid=replace(random_grid(), sequence_s=1.25e-5))
    write_hardware(machine, tmp_path / "h.json")
    back = read_hardware(tmp_path / "h.json").grid
    assert back is not None
    for name in TABLES:
        assert getattr(back, name) == pytest.approx(getattr(random_grid(), name), rel=1e-5)
    assert back.sequence_s == 1.25e-5
    rows = (tmp_path / "h.json").read_text().splitlines()
    assert len(rows) < 150  # a row of a table on a line


def test_a_grid_from_before_sequences_had_a_cost_reads_as_one_without(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    write_hardware(Hardware("mine", StepTime(0.01), 100, grid=random_grid()), path)
    file = json.loads(path.read_text())
    del file["grid"]["sequence_s"], file["step_time"]["c_seq"]
    path.write_text(json.dumps(file))
    back = read_hardware(path)
    assert back.grid is not None
    assert (back.grid.sequence_s, back.step_time) == (0.0, StepTime(0.01))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"decode_s": ...}, "grid: 'decode_s' is missing"),
        ({"decode_s": [[1.0, 2.0], [1.0]]}, "grid: 'decode_s' must be a list of numbers, with rows of equal length"),
        ({"decode_s": [1.0, 2.0]}, "grid: 'decode_s' has shape"),
        ({"shared_s": [1.0, None]}, "grid: 'shared_s' must be a list of numbers"),
        ({"shared_s": ["1.0", "2.0"]}, "grid: 'shared_s' must be a list of numbers"),
        ({"shared_s": [True, True]}, "grid: 'shared_s' must be a list of numbers"),
        ({"shared_s": [1.0, 10**400]}, "grid: 'shared_s' must be a list of numbers"),
        ({"shared_s": [1.0] * 40_000}, "shared_s has shape"),
        ({"shared_s": [0.0, 1.0]}, "shared_s must be above 0"),
        ({"tokens": [1.0]}, "grid: 'tokens' is not a known key"),
        ({"sequence_s": -1e-5}, "grid: 'sequence_s' = -1e-05 must be finite and at least 0"),
    ],
)
def test_a_bad_grid_in_a_file_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = tmp_path / "h.json"
    write_hardware(Hardware("mine", StepTime(0.01), 100, grid=random_grid()), path)
    file = json.loads(path.read_text())
    file["grid"] = {key: value for key, value in (file["grid"] | changes).items() if value is not ...}
    path.write_text(json.dumps(file))
    with pytest.raises(InputError, match=named) as refused:
        read_hardware(path)
    assert str(path) in str(refused.value)
