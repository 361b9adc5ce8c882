"""Two runs of the engine, followed iteration by iteration on paper."""

from __future__ import annotations

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import summarize
from fluidgate.policies import Greedy
from fluidgate.workload import Workload

from .in_system import mean_in_system

STEP = StepTime(c0=0.1)  # every iteration lasts 0.1 s


def assert_summary(summary, **expected):
    assert {key: getattr(summary, key) for key in expected} == pytest.approx(expected)


def test_two_overlapping_requests():
    # iteration 1 (0.0–0.1): A prefills           A: 1st token at 0.1
    # iteration 2 (0.1–0.2): A decodes, B prefills A: 2nd, B: 1st at 0.2
    # iteration 3 (0.2–0.3): both decode           A: 3rd, B: 2nd at 0.3, both finish
    workload = Workload(np.array([0.0, 0.05]), np.array([10, 10]), np.array([3, 2]))
    records = run(workload, Hardware("tiny", STEP, num_gpu_blocks=101), Greedy())
    summary = summarize(records)
    assert_summary(
        summary,
        mean_ttft_ms=125,  # 100 and 150
        mean_tpot_ms=100,
        mean_e2el_ms=275,  # 300 and 250
        mean_itl_ms=100,
        output_throughput=5 / 0.3,
        effective_throughput=5 / 0.3,
        request_throughput=2 / 0.3,
        mean_queued_s=0.025,  # B waits for iteration 1
        mean_held_s=0,
        max_longest_silence_s=0.1,
        iterations=3,
        mean_iteration_ms=100,
        computed_tokens=23,  # 10 + 2 and 10 + 1: the last token of each is never computed
        recompute_tax=0,
        kv_peak=0.02,  # a block each
        kv_mean=0.05 / 3,
        busy_share=1,
        end_s=0.3,
    )
    assert summary.p99_itl_ms == pytest.approx(100, rel=1e-3)
    assert mean_in_system(records) == pytest.approx((0.3 + 0.25) / 0.3)


def test_a_preemption():
    # Blocks of 4 tokens, 5 of them; two requests of 4 + 9 tokens arrive at once, without prefix caching.
    # iteration 1: both prefill, a block each; iterations 2–5: two blocks each; both have 5 tokens at 0.5
    # iteration 6: A takes the last block, B finds none and loses its 8 computed tokens
    # iterations 6–9: A alone, with 3 blocks; its 9th token at 0.9. B needs 3 blocks to return, and 2 are free.
    # iteration 10: B computes 4 + 5 tokens and gets its 6th at 1.0; its 9th comes in iteration 13, at 1.3
    workload = Workload(np.zeros(2), np.array([4, 4]), np.array([9, 9]))
    hardware = Hardware("tiny", STEP, num_gpu_blocks=6, block_size=4)
    summary = summarize(run(workload, hardware, Greedy(), EngineConfig(enable_prefix_caching=False)))
    assert_summary(
        summary,
        iterations=13,
        preemptions=1,
        preempted_requests=1,
        recomputed_tokens=8,
        computed_tokens=32,  # A: 4 + 8; B: 8, then 9 + 3
        recompute_tax=0.25,
        mean_ttft_ms=100,
        mean_tpot_ms=125,  # 0.8/8 and 1.2/8
        mean_e2el_ms=1100,
        max_longest_silence_s=0.5,  # B, from 0.5 to 1.0
        stalled_share=0,
        mean_itl_ms=125,  # 2.0 s over 16 gaps
        kv_peak=4 / 5,
        kv_mean=(2 + 4 * 4 + 8 * 3) / 13 / 5,
        kv_above_90=0,
        mean_held_s=0,  # memory, not the policy, kept B out
    )
    assert summary.stability_reason == "not applicable: all requests arrived at once"
