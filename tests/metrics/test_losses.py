"""Where the busy time goes: closed forms, runs followed on paper, and a second count from the decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, KvGroup, KvLaw, StepTime
from fluidgate.metrics import Summary, summarize
from fluidgate.policies import Greedy, Policy, RateLimited, Wait
from fluidgate.workload import Workload

from ..engine.cases import Case, random_case

STEP = StepTime(c0=1.0, c_tok=0.5, c_kv=0.25, c_attn=0.125)
PREEMPTIONS = st.sampled_from(["recompute", "restart", "offload"])


def shares(summary: Summary) -> tuple[float, float, float]:
    return summary.fluid_efficiency, summary.recompute_loss, summary.underuse_loss


def alike(n: int, prompt: int, output: int) -> Workload:
    return Workload(np.zeros(n), np.full(n, prompt), np.full(n, output))


def machine(blocks: int, block_size: int = 1, step: StepTime = STEP) -> Hardware:
    return Hardware("test", step, blocks + 1, block_size)


@st.composite
def cases(draw: st.DrawFn, shared: bool = True) -> Case:
    """`random_case`s under any kind of preemption; without prefixes that requests share unless `shared`."""
    workload, hardware, policy, config = random_case(draw(st.randoms(use_true_random=False)))
    if not shared:
        workload = Workload(workload.arrival_s, workload.prompt_tokens, workload.output_tokens)
    preemption = draw(PREEMPTIONS)
    spare = config.decodes_need_spare_block and preemption != "restart"
    return workload, hardware, policy, replace(config, preemption=preemption, decodes_need_spare_block=spare)


def test_one_request_alone() -> None:
    # 20 blocks of a token; 10 + 3 tokens: 3 iterations with 10, 11 and 12 tokens of KV; 12 computed; 55 pairs
    summary = summarize(run(alike(1, 10, 3), machine(20), Greedy()))
    work_s = 12 * 0.5 + 33 * 0.25 + 55 * 0.125
    busy_s = 3 + work_s
    # memory: 33/20 iterations at least; the budget 12/2048; the seats 3/256
    assert shares(summary) == pytest.approx(((work_s + 33 / 20) / busy_s, 0, (3 - 33 / 20) / busy_s))


def test_memory_is_counted_in_blocks() -> None:
    # blocks of 4: 10, 11 and 12 tokens take 3 each; 5 blocks
    summary = summarize(run(alike(1, 10, 3), machine(5, block_size=4, step=StepTime(1.0)), Greedy()))
    assert shares(summary) == pytest.approx((9 / 5 / 3, 0, 1 - 9 / 5 / 3))


def test_chunks_read_kv_again() -> None:
    # chunks of 4, 4 and 2 tokens read 4 + 8 before the last reads 10; attention pairs add up to 55 all the same
    config = EngineConfig(max_num_batched_tokens=4)
    summary = summarize(run(alike(1, 10, 3), machine(100), Greedy(), config))
    work_s = 12 * 0.5 + 33 * 0.25 + 55 * 0.125
    busy_s = 5 + work_s + 12 * 0.25
    # 12 tokens within a budget of 4 take 3 iterations
    assert shares(summary) == pytest.approx(((work_s + 3) / busy_s, 12 * 0.25 / busy_s, 2 / busy_s))


def test_full_seats_reach_the_bound() -> None:
    summary = summarize(run(alike(40, 3, 7), machine(1000), Greedy(), EngineConfig(max_num_seqs=8)))
    assert shares(summary) == pytest.approx((1, 0, 0))


@pytest.mark.parametrize(
    ("budget", "iterations", "fewest", "again_s"),
    [
        (None, 2, (3 + 1) / 5, 0),  # 3 blocks, and the one that was not found
        (4, 3, (6 + 2) / 4, 4 * 0.25),  # the first prompt takes two chunks, which read 4 tokens of KV and then 6
    ],
)
def test_a_prompt_found_in_the_prefix_cache_needs_no_work(budget, iterations, fewest, again_s) -> None:
    # blocks of 2; the second request finds 4 of its 6 tokens when the first has left
    workload = Workload(
        np.array([0.0, 100.0]),
        np.array([6, 6]),
        np.array([1, 1]),
        prefix_ids=np.array([0, 1, 2, 0, 1, 2]),
        prefix_offsets=np.array([0, 3, 6]),
        prefix_block_tokens=2,
    )
    records = run(workload, machine(5, block_size=2), Greedy(), EngineConfig(max_num_batched_tokens=budget))
    assert records.cached_tokens.tolist() == [0, 4]
    first_s = 6 * 0.5 + 6 * 0.25 + 21 * 0.125
    second_s = 2 * 0.5 + 6 * 0.25 + (21 - 10) * 0.125
    busy_s = iterations + first_s + second_s + again_s
    expected = (first_s + second_s + fewest) / busy_s, again_s / busy_s, (iterations - fewest) / busy_s
    assert shares(summarize(records)) == pytest.approx(expected)


def test_an_eviction_by_hand() -> None:
    # the run of test_with_engine.test_a_preemption: B loses 8 tokens and computes 9 in iteration 10, for its 6th token
    hardware = machine(5, block_size=4)
    records = run(alike(2, 4, 9), hardware, Greedy(), EngineConfig(enable_prefix_caching=False))
    again_s = 8 * 0.5 + 45 * 0.125  # the KV of 9 tokens would be read for the 6th token anyway
    fewest = 2 * (1 + 4 * 2 + 4 * 3) / 5  # 4 to 12 tokens each
    expected = again_s / records.busy_s, (13 - fewest) / records.busy_s
    assert shares(summarize(records))[1:] == pytest.approx(expected)


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_pacing_equal_requests_approaches_the_bound(n: int) -> None:
    """One enters and one leaves per iteration, and memory is just full; only filling up falls short of it."""
    prompt, output = 20, 60
    hardware = machine(output * prompt + output * (output - 1) // 2, step=StepTime(0.01, 1e-5, 1e-6))
    config = EngineConfig(enable_prefix_caching=False)
    records = run(alike(n, prompt, output), hardware, RateLimited(1.0), config)
    filling = 0.01 * (output - 1) / records.busy_s
    assert shares(summarize(records)) == pytest.approx((1 - filling, 0, filling))


def test_what_greedy_admission_loses_to_pacing() -> None:
    hardware = machine(60 * 20 + 60 * 59 // 2, step=StepTime(0.01, 1e-5, 1e-6))
    config = EngineConfig(enable_prefix_caching=False)
    records = [run(alike(10_000, 20, 60), hardware, policy, config) for policy in (Greedy(), RateLimited(1.0))]
    greedy, paced = map(summarize, records)
    assert greedy.recompute_loss > 0.01
    assert greedy.underuse_loss > paced.underuse_loss
    assert greedy.fluid_efficiency / paced.fluid_efficiency == pytest.approx(records[1].busy_s / records[0].busy_s)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_shares_add_up_to_one(case: Case) -> None:
    workload, hardware, policy, config = case
    records = run(workload, hardware, policy, config)
    event(f"{config.preemption}, caching {config.enable_prefix_caching}, preempted {bool(records.preemptions.any())}")
    summary = summarize(records)
    assert sum(shares(summary)) == pytest.approx(1)
    assert all(0 <= share <= 1 for share in shares(summary))


@settings(max_examples=200, deadline=None)
@given(cases(shared=False))
def test_the_losses_against_the_decisions(case: Case) -> None:
    workload, hardware, policy, config = case
    config = replace(config, enable_prefix_caching=False)  # the decisions do not say what a lookup found
    records = run(workload, hardware, policy, config, record="decisions")
    event(f"{config.mode}, {config.preemption}, preempted {bool(records.preemptions.any())}")
    summary = summarize(records)
    assert summary.recompute_loss * records.busy_s == pytest.approx(repeated_s(records), abs=1e-8 * records.busy_s)
    steps = records.steps
    assert steps is not None
    iterations = int((steps.scheduled > 0).sum())
    assert fewest_iterations(records) <= iterations * (1 + 1e-12)
    underuse_s = hardware.step_time.c0 * (iterations - fewest_iterations(records))
    assert summary.underuse_loss * records.busy_s == pytest.approx(underuse_s, abs=1e-8 * records.busy_s)


def repeated_s(records: RunRecords) -> float:
    """Seconds of work that the iterations did beyond the first time, token by token."""
    step, load, steps = records.hardware.step_time, records.workload, records.steps
    assert steps is not None
    n, entry, victims = len(load), iter(steps.batch.tolist()), iter(steps.victims.tolist())
    generated, most_generated = ([0] * n for _ in range(2))
    arrive = records.config.prompts_arrive_computed
    arrived = ((load.prompt_tokens - 1) * arrive).tolist()
    computed, most_computed = arrived.copy(), arrived.copy()
    tokens = kv = pairs = sequences = 0
    for scheduled, preempted in zip(steps.scheduled.tolist(), steps.preempted.tolist(), strict=True):
        for row in (next(victims) for _ in range(preempted)):
            computed[row] = 0
            if records.config.preemption == "restart":
                computed[row], generated[row] = arrived[row], 0
        for row, new in (next(entry) for _ in range(scheduled)):
            prompt = int(load.prompt_tokens[row])
            if records.config.preemption == "offload" and computed[row] == 0:
                computed[row] = min(most_computed[row], prompt + generated[row] - 1)
            positions = range(computed[row], computed[row] + new)
            decode = new == 1 and (generated[row] > 0 or arrive) and positions.stop == prompt + generated[row]
            fresh = [p for p in positions if p >= most_computed[row]]
            tokens += new - len(fresh)
            if not decode:
                pairs += sum(p + 1 for p in positions) - sum(p + 1 for p in fresh if p < prompt)
            computed[row] = positions.stop
            most_computed[row] = max(most_computed[row], computed[row])
            generated[row] += computed[row] == prompt + generated[row]
            if generated[row] > most_generated[row]:
                most_generated[row] = generated[row]
            else:  # a chunk before the last one, or a token that was given before
                kv += computed[row]
                sequences += 1
    return float(step.c_tok * tokens + step.c_kv * kv + step.c_attn * pairs + step.c_seq * sequences)


def fewest_iterations(records: RunRecords) -> float:
    """The fewest in which blocks, tokens and seats allow every request one iteration per output token."""
    size, config = records.hardware.block_size, records.config
    lengths = list(zip(records.workload.prompt_tokens.tolist(), records.workload.output_tokens.tolist(), strict=True))
    blocks = sum(-(-tokens // size) for prompt, output in lengths for tokens in range(prompt, prompt + output))
    budget = config.token_budget(max(map(sum, lengths)))
    if config.mode != "vllm":  # there, iterations of decodes alone are limited by seats alone
        budget = max(budget, config.seats)
    tokens = sum((prompt - 1) * (not config.prompts_arrive_computed) + output for prompt, output in lengths)
    return max(blocks / records.total_blocks, tokens / budget, sum(output for _, output in lengths) / config.seats)


@settings(max_examples=100, deadline=None)
@given(cases(shared=False))
def test_with_a_cost_per_token_alone_the_loss_is_the_recomputed_tokens(case: Case) -> None:
    workload, hardware, policy, config = case
    records = run(workload, replace(hardware, step_time=StepTime(0.5, c_tok=0.25)), policy, config)
    assume(config.preemption != "offload")  # then the loss is none
    event(f"caching {config.enable_prefix_caching}, preempted {bool(records.preemptions.any())}")
    loss_s = summarize(records).recompute_loss * records.busy_s
    assert loss_s == pytest.approx(0.25 * int(records.recomputed_tokens.sum()))


@dataclass(frozen=True)
class LastOnly(Policy):
    """Runs only the newest resident: where memory ends it evicts itself, and nothing has run."""

    @staticmethod
    def advance(params, memory, view, out_mask):
        out_mask[: len(view.residents) - 1] = 0
        return np.inf


def test_an_iteration_without_a_batch_takes_no_time() -> None:
    # 7 blocks: both prefill 3; B takes the last one, and evicts itself for want of an eighth; A runs to its end,
    # then B does
    hardware = machine(7, step=StepTime(1.0))
    config = EngineConfig(enable_prefix_caching=False)
    records = run(alike(2, 3, 4), hardware, LastOnly(), config, record="decisions", compile=False)
    assert records.steps is not None
    assert records.steps.scheduled.tolist()[2] == 0
    ran = int((records.steps.scheduled > 0).sum())
    assert (records.busy_s, records.iterations, records.empty_iterations) == (ran, ran + 1, 1)
    fewest = 2 * (3 + 4 + 5 + 6) / 7
    assert shares(summarize(records)) == pytest.approx((fewest / ran, 0, 1 - fewest / ran))


class TestUnfinished:
    """What finished requests needed still counts; what the others cost belongs to neither loss."""

    strict = Wait(0.0, True, (2.0,), ())

    def test_left_over_without_having_run(self) -> None:
        records = run(alike(3, 4, 1), machine(100), self.strict)
        assert records.stalled
        assert records.finished.tolist() == [True, True, False]
        two = run(alike(2, 4, 1), machine(100), self.strict)
        assert shares(summarize(records)) == pytest.approx(shares(summarize(two)))

    def test_left_over_half_way(self) -> None:
        workload = Workload(np.zeros(3), np.full(3, 4), np.array([1, 2, 2]))
        records = run(workload, machine(100), self.strict)
        assert records.stalled
        assert records.finished.tolist() == [True, False, False]
        assert records.generated_tokens.tolist() == [1, 1, 0]
        summary = summarize(records)
        needed_s = 4 * 0.5 + 4 * 0.25 + 10 * 0.125 + 4 / 100
        assert summary.fluid_efficiency == pytest.approx(needed_s / records.busy_s)
        assert math.isnan(summary.recompute_loss)
        assert math.isnan(summary.underuse_loss)

    def test_nothing_ran(self, make_records) -> None:
        never = make_records([0.0], finished=[False], first_scheduled_s=[math.nan], generated_tokens=[0])
        assert all(math.isnan(share) for share in shares(summarize(never)))

    def test_nothing_finished(self, make_records) -> None:
        records = make_records([0.0], finished=[False], generated_tokens=[0], busy_s=0.01, iterations=1)
        assert summarize(records).fluid_efficiency == 0


def test_two_groups_of_the_same_layers_lose_what_one_loses() -> None:
    """Every request holds twice the blocks, of a pool of twice the size: the same run, and the same shares."""
    rng = np.random.default_rng(3)
    load = Workload(np.sort(rng.uniform(0, 0.2, 30)), rng.integers(1, 60, 30), rng.integers(1, 40, 30), name="pair")
    one = Hardware("one", StepTime(0.01, 1e-4, 1e-6), 301, 1)
    group = KvGroup("full", 1, 1)
    two = replace(one, num_gpu_blocks=601, kv_law=KvLaw((group, group)))
    config = EngineConfig(enable_prefix_caching=False, scheduler_reserve_full_isl=False)
    runs = [run(load, machine, Greedy(), config, compile=False) for machine in (one, two)]
    assert runs[0].preemptions.sum() == runs[1].preemptions.sum() > 0
    assert shares(summarize(runs[1])) == pytest.approx(shares(summarize(runs[0])), rel=1e-12)
    assert runs[1].mean_blocks == pytest.approx(2 * runs[0].mean_blocks)
