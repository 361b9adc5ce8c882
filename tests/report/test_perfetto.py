"""The trace file: the Trace Event Format holds, and its slices and counters are the run's own."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import batch_entries
from fluidgate.policies import Greedy
from fluidgate.report import write_perfetto
from fluidgate.workload import Workload

# 30 tokens of memory in blocks of one token, a second per iteration and nothing else: the run can be done by hand.
HARDWARE = Hardware("by hand", StepTime(c0=1.0), num_gpu_blocks=31, block_size=1)
CONFIG = EngineConfig(enable_prefix_caching=False, watermark=0.0, max_num_batched_tokens=16, max_num_seqs=4)


@pytest.fixture(scope="module")
def records() -> RunRecords:
    """Two requests of 10 + 10 tokens, together for 5 more each; then the second must go. A third comes much later."""
    workload = Workload(np.array([0.0, 0.0, 50.0]), np.array([10, 10, 10]), np.array([10, 10, 1]))
    return run(workload, HARDWARE, Greedy(), CONFIG, record="decisions")


@pytest.fixture(scope="module")
def trace(records: RunRecords, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write_perfetto(records, tmp_path_factory.mktemp("trace") / "t.json", {"seed": 3})
    return json.loads(path.read_text(encoding="utf-8"))


def spans(trace: dict[str, Any], row: int) -> list[tuple[str, float, float]]:
    own = [e for e in trace["traceEvents"] if e["ph"] == "X" and (e["pid"], e["tid"]) == (2, row)]
    return [(e["name"], e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6) for e in own]


def test_the_trace_event_format_holds(trace: dict[str, Any]) -> None:
    """Required keys per phase, as in the format's description; slices of a thread must nest or follow each other."""
    assert trace["otherData"] == {"seed": 3}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    threads = defaultdict(list)
    for event in trace["traceEvents"]:
        assert {"ph", "pid", "tid", "name"} <= event.keys()
        assert event["ph"] in "MXC"
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name")
            continue
        assert event["ts"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
        else:
            assert event["dur"] >= 0
            threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for slices in threads.values():
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(slices)))


def test_phases_by_hand(trace: dict[str, Any], records: RunRecords) -> None:
    # The budget of 16 takes the first prompt and 6 tokens of the second; the second's last 4 go with a decode. In
    # iteration k the first holds 9 + k tokens, the second 8 + k from its first token in iteration 2 on. Iteration 7
    # would need 16 + 15 = 31 tokens: the second is evicted, at 6 s. It has had 5 tokens, and its 15 fit again when
    # the first has gone: that one has its tenth token in iteration 10.
    assert records.preemptions.tolist() == [0, 1, 0]
    assert spans(trace, 0) == [("queued", 0, 0), ("prefill", 0, 1), ("decode", 1, 10)]
    assert spans(trace, 1) == [
        ("queued", 0, 0),
        ("prefill", 0, 2),
        ("decode", 2, 6),
        ("evicted", 6, 10),
        ("prefill", 10, 11),
        ("decode", 11, 15),
    ]
    assert spans(trace, 2) == [("queued", 50, 50), ("prefill", 50, 51)]


def test_stages_by_hand(records: RunRecords) -> None:
    entries = batch_entries(records)
    own = entries.row == 1
    assert entries.iteration[own].tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14]
    assert entries.tokens[own].tolist() == [6, 4, 1, 1, 1, 1, 15, 1, 1, 1, 1]
    assert entries.stage[own].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_counters_and_iterations_are_the_records(trace: dict[str, Any], records: RunRecords) -> None:
    steps = records.steps
    assert steps is not None
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["pid"] == 1]
    assert [e["args"]["batch_size"] for e in slices] == steps.scheduled.tolist()
    assert [e["args"]["tokens"] for e in slices] == steps.tokens.tolist()
    used = {e["ts"] / 1e6: e["args"]["KV blocks"] for e in trace["traceEvents"] if e["name"] == "KV blocks"}
    assert used[0.0] == 16  # a prompt, and a chunk of 6
    assert used[5.0] == 15 + 14
    assert used[6.0] == 16
    assert used[15.0] == 0  # idle until the third comes


def test_only_the_first_requests_have_tracks(records: RunRecords, tmp_path: Path) -> None:
    trace = json.loads(write_perfetto(records, tmp_path / "t.json", requests=1).read_text(encoding="utf-8"))
    assert {e["tid"] for e in trace["traceEvents"] if e["pid"] == 2 and e["ph"] == "X"} == {0}


def test_runs_without_decisions_are_refused(records: RunRecords, tmp_path: Path) -> None:
    plain = run(records.workload, HARDWARE, Greedy(), CONFIG)
    with pytest.raises(InputError, match=r"record='decisions'"):
        write_perfetto(plain, tmp_path / "t.json")
    steps = run(records.workload, HARDWARE, Greedy(), CONFIG, record="steps")
    with pytest.raises(InputError, match=r"record='decisions'"):
        write_perfetto(steps, tmp_path / "t.json")
    with pytest.raises(InputError, match=r"nowhere"):
        write_perfetto(records, tmp_path / "nowhere" / "t.json")
