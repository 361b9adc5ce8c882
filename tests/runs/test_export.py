"""Result files: every run is a row, every number is the summary's, and each says where it comes from."""

import csv
import json
from dataclasses import fields
from math import isnan
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

import fluidgate
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import PATIENCE_METRICS, Summary
from fluidgate.runs import Comparison, compare, rows, write_csv, write_parquet

HARDWARE = Hardware("test # 1", StepTime(c0=0.01, c_tok=2e-5, c_kv=2e-7), num_gpu_blocks=400, source="made up")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    policies = ["greedy", "concurrency-cap:cap=3"]
    return compare("p512-d20", HARDWARE, policies, requests=40, repeats=2, loads=[0.5, 1.2], seed=7)


def about(comparison: Comparison) -> dict[str, Any]:
    """What every file must say, put together by hand."""
    return {
        "fluidgate": fluidgate.__version__,
        "command": "fluidgate compare",
        "seed": 7,
        "workload": {"name": "p512-d20", "digest": comparison.workload_digest, "requests": 40},
    }


def test_one_row_per_load_policy_and_repeat(comparison: Comparison) -> None:
    table = rows(comparison)
    assert [(row["load"], row["policy"], row["repeat"]) for row in table] == [
        (load, policy, repeat)
        for load in (0.5, 1.2)
        for policy in ("greedy", "concurrency-cap:cap=3")
        for repeat in (0, 1)
    ]
    names = {field.name for field in fields(Summary)}
    assert names - table[0].keys() == {*PATIENCE_METRICS, "objectives"}  # no client gives up, and there are none
    first = comparison.cells[0]
    assert table[0]["rate"] == pytest.approx(0.5 * first.scenario.plan.stability.boundary_rate)
    assert table[1]["mean_ttft_ms"] == first.summaries[1].mean_ttft_ms


def test_csv_says_where_it_comes_from(comparison: Comparison, tmp_path: Path) -> None:
    path = write_csv(comparison, tmp_path / "runs.csv", "fluidgate compare")
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert lines[: len(comments)] == comments
    said = {key: json.loads(text) for key, text in (line[2:].split(": ", 1) for line in comments)}
    assert said.items() >= about(comparison).items()
    assert said["hardware"]["name"] == "test # 1"
    assert not any("#" in line for line in lines[len(comments) :])  # a reader would take it for a comment


def test_csv_keeps_every_number(comparison: Comparison, tmp_path: Path) -> None:
    path = write_csv(comparison, tmp_path / "runs.csv")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for read, row in zip(csv.DictReader(lines), rows(comparison), strict=True):
        for name, value in row.items():
            if isinstance(value, float):
                assert float(read[name]) == value
            else:
                assert read[name] == ("" if value is None else str(value))


def test_parquet_keeps_every_number_and_its_provenance(comparison: Comparison, tmp_path: Path) -> None:
    table = parquet.read_table(write_parquet(comparison, tmp_path / "runs.parquet", "fluidgate compare"))
    assert table.to_pylist() == rows(comparison)
    said = json.loads(table.schema.metadata[b"fluidgate"])
    assert said.items() >= about(comparison).items()
    assert said["hardware"]["num_gpu_blocks"] == 400


def test_json_says_the_same(comparison: Comparison) -> None:
    said = comparison.to_dict("fluidgate compare")
    assert said.items() >= about(comparison).items()
    assert isnan(HARDWARE.relative_error)
    assert said["hardware"]["relative_error"] is None


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_place_that_cannot_be_written_is_refused(comparison: Comparison, tmp_path: Path, write: Any) -> None:
    with pytest.raises(InputError, match=r"nowhere"):
        write(comparison, tmp_path / "nowhere" / "runs")
