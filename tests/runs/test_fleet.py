"""Several replicas from plain values: plans per replica, loads of the whole fleet, numbers that add up."""

from pathlib import Path

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, Fleet, FleetRecords
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import METRICS, summarize
from fluidgate.runs import Runner, compare, plan_for, simulate
from fluidgate.workload import Workload, generate

HARDWARE = Hardware("test", StepTime(c0=0.01, c_tok=2e-5, c_kv=2e-7), num_gpu_blocks=400)


@pytest.fixture(scope="module")
def trace() -> Workload:
    return generate("three-types", n=300, rate=40, seed=5)


def test_each_replica_is_planned_for_its_share_of_the_rate(trace: Workload) -> None:
    one, fleet = (plan_for(trace, HARDWARE, EngineConfig(), replicas) for replicas in (1, 4))
    assert fleet.stability.load == pytest.approx(one.stability.load / 4)
    assert fleet.stability.boundary_rate == pytest.approx(one.stability.boundary_rate)


def test_loads_are_multiples_of_the_fleets_boundary(trace: Workload) -> None:
    single = compare(trace, HARDWARE, ["greedy"], loads=[0.8], repeats=1)
    fleet = compare(trace, HARDWARE, ["greedy"], loads=[0.8], repeats=1, fleet=Fleet(3))
    assert fleet.scenarios[0].plan.stability.load == pytest.approx(0.8)
    boundary = fleet.scenarios[0].plan.stability.boundary_rate
    assert boundary == pytest.approx(single.scenarios[0].plan.stability.boundary_rate)
    workload = trace.scaled(3 * 0.8 * boundary / trace.rate)
    policy = fleet.cells[0].policy
    alone = summarize(simulate(workload, HARDWARE, policy, fleet=Fleet(3)))
    assert alone.to_dict() == fleet.cells[0].summaries[0].to_dict()


def test_comparisons_of_fleets_are_the_same_in_processes(trace: Workload, tmp_path: Path) -> None:
    fleet, policies = Fleet(2, "power-of-two", 4), ["greedy", "concurrency-cap:cap=4"]
    here, there = (
        compare(trace, HARDWARE, policies, repeats=2, fleet=fleet, runner=Runner(jobs, results=tmp_path / str(jobs)))
        for jobs in (1, 2)
    )
    assert here.to_dict() == there.to_dict()
    assert (here.to_dict()["replicas"], here.to_dict()["router"]) == (2, "power-of-two")
    with pytest.raises(InputError, match="fleet"):  # the file is of other replicas
        compare(trace, HARDWARE, policies, repeats=2, fleet=Fleet(3), runner=Runner(results=tmp_path / "1"))


def test_a_timeline_shows_the_first_replica(trace: Workload) -> None:
    result = compare(trace, HARDWARE, ["greedy"], repeats=1, fleet=Fleet(2), timelines=True)
    fleet = simulate(trace, HARDWARE, "greedy", fleet=Fleet(2))
    assert isinstance(fleet, FleetRecords)
    assert fleet.runs[0] is not None
    alone = compare(fleet.runs[0].workload, HARDWARE, ["greedy"], repeats=1, timelines=True)
    seen, expected = (c.cells[0].timeline for c in (result, alone))
    assert seen is not None
    assert expected is not None
    for name in ("edges_s", "kv_mean", "waiting_high", "e2el_s"):
        assert np.array_equal(getattr(seen, name), getattr(expected, name), equal_nan=True), name


def test_twins_have_one_engines_numbers(trace: Workload) -> None:
    """Every request twice, in turns: both replicas do what one does with every request once."""
    twins = trace.reordered(np.repeat(np.arange(len(trace)), 2), np.repeat(trace.arrival_s, 2))
    one = summarize(simulate(trace, HARDWARE, "greedy")).to_dict()
    two = summarize(simulate(twins, HARDWARE, "greedy", fleet=Fleet(2))).to_dict()
    doubled = {"output_throughput", "effective_throughput", "request_throughput", "offered", "completed"}
    doubled |= {"iterations", "computed_tokens", "preemptions", "preempted_requests", "recomputed_tokens"}
    same = {"mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms", "mean_e2el_ms", "mean_queued_s", "max_longest_silence_s"}
    same |= {"kv_peak", "kv_mean", "kv_above_90", "mean_iteration_ms", "busy_share", "fluid_efficiency", "duration_s"}
    for name in doubled:
        assert two[name] == pytest.approx(2 * one[name]), name
    for name in same:
        assert two[name] == pytest.approx(one[name]), name


def test_iterations_are_recorded_of_one_engine(trace: Workload) -> None:
    with pytest.raises(InputError, match="iterations are recorded of one engine, and there are 2 replicas"):
        simulate(trace, HARDWARE, "greedy", fleet=Fleet(2), record="steps")


def test_one_replica_is_a_run(trace: Workload) -> None:
    plain, fleet = (summarize(simulate(trace, HARDWARE, "fluid", fleet=f)) for f in (None, Fleet(1, "least-kv")))
    numbers, of_fleet = ({key: getattr(summary, key) for key in METRICS} for summary in (plain, fleet))
    assert numbers == pytest.approx(of_fleet, nan_ok=True)
