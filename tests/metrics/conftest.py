"""Fixtures that build records by hand, without the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.hardware import Hardware, StepTime
from fluidgate.workload import Workload


def _records(arrival_s: ArrayLike, **fields: Any) -> RunRecords:
    """Records of requests that finish with one token at arrival, unless `fields` say otherwise.

    `prompt_tokens`, `output_tokens`, `timeout_s` and the fields of `RunRecords` may be given; 100 KV blocks.
    """
    arrival = np.asarray(arrival_s, np.float64)
    n = len(arrival)
    zeros = np.zeros(n, np.int64)
    output = np.asarray(fields.pop("output_tokens", zeros + 1))
    timeout_s = np.asarray(fields.pop("timeout_s", np.zeros(0)))
    workload = Workload(arrival, np.asarray(fields.pop("prompt_tokens", zeros + 10)), output, timeout_s=timeout_s)
    values: dict[str, Any] = {
        "workload": workload,
        "hardware": Hardware("test", StepTime(c0=0.01), num_gpu_blocks=101),
        "config": EngineConfig(),
        "policy": "none",
        "arrival_s": arrival,
        "first_scheduled_s": arrival,
        "first_token_s": arrival,
        "last_token_s": arrival,
        "finished": np.ones(n, np.bool_),
        "generated_tokens": output,
        "longest_gap_s": np.zeros(n),
        "held_s": np.zeros(n),
        "preemptions": zeros,
        "recomputed_tokens": zeros,
        "cached_tokens": zeros,
        "left_s": np.full(n, np.nan),
        "shed": np.zeros(n, bool),
        "spent_s": np.zeros(n) if workload.gives_up else None,
        "spent_tokens": zeros if workload.gives_up else None,
        "end_s": float(arrival[-1]),
        "busy_s": 0.0,
        "iterations": 0,
        "empty_iterations": 0,
        "computed_tokens": 0,
        "peak_blocks": 0,
        "mean_blocks": 0.0,
        "nearly_full_s": 0.0,
        "gap_sum_s": 0.0,
        "gap_counts": np.zeros(1, np.int64),
        "gap_edges_s": np.array([0.0, 1.0]),
        "stalled": False,
        "steps": None,
    }
    assert fields.keys() <= values.keys()
    return RunRecords(**values | {k: np.asarray(v) if isinstance(v, list) else v for k, v in fields.items()})


def _queue_records(arrival_s: ArrayLike, start_s: ArrayLike, end_s: ArrayLike) -> RunRecords:
    """Records of a plain queue: request i is served from start_s[i] to end_s[i]."""
    end = np.asarray(end_s)
    return _records(
        arrival_s, first_scheduled_s=np.asarray(start_s), first_token_s=end, last_token_s=end, end_s=float(end.max())
    )


@pytest.fixture(scope="session")
def make_records() -> Callable[..., RunRecords]:
    """Makes records from arrival times and any other field."""
    return _records


@pytest.fixture(scope="session")
def make_queue_records() -> Callable[..., RunRecords]:
    """Makes records of a plain queue from arrival, start and end times."""
    return _queue_records
