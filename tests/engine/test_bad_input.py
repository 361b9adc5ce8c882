"""What the engine refuses, and the sentence it says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, Fleet, refusals, run, run_fleet
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
        ({"mode": "vlm"}, "unknown engine mode 'vlm'; did you mean vllm. Known: vllm, sarathi, prefill-first"),
        ({"preemption": "swap"}, "unknown preemption 'swap'. Known: recompute, restart, offload"),
        ({"max_num_seqs": 0}, "max_num_seqs = 0 must be a whole number, at least 1"),
        ({"max_num_active_seqs": 0}, "max_num_active_seqs = 0 must be a whole number, at least 1"),
        ({"max_num_active_seqs": 300, "max_num_seqs": 256}, "max_num_active_seqs = 300 is above max_num_seqs = 256"),
        ({"max_num_batched_tokens": -1}, "max_num_batched_tokens = -1 must be a whole number, at least 1"),
        ({"watermark": 1.0}, "watermark = 1.0 must be a share"),
        ({"watermark": -0.01}, "watermark = -0.01 must be a share"),
        ({"watermark": float("nan")}, "watermark = nan must be a share"),
        ({"long_prefill_token_threshold": -1}, "long_prefill_token_threshold = -1 must be a whole number"),
        ({"mode": "sarathi", "long_prefill_token_threshold": 5}, "mode sarathi has no long_prefill_token_threshold"),
        ({"mode": "sarathi", "cut_lone_prefill": True}, "mode sarathi has no cut_lone_prefill"),
        (
            {"mode": "sarathi", "prefill_schedule_interval": 2},
            "mode sarathi has no prefill_schedule_interval",
        ),
        ({"prefill_schedule_interval": 0}, "prefill_schedule_interval = 0 must be a whole number, at least 1"),
        (
            {"mode": "sarathi", "decodes_need_spare_block": True, "preemption": "restart"},
            "starts again for ever; use preemption recompute",
        ),
        ({"decodes_need_spare_block": True}, "mode vllm has no decodes_need_spare_block; use mode sarathi or prefill"),
        (
            {"mode": "sarathi", "pad_prompt_batches": True},
            "mode sarathi has no pad_prompt_batches; use mode prefill-first",
        ),
        ({"max_num_seqs": float("nan")}, "max_num_seqs = nan must be"),
        ({"max_num_seqs": 2.5}, "max_num_seqs = 2.5 must be"),
        ({"max_num_batched_tokens": 0.5}, "max_num_batched_tokens = 0.5 must be"),
        ({"max_num_seqs": 10**23}, "max_num_seqs = 1000000.* must be at most 2,147,483,647"),
        (
            {"max_num_batched_tokens": 10**5000},
            r"max_num_batched_tokens = a number of about 5,\d+ digits must be at most",
        ),
        ({"long_prefill_token_threshold": 2**31}, "long_prefill_token_threshold = 2147483648 must be at most"),
        ({"long_prefill_token_threshold": 1.5}, "long_prefill_token_threshold = 1.5 must be a whole"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EngineConfig(**settings)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("vidar", {}, "unknown scheduler preset 'vidar'; did you mean vidur. Known: vidur"),
        ("vidur", {}, "scheduler preset vidur has no mode vllm; use mode sarathi or prefill-first"),
        ("vidur", {"mode": "v2"}, "scheduler preset vidur has no mode v2"),
        ("vidur", {"mode": "sarathi", "pad_prompt_batches": True}, "mode sarathi has no pad_prompt_batches"),
    ],
)
def test_bad_presets(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EngineConfig.preset(name, **settings)


def test_what_a_preset_sets_can_be_changed() -> None:
    config = EngineConfig.preset("vidur", mode="prefill-first", max_num_seqs=64, decodes_need_spare_block=False)
    assert (config.max_num_seqs, config.max_num_batched_tokens, config.pad_prompt_batches) == (64, 4096, True)
    assert not config.decodes_need_spare_block
    assert not config.enable_prefix_caching


def test_more_replicas_than_anybody_simulates() -> None:
    with pytest.raises(InputError, match=r"replicas = 100000000 must be at most 10,000"):
        Fleet(10**8)


def test_blocks_beyond_the_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "physical_memory_bytes", lambda: 2.0**20)
    block = {"prefix_ids": np.zeros(1, np.int64), "prefix_offsets": np.array([0, 1]), "prefix_block_tokens": 4}
    shared = replace(workload([4], [1]), **block)
    run(shared, replace(HARDWARE, num_gpu_blocks=10_000), Greedy())
    large = replace(HARDWARE, num_gpu_blocks=20_000)
    with pytest.raises(
        InputError, match=r"tiny: to simulate 20,000 KV blocks takes .* GiB of memory, and this machine"
    ):
        run(shared, large, Greedy())
    with pytest.raises(InputError, match=r"10,000 KV blocks on each of 2 replicas takes"):
        run_fleet(shared, replace(HARDWARE, num_gpu_blocks=10_000), Greedy(), Fleet(2))
    run(workload([4], [1]), large, Greedy())  # without shared prefixes blocks are counted, and take no memory


def test_arrivals_so_late_that_the_clock_rounds_steps() -> None:
    late = Workload(np.array([0.0, 2e9]), np.array([1, 1]), np.array([1, 1]), name="late")
    run(late, HARDWARE, Greedy())  # steps of a second
    fast = replace(HARDWARE, step_time=StepTime(c0=1e-4))
    with pytest.raises(
        InputError, match=r"late lasts 2,000,000,000 s, where the clock moves by 2.4e-07 s at the least"
    ):
        run(late, fast, Greedy())
    with pytest.raises(InputError, match=r"arrival_s = 1e\+18 is beyond 272 years; give seconds"):
        Workload(np.array([0.0, 1e18]), np.array([1, 1]), np.array([1, 1]))


def test_steps_that_take_the_clock_so_far_that_it_rounds_later_ones() -> None:
    uneven = replace(HARDWARE, step_time=StepTime(c0=1e-6, c_attn=1e6), num_gpu_blocks=100)
    with pytest.raises(InputError, match=r"load takes 67,000,000 s, where the clock moves"):
        run(workload([11, 1], [2, 3]), uneven, Greedy())


def test_changed_settings_are_checked_again() -> None:
    with pytest.raises(InputError, match="max_num_seqs = 0"):
        replace(EngineConfig(), max_num_seqs=0)


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
