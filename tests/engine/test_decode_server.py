"""A decode-only server: closed forms, the fate of victims, what policies and plans are told; oracle in tests/parity."""

import numpy as np
import pytest

from fluidgate.engine import MODES, EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.fluid import Limits, RequestMix, plan, stability
from fluidgate.hardware import Hardware, KvGroup, KvLaw, StepTime
from fluidgate.metrics import summarize
from fluidgate.policies import Fluid, Greedy
from fluidgate.runs import plan_for, simulate
from fluidgate.serving.planfile import PlanFile
from fluidgate.testing import check_records
from fluidgate.workload import Workload

EXACT = Hardware("exact", StepTime(0.5, c_tok=0.25, c_kv=2**-10, c_attn=2**-4, c_seq=2**-5), 400, 16)


def alike(n: int, prompt: int, output: int) -> Workload:
    return Workload(np.zeros(n), np.full(n, prompt), np.full(n, output))


def decode_only(**settings: object) -> EngineConfig:
    return EngineConfig.preset("decode-server", **settings)


def serve(load: Workload, hardware: Hardware, config: EngineConfig) -> RunRecords:
    records = run(load, hardware, Greedy(), config, record="decisions")
    check_records(records)
    return records


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prompt", [1, 63, 64, 65])
def test_equal_requests_by_hand(mode: str, prompt: int) -> None:
    """n requests enter at once and run o steps of one token each; step i ends with n·(l + i - 1) tokens of KV."""
    n, output = 5, 7
    records = serve(alike(n, prompt, output), EXACT, decode_only(mode=mode))
    assert records.steps is not None
    kv = prompt + np.arange(output)
    seconds = 0.5 + n * (0.25 + 2**-5) + n * kv * 2**-10  # a decode has no attention pairs of its own
    assert (records.steps.end_s == np.cumsum(seconds)).all()
    assert records.steps.tokens.tolist() == [n] * output
    assert (records.steps.free_blocks == 399 - n * -(-kv // 16)).all()
    assert records.computed_tokens == n * output
    assert records.cached_tokens.tolist() == [prompt - 1] * n


def test_a_prompt_that_does_not_fit_waits() -> None:
    """8 blocks of 16: a prompt of 65 tokens takes 5, so the second enters as the first ends."""
    records = serve(alike(2, 65, 4), Hardware("small", StepTime(1.0), 9), decode_only())
    assert records.first_scheduled_s.tolist() == [0.0, 4.0]


@pytest.mark.parametrize("preemption", ["recompute", "restart", "offload"])
def test_what_a_victim_computes_as_it_returns(preemption: str) -> None:
    """Two prompts of 32 tokens in 5 blocks: both hold two, and as both need a third the second gives way.

    As it returns it computes prompt and tokens again, or one token on KV that is fetched; from nothing, its first.
    """
    load = Workload(np.zeros(2), np.full(2, 32), np.array([30, 40]))
    config = decode_only(preemption=preemption, enable_prefix_caching=False)
    records = serve(load, Hardware("small", StepTime(1.0), 6), config)
    steps = records.steps
    assert steps is not None
    assert records.preemptions[0] == 0 < records.preemptions[1]
    before = int(np.flatnonzero(steps.preempted)[0])
    at = np.repeat(np.arange(len(steps)), steps.scheduled)
    seconds_tokens = steps.batch[steps.batch[:, 0] == 1, 1]
    had = int((at[steps.batch[:, 0] == 1] < before).sum())
    assert had == 1
    assert seconds_tokens[had] == (32 + had if preemption == "recompute" else 1)
    assert (seconds_tokens == 1).sum() == len(seconds_tokens) - (preemption == "recompute")
    if preemption == "restart":
        assert len(seconds_tokens) >= had + 40
    else:
        assert len(seconds_tokens) == 40


def test_the_plan_counts_no_prompt_tokens() -> None:
    """λ_max = x*/(c0 + w x*) with w = c_tok·o + c_kv·a + c_seq·o, and neither token budget nor attention."""
    prompt, output = 630, 20
    step = StepTime(0.01, 5e-5, 8e-8, 3e-9, 1e-5)
    hardware = Hardware("machine", step, 30_001, 16)
    load = Workload(np.arange(100) * 0.01, np.full(100, prompt), np.full(100, output))
    found = plan_for(load, hardware, decode_only(max_num_seqs=1024)).stability
    a = output * (prompt + (output - 1) / 2)
    w = 5e-5 * output + 8e-8 * a + 1e-5 * output
    x = min(480_000 / (a + output * 7.5), 1024 / output)
    assert found.boundary_rate == pytest.approx(x / (0.01 + w * x), rel=1e-9)
    assert found.limit == "memory"
    assert found.time_shares.attention == 0
    mixed = plan_for(load, hardware, EngineConfig(max_num_seqs=1024)).stability
    assert mixed.limit == "token budget"
    assert mixed.boundary_rate < found.boundary_rate / 4


def test_a_saturated_server_serves_the_boundary() -> None:
    hardware = Hardware("machine", StepTime(0.01, 5e-5, 8e-8), 30_001, 16)
    load = alike(6000, 630, 20)
    mix = RequestMix([1.0], [630], [20], prompts_computed=True)
    bound = stability(mix, hardware.step_time, Limits.of(hardware)).boundary_rate
    records = simulate(load, hardware, "rate-limited", config=decode_only(max_num_seqs=1024))
    middle = records.last_token_s[1200:4800]
    assert 3600 / (middle.max() - middle.min()) == pytest.approx(bound, rel=0.03)
    assert not records.preemptions.any()


def test_the_mix_keeps_what_it_is() -> None:
    mix = RequestMix([1.0, 1.0], [10, 50], [5, 60], prompts_computed=True)
    taken = mix.within(40)
    assert taken.prompts_computed
    assert taken.refused is not None
    assert taken.refused.prompts_computed
    assert taken.tokens.tolist() == [5]
    assert mix.attention_pairs.tolist() == [0, 0]
    load = Workload(np.arange(10) * 1.0, np.full(10, 10), np.full(10, 5))
    assert plan(load, EXACT, prompts_computed=True).stability.time_shares.attention == 0


def test_busy_time_is_needed_time() -> None:
    """One request alone: all its busy time is work or fixed cost, and none is repeated."""
    summary = summarize(run(alike(1, 32, 8), EXACT, Greedy(), decode_only()))
    work_s = 8 * (0.25 + 2**-5) + (8 * 32 + 28) * 2**-10
    fewest = (1 * 2 + 7 * 3) / 399
    assert summary.fluid_efficiency == pytest.approx((work_s + 0.5 * fewest) / (work_s + 4))
    assert summary.recompute_loss == 0


def test_the_default_budget_leaves_room_for_all_seats() -> None:
    """Sarathi's 512 tokens would keep the 513th decode out."""
    records = serve(
        alike(600, 16, 3), Hardware("large", StepTime(1.0), 2000), decode_only(mode="sarathi", max_num_seqs=600)
    )
    assert records.first_scheduled_s.tolist() == [0.0] * 600


def test_policies_see_no_token_budget() -> None:
    """Where it counted, `fluid` would pace equal requests at budget/(l + o) = 0.8 an iteration."""
    hardware = Hardware("machine", StepTime(0.01, 5e-5, 8e-8), 30_001, 16)
    load = alike(3000, 630, 20)
    config = decode_only(max_num_seqs=1024, max_num_batched_tokens=1024)
    records = run(load, hardware, Fluid(0.1, (1.0,), (630.0,), (20.0,)), config)
    assert len(load) / records.end_s > 0.9 * 1024 / 20 / (0.01 + 5e-5 * 1024 + 8e-8 * 480_000) * 0.7


def test_what_cannot_be_is_said(tmp_path: object) -> None:
    load = alike(4, 16, 4)
    made = plan(load, EXACT, rate=1.0, prompts_computed=True)
    with pytest.raises(InputError, match="the plugin does not follow KV connectors"):
        PlanFile.of(made, Greedy(), decode_only(), None)
    groups = Hardware(
        "groups", StepTime(1.0), 100, 16, kv_law=KvLaw((KvGroup("full", 1, 16), KvGroup("sliding", 1, 16, 32)))
    )
    with pytest.raises(InputError, match="several KV groups with prompts that arrive computed"):
        run(load, groups, Greedy(), decode_only())
    with pytest.raises(InputError, match="unknown scheduler preset 'decode'; did you mean decode-server"):
        EngineConfig.preset("decode")
