"""fluidgate as flow control of the real py-inference-scheduler, driven as its integrations drive it."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fluidgate import EngineConfig, Workload, plan
from fluidgate.adapters.candidates import LOST_S
from fluidgate.adapters.entrance import Refused
from fluidgate.errors import InputError
from fluidgate.hardware import load_profile
from fluidgate.policies import make_policy
from fluidgate.serving import PlanFile
from fluidgate.workload import generate

pytest.importorskip("py_inference_scheduler", reason="llm-d's scheduler is not installed: pip install fluidgate[llm-d]")

from py_inference_scheduler import Endpoint, LLMRequest, Scheduler

from fluidgate.adapters.llm_d import USAGE_S, FluidgatePlugin

from .llm_d_router import BLOCK_SIZE, FakeReplica, Router

if TYPE_CHECKING:
    from fluidgate.fleet import FleetState

SCHEDULER = """
profile_handler: {type: single_profile}
profiles:
  default:
    scorers:
      - {type: kv_cache, weight: 3.0}
      - {type: least_queue, weight: 1.0}
    picker: {type: max_score}
    flow_control: {type: fluidgate, plan: %s, forget_after_s: 30}
"""


class Clock:
    """Seconds that pass when the test says so."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def plan_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("llm-d") / "plan.json")


def saved(path: Path, seats: int = 8, policy: str = "fluid") -> Path:
    hardware = load_profile("llama-2-7b", "a100-80gb")
    past: Workload = generate("azure-conv-2023", n=500, rate=4.0, seed=1)
    config = EngineConfig(max_num_seqs=seats, max_num_batched_tokens=2048)
    fluid_plan = plan(past, hardware, max_num_seqs=seats, max_num_batched_tokens=2048)
    PlanFile.of(fluid_plan, make_policy(policy, fluid_plan), config).save(path)
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plugin(plan_path: Path, clock: Clock) -> FluidgatePlugin:
    return FluidgatePlugin(str(plan_path), clock=clock)


def ends(*names: str, blocks: int = 5000, **stats: float) -> list[Endpoint]:
    return [
        Endpoint(name, {"routing_stats": dict(stats), "kv_cache_size": (blocks + 1) * BLOCK_SIZE}) for name in names
    ]


def request(name: str, tokens: int = 100) -> LLMRequest:
    return LLMRequest(name, body=list(range(tokens)))


def admitted(plugin: FluidgatePlugin, name: str, endpoints: list[Endpoint], tokens: int = 100) -> str | None:
    """Ask, and reserve what is allowed; returns the replica."""
    asked = request(name, tokens)
    allowed = plugin.get_allowed_candidates(asked, endpoints)
    if not allowed:
        return None
    assert len(allowed) == 1
    plugin.reserve(asked, allowed[0])
    return str(allowed[0].name)


def keep_asking(plugin: FluidgatePlugin, name: str, clock: Clock) -> None:
    for _ in range(100):
        clock.now_s += 2.0
        assert admitted(plugin, name, ends("a")) is None


def in_flight(plugin: FluidgatePlugin) -> dict[str, int]:
    state: FleetState = plugin.state()
    return {one.name: one.in_flight for one in state.replicas}


def adds_up(plugin: FluidgatePlugin) -> bool:
    ledger, state = plugin.ledger, plugin.state()
    held = sum(one.in_flight for one in state.replicas)
    return ledger.came == state.waiting + held + ledger.served + ledger.failed + ledger.left + ledger.refused


def test_requests_go_where_most_room_is_until_the_seats_are_taken(plugin: FluidgatePlugin) -> None:
    went = [admitted(plugin, str(k), ends("a", "b")) for k in range(17)]
    assert went == ["a", "b"] * 8 + [None]
    assert in_flight(plugin) == {"a": 8, "b": 8}
    plugin.release(request("3"), "b")
    assert admitted(plugin, "16", ends("a", "b")) == "b"
    assert adds_up(plugin)


def test_whoever_asks_takes_the_room(plugin: FluidgatePlugin) -> None:
    for k in range(10):
        admitted(plugin, str(k), ends("a"))
    plugin.release(request("0"), "a")
    assert admitted(plugin, "9", ends("a")) == "a"  # 8 sleeps, and only who is woken asks
    assert admitted(plugin, "8", ends("a")) is None


def test_by_arrival_the_first_that_came_goes_first(plan_path: Path, clock: Clock) -> None:
    plugin = FluidgatePlugin(str(plan_path), order="arrival", clock=clock)
    for k in range(10):
        admitted(plugin, str(k), ends("a"))
    plugin.release(request("0"), "a")
    assert admitted(plugin, "9", ends("a")) is None
    assert admitted(plugin, "8", ends("a")) == "a"
    assert in_flight(plugin) == {"a": 8}


def test_who_is_not_asked_for_any_more_leaves_the_queue(plan_path: Path, clock: Clock) -> None:
    plugin = FluidgatePlugin(str(plan_path), order="arrival", forget_after_s=3.0, clock=clock)
    for k in range(10):
        admitted(plugin, str(k), ends("a"))
    plugin.release(request("0"), "a")
    for _ in range(4):
        clock.now_s += 1.0
        went = admitted(plugin, "9", ends("a"))
    assert went == "a"  # the client of 8 has left
    assert plugin.ledger.left == 1
    assert adds_up(plugin)


def test_what_was_allowed_and_never_reserved_is_free_again(plugin: FluidgatePlugin, clock: Clock) -> None:
    plugin.get_allowed_candidates(request("1"), ends("a"))
    assert in_flight(plugin) == {"a": 1}
    clock.now_s += 6.0
    assert in_flight(plugin) == {"a": 0}
    assert plugin.ledger.left == 1
    plugin.get_allowed_candidates(request("2"), ends("a"))
    plugin.release(request("2"), "a")  # it was sent somewhere else, and is over
    assert in_flight(plugin) == {"a": 0}
    assert adds_up(plugin)


def test_a_scheduler_that_picks_another_replica_is_followed(plugin: FluidgatePlugin) -> None:
    allowed = plugin.get_allowed_candidates(request("1"), ends("a", "b"))
    assert [one.name for one in allowed] == ["a"]
    plugin.reserve(request("1"), ends("b")[0])
    plugin.reserve(request("never asked for"), ends("c")[0])
    assert in_flight(plugin) == {"a": 0, "b": 1, "c": 1}
    assert adds_up(plugin)


def test_who_asks_again_was_not_taken_and_may_go_elsewhere(plugin: FluidgatePlugin) -> None:
    assert admitted(plugin, "1", ends("a", "b")) == "a"
    assert admitted(plugin, "1", ends("b")) == "b"
    assert in_flight(plugin) == {"a": 0, "b": 1}
    assert plugin.ledger.came == 1
    assert adds_up(plugin)


def test_who_was_allowed_a_replica_that_is_gone_goes_elsewhere(plugin: FluidgatePlugin) -> None:
    assert [one.name for one in plugin.get_allowed_candidates(request("1"), ends("a", "b"))] == ["a"]
    assert admitted(plugin, "1", ends("b")) == "b"
    assert in_flight(plugin) == {"a": 0, "b": 1}
    assert plugin.ledger.came == 1


def test_a_replica_is_as_large_as_it_says_and_its_gauges_count(plan_path: Path, clock: Clock) -> None:
    plugin, same = (FluidgatePlugin(str(plan_path), clock=clock) for _ in range(2))
    small = ends("a", blocks=60)
    assert admitted(plugin, "1", small) == "a"
    assert admitted(plugin, "2", small) is None
    busy = ends("a", kv=0.9, num_running_reqs=8, num_waiting_reqs=0, num_preempted=0)
    assert [admitted(same, name, busy) for name in ("1", "2")] == ["a", None]  # others have the seats
    given = FluidgatePlugin(str(plan_path), total_blocks=4000, clock=clock)
    admitted(given, "1", small)
    assert admitted(given, "2", small) == "a"


def test_statistics_that_are_not_there_or_cannot_be_are_left_out(plugin: FluidgatePlugin) -> None:
    for k, stats in enumerate(({}, {"kv": "?"}, {"kv": 0.5, "num_running_reqs": -1}, {"kv": 0.99, "error": "timeout"})):
        assert admitted(plugin, str(k), [Endpoint("a", {"routing_stats": stats, "kv_cache_size": -1})]) == "a"
    assert admitted(plugin, "bare", [Endpoint("a")]) == "a"


def test_nothing_in_flight_means_that_who_asks_goes(plugin: FluidgatePlugin) -> None:
    """No end of ours would wake it, and the requests of others may never end."""
    full = [
        *ends("a", kv=1.0, num_running_reqs=8, num_waiting_reqs=9),
        *ends("b", kv=0.98, num_running_reqs=8, num_waiting_reqs=0),
    ]
    assert [admitted(plugin, name, full) for name in ("1", "2")] == ["b", None]
    plugin.release(request("1"), "b")
    assert admitted(plugin, "2", full) == "b"
    assert adds_up(plugin)


def test_a_prompt_that_no_replica_holds_is_left_to_the_servers(plugin: FluidgatePlugin) -> None:
    small = ends("a", "b", blocks=5)
    assert plugin.get_allowed_candidates(request("1", 500), small) == small
    plugin.reserve(request("1", 500), small[0])
    plugin.release(request("1", 500), "a")
    assert plugin.ledger.came == 0
    assert adds_up(plugin)
    assert plugin.get_allowed_candidates(request("2"), []) == []


def test_lengths_are_learned_whenever_they_are_told(plugin: FluidgatePlugin, clock: Clock) -> None:
    name, characters = plugin._get_rollout_request_id("to be or not to be")
    assert characters == 18
    told = LLMRequest("1", body="to be or not to be")
    plugin.reserve(told, plugin.get_allowed_candidates(told, ends("a"))[0])
    clock.now_s += 4.0
    plugin.release(told, "a")
    plugin.update_learned_stats(name, 6, 80)  # after its end
    assert plugin.state().replicas[0].pace_s == 0.05
    before = LLMRequest("2", body="to be or not to be")
    plugin.reserve(before, plugin.get_allowed_candidates(before, ends("a"))[0])
    clock.now_s += 4.0
    plugin.update_learned_stats(name, 6, 80)  # before it
    plugin.release(before, "a")
    assert plugin.state().replicas[0].pace_s == 0.05
    assert plugin._ended == plugin._gate.books.row_of == {}
    assert plugin.ledger.served == 2


def test_where_lengths_are_never_told_ages_follow_from_the_times(plugin: FluidgatePlugin, clock: Clock) -> None:
    mean = sum(plugin._planned.policy.output_quantiles) / len(plugin._planned.policy.output_quantiles)
    for k in range(3):
        admitted(plugin, str(k), ends("a"))
        clock.now_s += 10.0
        plugin.release(request(str(k)), "a")
    clock.now_s += USAGE_S + 1.0
    assert plugin.state().replicas[0].pace_s == pytest.approx(10.0 / mean, rel=0.01)
    assert plugin._gate.books.row_of == {}


def test_where_they_are_told_who_has_none_has_failed(plugin: FluidgatePlugin, clock: Clock) -> None:
    admitted(plugin, "1", ends("a"))
    plugin.release(request("1"), "a")
    plugin.update_learned_stats("of nobody", 5, 5)
    clock.now_s += USAGE_S + 1.0
    assert plugin.state().replicas[0].pace_s == 0.0
    assert plugin._gate.books.row_of == {}
    assert plugin._ended == {}


def test_a_replica_that_is_not_offered_gets_nothing_and_in_the_end_is_gone(
    plugin: FluidgatePlugin, clock: Clock
) -> None:
    assert [admitted(plugin, name, ends("a", "b")) for name in "12"] == ["a", "b"]
    assert [admitted(plugin, name, ends("a")) for name in "34"] == ["a", "a"]
    assert in_flight(plugin) == {"a": 3, "b": 1}
    clock.now_s += LOST_S + 1.0
    admitted(plugin, "5", ends("a"))
    assert in_flight(plugin) == {"a": 4, "b": 0}
    assert plugin.ledger.failed == 1
    plugin.release(request("2"), "b")  # of the lost one; too late to matter
    assert admitted(plugin, "6", ends("a", "b")) == "b"
    assert adds_up(plugin)


def test_deadlines_of_the_plan_refuse_only_where_that_is_asked_for(tmp_path: Path, clock: Clock) -> None:
    path = saved(tmp_path / "plan.json", policy="fluid:timeout_s=60")
    waits, refuses = (FluidgatePlugin(str(path), refuse=refuse, clock=clock) for refuse in (False, True))
    for plugin in (waits, refuses):
        for k in range(9):
            admitted(plugin, str(k), ends("a"))
    clock.now_s += 4.0
    for plugin in (waits, refuses):
        name, _ = plugin._get_rollout_request_id(request("0").body)
        plugin.release(request("0"), "a")
        plugin.update_learned_stats(name, 100, 80)
        assert admitted(plugin, "8", ends("a")) == "a"
        assert admitted(plugin, "9", ends("a")) is None
    keep_asking(waits, "9", clock)
    with pytest.raises(Refused) as refused:
        keep_asking(refuses, "9", clock)
    assert refused.value.retry_after_s >= 1.0
    assert refuses.ledger.refused == 1
    assert adds_up(waits)
    assert adds_up(refuses)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": "random"}, "order = 'random' must be 'asked' or 'arrival'"),
        ({"forget_after_s": 0.0}, "forget_after_s = 0"),
        ({"stats_age_s": -1.0}, "stats_age_s = -1"),
        ({"gates": 0}, "gates = 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str, plan_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        FluidgatePlugin(str(plan_path), **options)


# Through the scheduler


def scheduler_of(plan_path: Path, folder: Path) -> Scheduler:
    path = folder / "scheduler.yaml"
    path.write_text(SCHEDULER % plan_path)
    scheduler = Scheduler(str(path))
    scheduler._maybe_reload_config()  # as a router does before it asks for the plugins
    assert scheduler.has_flow_control()
    return scheduler


def drawn(count: int) -> list[tuple[int, int]]:
    """Prompt and output tokens of requests like the planned ones."""
    past = generate("azure-conv-2023", n=count, rate=4.0, seed=7)
    return list(zip(past.prompt_tokens.tolist(), past.output_tokens.tolist(), strict=True))


def test_three_hundred_requests_in_threads_where_a_replica_goes_half_way(plan_path: Path, tmp_path: Path) -> None:
    replicas = [FakeReplica(name, 1500, 5e-5) for name in ("a", "b")]
    router = Router(scheduler_of(plan_path, tmp_path), replicas)
    ended, half = [0], threading.Lock()

    def client(k: int, prompt: int, output: int) -> bool:
        served = router.serve(request(f"r{k}", prompt), prompt, output)
        with half:
            ended[0] += 1
            if ended[0] == 150:
                replicas[1].gone.set()
        return served

    with ThreadPoolExecutor(40) as threads:
        results = list(threads.map(lambda each: client(each[0], *each[1]), enumerate(drawn(300))))
    (plugin,) = router.scheduler.get_flow_control_plugins()
    assert len(results) == 300
    assert 0 < results.count(False) < 40  # what was in flight at the one that went, or on its way there
    assert all(0 < replica.most_held <= 8 for replica in replicas)
    assert plugin.ledger.came == plugin.ledger.served == 300  # the protocol tells no failures
    assert in_flight(plugin) == {"a": 0, "b": 0}
    assert plugin.state().waiting == 0
    assert adds_up(plugin)


def test_on_an_event_loop_everybody_is_served_though_each_end_wakes_one(plan_path: Path, tmp_path: Path) -> None:
    """As the Ray Serve integration: who is not allowed sleeps until an end wakes it, in the order of sleeping."""
    scheduler = scheduler_of(plan_path, tmp_path)
    (plugin,) = scheduler.get_flow_control_plugins()
    replicas = [FakeReplica(name, 400, 0.0) for name in ("a", "b")]
    asleep: list[asyncio.Future[None]] = []
    most = [0]

    async def client(k: int, prompt: int, output: int) -> None:
        asked = request(f"r{k}", prompt)
        while not (allowed := plugin.get_allowed_candidates(asked, [replica.endpoint() for replica in replicas])):
            asleep.append(asyncio.get_running_loop().create_future())
            await asleep[-1]
        selected = scheduler.run(asked, allowed)[0].endpoint
        plugin.reserve(asked, selected)
        replica = next(one for one in replicas if one.name == selected.name)
        replica.held[asked.request_id] = prompt + output // 2
        most[0] = max(most[0], sum(len(one.held) for one in replicas))
        await asyncio.sleep(output * 5e-5)
        del replica.held[asked.request_id]
        plugin.release(asked, selected.name)
        if asleep:
            asleep.pop(0).set_result(None)

    async def everybody() -> None:
        shuffled = drawn(200)
        random.Random(1).shuffle(shuffled)
        await asyncio.wait_for(asyncio.gather(*(client(k, *each) for k, each in enumerate(shuffled))), 120.0)

    asyncio.run(everybody())
    assert plugin.ledger.served == 200
    assert 2 < most[0] <= 16
    assert adds_up(plugin)


def test_the_scheduler_is_configured_as_its_users_do(plan_path: Path, tmp_path: Path) -> None:
    scheduler = scheduler_of(plan_path, tmp_path)
    (plugin,) = scheduler.get_flow_control_plugins()
    assert isinstance(plugin, FluidgatePlugin)
    allowed = plugin.get_allowed_candidates(request("1"), ends("a", "b"))
    assert scheduler.schedule(request("1"), allowed).profile_results["default"].endpoint_list[0].endpoint.name == "a"
