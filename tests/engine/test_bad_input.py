"""What the engine refuses, and the sentence it says."""

from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.workload import Workload

HARDWARE = Hardware("tiny", StepTime(c0=1.0), num_gpu_blocks=5, block_size=4)


def workload(prompt: list[int], output: list[int], **more: Any) -> Workload:
    return Workload(np.zeros(len(prompt)), np.array(prompt), np.array(output), name="load", **more)


def test_a_request_larger_than_the_cache() -> None:
    # 16 tokens fit; the last output token's KV is never written
    assert run(workload([10], [7]), HARDWARE, Greedy()).finished.all()
    words = r"load: request 1 needs 17 KV tokens \(prompt 10 \+ output 8\) and tiny holds 16; 2 of 3 requests"
    with pytest.raises(InputError, match=words):
        run(workload([1, 10, 17], [1, 8, 1]), HARDWARE, Greedy())


def test_prefix_blocks_that_kv_blocks_do_not_divide() -> None:
    load = workload([8], [1], prefix_ids=np.array([1]), prefix_offsets=np.array([0, 1]), prefix_block_tokens=6)
    with pytest.raises(InputError, match="prefix blocks of 6 tokens are not a multiple of the KV block size 4"):
        run(load, HARDWARE, Greedy())


def test_prefill_first_needs_a_budget_for_a_whole_resumed_request() -> None:
    config = EngineConfig(mode="prefill-first", max_num_batched_tokens=10)
    assert run(workload([8], [3]), HARDWARE, Greedy(), config).finished.all()
    words = r"request 1 may need 11 tokens in one iteration: set max_num_batched_tokens to at least that \(it is 10\)"
    with pytest.raises(InputError, match=words):
        run(workload([1, 8], [1, 4]), HARDWARE, Greedy(), config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "vlm"}, "engine mode 'vlm' is not one of vllm, sarathi, prefill-first"),
        ({"preemption": "swap"}, "preemption 'swap' is not one of recompute, restart, offload"),
        ({"max_num_seqs": 0}, "max_num_seqs = 0 must be a whole number, at least 1"),
        ({"max_num_active_seqs": 0}, "max_num_active_seqs = 0 must be a whole number, at least 1"),
        ({"max_num_active_seqs": 300}, "max_num_active_seqs = 300 is above max_num_seqs = 256"),
        ({"max_num_batched_tokens": -1}, "max_num_batched_tokens = -1 must be a whole number, at least 1"),
        ({"watermark": 1.0}, "watermark = 1.0 must be a share"),
        ({"watermark": -0.01}, "watermark = -0.01 must be a share"),
        ({"watermark": float("nan")}, "watermark = nan must be a share"),
        ({"long_prefill_token_threshold": -1}, "long_prefill_token_threshold = -1 must be a whole number"),
        ({"mode": "sarathi", "long_prefill_token_threshold": 5}, "mode sarathi has no long_prefill_token_threshold"),
        ({"mode": "sarathi", "cut_lone_prefill": True}, "mode sarathi has no cut_lone_prefill"),
        ({"max_num_seqs": float("nan")}, "max_num_seqs = nan must be"),
        ({"max_num_seqs": 2.5}, "max_num_seqs = 2.5 must be"),
        ({"max_num_batched_tokens": 0.5}, "max_num_batched_tokens = 0.5 must be"),
        ({"long_prefill_token_threshold": 1.5}, "long_prefill_token_threshold = 1.5 must be a whole"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EngineConfig(**settings)


def test_changed_settings_are_checked_again() -> None:
    with pytest.raises(InputError, match="max_num_seqs = 0"):
        EngineConfig().with_(max_num_seqs=0)


def test_defaults_follow_the_mode() -> None:
    assert [EngineConfig(mode=mode).token_budget(5000) for mode in ("vllm", "sarathi", "prefill-first")] == [
        2048,
        512,
        5000,
    ]
    assert EngineConfig(mode="prefill-first").token_budget(10) == 2048
    assert EngineConfig(max_num_batched_tokens=9).token_budget(5000) == 9
    assert [EngineConfig(mode=mode).watermark_share for mode in ("vllm", "sarathi")] == [0.0, 0.01]
    assert EngineConfig(max_num_active_seqs=3).seats == 3


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    run(workload([1, 1], [2, 2]), HARDWARE, Greedy(), progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 2)]
