"""`FluidgatePlugin`: the gate before the servers as flow control of llm-d's `py-inference-scheduler`.

Importing this module registers it as `fluidgate`, for `flow_control: {type: fluidgate, plan: plan.json}` in
`scheduler.yaml`. A router asks `get_allowed_candidates` until it is given one, schedules, calls `reserve`, and
`release` at the end. It may do so from several threads.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from threading import RLock
from typing import Any

try:
    from py_inference_scheduler.framework import Endpoint, FlowControlPlugin, LLMRequest, register_flow_control
except ModuleNotFoundError as missing:
    advice = "llm-d's py-inference-scheduler is missing: pip install 'fluidgate[llm-d]'"
    raise ModuleNotFoundError(advice, name=missing.name) from missing

from fluidgate.adapters.candidates import Candidates, header, kv_use
from fluidgate.adapters.entrance import Ledger, Refused
from fluidgate.adapters.planned import Planned
from fluidgate.adapters.prompts import PromptSizes, measure, prompt_name
from fluidgate.bounds import MAX_SECONDS, check_number
from fluidgate.errors import InputError
from fluidgate.fleet import Admit, Answer, AskedGate, FleetState, Refuse
from fluidgate.policies import Fluid

CLASS_HEADER = "x-fluidgate-class"
"""The header of a request that names its class, where the plan has classes."""

USAGE_S = 5.0
"""How long after its end the lengths of a request may be told."""

PROMPTS = 100_000
"""Prompts of which the number of tokens is remembered, as their servers have counted it."""

FADE = 0.99
"""At each end, what is left of the weight of those before, in the seconds that a token takes."""


@dataclass
class _Known:
    """A request from its first question until its lengths are known."""

    prompt: str  # a name, equal for equal prompts
    body: Any
    asked_s: float  # when it was last asked for
    granted: str = ""  # the replica that it may go to
    refused: Refuse | None = None
    sent_s: float = inf  # when it was sent there
    left_s: float = inf  # when it was released
    output_tokens: int = -1  # as its server has counted them; -1: not told


@register_flow_control("fluidgate")
class FluidgatePlugin(FlowControlPlugin):
    """One gate before all candidates.

    Args:
        plan: a file of `fluidgate plan … --save`, policy `fluid`.
        total_blocks: KV blocks of a replica, the null block not counted; None: as it says itself, else as planned.
        gates: schedulers that send requests to these replicas, this one included.
        order: "asked": whoever asks takes the room that there is, as a router needs that wakes one waiting request for
            each that ends. "arrival": first come, first served, for a router that asks again for all that wait.
        forget_after_s: a request that waits and is not asked for so long has left the queue.
        refuse: raise `Refused` for who cannot be served in time, by the timeouts of the plan; without it they wait.
        stats_age_s: how old `routing_stats` are when they are used.
        clock: seconds of a clock that never jumps.

    Attributes:
        ledger: what became of the requests; `left` were not asked for any more, and count anew if they are.

    Raises:
        InputError: no such plan, or options that cannot be.
    """

    def __init__(
        self,
        plan: str,
        *,
        total_blocks: int | None = None,
        gates: int = 1,
        order: str = "asked",
        forget_after_s: float = 5.0,
        refuse: bool = False,
        stats_age_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if order not in ("asked", "arrival"):
            raise InputError(f"flow_control: order = {order!r} must be 'asked' or 'arrival'")
        check_number("flow_control: forget_after_s", forget_after_s, 0.001, MAX_SECONDS, "seconds")
        check_number("flow_control: stats_age_s", stats_age_s, 0.0, MAX_SECONDS, "seconds")
        planned = Planned.load(plan, total_blocks)
        if not refuse:
            planned = replace(planned, policy=_patient(planned.policy))
        lengths = planned.policy.output_quantiles
        self._mean_output = sum(lengths) / len(lengths) if lengths else 0.0
        self._planned, self._clock = planned, clock
        self._by_arrival, self._forget_after_s, self._next_sweep_s = order == "arrival", forget_after_s, -inf
        self._gate = AskedGate((), planned.policy, gates=gates)
        self._candidates = Candidates(self._gate, planned, stats_age_s, total_blocks)
        self._sizes = PromptSizes()
        self._counted: OrderedDict[str, int] = OrderedDict()  # tokens by prompt
        self._waiting: dict[str, _Known] = {}
        self._running: dict[str, _Known] = {}
        self._ended: OrderedDict[str, _Known] = OrderedDict()  # released, their lengths not told
        self._seconds = self._tokens = 0.0  # of those that have ended, fading
        self._is_told = False  # whether the router tells lengths at all
        self._lock = RLock()
        self.ledger = Ledger()

    # What a router calls

    def get_allowed_candidates(self, request: LLMRequest, candidates: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """The replica that this request may go to now; none: it waits. All, where no replica holds its prompt.

        Raises:
            Refused: it cannot be served in time; with `refuse` alone.
        """
        with self._lock:
            now_s = self._pass()
            self._lose(self._candidates.offer(candidates, now_s))
            if not candidates:
                return []
            name, known = request.request_id, self._asked(request, now_s)
            if not known.granted and known.refused is None:
                for other, answer in self._gate.released(now_s) if self._by_arrival else ():
                    self._note(self._waiting[other], answer)
                if not self._by_arrival:
                    self._note(known, self._gate.ask(name, now_s))
            if known.refused is not None:
                return self._turned_away(name, known.refused, candidates)
            if not known.granted and not self._by_arrival and not self._running:
                self._let_in(name, known, min(candidates, key=kv_use).name, now_s)
            return [endpoint for endpoint in candidates if endpoint.name == known.granted]

    def reserve(self, request: LLMRequest, selected: Endpoint) -> None:
        """The request is sent to this replica, whichever it was allowed."""
        with self._lock:
            now_s, name = self._pass(), request.request_id
            if name in self._running:
                return
            self._candidates.know(selected, now_s)
            known = self._waiting.get(name) or self._asked(request, now_s)
            del self._waiting[name]
            if known.refused is not None:
                self.ledger.came -= 1
                return
            self._gate.note_sent(name, selected.name, now_s)
            known.granted, known.sent_s = selected.name, now_s
            self._running[name] = known

    def release(self, request: LLMRequest, endpoint_name: str) -> None:
        """The request is over, whatever came of it; nothing happens where it was not reserved."""
        with self._lock:
            now_s, name = self._pass(), request.request_id
            known = self._running.pop(name, None)
            if known is None:
                self._forget(name, now_s)
                return
            self.ledger.served += 1
            self._gate.note_left(name, now_s)
            known.left_s = now_s
            if known.output_tokens >= 0:
                self._learn(name, known, known.output_tokens, now_s)
            else:
                self._ended[name] = known

    def update_learned_stats(self, rollout_request_id: str, isl: int, osl: int) -> None:
        """A prompt had so many tokens, and an answer to it so many by now: that which ended first, or is in flight."""
        with self._lock:
            now_s, self._is_told = self._pass(), True
            self._counted[rollout_request_id] = max(1, isl)
            self._counted.move_to_end(rollout_request_id)
            if len(self._counted) > PROMPTS:
                self._counted.popitem(last=False)
            asked = [pair for pair in self._ended.items() if pair[1].prompt == rollout_request_id]
            still = [pair for pair in self._running.items() if pair[1].prompt == rollout_request_id]
            for name, known in (asked or still)[:1]:
                self._sizes.learn(known.body, isl)
                told, known.output_tokens = known.output_tokens, max(0, osl)
                if asked:
                    self._learn(name, self._ended.pop(name), known.output_tokens, now_s)
                elif len(still) == 1 and told >= 0:  # it is told again and again, as it grows
                    self._gate.note_tokens(name, known.output_tokens, now_s)

    def _get_rollout_request_id(self, body: Any) -> tuple[str, int]:
        """The name of a prompt, for `update_learned_stats`, and its characters. Routers call it by this name."""
        return prompt_name(body), measure(body)[0]

    def state(self) -> FleetState:
        """What the gate knows now."""
        with self._lock:
            return self._gate.state(self._pass())

    # Books

    def _asked(self, request: LLMRequest, now_s: float) -> _Known:
        """The books of a request that is asked for: it waits, it is new, or the replica that it had did not take it."""
        name = request.request_id
        known, again = self._waiting.get(name), name in self._running
        if known is not None:
            known.asked_s = now_s
            if not known.granted or self._candidates.offers(known.granted):
                return known
            again = True  # it was granted a replica that is not offered any more
        elif again:
            known = self._running.pop(name)
        if name in self._ended:  # the next turn of a conversation, by the same name
            self._close(name, self._ended.pop(name), now_s)
        if known is not None:
            self._gate.note_failure(name, now_s)
        else:
            self.ledger.came += 1
        known = self._waiting[name] = _Known(prompt_name(request.body), request.body, now_s)
        tokens = self._counted.get(known.prompt) or self._sizes.tokens(request.body)
        class_id = self._planned.class_id(header(request.headers, CLASS_HEADER))
        self._note(known, self._gate.arrive(name, tokens, class_id, now_s=now_s, again=again))
        return known

    def _let_in(self, name: str, known: _Known, replica: str, now_s: float) -> None:
        """Nothing is in flight that would wake this request by its end, so it goes, unless another does already."""
        if not any(other.granted for other in self._waiting.values()):
            self._gate.note_sent(name, replica, now_s)
            known.granted = replica

    @staticmethod
    def _note(known: _Known, answer: Answer) -> None:
        match answer:
            case Admit(replica):
                known.granted = replica
            case Refuse():
                known.refused = answer

    def _turned_away(self, name: str, refused: Refuse, candidates: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """What is said of a request that the gate does not take, of which it keeps no books."""
        del self._waiting[name]
        if refused.retry_after_s < inf:
            self.ledger.refused += 1
            raise Refused(refused.retry_after_s)
        self.ledger.came -= 1
        return candidates  # the servers say themselves that its prompt is too long

    def _pass(self) -> float:
        """Let time pass, and return it: forget who is not asked for, and close the books of who is not told of."""
        now_s = self._clock()
        if now_s >= self._next_sweep_s:
            self._next_sweep_s = now_s + min(1.0, self._forget_after_s / 4)
            gone = [name for name, one in self._waiting.items() if now_s - one.asked_s >= self._forget_after_s]
            for name in gone:
                self._forget(name, now_s)
            while self._ended and next(iter(self._ended.values())).left_s <= now_s - USAGE_S:
                self._close(*self._ended.popitem(last=False), now_s)
        return now_s

    def _forget(self, name: str, now_s: float) -> None:
        known = self._waiting.pop(name, None)
        if known is None:
            return
        if known.refused is None:
            self._gate.note_failure(name, now_s)
            self.ledger.left += 1
        else:
            self.ledger.refused += 1

    def _lose(self, names: Sequence[str]) -> None:
        """The replica of these requests is gone, and the gate knows them no more."""
        for name in names:
            if self._running.pop(name, None) is not None:
                self.ledger.failed += 1
            elif self._waiting.pop(name, None) is not None:
                self.ledger.left += 1

    def _close(self, name: str, known: _Known, now_s: float) -> None:
        """One has ended of which nobody told the tokens. Where they are told of others, it has failed.

        Where they never are, answers are taken to be as long as planned on average, and each to be as long as the time
        that it took.
        """
        if self._is_told or self._mean_output == 0.0:
            self._gate.note_failure(name, now_s)
            return
        seconds = known.left_s - known.sent_s
        self._count(seconds, self._mean_output)
        self._gate.note_end(name, now_s, max(1, round(seconds * self._tokens / max(self._seconds, 1e-9))))

    def _learn(self, name: str, known: _Known, output_tokens: int, now_s: float) -> None:
        self._count(known.left_s - known.sent_s, output_tokens)
        self._gate.note_end(name, now_s, output_tokens)

    def _count(self, seconds: float, tokens: float) -> None:
        self._seconds = FADE * self._seconds + seconds
        self._tokens = FADE * self._tokens + tokens


def _patient(policy: Fluid) -> Fluid:
    """The policy as if every client waited for ever: nobody is refused."""
    kept = ("evicted_share", "shares", "prompt_tokens", "output_quantiles")
    return Fluid(**{name: getattr(policy, name) for name in kept})
