"""Stock engines behind gates: nothing is lost in silence, and the engines are those that run without a gate."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fluidgate import plan, summarize
from fluidgate.engine import Change, EngineConfig, Fleet, GateRecords, Outside, run, run_behind_gate, run_fleet
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Fluid, Greedy, make_policy
from fluidgate.runs import simulate
from fluidgate.testing import check_same
from fluidgate.workload import Workload, generate

from ..cli.calls import good
from ..engine.cases import random_case

MACHINE = Hardware("machine", StepTime(c0=0.02, c_tok=1e-5, c_kv=1e-7), num_gpu_blocks=2001, block_size=16)
CONFIG = EngineConfig(max_num_seqs=256, max_num_batched_tokens=2048)


def crowded(n: int, replicas: int, load: float = 1.1, seed: int = 1) -> Workload:
    """Chats of a length that varies much, at a load that fills the memory."""
    drawn = generate("azure-conv-2023", n=n, rate=1.0, seed=seed)
    longer = replace(drawn, output_tokens=np.minimum(3 * drawn.output_tokens, 4000))
    boundary = plan(longer, MACHINE, max_num_seqs=256).stability.boundary_rate
    return longer.scaled(load * replicas * boundary / longer.rate)


def policy_of(workload: Workload, replicas: int) -> Fluid:
    policy = make_policy("fluid", plan(workload, MACHINE, rate=workload.rate / replicas, max_num_seqs=256))
    assert isinstance(policy, Fluid)
    return policy


def check_conserved(records: GateRecords) -> None:
    """Every request is served once, or lost, or refused; what is not served has no claim to be."""
    ended = records.finished.astype(int) + records.lost + records.refused
    assert (ended == 1).all()
    assert (records.attempts[records.finished] >= 1).all()
    sent = ~np.isnan(records.sent_s)
    assert (records.sent_s[sent] >= records.arrival_s[sent]).all()
    assert (records.first_token_s[records.finished] > records.sent_s[records.finished]).all()
    assert (records.generated_tokens[records.lost] <= records.workload.output_tokens[records.lost]).all()


def changes(draw: Random, replicas: int) -> tuple[Change, ...]:
    """Replicas but the first die, join or slow down."""
    kinds = {k: draw.choice(["dies", "joins", "slows", ""]) for k in range(1, replicas)}
    return tuple(
        Change(20 * draw.random(), k, kind, draw.choice([0.5, 3.0]) if kind == "slows" else 1.0)  # type: ignore[arg-type]
        for k, kind in kinds.items()
        if kind
    )


@given(st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_every_request_ends_once_and_engines_are_as_they_are_alone(draw: Random) -> None:
    workload, hardware, _, config = random_case(draw)
    outside = Outside(
        replicas=draw.randint(1, 4),
        gates=draw.randint(1, 3),
        gauge_age_s=draw.choice([None, 0.0, 2.0]),
        gauge_interval_s=5.0,
        reaction_s=draw.choice([0.1, 1.0]),
        streams=draw.random() < 0.7,
        retry=draw.choice(["unstarted", "all", "none"]),
        affinity_loss=draw.choice([None, 0.1]),
    )
    outside = replace(outside, changes=changes(draw, outside.replicas))
    records = run_behind_gate(workload, hardware, Fluid(), outside, config)
    check_conserved(records)
    event(f"lost: {records.lost.any()}, sent again: {(records.attempts > 1).any()}")
    event(f"waited: {(records.sent_s > records.arrival_s).any()}, evicted: {records.preemptions.any()}")
    if outside.changes or outside.retry == "none":
        return
    for part in records.runs:
        if part is not None:
            check_same(run(part.workload, hardware, Greedy(), config), part, "alone")


def test_with_room_for_all_a_gate_changes_nothing() -> None:
    workload = crowded(150, 1, load=0.3)
    vast = replace(MACHINE, num_gpu_blocks=100_001)
    records = run_behind_gate(workload, vast, Fluid(), Outside(), CONFIG)
    alone = run(workload, vast, Greedy(), CONFIG)
    assert (records.sent_s == workload.arrival_s).all()
    assert (records.last_token_s == alone.last_token_s).all()
    assert (records.first_token_s == alone.first_token_s).all()
    assert records.iterations == alone.iterations
    assert summarize(records).mean_itl_ms == summarize(alone).mean_itl_ms


def test_one_fresh_gate_before_one_engine_does_what_the_policy_inside_does() -> None:
    workload = crowded(800, 1)
    policy = policy_of(workload, 1)
    stock, inside = (run(workload, MACHINE, one, CONFIG) for one in (Greedy(), policy))
    fresh = run_behind_gate(workload, MACHINE, policy, Outside(gauge_age_s=0.0, reaction_s=0.001), CONFIG)
    assert stock.preemptions.sum() > 100
    assert fresh.preemptions.sum() <= inside.preemptions.sum() + 0.02 * len(workload)
    assert summarize(fresh).output_throughput == pytest.approx(summarize(inside).output_throughput, rel=0.02)
    assert summarize(fresh).mean_ttft_ms == pytest.approx(summarize(inside).mean_ttft_ms, rel=0.1)


@pytest.fixture(scope="module")
def fleet() -> tuple[Workload, Fluid, int]:
    """1,200 requests for three replicas, the policy, and the evictions of stock engines."""
    workload = crowded(1200, 3)
    stock = run_fleet(workload, MACHINE, Greedy(), Fleet(3, "least-loaded"), CONFIG)
    return workload, policy_of(workload, 3), int(stock.preemptions.sum())


@pytest.mark.parametrize(
    ("outside", "share"),
    [
        (Outside(3), 0.2),
        (Outside(3, gauge_age_s=30.0), 0.2),
        (Outside(3, gauge_age_s=None, streams=False), 0.2),
        (Outside(3, gauges_stop_s=(10.0, 70.0)), 0.2),
        (Outside(3, gates=2), 0.5),
    ],
    ids=["5 s", "30 s", "none, no streams", "stop for a minute", "two gates"],
)
def test_evictions_are_few_whatever_gates_see(
    fleet: tuple[Workload, Fluid, int], outside: Outside, share: float
) -> None:
    workload, policy, stock = fleet
    records = run_behind_gate(workload, MACHINE, policy, outside, CONFIG)
    check_conserved(records)
    assert records.preemptions.sum() <= share * stock
    assert records.finished.all()


def test_a_dead_replica_is_survived_and_its_requests_are_sent_again_or_reported(
    fleet: tuple[Workload, Fluid, int],
) -> None:
    workload, policy, _ = fleet
    at_s = float(workload.arrival_s[400])
    for retry in ("unstarted", "all", "none"):
        outside = Outside(3, retry=retry, changes=(Change(at_s, 1, "dies"),))  # type: ignore[arg-type]
        records = run_behind_gate(workload, MACHINE, policy, outside, CONFIG)
        check_conserved(records)
        assert not (records.sent_s[records.replica == 1] > at_s).any()
        again = (records.attempts > 1).any()
        assert records.lost.any() == (retry != "all")
        assert again if retry == "all" else not (again and retry == "none")
        assert not records.finished[records.lost].any()
        if retry == "unstarted":
            assert (records.generated_tokens[records.lost] > 0).all()
        assert (records.last_token_s[records.finished & (records.replica == 1)] <= at_s).all()


def test_when_all_replicas_are_dead_all_is_reported() -> None:
    workload = crowded(50, 1)
    outside = Outside(1, changes=(Change(float(workload.arrival_s[20]), 0, "dies"),))
    records = run_behind_gate(workload, MACHINE, Fluid(), outside, CONFIG)
    check_conserved(records)
    assert records.lost[21:].all()


def test_a_replica_that_joins_is_used_and_one_that_slows_down_gets_less(fleet: tuple[Workload, Fluid, int]) -> None:
    workload, policy, _ = fleet
    at_s = float(workload.arrival_s[400])
    outside = Outside(3, changes=(Change(at_s, 2, "joins"), Change(at_s, 1, "slows", 3.0)))
    records = run_behind_gate(workload, MACHINE, policy, outside, CONFIG)
    check_conserved(records)
    assert (records.sent_s[records.replica == 2] >= at_s).all()
    after = records.sent_s > at_s
    counts = np.bincount(records.replica[after], minlength=3)
    assert counts[1] < 0.7 * counts[0]
    assert counts[2] > 0.8 * counts[0]


def test_replicas_of_two_kinds_are_filled_alike() -> None:
    small = replace(MACHINE, num_gpu_blocks=1001)
    workload = crowded(900, 2, load=0.8)
    records = run_behind_gate(workload, [MACHINE, small], policy_of(workload, 2), Outside(2), CONFIG)
    check_conserved(records)
    assert records.preemptions.sum() <= 0.05 * len(workload)
    tokens = records.tokens_by_replica
    assert 1.4 < tokens[0] / tokens[1] < 3.0


def test_loads_that_it_does_not_simulate_are_refused() -> None:
    workload = crowded(20, 1)
    for wrong in (replace(workload, concurrency=2), replace(workload, timeout_s=np.full(20, 5.0))):
        with pytest.raises(InputError, match="only open loops of clients that stay"):
            run_behind_gate(wrong, MACHINE, Fluid(), Outside(), CONFIG)
    with pytest.raises(InputError, match="2 replicas and hardware for 1"):
        run_behind_gate(workload, [MACHINE], Fluid(), Outside(2), CONFIG)


def test_simulate_puts_fluid_alone_before_the_engines() -> None:
    workload = crowded(60, 2)
    fleet = Fleet(2, "least-loaded", outside=Outside())
    records = simulate(workload, MACHINE, "fluid", config=CONFIG, fleet=fleet)
    assert isinstance(records, GateRecords)
    assert records.replicas == 2
    check_same(
        simulate(workload, MACHINE, "greedy", config=CONFIG, fleet=fleet),
        simulate(workload, MACHINE, "greedy", config=CONFIG, fleet=Fleet(2, "least-loaded")),
        "router",
    )


def test_simulate_from_the_command_line_says_what_was_lost() -> None:
    machine = "--model", "llama-2-7b", "--gpu", "a100-80gb"
    few = "--preset", "azure-conv-2023", "--requests", "40", "--rate", "4"
    outside = "--replicas", "2", "--gate", "outside", "--gates", "2"
    (numbers,) = json.loads(good("simulate", *few, *machine, *outside, "--format", "json").stdout)
    assert (numbers["router"], numbers["replicas"], numbers["lost"]) == ("gate", 2, 0)
    assert numbers["completed"] + numbers["refused"] == 40


def test_a_slow_replica_is_slower_by_its_factor() -> None:
    """One request alone, slowed down from the beginning: all of it takes as many times as long."""
    workload = Workload(np.array([1.0]), np.array([100]), np.array([50]), name="one")
    plain, slowed = (
        run_behind_gate(workload, MACHINE, Fluid(), Outside(changes=changes), CONFIG)
        for changes in ((), (Change(0.0, 0, "slows", 4.0),))
    )
    assert slowed.last_token_s[0] - 1.0 == pytest.approx(4.0 * (plain.last_token_s[0] - 1.0))
