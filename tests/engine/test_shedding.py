"""Requests that the policy gives up: where they were, what they give back, and loss systems in closed form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import factorial

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, Fleet, RunRecords, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import number_in_system, summarize
from fluidgate.policies import SHED, Codel, Lifo, Policy, QueueCap
from fluidgate.runs import simulate
from fluidgate.testing import check_policy
from fluidgate.workload import Workload

STEP_S = 0.01


def machine(blocks: int = 10**6) -> Hardware:
    """An iteration takes the same, whatever is in it."""
    return Hardware("constant steps", StepTime(STEP_S), blocks + 1, 16)


def serial(seats: int) -> EngineConfig:
    return EngineConfig(max_num_seqs=seats, async_scheduling=False)


@dataclass(frozen=True)
class GivesUp(Policy):
    """Names the rows from `first` to `last` at `at_s`, twice, whether or not they wait."""

    first: float = 0.0
    last: float = 0.0
    at_s: float = 0.0

    @staticmethod
    def shed(params, memory, view, out_rows):  # type: ignore[no-untyped-def]
        if view.now_s < params.at_s:
            return params.at_s
        place = 0
        for row in range(int(params.first), min(int(params.last) + 1, len(view.arrival_s))):
            if view.arrival_s[row] <= view.now_s:
                out_rows[place] = out_rows[place + 1] = row
                place += 2
        return np.inf

    @staticmethod
    def observe(params, memory, event):  # type: ignore[no-untyped-def]
        if event.kind == SHED:
            memory[0] += 1.0


def three(policy: Policy) -> RunRecords:
    """Three requests of 50 tokens at once, for one seat."""
    return run(Workload(np.zeros(3), np.full(3, 16), np.full(3, 50)), machine(), policy, serial(1))


def test_a_waiting_request_goes_without_a_token_and_the_next_one_starts_as_if_it_had_never_been() -> None:
    records = three(GivesUp(1, 1, 0.1))
    assert records.shed.tolist() == [False, True, False]
    assert records.aborted.tolist() == [False] * 3
    assert records.finished.tolist() == [True, False, True]
    assert records.left_s[1] == pytest.approx(0.1, abs=STEP_S)
    assert records.generated_tokens[1] == 0
    assert np.isnan(records.first_scheduled_s[1])
    assert records.last_token_s[2] == pytest.approx(100 * STEP_S)
    summary = summarize(records)
    assert (summary.shed, summary.aborted, summary.completed, summary.unfinished) == (1, 0, 2, 0)
    assert summary.success_share == pytest.approx(2 / 3)
    assert summary.wasted_tokens == 0


def test_a_resident_gives_back_its_seat_and_blocks_and_its_work_is_wasted() -> None:
    records = three(GivesUp(0, 0, 0.2))
    assert records.shed.tolist() == [True, False, False]
    assert 0 < records.generated_tokens[0] < 50
    assert records.last_token_s[2] == pytest.approx(0.2 + 100 * STEP_S, abs=2 * STEP_S)
    summary = summarize(records)
    assert summary.wasted_tokens == 16 + records.generated_tokens[0] - 1
    assert summary.wasted_share == pytest.approx(0.2 / 1.2, abs=0.02)


def test_all_can_be_given_up_and_the_run_ends() -> None:
    records = three(GivesUp(0, 2, 0.0))
    assert records.shed.all()
    assert records.busy_s == 0.0
    assert number_in_system(records)[1][-1] == 0


def test_it_is_asked_when_it_said_although_nothing_else_happens() -> None:
    """A request that never fits beside the first one is given up in the middle of the first one's life."""
    load = Workload(np.array([0.0, 0.1]), np.array([16, 16]), np.array([500, 50]))
    records = run(load, machine(), GivesUp(1, 1, 2.5), serial(1))
    assert records.left_s[1] == pytest.approx(2.5, abs=STEP_S)


def test_policies_that_shed_obey_the_laws() -> None:
    check_policy(GivesUp(2, 5, 0.0))


def erlang_b(servers: int, offered: float) -> float:
    terms = [offered**k / factorial(k) for k in range(servers + 1)]
    return terms[-1] / sum(terms)


@pytest.mark.parametrize(("seats", "offered"), [(1, 0.8), (4, 4.0), (12, 15.0)])
def test_without_a_queue_the_share_refused_is_erlangs(seats: int, offered: float) -> None:
    """M/M/n/n, insensitive to the law of services: here geometric ones of 100 iterations on average."""
    rng, n = np.random.default_rng(seats), 20_000
    outputs = rng.geometric(1 / 100, n)
    arrival_s = np.cumsum(rng.exponential(100 * STEP_S / offered, n))
    load = Workload(arrival_s, np.full(n, 1), outputs)
    records = run(load, machine(), QueueCap(0.0), serial(seats))
    assert records.shed.mean() == pytest.approx(erlang_b(seats, offered), abs=0.015)
    assert (records.finished | records.shed).all()


def test_with_a_queue_of_k_places_it_is_that_of_m_m_1_k() -> None:
    rng, n, load_, places = np.random.default_rng(3), 30_000, 1.2, 4
    arrival_s = np.cumsum(rng.exponential(100 * STEP_S / load_, n))
    load = Workload(arrival_s, np.full(n, 1), rng.geometric(1 / 100, n))
    records = run(load, machine(), QueueCap(float(places)), serial(1))
    k = places + 1
    assert records.shed.mean() == pytest.approx((1 - load_) * load_**k / (1 - load_ ** (k + 1)), abs=0.015)


def test_lifo_serves_the_latest_first() -> None:
    load = Workload(np.array([0.0, 0.1, 0.2, 0.3]), np.full(4, 1), np.full(4, 100))
    records = run(load, machine(), Lifo(), serial(1))
    assert np.argsort(records.first_scheduled_s).tolist() == [0, 3, 2, 1]


def test_codel_sheds_after_an_interval_above_the_target_and_then_ever_more_often() -> None:
    """A seat that is busy for 100 s, and 50 requests that wait: the k-th goes 1/√k intervals after the one before."""
    n = 50
    load = Workload(np.concatenate(([0.0], np.full(n, 0.5))), np.full(n + 1, 1), np.array([10_000] + [1] * n))
    records = run(load, machine(), Codel(target_s=1.0, interval_s=4.0), serial(1))
    first_s = 0.5 + 1.0 + 4.0
    expected_s = first_s + 4.0 * np.concatenate(([0.0], np.cumsum(1 / np.sqrt(np.arange(1, n)))))
    shed_s = np.sort(records.left_s[records.shed])
    assert shed_s == pytest.approx(expected_s[: len(shed_s)], abs=2 * STEP_S)
    assert len(shed_s) == min(n, (expected_s < 100.0).sum())


def test_a_fleet_sheds_in_every_replica_and_keeps_the_books() -> None:
    rng, n = np.random.default_rng(5), 600
    load = Workload(np.cumsum(rng.exponential(0.1, n)), np.full(n, 16), rng.integers(1, 200, n))
    fleet = simulate(load, machine(), QueueCap(1.0), config=serial(2), fleet=Fleet(3, "round-robin"))
    assert fleet.shed.any()
    assert (fleet.finished ^ fleet.shed).all()
    for k, alone in enumerate(fleet.runs):
        assert alone is not None
        own = run(load.take(fleet.replica == k), machine(), QueueCap(1.0), serial(2))
        assert own.shed.tolist() == alone.shed.tolist()


def test_a_client_that_gives_up_later_is_not_counted_twice() -> None:
    load = Workload(np.zeros(3), np.full(3, 16), np.full(3, 50), timeout_s=np.full(3, 1.2))
    records = run(load, machine(), GivesUp(1, 1, 0.1), serial(1))
    assert records.shed.tolist() == [False, True, False]
    assert records.aborted.tolist() == [False] * 3
    late = run(replace(load, timeout_s=np.full(3, 0.9)), machine(), GivesUp(1, 1, 0.1), serial(1))
    assert late.aborted.tolist() == [False, False, True]
    assert late.shed.tolist() == [False, True, False]
