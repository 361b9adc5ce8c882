"""Whatever goes wrong in or around the gate, vLLM goes on serving, and what a request says never ends the gate."""

from __future__ import annotations

import logging
import math
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from fluidgate.policies import ConcurrencyCap, Fluid, Greedy, Policy, Wait
from fluidgate.serving.labels import CLASS_KEY, OUTPUT_TOKENS_KEY, Classes

from .live import MAX_STEPS, Live, disturb, needs_vllm, new_live, run_down

pytestmark = needs_vllm

TWO_TYPES = Wait(0.02, False, (0.4, 0.4), (20.0,))


def failing(calls: range, then: Any) -> Any:
    """`then`, which raises in the given calls."""
    count = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 in calls:
            raise ZeroDivisionError("a mistake in a policy")
        return then(*args, **kwargs)

    return wrapper


def counted(live: Live, counters: str, where: str) -> float:
    counter = getattr(live.scheduler.gate_metrics, counters)[where]
    return float(counter._value.get())


PLACES = [("joined", "add_request"), ("decide", "decide"), ("_admit", "decide"), ("book", "book")]


@pytest.mark.parametrize("calls", [0, 1, 40])
@pytest.mark.parametrize(("method", "where"), PLACES)
def test_an_error_that_stays_falls_back_once_and_loses_no_request(
    method: str, where: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = new_live(monkeypatch, ConcurrencyCap(3.0))
    monkeypatch.setattr(live.gate, method, failing(range(calls, 10**9), getattr(live.gate, method)))
    fell_back, rebuilt = counted(live, "fallbacks", where), counted(live, "rebuilds", where)
    for _ in range(60):
        live.add(20, 30)
    run_down(live)
    assert len(live.finished) == 60
    assert live.scheduler.gatekeeper is None
    assert counted(live, "fallbacks", where) == fell_back + 1
    assert counted(live, "rebuilds", where) == rebuilt + 1


@pytest.mark.parametrize("calls", [0, 1, 40])
@pytest.mark.parametrize(("method", "where"), PLACES)
def test_after_one_error_the_books_are_made_anew_and_the_gate_goes_on(
    method: str, where: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = new_live(monkeypatch, ConcurrencyCap(3.0))
    monkeypatch.setattr(live.gate, method, failing(range(calls, calls + 1), getattr(live.gate, method)))
    rebuilt = counted(live, "rebuilds", where)
    for _ in range(60):
        live.add(20, 30)
    run_down(live)
    assert len(live.finished) == 60
    assert live.gate.totals.held_steps > 0
    assert counted(live, "rebuilds", where) == rebuilt + 1


@pytest.mark.parametrize("policy", [ConcurrencyCap(3.0), Fluid(), TWO_TYPES], ids=lambda policy: policy.name)
@pytest.mark.parametrize("depth", [1, 2])
def test_spoilt_books_are_vllms_again_within_a_step(
    policy: Policy, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(depth)
    live = new_live(monkeypatch, policy, blocks=40, depth=depth)
    for step in range(MAX_STEPS):
        disturb(live, random, 120)
        if step % 100 == 50 and live.books.num_residents:
            spoil(live, random)
            live.spoilt += 1
        if live.scheduler.has_requests():
            live.form()
            live.assert_books_are_vllms()
        if live.in_flight:
            live.receive()
        if live.num_seen >= 120 and not live.unfinished:
            break
    assert not live.unfinished


def spoil(live: Live, random: Random) -> None:
    """Lose a resident, add one that is not there, or forget a request."""
    books = live.books
    row = int(books.residents[random.randrange(books.num_residents)])
    kind = random.choice(["lost", "ghost", "forgotten"])
    if kind == "lost":
        books.drop_residents([row])
    elif kind == "ghost":
        books.seat(books.new_row("nowhere in vLLM"))
    else:
        del books.row_of[books.name_of[row]]


def test_with_the_gate_off_it_is_stock_and_holds_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, ConcurrencyCap(3.0))
    monkeypatch.setattr(live.gate, "decide", failing(range(10**9), None))
    live.add(5, 5)
    for _ in range(3):
        live.form()
        live.receive()
    assert live.scheduler.gatekeeper is None
    before = {name for name in vars(live.scheduler) if "gate" in name}
    for _ in range(2000):
        live.add(5, 5)
        live.abort(str(live.num_seen - 1))
    kept = {name: getattr(live.scheduler, name) for name in before}
    assert {name for name, value in kept.items() if value is not None} == {"gate_metrics"}
    assert "2000" not in repr(vars(live.scheduler.gate_metrics))


def test_stopping_requests_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, ConcurrencyCap(3.0))
    keeper = live.scheduler.gatekeeper
    monkeypatch.setattr(keeper, "stopped", failing(range(1), keeper.stopped))
    for _ in range(4):
        live.add(20, 30)
    live.form()
    live.receive()
    live.abort("0")
    run_down(live)
    assert len(live.finished) == 3
    assert counted(live, "rebuilds", "finish_requests") > 0


BAD_HINTS: list[Any] = ["abc", "", "250 tokens", [1], {}, math.nan, math.inf, -math.inf, -5, 0, 10**30, 1e30, 2**63]


def bad_hints(live: Live) -> float:
    return float(live.scheduler.gate_metrics.bad_hints._value.get())


@pytest.mark.parametrize("hint", [*BAD_HINTS, True], ids=repr)
def test_a_hint_that_cannot_be_is_ignored_and_counted(hint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, TWO_TYPES)
    before = bad_hints(live)
    live.add(20, 30, extra={OUTPUT_TOKENS_KEY: hint})
    assert live.books.ints["output"][live.books.row_of["0"]] == 30
    live.add(20, 30)
    run_down(live)
    assert bad_hints(live) == before + 1
    assert live.gate.totals.admitted == 2


@pytest.mark.parametrize(("hint", "seen"), [(7, 7), (7.0, 7), (30, 30), (None, 30)])
def test_a_hint_that_can_be_is_what_the_policy_sees(hint: Any, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, TWO_TYPES)
    before = bad_hints(live)
    live.add(20, 30, extra={OUTPUT_TOKENS_KEY: hint})
    assert live.books.ints["output"][live.books.row_of["0"]] == seen
    assert bad_hints(live) == before


def test_a_policy_that_needs_no_lengths_reads_no_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, Fluid())
    before = bad_hints(live)
    for hint in BAD_HINTS:
        live.add(20, 30, extra={OUTPUT_TOKENS_KEY: hint})
    run_down(live)
    assert bad_hints(live) == before
    assert live.gate.totals.admitted == len(BAD_HINTS)


CLASSES = Classes(("chat", "code"), {"sql": "code"}, {3: "chat"})
BY_LABEL = Fluid(0.1, (0.5, 0.5), (20.0, 20.0))


@pytest.mark.parametrize(
    ("said", "class_id", "known"),
    [
        ({"extra": {CLASS_KEY: "chat"}}, 0, True),
        ({"extra": {CLASS_KEY: "code"}}, 1, True),
        ({"extra": {CLASS_KEY: "chat"}, "adapter": "sql"}, 0, True),
        ({"adapter": "sql"}, 1, True),
        ({"adapter": "other", "priority": 3}, 0, True),
        ({"priority": 4}, 1, False),
        ({}, 1, False),
        ({"extra": {CLASS_KEY: "nobody's"}}, 1, False),
        ({"extra": {CLASS_KEY: 0}}, 1, False),
        ({"extra": {CLASS_KEY: ["chat"]}}, 1, False),
    ],
    ids=str,
)
def test_a_label_reaches_the_policy(
    said: dict[str, Any], class_id: int, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = new_live(monkeypatch, BY_LABEL, classes=CLASSES)
    before = live.scheduler.gate_metrics.unknown_classes._value.get()
    live.add(20, 30, **said)
    assert live.books.ints["class_id"][live.books.row_of["0"]] == class_id
    assert live.books.waiting.tolist() == [1 - class_id, class_id]
    assert live.scheduler.gate_metrics.unknown_classes._value.get() == before + (not known)
    run_down(live)


@pytest.mark.parametrize("policy", [Greedy(), ConcurrencyCap(2.0), TWO_TYPES], ids=lambda policy: policy.name)
def test_a_name_used_again_at_once_is_another_request(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(0)
    live = new_live(monkeypatch, policy)
    names = [str(k) for k in range(6)]
    added = 0
    for _ in range(MAX_STEPS):
        for name in names:
            if added < 300 and name not in live.scheduler.requests:
                live.add(random.randint(1, 60), random.randint(1, 9), name=name)
                added += 1
        if live.unfinished and random.random() < 0.1:
            live.abort(random.choice(list(live.unfinished)))
        live.form()
        live.assert_books_are_vllms()
        live.receive()
        if added == 300 and not live.unfinished:
            break
    assert not live.unfinished


@pytest.mark.parametrize("policy", [Greedy(), ConcurrencyCap(2.0), TWO_TYPES, Fluid()], ids=lambda policy: policy.name)
def test_streamed_input_stays_outside_the_books(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    live = new_live(monkeypatch, policy)
    for k in range(20):
        live.add(20, 10, resumable=k % 4 == 0)
    for _ in range(200):
        live.form()
        live.receive()
    sessions = [name for name, request in live.unfinished.items() if request.resumable]
    assert set(live.unfinished) == set(sessions)
    assert live.gate.totals.admitted == 15
    for name in sessions:
        assert live.unfinished[name].num_output_tokens == 10
        live.abort(name)
    live.form()
    assert not live.scheduler.gatekeeper.outside


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    """What the plugin logs; vLLM's loggers do not reach pytest by themselves."""
    logger = logging.getLogger("vllm.fluidgate")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


def test_it_says_which_vllm_it_found_and_whether_that_was_tested(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    import vllm

    from fluidgate.serving.capabilities import describe
    from fluidgate.serving.versions import public

    new_live(monkeypatch, Greedy())
    assert f"in vLLM {public(vllm.__version__)}" in said.text
    assert describe("0.29.9+cpu").startswith("vLLM 0.29.9+cpu, not tested: the tests ran on 0.24.0, ")


def test_on_another_version_it_is_stock_vllm_and_says_so(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    import vllm

    for version in ("0.23.0", "0.34.0", "1.0.0", "dev"):
        monkeypatch.setattr(vllm, "__version__", version)
        live = new_live(monkeypatch, ConcurrencyCap(1.0))
        assert live.scheduler.gatekeeper is None
        assert f"this is {version}; set FLUIDGATE_ANY_VLLM=1" in said.text
        for _ in range(8):
            live.add(10, 10)
        assert len(live.form()) == 7  # as many as fit into 64 tokens; a cap of 1 would admit one
        live.abort("0")


def test_another_version_may_be_tried(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    import vllm

    from fluidgate.serving.capabilities import capabilities_of

    if capabilities_of(vllm.__version__) != capabilities_of("0.34.0"):
        pytest.skip("a later version is taken for the newest, and this one is not like the newest")
    monkeypatch.setattr(vllm, "__version__", "0.34.0")
    monkeypatch.setenv("FLUIDGATE_ANY_VLLM", "1")
    assert new_live(monkeypatch, ConcurrencyCap(1.0)).gate.policy.name == "concurrency-cap"
    assert "in vLLM 0.34.0, not tested" in said.text


def test_what_cannot_be_scheduled_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import copy

    import vllm

    from fluidgate.serving.capabilities import capabilities_of, unsupported

    scheduler = new_live(monkeypatch, Greedy()).scheduler
    version = vllm.__version__
    assert unsupported(version, scheduler) is None
    config = scheduler.vllm_config
    assert "has no _pause_state" in str(unsupported(version, SimpleNamespace(vllm_config=config)))
    for change, words in [
        ({"scheduler_config": SimpleNamespace(policy="priority")}, "priority scheduling"),
        ({"speculative_config": object()}, "speculative decoding"),
        ({"kv_transfer_config": SimpleNamespace(kv_connector="NixlConnector")}, "the KV connector NixlConnector"),
    ]:
        scheduler.vllm_config = copy.copy(config)
        for name, value in change.items():
            setattr(scheduler.vllm_config, name, value)
        assert words in str(unsupported(version, scheduler))
    scheduler.vllm_config = copy.copy(config)
    scheduler.vllm_config.kv_transfer_config = SimpleNamespace(kv_connector="OffloadingConnector")
    offloads = capabilities_of(version).native_offload
    assert unsupported(version, scheduler) == (
        None if offloads else f"--kv-offloading-size is not supported on vLLM {version}, only from 0.31 on"
    )
    ring = SimpleNamespace(kv_cache_spec=SimpleNamespace())
    scheduler.kv_cache_config = SimpleNamespace(kv_cache_groups=[*scheduler.kv_cache_config.kv_cache_groups, ring])
    assert "a KV cache of the kind SimpleNamespace" in str(unsupported(version, scheduler))


def test_pauses_and_an_interval_between_prompts_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM counts the interval in steps with tokens: a chunk beside paused decodes would wait for ever."""
    from fluidgate.serving.versions import spaces_prefills
    from fluidgate.serving.vllm_core import VLLM_VERSION

    if not spaces_prefills(VLLM_VERSION):
        pytest.skip(f"vLLM {VLLM_VERSION} has no prefill_schedule_interval on an engine by itself; 0.33 is the first")
    for policy, interval, runs in ((TWO_TYPES, 3, False), (TWO_TYPES, 1, True), (ConcurrencyCap(3.0), 3, True)):
        live = new_live(monkeypatch, policy, interval=interval)
        assert (live.scheduler.gatekeeper is not None) == runs
        for _ in range(20):
            live.add(100, 30)
        run_down(live)
        assert len(live.finished) == 20
