"""A fleet that grows and shrinks: nothing is lost, replicas serve while they may, and a constant one is a fleet."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fluidgate.engine import (
    ROUTERS,
    Elastic,
    ElasticRecords,
    EngineConfig,
    Fleet,
    Rule,
    Seen,
    run,
    run_elastic,
    run_fleet,
)
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.policies import Greedy, PastFuture, Policy
from fluidgate.testing import check_same
from fluidgate.workload import Workload

from .cases import Case, random_case
from .test_fleet import SMALL, poisson

CASES = st.randoms(use_true_random=False).map(random_case)
ELASTIC = st.builds(
    Elastic,
    first=st.integers(1, 3),
    most=st.integers(3, 5),
    startup_s=st.sampled_from([0.0, 1.0, 2.5]),
    interval_s=st.sampled_from([0.5, 2.0]),
    router=st.sampled_from(ROUTERS),
    seed=st.integers(0, 3),
)
quick = settings(max_examples=60, deadline=None)


def stays(seen: Seen) -> int:
    return seen.asked


def at_random(seed: int, most: int) -> Rule:
    """A rule that asks for any number."""
    draw = Random(seed)
    return lambda seen: draw.randint(0, most + 1)


def script(*asked: int) -> Rule:
    """A rule that asks for these numbers, one a look, and for the last one from then on."""
    return lambda seen: asked[min(round(seen.time_s) - 1, len(asked) - 1)]


@quick
@given(CASES, ELASTIC)
def test_a_constant_fleet_is_a_fleet(case: Case, elastic: Elastic) -> None:
    workload, hardware, policy, config = case
    fleet = run_fleet(workload, hardware, policy, Fleet(elastic.first, elastic.router, elastic.seed), config)
    same = run_elastic(workload, hardware, policy, elastic, stays, config)
    check_same(fleet, same, "a constant elastic fleet is a fleet")
    assert same.replica.tolist() == fleet.replica.tolist()


def check_lives(records: ElasticRecords, elastic: Elastic) -> None:
    """Every request was sent to one replica that was ready, and no two replicas share a slot."""
    assert sum(len(part) for part in records.runs if part is not None) == len(records)
    for slot, time_s in zip(records.replica, records.arrival_s, strict=True):
        ready = [life for life in records.lives if life.slot == slot and life.ready_s <= time_s < life.stopped_s]
        assert len(ready) == 1, (slot, time_s)
    for slot in range(elastic.most):
        times = [(life.asked_s, life.gone_s) for life in records.lives if life.slot == slot]
        assert all(gone <= asked for (_, gone), (asked, _) in pairwise(times))
    for life in records.lives:
        assert life.asked_s <= life.ready_s <= life.asked_s + elastic.startup_s
        assert life.stopped_s <= life.gone_s or life.gone_s == np.inf
        served = records.last_token_s[(records.replica == life.slot) & (records.arrival_s < life.stopped_s)]
        assert len(served) == 0 or np.nanmax(served) <= life.gone_s


@quick
@given(CASES, ELASTIC, st.integers(0, 99))
def test_every_request_is_served_once(case: Case, elastic: Elastic, seed: int) -> None:
    workload, hardware, policy, config = case
    records = run_elastic(workload, hardware, policy, elastic, at_random(seed, elastic.most), config)
    event(f"lives {len(records.lives) > elastic.first}, draining {any(seen.draining for seen in records.seen)}")
    assert records.finished.all()
    assert (records.generated_tokens == workload.output_tokens).all()
    check_lives(records, elastic)


def check_alone(records: ElasticRecords, hardware: Hardware, policy: Policy) -> None:
    """Every replica serves its requests as a new engine that gets them alone."""
    for life in records.lives:
        due = (life.ready_s <= records.arrival_s) & (records.arrival_s < life.stopped_s)
        rows = np.flatnonzero(due & (records.replica == life.slot))
        if len(rows):
            part = records.workload.reordered(rows, records.arrival_s[rows])
            alone = run(part, hardware, policy, records.config)
            assert alone.last_token_s.tolist() == records.last_token_s[rows].tolist()


@settings(max_examples=15, deadline=None)
@given(CASES, ELASTIC, st.integers(0, 99))
def test_interpreted_equals_compiled(case: Case, elastic: Elastic, seed: int) -> None:
    workload, hardware, policy, config = case
    compiled, plain = (
        run_elastic(workload, hardware, policy, elastic, at_random(seed, elastic.most), config, compile=compile)
        for compile in (True, False)
    )
    check_same(compiled, plain, "interpreted equals compiled")
    assert compiled.lives == plain.lives
    for a, b in zip(compiled.seen, plain.seen, strict=True):
        assert (a.waiting.tolist(), a.running.tolist(), a.kv_use.tolist()) == (
            b.waiting.tolist(),
            b.running.tolist(),
            b.kv_use.tolist(),
        )


def test_a_replica_serves_from_its_start_up_on() -> None:
    elastic = Elastic(1, 2, startup_s=2.5, interval_s=1.0)
    records = run_elastic(poisson(400, 40.0), SMALL, Greedy(), elastic, script(2))
    assert [(life.asked_s, life.ready_s) for life in records.lives] == [(0.0, 0.0), (1.0, 3.5)]
    assert (records.replica[records.arrival_s < 3.5] == 0).all()
    assert set(records.replica[records.arrival_s >= 3.5][:2].tolist()) == {0, 1}
    assert records.replica_s == pytest.approx(2 * records.arrival_s[-1] - 1.0)


def test_a_stopped_replica_serves_what_it_has_and_then_is_paid_no_more() -> None:
    elastic = Elastic(2, 2, startup_s=1.0, interval_s=1.0)
    records = run_elastic(poisson(300, 60.0), SMALL, Greedy(), elastic, script(1))
    life = records.lives[1]
    mine = records.replica == 1
    assert life.stopped_s == 1.0
    assert records.arrival_s[mine].max() < 1.0 < life.gone_s
    assert life.gone_s == records.last_token_s[mine].max()
    assert life.gone_s > 2.0
    assert [seen.draining for seen in records.seen] == [int(1.0 < seen.time_s < life.gone_s) for seen in records.seen]
    alone = run(records.runs[1].workload, SMALL, Greedy(), records.config) if records.runs[1] else None
    assert alone is not None
    assert np.array_equal(alone.last_token_s, records.last_token_s[mine])
    assert records.replica_s == pytest.approx(records.arrival_s[-1] + life.gone_s)


def test_what_starts_is_stopped_first() -> None:
    records = run_elastic(poisson(300, 60.0), SMALL, Greedy(), Elastic(2, 4, 5.0, 1.0), script(3, 2))
    assert [life.gone_s for life in records.lives] == [np.inf, np.inf, 2.0]


def test_a_new_replica_has_an_empty_prefix_cache() -> None:
    """Slot 1 serves a prompt, is stopped, and starts again: the same prompt is computed anew there."""
    n = 16
    load = Workload(
        np.arange(n) * 0.5,
        np.full(n, 8),
        np.ones(n, np.int64),
        prefix_ids=np.zeros(n, np.int64),
        prefix_offsets=np.arange(n + 1),
        prefix_block_tokens=4,
    )
    records = run_elastic(load, SMALL, Greedy(), Elastic(2, 2, 1.0, 1.0), script(2, 1, 2), EngineConfig())
    assert [(life.slot, life.ready_s) for life in records.lives] == [(0, 0.0), (1, 0.0), (1, 4.0)]
    rows = np.flatnonzero(records.replica == 1)
    again = rows[load.arrival_s[rows] >= 4.0]
    cached = records.cached_tokens
    assert cached[rows[0]] == cached[again[0]] == 0
    assert cached[rows[1]] == cached[again[1]] == 4


def test_a_new_replica_has_learned_nothing() -> None:
    """The policy expects what the last request had, at first 80 tokens; what slot 1 learns in its first life is gone.

    With one length remembered it draws none, so it does not see that the slot's iterations count on.
    """
    policy = PastFuture(reserve=0.0, window=1, seats=16, output_quantiles=(80.0,))
    draw = np.random.default_rng(0)
    n = 400
    load = Workload(np.cumsum(draw.exponential(1 / 15.0, n)), draw.integers(1, 40, n), np.full(n, 20))
    records = run_elastic(load, SMALL, policy, Elastic(2, 2, 1.0, 1.0), script(*[2] * 5, *[1] * 5, 2))
    assert [life.slot for life in records.lives] == [0, 1, 1]
    check_alone(records, SMALL, policy)


def test_a_look_sees_the_metrics() -> None:
    load = replace(poisson(300, 60.0), arrival_s=np.sort(np.append(np.arange(299) / 60.0, 5.0)))
    records = run_elastic(load, SMALL, Greedy(), Elastic(2, 3, 2.5, 1.0), script(3))
    first = records.seen[0]
    assert (first.time_s, first.arrived, first.ready, first.starting) == (1.0, int((load.arrival_s < 1.0).sum()), 2, 0)
    done = int((records.last_token_s <= 1.0).sum())
    assert abs(int(first.waiting.sum() + first.running.sum()) - (first.arrived - done)) <= 2  # an iteration's arrivals
    assert ((first.kv_use > 0) & (first.kv_use <= 1)).all()
    assert [seen.starting for seen in records.seen[1:4]] == [1, 1, 0]


def test_clients_that_wait_for_replies_are_refused() -> None:
    load = replace(poisson(10, 1.0), concurrency=2)
    with pytest.raises(InputError, match="give arrivals"):
        run_elastic(load, SMALL, Greedy(), Elastic(), stays)


@pytest.mark.parametrize("wrong", [{"first": 3, "most": 2}, {"interval_s": 0.0}, {"startup_s": -1.0}])
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Elastic(**wrong)  # type: ignore[arg-type]
