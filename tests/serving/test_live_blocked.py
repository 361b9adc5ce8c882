"""Requests of every class that vLLM passes over for a while, under every policy.

None is lost, and none enters that the policy holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.policies import Fluid, Policy

from ..parity.generators import POLICIES
from .live import MAX_STEPS, Live, needs_vllm, new_live, waiting_names

pytestmark = needs_vllm

RUNS = int(os.environ.get("FLUIDGATE_LIVE_EXAMPLES", "2100"))
"""Generated runs in all, over the policies."""
ORDERING = ("fluid-volume", "mc-sf", "shortest-first", "smallest-volume-first")
"""Policies that order the queue, which vLLM's own cannot follow; no plan file carries them."""
BY_LABEL = st.just(Fluid(0.1, (0.5, 0.5), (20.0, 20.0), (4.0, 9.0, 2.0, 30.0)))
SERVABLE = {name: made for name, made in POLICIES.items() if name not in ORDERING} | {"fluid, labelled": BY_LABEL}


class Grammar:
    """A compiled grammar, which takes any token."""

    def accept_tokens(self, *_: Any) -> bool:
        """All are in the language."""
        return True

    def is_terminated(self) -> bool:
        """Never: the request ends by its length."""
        return False


@dataclass
class Connector:
    """Stands in for a KV connector: first it does not know what it holds, then it loads, at once or in the background.

    Attributes:
        unknown: looks until it knows, by request.
        loads: (tokens, whether in the background), by request.
    """

    unknown: dict[str, int]
    loads: dict[str, tuple[int, bool]]

    def get_num_new_matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """(tokens that it has beyond those computed, whether they come in the background)."""
        name = request.request_id
        if self.unknown.get(name, 0) > 0:
            self.unknown[name] -= 1
            return None, False
        tokens, later = self.loads.pop(name, (0, False))
        tokens = min(tokens, request.num_tokens - 1 - computed)
        return (tokens, later) if tokens > 0 else (0, False)

    def request_finished(self, *_: Any) -> tuple[bool, None]:
        """Blocks are free at once."""
        return False, None

    request_finished_all_groups = request_finished

    def take_events(self) -> tuple[()]:
        """None."""
        return ()

    def get_loaded_kv_cache_group_ids(self, _: Any) -> tuple[()]:
        """Unknown."""
        return ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None


class Blocked:
    """A live scheduler whose requests are blocked in every way, for a few steps each."""

    def __init__(self, live: Live, random: Random) -> None:
        from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

        StructuredOutputGrammar.register(Grammar)
        self.live, self.random = live, random
        self.compiling: dict[str, tuple[Any, int]] = {}
        self.fetching: dict[str, int] = {}
        self.fetched: set[str] = set()  # each is fetched once
        self.passed_over = 0
        live.scheduler.lora_config = SimpleNamespace(max_loras=random.choice([1, 2]))
        if random.random() < 0.5:
            live.scheduler.connector = Connector({}, {})

    def add(self) -> None:
        """A request of any kind."""
        from vllm.v1.request import RequestStatus

        random, scheduler = self.random, self.live.scheduler
        kind = random.choice(["plain", "grammar", "adapter", "adapter", "fetched", "resumable"])
        name = str(self.live.num_seen)
        if kind == "fetched" and scheduler.connector is not None:
            scheduler.connector.unknown[name] = random.randint(0, 3)
            scheduler.connector.loads[name] = (16 * random.randint(0, 2), random.random() < 0.7)
        awaits = None
        if kind == "grammar":
            awaits = SimpleNamespace(grammar=None, reasoning_ended=True, reasoner=None, reasoning_end_token_index=None)
        request = self.live.add(
            random.choice([1, 15, 16, 40, 60]),
            random.randint(1, 12),
            extra={"fluidgate_class": random.choice(["a", "b"])},
            adapter=random.randint(1, 4) if kind == "adapter" else None,
            resumable=kind == "resumable" and random.random() < 0.3,
            before=lambda made: make_structured(made, awaits),
        )
        if awaits is not None:
            assert request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
            self.compiling[name] = (awaits, random.randint(0, 6))

    def step(self) -> None:
        """One iteration: grammars get ready, a batch is formed and, perhaps, one comes back."""
        live, scheduler = self.live, self.live.scheduler
        for name, (awaits, steps) in list(self.compiling.items()):
            if steps == 0:
                fails = self.random.random() < 0.1 and hasattr(scheduler, "grammar_compile_error_reqs")
                awaits.grammar = ValueError("no such grammar") if fails else Grammar()
                del self.compiling[name]
            else:
                self.compiling[name] = (awaits, steps - 1)
        held = self.held_by_the_policy()
        running = {request.request_id for request in scheduler.running}
        live.form()
        entered = {request.request_id for request in scheduler.running} - running
        assert not entered & held(), f"entered though held: {entered & held()}"
        live.assert_books_are_vllms()
        self.passed_over += len(scheduler.gatekeeper.readiness.blocked)
        live.receive(self.transfers)

    def held_by_the_policy(self) -> Any:
        """Who is beyond the quotas of the decision to come; to be asked after it."""
        gate, seen = self.live.gate, {}
        decide = type(gate).decide

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = queues(gate.books)
            decision = decide(gate, *args, **kwargs)
            quota = gate._quota.tolist()
            seen["held"] = {name for group, queue in enumerate(before) for name in queue[quota[group] :]}
            return decision

        gate.decide = watched
        return lambda: seen["held"]

    def transfers(self, _: Any) -> Any:
        """Loads end a few batches after they began."""
        from vllm.v1.outputs import KVConnectorOutput

        for name, request in self.live.unfinished.items():
            if request.status.name == "WAITING_FOR_REMOTE_KVS" and name not in self.fetched:
                self.fetching.setdefault(name, self.random.randint(0, 4))
        done = {name for name, batches in self.fetching.items() if batches == 0}
        self.fetching = {name: batches - 1 for name, batches in self.fetching.items() if batches > 0}
        self.fetched |= done
        return KVConnectorOutput(finished_recving=done) if done else None


def make_structured(request: Any, awaits: Any) -> None:
    from vllm.v1.request import RequestStatus

    if awaits is not None:
        request.structured_output_request = awaits
        request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR


def queues(books: Any) -> list[list[str]]:
    """Names in each class's queue, in order."""
    found = []
    for row in books.head.tolist():
        names = []
        while row >= 0:
            names.append(books.name_of[row])
            row = int(books.ints["next"][row])
        found.append(names)
    return found


def run(live: Live, random: Random, requests: int) -> int:
    """Serve so many requests; returns how often one was passed over."""
    blocked = Blocked(live, random)
    for _ in range(MAX_STEPS):
        if live.num_seen < requests and random.random() < 0.5:
            for _ in range(random.choice([1, 1, 4])):
                blocked.add()
        if live.unfinished and random.random() < 0.03:
            live.abort(random.choice(list(live.unfinished)))
        for name, request in list(live.unfinished.items()):
            if request.resumable and request.num_output_tokens >= request.max_tokens:
                live.abort(name)  # the session's last turn is over
        blocked.step()
        if live.num_seen >= requests and not live.unfinished:
            break
    assert not live.unfinished, f"{len(live.unfinished)} requests never finished"
    assert len(live.finished) + len(live.aborted) == live.num_seen
    live.form()  # in which vLLM tells of the last ones
    assert not live.books.row_of
    assert waiting_names(live.books) == []
    return blocked.passed_over


@pytest.mark.parametrize("name", SERVABLE)
def test_blocked_requests_of_every_class(name: str) -> None:
    passed_over = 0

    @settings(max_examples=RUNS // len(SERVABLE) + 1, deadline=None)
    @given(SERVABLE[name], st.integers(0, 2**32 - 1), st.sampled_from([8, 12, 30]), st.sampled_from([1, 2]))
    def check(policy: Policy, seed: int, blocks: int, depth: int) -> None:
        nonlocal passed_over
        from fluidgate.serving.labels import Classes

        with pytest.MonkeyPatch.context() as patch:
            random = Random(seed)
            classes = Classes(("a", "b")) if policy.num_classes == 2 else Classes()
            live = new_live(patch, policy, blocks=blocks, seats=6, depth=depth, classes=classes)
            passed_over += run(live, random, random.randint(6, 16))

    check()
    assert passed_over > RUNS // len(SERVABLE)
