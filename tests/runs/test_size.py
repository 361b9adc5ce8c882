"""The cheapest fleet: equal to an exhaustive search, proved, the same bits however it is run; bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import Slo, parse_objectives
from fluidgate.metrics.per_request import tpot_s, ttft_s
from fluidgate.policies import Greedy
from fluidgate.runs import Runner
from fluidgate.runs.size import Choices, Machine, Sizing, machines_of, size
from fluidgate.runs.size.bounds import floors, law_of, why_overloaded, why_too_slow
from fluidgate.runs.size.demand import Demand
from fluidgate.runs.size.search import Count, Found, MachineSearch, MachineSearches
from fluidgate.runs.size.trials import Certainty, Outcome, Replications, Trial, Trials
from fluidgate.workload import MMPP2, Conversation, Discrete, Fixed, Independent, Poisson, Synthetic, Workload, generate

from .sizing_cases import CONFIG, MOST, REQUESTS, Case, cheapest_of, exhaustive, random_case, searched

STEP_TIME = StepTime(c0=0.01, c_tok=5e-5, c_kv=2e-7, c_attn=1e-9, c_seq=1e-5)
SERVER = Hardware("a server", STEP_TIME, 2000)
EQUAL = Synthetic("equal requests", Poisson(1.0), Independent(Fixed(400), Fixed(20)))
GREEDY = Choices(policies=("greedy",), seats=(), budgets=())


def machine(hardware: Hardware = SERVER, price: float | None = None, gpu: str = "gpu") -> Machine:
    return Machine(gpu, 1, hardware, price=price)


def demand(*objectives: str, rate: float = 1.0, **more: Any) -> Demand:
    return Demand(EQUAL, rate, parse_objectives(objectives, more.get("slo")), requests=REQUESTS, **more)


def sized(case: Case, **settings: Any) -> Sizing:
    return size(case.source, case.machines, case.objectives, **{**case.asked, **settings})


@pytest.mark.parametrize("seed", range(10))
def test_the_search_finds_what_trying_everything_finds(seed: int) -> None:
    case = random_case(seed)
    assert cheapest_of(case, searched(case)) == exhaustive(case)


def test_the_cases_are_of_both_kinds() -> None:
    answers = [exhaustive(random_case(seed)) for seed in (6, 9)]
    assert answers[0] is not None
    assert answers[0][2].policy == "watermark"  # where greedy does not hold
    assert answers[1] is None


def test_a_proved_fleet_holds_on_other_seeds_and_a_cheaper_one_does_not() -> None:
    case = random_case(7)
    sizing = sized(case)
    answer, proof = sizing.answer, sizing.proof
    assert answer is not None
    assert proof is not None
    assert answer.machine.hardware is not None
    assert proof.outcome.holds
    asked = Demand(case.source, case.rate, case.objectives, requests=REQUESTS)
    unseen = Trial(answer.machine.hardware, answer.flags, answer.replicas, first_seed=500, replications=16)
    assert Replications(unseen, asked, CONFIG, 0.05).outcome().excess < 0
    assert proof.cheaper
    for cheaper in proof.cheaper:
        assert cheaper.replicas * cheaper.machine.unit_cost < answer.cost
        assert cheaper.why or (cheaper.outcome is not None and not cheaper.outcome.holds)


def test_all_fleets_that_cost_less_were_tried_or_ruled_out() -> None:
    case = random_case(2)
    sizing = sized(case)
    assert sizing.answer is not None
    for machine, found in zip(sizing.machines, sizing.found, strict=True):
        affordable = int(np.ceil(sizing.answer.cost / machine.unit_cost)) - 1
        counts = [count.replicas for count in found.counts if not count.holds]
        assert set(range(1, min(affordable, MOST) + 1)) <= set(counts)


def test_processes_and_a_results_file_give_the_same_bits(tmp_path: Path) -> None:
    case = random_case(9)
    alone = sized(case)
    results = tmp_path / "size.jsonl"
    both = sized(case, runner=Runner(jobs=2, results=results))
    assert both.to_dict() == alone.to_dict()
    seen: list[tuple[int, int]] = []
    again = sized(case, runner=Runner(results=results, progress=lambda *done: seen.append(done)))
    assert again.to_dict() == alone.to_dict()
    assert seen[0] == (len(case.machines), len(case.machines))  # nothing ran again


def test_an_impossible_demand_names_the_nearest() -> None:
    impossible = size(EQUAL, [machine()], ["p90:ttft:1"], rate=1.0, choices=GREEDY, requests=REQUESTS, max_gpus=2)
    assert impossible.answer is None
    assert impossible.nearest is not None
    assert "even alone on it, 100% of the requests take longer" in impossible.nearest.count.why


def test_what_the_search_leaves_undecided_is_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"rate": 1.0, "choices": GREEDY, "requests": REQUESTS, "max_gpus": 1}
    shy = MachineSearches.search

    def undecided(self: MachineSearches, job: MachineSearch) -> Found:
        found = shy(self, job)
        return replace(found, counts=tuple(replace(count, holds=None) for count in found.counts))

    sure = size(EQUAL, [machine()], ["p90:ttft:900"], **asked)
    monkeypatch.setattr(MachineSearches, "search", undecided)
    shown = size(EQUAL, [machine()], ["p90:ttft:900"], **asked)
    assert shown.answer is not None
    assert sure.answer is not None
    assert (shown.answer.replicas, shown.answer.flags) == (sure.answer.replicas, sure.answer.flags)
    assert shown.proof is not None
    assert shown.proof.outcome.holds


def test_where_a_setting_is_not_proved_the_next_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Choices(policies=("greedy", "watermark"), seats=(), budgets=())
    asked = {"rate": 1.0, "choices": two, "requests": REQUESTS, "max_gpus": 1}
    honest = Trials.__call__

    def refutes_greedy(self: Trials, job: Trial) -> dict[str, Any]:
        row = honest(self, job)
        return row | {"holds": None} if job.flags.policy == "greedy" else row

    monkeypatch.setattr(Trials, "__call__", refutes_greedy)
    sizing = size(EQUAL, [machine()], ["p90:ttft:900"], **asked)
    assert sizing.answer is not None
    assert sizing.answer.flags.policy == "watermark"
    assert sizing.answer.replicas == 1


def outcome(holds: bool | None, excess: float, runs: int = 4) -> Outcome:
    return Outcome(holds, "p90:ttft:900", (excess,), (1.0,), runs, {})


def raced(monkeypatch: pytest.MonkeyPatch, said: dict[tuple[str, bool, int | None], Outcome]) -> Count:
    """One replica's count where runs say this, by policy, whether they are short, and the most of them (None: all)."""

    def made_up(runs: Replications, most: int | None = None) -> Outcome:
        return said[runs.trial.flags.policy, runs.trial.short, most]

    monkeypatch.setattr(Replications, "outcome", made_up)
    two = Choices(policies=("greedy", "watermark"), seats=(), budgets=())
    searches = MachineSearches(demand("p90:ttft:900"), CONFIG, two, Certainty(0.05, 16))
    return searches.search(MachineSearch(machine(), 1, 1)).counts[0]


def test_what_short_runs_leave_undecided_is_run_long(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        ("greedy", True, None): outcome(None, 0.01),
        ("greedy", False, 4): outcome(True, -0.1),
        ("watermark", True, None): outcome(False, 0.9),
    }
    assert raced(monkeypatch, said).flags.policy == "greedy"


def test_an_earlier_setting_that_takes_more_runs_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        ("greedy", True, None): outcome(True, -0.1),
        ("greedy", False, 4): outcome(None, -0.01),
        ("greedy", False, None): outcome(True, -0.01, 16),
        ("watermark", True, None): outcome(True, -0.1),
        ("watermark", False, 4): outcome(True, -0.1),
    }
    count = raced(monkeypatch, said)
    assert (count.holds, count.flags.policy) == (True, "greedy")
    assert count.fooled == ()


def test_settings_that_only_short_runs_liked_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        ("greedy", True, None): outcome(True, -0.1),
        ("greedy", False, 4): outcome(False, 0.3),
        ("watermark", True, None): outcome(None, 0.0),
        ("watermark", False, 4): outcome(None, 0.1),
        ("watermark", False, None): outcome(None, 0.1, 16),
    }
    count = raced(monkeypatch, said)
    assert count.holds is None
    assert count.flags.policy == "watermark"  # undecided is nearer than failed
    assert [flags.policy for flags in count.fooled] == ["greedy"]


def test_room_to_grow_ends_at_the_boundary() -> None:
    boundary = law_of(demand("p90:ttft:1"), SERVER, EngineConfig()).boundary_rate
    lenient = ["mean:ttft:600000"]  # ten minutes: no run is long enough to break it
    sizing = size(EQUAL, [machine()], lenient, rate=boundary / 2, choices=GREEDY, requests=REQUESTS, max_gpus=1)
    answer, proof = sizing.answer, sizing.proof
    assert answer is not None
    assert proof is not None
    assert answer.growth == proof.growth == proof.tried == pytest.approx(2.0)
    assert proof.breaks[0].growth == np.inf
    assert proof.cause is None


def test_room_is_what_breaks_less_a_step() -> None:
    sizing = size(EQUAL, [machine()], ["p90:ttft:60"], rate=5.0, choices=GREEDY, requests=REQUESTS, max_gpus=1)
    assert sizing.proof is not None
    broken = sizing.proof.breaks[0].growth
    assert 1.0 < sizing.proof.growth < broken <= sizing.proof.tried
    assert broken == pytest.approx(1.05 * sizing.proof.growth)


def test_a_router_is_a_choice_only_before_several_replicas() -> None:
    two = Choices(policies=("greedy",), routers=("least-loaded", "round-robin"), seats=(), budgets=())
    assert [flags.router for flags in two.flags(SERVER, CONFIG, 1)] == ["round-robin"]
    assert [flags.router for flags in two.flags(SERVER, CONFIG, 2)] == ["least-loaded", "round-robin"]
    assert [flags.words for flags in two.flags(SERVER, CONFIG, 2)] == ["greedy, router least-loaded", "greedy"]


def test_settings_with_the_fewest_changes_come_first() -> None:
    every = Choices(policies=("greedy", "fluid"), seats=(8, 10**6), budgets=(256,)).flags(SERVER, CONFIG, 2)
    changes = [
        (f.policy != "greedy") + (f.max_num_seqs is not None) + (f.max_num_batched_tokens is not None) for f in every
    ]
    assert changes == sorted(changes)
    assert len(set(every)) == len(every) == 8  # no more seats than the server has
    assert every[0].words == "greedy"


def test_what_breaks_it_is_what_there_is_too_little_of() -> None:
    few_seats = EngineConfig(max_num_seqs=2)
    fast = machine(Hardware("roomy", StepTime(c0=0.02, c_tok=1e-6), 20_000))
    sizing = size(
        EQUAL, [fast], ["p90:ttft:1500"], rate=3.5, choices=GREEDY, config=few_seats, requests=REQUESTS, max_gpus=1
    )
    assert sizing.proof is not None
    assert sizing.proof.cause == "seats"
    little_memory = machine(Hardware("small", StepTime(c0=0.02, c_tok=1e-6), 60))
    tight = size(EQUAL, [little_memory], ["p90:ttft:1500"], rate=3.0, choices=GREEDY, requests=REQUESTS, max_gpus=1)
    assert tight.proof is not None
    assert tight.proof.cause == "KV memory"


def test_the_plan_is_of_the_rate_that_was_asked_for() -> None:
    bursty = replace(EQUAL, arrivals=MMPP2(rate_low=0.5, rate_high=4.0, mean_low_s=200.0, mean_high_s=100.0))
    sizing = size(bursty, [machine()], ["p90:ttft:600000"], rate=6.0, choices=GREEDY, requests=REQUESTS)
    assert sizing.answer is not None
    assert sizing.plan is not None
    assert sizing.plan.mix.rate == pytest.approx(6.0 / sizing.answer.replicas, rel=0.01)


def test_what_breaks_it_may_be_prompts() -> None:
    long_prompts = Synthetic("long prompts", Poisson(1.0), Independent(Fixed(4000), Fixed(4)))
    slow_prompts = machine(Hardware("slow prompts", StepTime(c0=0.005, c_tok=1e-4), 20_000))
    sizing = size(
        long_prompts, [slow_prompts], ["p90:ttft:2500"], rate=1.5, choices=GREEDY, requests=REQUESTS, max_gpus=1
    )
    assert sizing.proof is not None
    assert sizing.proof.cause == "prompt time"


def test_floors_are_what_a_request_takes_alone() -> None:
    lone = Workload(np.zeros(1), np.array([1000]), np.array([30]))
    config = EngineConfig(max_num_batched_tokens=256, async_scheduling=False)
    alone, floor = run(lone, SERVER, Greedy(), config), floors(lone, SERVER, config)
    assert floor.ttft_s[0] == pytest.approx(ttft_s(alone)[0], rel=1e-12)  # four chunks
    growth_s = STEP_TIME.c_kv * np.arange(29).mean()  # the floor takes the first decode's context for all
    assert floor.tpot_s[0] == pytest.approx(tpot_s(alone)[0] - growth_s, rel=1e-12)


def test_floors_are_never_above_what_a_crowd_gets() -> None:
    requests = generate(random_case(3).source, n=400, rate=20.0, seed=5)
    hardware = Hardware("a server", STEP_TIME, 3000)
    crowd, floor = run(requests, hardware, Greedy()), floors(requests, hardware, EngineConfig())
    assert (floor.ttft_s <= ttft_s(crowd) + 1e-12).all()
    several = requests.output_tokens > 1
    assert (floor.tpot_s[several] <= tpot_s(crowd)[several] + 1e-12).all()


def overloaded(objective: str, load: float, replicas: int = 1, **more: Any) -> str:
    boundary = law_of(demand(objective, **more), SERVER, EngineConfig()).boundary_rate
    asked = demand(objective, rate=load * boundary, **more)
    return why_overloaded(law_of(asked, SERVER, EngineConfig()), SERVER, asked, replicas)


def test_overload_rules_out_only_what_may_not_be_missed_so_often() -> None:
    assert "overloaded" in overloaded("p90:ttft:1000", 1.2)  # 17% never served, 10% may be
    assert not overloaded("p50:ttft:1000", 1.2)
    assert not overloaded("p90:ttft:1000", 1.2, replicas=2)
    assert overloaded("mean:ttft:1000", 1.001)
    assert not overloaded("goodput:0.8", 1.2, slo=Slo(ttft_ms=1000.0))
    assert overloaded("goodput:0.9", 1.2, slo=Slo(ttft_ms=1000.0))


def test_a_bound_below_the_floor_rules_a_machine_out() -> None:
    assert "p90 TPOT" in why_too_slow(SERVER, demand("p90:tpot:5"), EngineConfig())
    assert not why_too_slow(SERVER, demand("p90:tpot:20"), EngineConfig())
    slow_prompt = demand("goodput:0.5", slo=Slo(ttft_ms=1.0))
    assert "goodput" in why_too_slow(SERVER, slow_prompt, EngineConfig())


def test_a_trace_is_bootstrapped_and_its_rate_changed() -> None:
    trace = generate(EQUAL, n=2000, rate=2.0, seed=1)
    asked = Demand(trace, 5.0, parse_objectives(["p90:ttft:1000"], None), requests=REQUESTS)
    first, second = asked.draw(0), asked.draw(1)
    assert len(first) == REQUESTS
    assert first.rate == pytest.approx(5.0, rel=0.1)
    assert not np.array_equal(first.arrival_s, second.arrival_s)
    assert len(asked.draw(0, short=True)) == REQUESTS // 8


def test_a_machine_that_the_model_does_not_fit_says_why() -> None:
    fits, does_not = machines_of("llama-3.1-70b", ["h100", "l4"], [4], {"h100": 2.5, "l4": 0.7})
    assert fits.hardware is not None
    assert fits.unit_cost == 10.0
    assert does_not.hardware is None
    assert does_not.why_not
    sizing = size(EQUAL, [does_not, machine(price=1.0)], ["p90:ttft:5000"], choices=GREEDY, requests=REQUESTS)
    assert sizing.found[0].why_not == does_not.why_not
    assert sizing.answer is not None


def test_requests_that_are_too_long_are_no_load() -> None:
    config = EngineConfig(max_model_len=1000)
    half_too_long = replace(EQUAL, lengths=Independent(Discrete([400, 2000], [0.5, 0.5]), Fixed(20)))
    asked = Demand(half_too_long, 10.0, parse_objectives(["p90:ttft:1000"], None), requests=REQUESTS)
    law = law_of(asked, SERVER, config)
    assert law.rate == pytest.approx(5.0, rel=0.1)
    assert law.boundary_rate == pytest.approx(law_of(demand("p90:ttft:1"), SERVER, config).boundary_rate)


POLICY = """
import fluidgate as fg

@fg.policy("mine")
class Mine(fg.Policy):
    'Admits as the engine does.'
"""


def test_a_policy_of_ones_own_is_known_to_workers(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(POLICY)
    mine = Choices(policies=("mine",), seats=(), budgets=())
    asked: dict[str, Any] = {"rate": 1.0, "requests": REQUESTS, "max_gpus": 1}
    runner = Runner(jobs=2)
    own = size(
        EQUAL,
        [machine(), machine(gpu="other")],
        ["p90:ttft:900000"],
        choices=mine,
        policy_file=file,
        runner=runner,
        **asked,
    )
    greedy = size(EQUAL, [machine()], ["p90:ttft:900000"], choices=GREEDY, **asked)
    assert own.answer is not None
    assert greedy.answer is not None
    assert own.answer.flags.policy == "mine"
    assert own.answer.outcome.excesses == greedy.answer.outcome.excesses


def test_a_machine_that_is_named_twice_is_searched_once() -> None:
    assert [machine.label for machine in machines_of("llama-3.1-8b", ["h100", "h100-80gb"], [1, 1])] == ["h100-80gb"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"objectives": []}, "size needs something to keep"),
        ({"objectives": ["p95:ttft:3000", "p99:ttft:2000"]}, r"p95:ttft:3000 says nothing beside p99:ttft:2000"),
        ({"rate": float("inf")}, "cannot be sized for"),
        ({"requests": 100}, "100 requests per run are too few"),
        ({"objectives": ["p99.99:ttft:1000"]}, "at least 80,000 are needed"),
        ({"source": generate(EQUAL, n=300)}, "300 requests per run are too few"),
        ({"requests": 10**9}, "give between 1 and"),
        ({"objectives": ["goodput:1"], "slo": Slo(ttft_ms=1000.0)}, "no request ever misses"),
        ({"source": replace(EQUAL, conversation=Conversation(3, 10.0, 50.0))}, "wait for replies"),
        ({"max_gpus": 0}, "max_gpus = 0"),
        ({"replications": 3}, "3 replications are too few to test with; allow at least 4"),
        ({"alpha": 2.0}, "must be a probability above 0 and below 0.5"),
        ({"source": "azure"}, "unknown preset"),
        ({"source": replace(EQUAL, concurrency=4)}, "wait for replies"),
        ({"choices": Choices(policies=("greed",))}, "did you mean greedy"),
    ],
)
def test_bad_questions_are_one_sentence(change: dict[str, Any], sentence: str) -> None:
    asked = {"source": EQUAL, "machines": [machine()], "objectives": ["p90:ttft:1000"], **change}
    with pytest.raises(InputError, match=sentence):
        size(asked.pop("source"), asked.pop("machines"), asked.pop("objectives"), **asked)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["h100", "l40s"], [1], {"h100": 2.5}), "no price for l40s"),
        ((["h100"], [1], {"l40s": 2.5}), "l40s has a price and is not among the GPUs"),
        ((["h100"], [1], {"h100": 1.0, "h100-80gb": 9.0}), "is another name of another"),
        ((["h100"], [1], {"h100": -1.0}), "must be a finite number above 0"),
        ((["h1000"], [1], {}), "unknown GPU"),
        (([], [1], {}), "at least one GPU"),
        ((["l4"], [1], {}), "goes on none of these machines"),
        ((["h100"], [0], {}), "tp = 0"),
    ],
)
def test_bad_machines_are_one_sentence(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        machines_of("llama-3.1-70b", *arguments)


@pytest.mark.parametrize(
    "choice", [{"policies": ()}, {"seats": (0,)}, {"policies": ("greedy", "greedy")}, {"routers": ("roundrobin",)}]
)
def test_bad_choices_are_one_sentence(choice: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Choices(**choice)
