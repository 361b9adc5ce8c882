"""Hardware files come back as they were written, and bad ones are refused by file and key."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime, load_profile, read_hardware, write_hardware

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "mine",
    "step_time": {"c0": 0.01, "c_kv": 4e-7},
    "num_gpu_blocks": 1000,
}
SECONDS = st.floats(0, 1, allow_nan=False)


@given(
    st.floats(1e-9, 1),
    SECONDS,
    SECONDS,
    SECONDS,
    SECONDS,
    st.integers(2, 10**9),
    st.integers(1, 512),
    st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])),
    SECONDS,
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    c0: float,
    c_tok: float,
    c_kv: float,
    c_attn: float,
    c_seq: float,
    blocks: int,
    block_size: int,
    text: str,
    error: float,
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    hardware = Hardware(text, StepTime(c0, c_tok, c_kv, c_attn, c_seq), blocks, block_size, text, error)
    write_hardware(hardware, path)
    assert read_hardware(path) == hardware


def test_round_trip_of_an_unknown_error(tmp_path: Path) -> None:
    paper = load_profile("llama-2-7b", "a100-80gb", "paper")
    write_hardware(paper, tmp_path / "h.json")
    back = read_hardware(tmp_path / "h.json")
    assert math.isnan(back.relative_error)
    assert replace(back, relative_error=0.0) == replace(paper, relative_error=0.0)


def test_round_trip_of_an_overhead(tmp_path: Path) -> None:
    outside = Hardware("m", StepTime(0.01), 1000, overhead_s=0.0125)
    write_hardware(outside, tmp_path / "h.json")
    assert read_hardware(tmp_path / "h.json").overhead_s == 0.0125
    with pytest.raises(InputError, match="overhead_s = nan must be at least 0"):
        replace(outside, overhead_s=math.nan)


def test_defaults(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    path.write_text(json.dumps(GOOD))
    hardware = read_hardware(path)
    assert hardware.step_time == StepTime(c0=0.01, c_kv=4e-7)
    assert (hardware.num_gpu_blocks, hardware.block_size, hardware.source) == (1000, 16, "")
    assert hardware.overhead_s == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": ...}, "'version' is missing"),
        ({"version": 2}, "'version' = 2 is not known here; this release reads version 1"),
        ({"name": 7}, "'name' = 7 must be a text in quotes"),
        ({"num_gpu_blocks": ...}, "'num_gpu_blocks' is missing"),
        ({"num_gpu_blocks": 1}, "'num_gpu_blocks' = 1 must be at least 2"),
        ({"num_gpu_blocks": 1e3}, "'num_gpu_blocks' = 1000.0 must be a whole number"),
        ({"block_size": 0}, "'block_size' = 0 must be at least 1"),
        ({"blocksize": 16}, "'blocksize' is not a known key"),
        ({"step_time": 0.01}, "'step_time' must be an object"),
        ({"step_time": {"c_kv": 1e-7}}, "step_time: 'c0' is missing"),
        ({"step_time": {"c0": -0.01}}, "'c0' = -0.01 must be finite and at least 0"),
        ({"step_time": {"c0": math.nan}}, "'c0' = nan must be finite"),
        ({"step_time": {"c0": math.inf}}, "'c0' = inf must be finite"),
        ({"step_time": {"c0": "10 ms"}}, "'c0' = '10 ms' must be a number"),
        ({"step_time": {"c0": True}}, "'c0' = True must be a number"),
        ({"step_time": {"c0": 0.01, "d1": 1e-7}}, "'d1' is not a known key"),
        ({"step_time": {"c0": 0}}, "c0, c_tok and c_seq are all 0"),
        ({"relative_error": -0.1}, "'relative_error' = -0.1 must be finite"),
        ({"overhead_s": -0.01}, "'overhead_s' = -0.01 must be finite and at least 0"),
        ({"overhead_s": 1e7}, "'overhead_s' = 10000000.0 must be at most 1e+06"),
        ({"step_time": {"c0": 10**400}}, "'c0' = 100000000000… (401 digits) must be at most 1e+15"),
        ({"num_gpu_blocks": 10**12}, "'num_gpu_blocks' = 1000000000000 must be at least 2 and at most 2,147,483,647"),
        ({"block_size": 10**6}, "'block_size' = 1000000 must be at least 1 and at most 65,536"),
        ({"step_time": {"c0": 1e7}}, "c0 = 1e+07 must be at most 1e+06 seconds"),
        ({"step_time": {"c0": 1e-10}}, "a step of one token would take 1e-10 s, and none takes less than 1e-09"),
        ({"name": "\x1b[31mred"}, "'name' = '\\x1b[31mred' holds a control character"),
        ({"source": "two\nlines"}, "'source' = 'two\\nlines' holds a control character"),
        ({"name": "\ud800"}, "'name' = '\\ud800' holds a control character"),
        ({"num_gpu_blocks": 10**400}, "'num_gpu_blocks' = 100000000000… (401 digits) must be at least 2"),
    ],
)
def test_refused_files_name_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "h.json"
    path.write_text(json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}))
    with pytest.raises(InputError) as refusal:
        read_hardware(path)
    assert str(path) in str(refusal.value)
    assert message in str(refusal.value)


def test_unwritable_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_hardware(load_profile("llama-2-7b", "a100"), tmp_path / "no" / "such" / "folder.json")
