"""What clients that give up do to the numbers: worked out by hand, and in runs whose outcome is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import PATIENCE_METRICS, Slo, number_in_system, stability_verdict, summarize, timeline
from fluidgate.policies import Greedy, QueueCap
from fluidgate.workload import Patience, Workload, parse_timeout

NAN = math.nan


@pytest.fixture(scope="module")
def four(make_records):
    """Four requests, all sent at 0: one is served, two are aborted (one of them never scheduled), one is left over."""
    return make_records(
        [0.0, 0.0, 0.0, 0.0],
        output_tokens=[4, 4, 4, 4],
        timeout_s=[9.0, 5.0, 2.0, 99.0],
        first_scheduled_s=[0.0, 0.0, NAN, 1.0],
        first_token_s=[1.0, 1.0, NAN, NAN],
        last_token_s=[4.0, 4.5, NAN, NAN],
        finished=[True, False, False, False],
        generated_tokens=[4, 3, 0, 0],
        left_s=[NAN, 5.5, 2.0, NAN],
        spent_s=[3.0, 2.5, 0.0, 0.5],
        spent_tokens=[13, 12, 0, 10],
        busy_s=6.0,
        computed_tokens=35,
        end_s=8.0,
    )


def test_every_request_is_counted_once(four):
    summary = summarize(four, Slo(e2el_ms=10_000))
    counts = {key: getattr(summary, key) for key in ("offered", "completed", "aborted", "unfinished", "refused")}
    assert counts == {"offered": 4, "completed": 1, "aborted": 2, "unfinished": 1, "refused": 0}
    assert summary.success_share == 0.25
    assert summary.goodput_share == 0.25  # over all that were offered: no abort meets the SLO
    assert summary.request_goodput == 1 / 4.5


def test_what_was_computed_for_aborted_requests_is_waste(four):
    summary = summarize(four)
    assert summary.wasted_tokens == 12
    assert summary.wasted_share == pytest.approx(2.5 / 6.0)
    assert summary.effective_throughput == 4 / 4.5
    assert summary.output_throughput == 7 / 4.5


def test_an_aborted_request_leaves_the_system(four):
    times, counts = number_in_system(four)
    assert times.tolist() == [0.0, 2.0, 4.0, 5.5]
    assert counts.tolist() == [4, 3, 2, 1]
    assert number_in_system(four, only_served_leave=True)[1].tolist() == [4, 3]


def test_patient_clients_have_no_such_numbers(make_records):
    summary = summarize(make_records([0.0, 1.0]))
    assert not summary.gives_up
    assert all(math.isnan(getattr(summary, key)) for key in PATIENCE_METRICS)
    assert not summary.to_dict().keys() & set(PATIENCE_METRICS)
    assert summary.unfinished == 0


def served_alone(load: float, n: int, timeout: str) -> Workload:
    """One seat, one second of service."""
    arrival_s = np.cumsum(np.random.default_rng(7).exponential(1 / load, n))
    ones = np.ones(n, np.int64)
    return Patience(parse_timeout("timeout", timeout)).of(Workload(arrival_s, ones, ones), 3)


ONE_SEAT = EngineConfig(max_num_seqs=1)
SERVER = Hardware("server", StepTime(c0=1.0), num_gpu_blocks=100)


def test_an_overloaded_server_is_unstable_although_its_queue_is_short():
    """At load 2 half of the clients leave: the queue stays where their patience holds it, and half are not served."""
    records = run(served_alone(2.0, 2000, "exp:20"), SERVER, Greedy(), ONE_SEAT, compile=False)
    verdict, summary = stability_verdict(records), summarize(records)
    assert number_in_system(records)[1].max() < 100
    assert verdict.stable is False
    assert verdict.growth == pytest.approx(0.5, abs=0.08)
    assert summary.success_share == pytest.approx(0.5, abs=0.05)
    assert "stay behind or give up" in verdict.reason


def test_what_a_policy_sheds_counts_as_not_served():
    """At load 2 a queue that takes no more than two refuses half: it is short, and the server does not keep up."""
    records = run(served_alone(2.0, 2000, "exp:1e6"), SERVER, QueueCap(2.0), ONE_SEAT, compile=False)
    verdict = stability_verdict(records)
    assert number_in_system(records)[1].max() < 20  # those that come during an iteration are refused at its end
    assert verdict.stable is False
    assert verdict.growth == pytest.approx(0.5, abs=0.08)
    assert "stay behind, give up or are shed" in verdict.reason


def test_a_server_with_room_stays_stable_though_some_leave():
    records = run(served_alone(0.5, 4000, "exp:100"), SERVER, Greedy(), ONE_SEAT, compile=False)
    assert 0 < records.aborted.sum() < 0.03 * len(records)
    assert stability_verdict(records).stable is True


def test_waiting_over_time_falls_as_clients_leave():
    """One seat for 4 s; two more wait, until 2 and until the first has ended."""
    workload = Workload(
        np.zeros(3), np.ones(3, np.int64), np.array([4, 1, 1]), timeout_s=np.array([math.inf, 2.0, math.inf])
    )
    records = run(workload, SERVER, Greedy(), ONE_SEAT, record="steps", compile=False)
    seen = timeline(records, [0, 5])
    edges_s, waiting = np.array(seen.edges_s), np.array(seen.waiting_high)
    assert (waiting[edges_s[1:] <= 2.0] == 2).all()
    assert (waiting[(edges_s[:-1] >= 2.0) & (edges_s[1:] <= 4.0)] == 1).all()
    assert min(seen.waiting_mean) == 0


def test_the_h100_case_from_its_data_sheet():
    """Llama-2-7B on an H100, 128 seats, prompts of 1,082 and outputs of 1,448 tokens, 4 req/s for 1,200 s, 300 s each.

    A real server completed 732 of the 4,800 requests, at a median E2E of 156 s.
    """
    from fluidgate.hardware import get_hardware

    n = 4800
    workload = Workload(
        np.arange(n) / 4.0, np.full(n, 1082), np.full(n, 1448), timeout_s=np.full(n, 300.0), name="H100 case"
    )
    hardware = get_hardware("llama-2-7b", "h100-80gb")
    records = run(workload, hardware, Greedy(), EngineConfig(max_num_seqs=128))
    summary = summarize(records)
    assert summary.completed == pytest.approx(732, rel=0.1)
    assert summary.median_e2el_ms == pytest.approx(156e3, rel=0.1)
    assert summary.completed + summary.aborted == n
