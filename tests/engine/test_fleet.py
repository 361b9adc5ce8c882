"""Several replicas: each does what it would do alone, and routers see what is there to see at an arrival, no more."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fluidgate.engine import ROUTERS, EngineConfig, Fleet, RunRecords, run, run_fleet
from fluidgate.engine.kv_cache import Cache
from fluidgate.engine.layout import State
from fluidgate.engine.replicas import OWN, replica_cache, replica_state, stacked
from fluidgate.engine.state import new_state
from fluidgate.errors import InputError, Stalled
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import interpreted
from fluidgate.policies import ConcurrencyCap, Greedy, Policy
from fluidgate.runs import simulate
from fluidgate.testing import check_records, check_same
from fluidgate.workload import Workload

from .cases import Case, random_case

CASES = st.randoms(use_true_random=False).map(random_case)
FLEETS = st.builds(Fleet, st.integers(1, 4), st.sampled_from(ROUTERS), st.integers(0, 3))
quick = settings(max_examples=100, deadline=None)

SMALL = Hardware("small", StepTime(c0=0.01, c_tok=1e-3, c_kv=1e-5), num_gpu_blocks=33, block_size=4)


def _admit_nothing(params, memory, view, out_quota):
    out_quota[:] = 0
    return np.inf


@dataclass(frozen=True)
class Never(Policy):
    """Admits nothing."""

    name: ClassVar[str] = "never"
    admit = staticmethod(_admit_nothing)


def _row(params, request):
    return request.row


@dataclass(frozen=True)
class ClassByRow(Policy):
    """A class per request, but three of them only."""

    name: ClassVar[str] = "class-by-row"
    classify = staticmethod(_row)

    @property
    def num_classes(self) -> int:
        return 3


def poisson(n: int, rate: float, seed: int = 0) -> Workload:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 40, (2, n))
    return Workload(np.cumsum(draw.exponential(1 / rate, n)), lengths[0], lengths[1], name="poisson")


def alone(records: RunRecords, policy: Policy) -> RunRecords:
    """What a replica was sent, through an engine without a fleet."""
    return run(records.workload, records.hardware, policy, records.config, record="decisions")


@quick
@given(CASES, st.sampled_from(ROUTERS))
def test_a_fleet_of_one_is_a_run(case: Case, router: str) -> None:
    workload, hardware, policy, config = case
    one = run_fleet(workload, hardware, policy, Fleet(1, router), config)
    check_same(run(workload, hardware, policy, config), one, "a fleet of one is a run")


@quick
@given(CASES, FLEETS)
def test_every_replica_does_what_it_does_alone(case: Case, fleet: Fleet) -> None:
    workload, hardware, policy, config = case
    whole = run_fleet(workload, hardware, policy, fleet, config)
    event(f"{fleet.router}, preempted {bool(whole.preemptions.any())}")
    assert len(whole.runs) == fleet.replicas
    for k, part in enumerate(whole.runs):
        rows = np.flatnonzero(whole.replica == k)
        assert (part is None) == (len(rows) == 0)
        if part is not None:
            assert np.array_equal(part.arrival_s, workload.arrival_s[rows])
            assert np.array_equal(part.last_token_s, whole.last_token_s[rows])
            check_same(alone(part, policy), part, "a replica is a run")
            check_records(alone(part, policy))
    assert sum(len(part) for part in whole.runs if part is not None) == len(workload)
    assert whole.finished.all()


@settings(max_examples=25, deadline=None)
@given(CASES, FLEETS)
def test_interpreted_equals_compiled(case: Case, fleet: Fleet) -> None:
    workload, hardware, policy, config = case
    compiled = run_fleet(workload, hardware, policy, fleet, config)
    plain = run_fleet(workload, hardware, policy, fleet, config, compile=False)
    assert np.array_equal(compiled.replica, plain.replica)
    check_same(compiled, plain, "interpreted equals compiled")


def test_round_robin_takes_turns() -> None:
    fleet = run_fleet(poisson(10, 50.0), SMALL, Greedy(), Fleet(3))
    assert fleet.replica.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def load_at(records: RunRecords, sent: int, time_s: float) -> tuple[int, int]:
    """(requests in the system, KV tokens) of a replica that was sent its first `sent` requests by `time_s`.

    From the decisions alone, for greedy without a prefix cache, whose engine is empty where it idles.
    """
    steps, load = records.steps, records.workload
    assert steps is not None
    resident, computed, generated = set(), np.zeros(len(load), int), np.zeros(len(load), int)
    batches = np.split(steps.batch, np.cumsum(steps.scheduled)[:-1])
    victims = np.split(steps.victims, np.cumsum(steps.preempted)[:-1])
    blocks = 0
    for k in range(int(np.searchsorted(steps.start_s, time_s, side="left"))):
        resident -= set(victims[k].tolist())
        computed[victims[k]] = 0
        rows, tokens = batches[k].T
        resident |= set(rows.tolist())
        computed[rows] += tokens
        blocks = sum(-(-int(computed[row]) // records.hardware.block_size) for row in resident)
        if steps.end_s[k] <= time_s:
            generated[rows[computed[rows] == load.prompt_tokens[rows] + generated[rows]]] += 1
            resident = {row for row in resident if generated[row] < load.output_tokens[row]}
            blocks = sum(-(-int(computed[row]) // records.hardware.block_size) for row in resident)
    there = [row for row in range(sent) if generated[row] < load.output_tokens[row]]
    waiting = sum(int(load.prompt_tokens[row] + generated[row]) for row in there if row not in resident)
    return len(there), blocks * records.hardware.block_size + waiting


@pytest.mark.parametrize("on_a_grid", [False, True], ids=["no ties", "ties in time"])
@pytest.mark.parametrize("router", ["least-loaded", "least-kv"])
@pytest.mark.parametrize("seed", range(3))
def test_the_least_loaded_replica_is_chosen(router: str, seed: int, on_a_grid: bool) -> None:
    """Every choice against loads that are replayed from the decisions of separate runs."""
    workload, hardware, replicas = poisson(150, 60.0, seed), SMALL, 3
    if (
        on_a_grid
    ):  # steps of 1/16 s, arrivals at multiples of 1/32 s: at the start, at the end and in the middle of steps
        workload = replace(workload, arrival_s=np.round(workload.arrival_s * 32) / 32)
        hardware = replace(hardware, step_time=StepTime(c0=1 / 16))
    config = EngineConfig(enable_prefix_caching=False, max_num_seqs=6)
    fleet = run_fleet(workload, hardware, Greedy(), Fleet(replicas, router), config)
    assert fleet.preemptions.any()
    runs = [alone(part, Greedy()) for part in fleet.runs if part is not None]
    gaps = 0
    for i, time_s in enumerate(workload.arrival_s):
        sent = np.bincount(fleet.replica[:i], minlength=replicas)
        loads = [load_at(runs[k], sent[k], time_s)[router == "least-kv"] for k in range(replicas)]
        in_turn = [(i + j) % replicas for j in range(replicas)]
        assert fleet.replica[i] == min(in_turn, key=lambda k: loads[k]), (i, loads)
        gaps += len(set(loads)) > 1
    assert gaps > 50  # the loads differ: the choice is one


def test_power_of_two_asks_two_and_takes_the_less_loaded() -> None:
    workload, replicas = poisson(200, 100.0), 5
    config = EngineConfig(enable_prefix_caching=False)
    fleet = run_fleet(workload, SMALL, Greedy(), Fleet(replicas, "power-of-two", 3), config)
    runs = [alone(part, Greedy()) for part in fleet.runs if part is not None]
    beaten = []
    for i, time_s in enumerate(workload.arrival_s):
        sent = np.bincount(fleet.replica[:i], minlength=replicas)
        loads = [load_at(runs[k], sent[k], time_s)[0] for k in range(replicas)]
        beaten.append(sum(load >= loads[fleet.replica[i]] for load in loads) - 1)
    assert min(beaten) >= 1  # the more loaded of two is never taken
    assert np.mean(np.array(beaten) < replicas - 1) > 0.2  # and not everybody was asked


def labelled(outputs: list[int], labels: list[int]) -> Workload:
    n = len(outputs)
    names = tuple(f"label {k}" for k in range(max(labels) + 1))
    return Workload(np.arange(n) * 0.01, np.full(n, 4), np.array(outputs), class_id=np.array(labels), class_names=names)


def test_labels_go_to_replicas() -> None:
    load = labelled([3, 4, 5, 6, 7, 8], [0, 2, 1, 2, 3, 0])
    assert run_fleet(load, SMALL, Greedy(), Fleet(3, "by-class")).replica.tolist() == [0, 2, 1, 2, 0, 0]


def test_a_label_for_every_replica_is_needed() -> None:
    load = labelled([3, 4, 5], [0, 1, 0])
    with pytest.raises(InputError, match=r"by-class sends each label to one replica, and .* has 2 for 3 replicas"):
        simulate(load, SMALL, Greedy(), fleet=Fleet(3, "by-class"))
    assert simulate(load, SMALL, Greedy(), fleet=Fleet(2, "by-class")).finished.all()


def test_every_length_takes_turns() -> None:
    """Lengths that come in turn stay apart under round-robin; each replica gets its share of all under gcd-mixing."""
    load = labelled([6, 9] * 8, [0] * 16)
    apart = run_fleet(load, SMALL, Greedy(), Fleet(2)).replica
    assert [set(load.output_tokens[apart == k].tolist()) for k in range(2)] == [{6}, {9}]
    mixed = run_fleet(load, SMALL, Greedy(), Fleet(2, "gcd-mixing")).replica
    assert [np.bincount(load.output_tokens[mixed == k])[[6, 9]].tolist() for k in range(2)] == [[4, 4], [4, 4]]
    assert run_fleet(labelled([3, 4, 5, 6, 7], [0] * 5), SMALL, Greedy(), Fleet(3, "gcd-mixing")).replica.tolist() == [
        *(0, 1, 2),
        *(0, 1),
    ]


@quick
@given(st.lists(st.sampled_from([2, 3, 5, 8, 13]), min_size=1, max_size=60), st.integers(1, 5))
def test_no_share_of_a_length_is_larger_by_two(outputs: list[int], replicas: int) -> None:
    """And so the common divisor of a replica's lengths is that of all, once each has as many requests as replicas."""
    load = labelled(outputs, [0] * len(outputs))
    fleet = run_fleet(load, SMALL, Greedy(), Fleet(replicas, "gcd-mixing"))
    for length in set(outputs):
        shares = np.bincount(fleet.replica[load.output_tokens == length], minlength=replicas)
        assert shares.max() - shares.min() <= 1
        seen = [fleet.replica[i] for i in range(len(outputs)) if outputs[i] == length]
        assert all((b - a) % replicas == 1 % replicas for a, b in pairwise(seen))


def test_power_of_two_repeats_with_its_seed() -> None:
    first, again, other = (
        run_fleet(poisson(200, 100.0), SMALL, Greedy(), Fleet(8, "power-of-two", seed)) for seed in (1, 1, 2)
    )
    check_same(first, again, "same seed, same bits")
    assert np.array_equal(first.replica, again.replica)
    assert not np.array_equal(first.replica, other.replica)
    assert set(first.replica.tolist()) == set(range(8))


def test_least_kv_keeps_long_prompts_apart() -> None:
    """Every fourth prompt is long: taking turns sends them all to one replica of four, where they queue."""
    n = 200
    workload = Workload(np.arange(n) * 0.05, np.where(np.arange(n) % 4 == 0, 100, 4), np.full(n, 12))
    queued_s = {}
    for router in ("round-robin", "least-kv"):
        fleet = run_fleet(workload, SMALL, Greedy(), Fleet(4, router))
        assert fleet.finished.all()
        queued_s[router] = float((fleet.first_scheduled_s - fleet.arrival_s).mean())
    assert queued_s["least-kv"] < queued_s["round-robin"] / 2


def test_totals_are_those_of_the_replicas() -> None:
    fleet = run_fleet(poisson(300, 100.0), SMALL, Greedy(), Fleet(3, "least-loaded"))
    runs = [part for part in fleet.runs if part is not None]
    for name in ("busy_s", "iterations", "computed_tokens", "nearly_full_s", "gap_sum_s"):
        assert getattr(fleet, name) == pytest.approx(sum(getattr(part, name) for part in runs))
    assert fleet.peak_blocks == max(part.peak_blocks for part in runs)
    assert fleet.end_s == max(part.end_s for part in runs)
    assert fleet.mean_blocks * fleet.busy_s == pytest.approx(sum(part.mean_blocks * part.busy_s for part in runs))
    assert fleet.gap_counts.sum() == sum(part.gap_counts.sum() for part in runs)


def test_imbalance_by_hand() -> None:
    workload = Workload(np.arange(3.0), np.array([10, 20, 30]), np.array([5, 5, 5]))
    fleet = run_fleet(workload, SMALL, Greedy(), Fleet(2))
    assert fleet.tokens_by_replica.tolist() == [15 + 35, 25]
    assert fleet.imbalance == pytest.approx(50 / 37.5)
    lonely = run_fleet(workload.take(slice(0, 1)), SMALL, Greedy(), Fleet(4, "least-kv"))
    assert [part is None for part in lonely.runs] == [False, True, True, True]
    assert lonely.imbalance == 4


def test_an_idle_fleet_takes_turns() -> None:
    workload = Workload(np.arange(8) * 100.0, np.full(8, 4), np.full(8, 4))
    for router in ("least-loaded", "least-kv"):
        assert run_fleet(workload, SMALL, Greedy(), Fleet(4, router)).replica.tolist() == [0, 1, 2, 3] * 2


def test_every_policy_has_a_memory_per_replica() -> None:
    """One seat per replica: two replicas serve two requests at once, three take turns."""
    workload = Workload(np.zeros(2), np.full(2, 4), np.full(2, 4))
    pair = run_fleet(workload, SMALL, ConcurrencyCap(1.0), Fleet(2, "least-loaded"))
    assert pair.first_scheduled_s.tolist() == [0.0, 0.0]
    assert run_fleet(workload, SMALL, ConcurrencyCap(1.0), Fleet(1)).first_scheduled_s[1] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "replicas = 0 must be a whole number, at least 1"),
        ((-3,), "replicas = -3"),
        ((2.5,), "replicas = 2.5"),
        ((float("nan"),), "replicas = nan"),
        ((2, "fastest"), "unknown router 'fastest'. Known: round-robin, least-loaded, least-kv, power-of-two"),
        ((2, "power-of-two", -1), "seed = -1"),
    ],
)
def test_refusals(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Fleet(*arguments)


@pytest.mark.parametrize("router", ROUTERS)
def test_a_policy_that_holds_for_ever_is_said(router: str) -> None:
    with pytest.raises(Stalled, match="policy never holds requests forever"):
        run_fleet(poisson(6, 1.0), SMALL, Never(), Fleet(2, router))


@pytest.mark.parametrize("router", ROUTERS)
def test_a_class_that_does_not_exist_is_said(router: str) -> None:
    with pytest.raises(InputError, match=r"classify puts request (\d) into class \1, and its num_classes is 3"):
        run_fleet(poisson(6, 1.0), SMALL, ClassByRow(), Fleet(2, router))


def test_views_are_named_as_what_they_view() -> None:
    """`replica_state` and `replica_cache` list fields by position."""
    made = new_state(poisson(3, 1.0), SMALL, EngineConfig(), ClassByRow())
    states, caches = stacked(*made, 3)
    state, cache = interpreted(replica_state)(states, 1), interpreted(replica_cache)(caches, 1)
    for view, stack in ((state, states), (cache, caches)):
        for name in view._fields:
            of = getattr(stack, name)
            if name == "source":  # one for all
                assert getattr(view, name) is of
                continue
            of = of[1] if isinstance(view, Cache) or name in OWN else of
            assert np.shares_memory(getattr(view, name), of) or of.size == 0, name
            assert getattr(view, name).shape == of.shape, name
    assert isinstance(state, State)
