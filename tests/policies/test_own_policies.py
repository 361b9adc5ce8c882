"""A user's own policies: compiled and interpreted, hooks, errors, and what they may see."""

from collections.abc import Callable
from dataclasses import replace

import numba
import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError, Stalled
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Policy
from fluidgate.policies.protocol import ADMITTED, ARRIVED, FINISHED, FIRST_TOKEN, PREEMPTED
from fluidgate.testing import check_policy
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]
HARDWARE = Hardware("test", StepTime(c0=1.0), num_gpu_blocks=7, block_size=1)
BOTH = pytest.mark.parametrize("compile", [True, False], ids=["compiled", "interpreted"])


def workload(*requests: tuple[float, int, int]) -> Workload:
    arrival_s, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
    return Workload(arrival_s, prompt, output)


def _prompt_length(params, request):  # type: ignore[no-untyped-def]
    return float(request.prompt_tokens)


class ShortestPromptFirst(Policy):
    name = "shortest-prompt-first"
    rank = staticmethod(_prompt_length)


def test_rank_orders_the_queue(simulate: Simulate) -> None:
    # One seat's worth of memory: 4 blocks. At 0 the prompt of 2 enters first of 3, 2, 4; then 3, then 4.
    r = simulate(ShortestPromptFirst(), [(0.0, 3, 1), (0.0, 2, 1), (0.0, 4, 1), (1.0, 1, 1)], blocks=4)
    assert r.first_scheduled_s.tolist() == [1.0, 0.0, 2.0, 1.0]
    check_policy(ShortestPromptFirst())


def test_a_rank_may_fall_between_two_others(simulate: Simulate) -> None:
    r = simulate(ShortestPromptFirst(), [(0.0, 2, 1), (0.0, 4, 1), (0.0, 3, 1)], blocks=4)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0, 1.0]


def test_equal_ranks_keep_their_order(simulate: Simulate) -> None:
    # 4 blocks: prompts of 2 are all equal, so they enter two by two in order of arrival.
    r = simulate(ShortestPromptFirst(), [(0.0, 2, 1)] * 5, blocks=4)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 1.0, 1.0, 2.0]


def _by_label(params, request):  # type: ignore[no-untyped-def]
    return request.class_id


def _second_class_only_alone(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    if len(view.residents) > 0 or view.waiting_count[0] > 0:
        out_quota[1] = 0
    else:
        out_quota[1] = 1
    return np.inf


class TwoClasses(Policy):
    name = "two-classes"
    classify = staticmethod(_by_label)
    admit = staticmethod(_second_class_only_alone)

    @property
    def num_classes(self) -> int:
        return 2


@BOTH
def test_classes_have_their_own_queues_and_quotas(compile: bool) -> None:
    # Rows 0 and 2 are of class 1 and wait until class 0 has left, then run one after the other.
    load = replace(
        workload((0.0, 1, 2), (0.0, 1, 2), (0.0, 1, 2), (1.0, 1, 2)),
        class_id=np.array([1, 0, 1, 0]),
        class_names=("first", "second"),
    )
    r = run(load, HARDWARE, TwoClasses(), compile=compile)
    assert r.first_scheduled_s.tolist() == [3.0, 0.0, 5.0, 1.0]
    assert r.held_s.tolist() == [3.0, 0.0, 5.0, 0.0]


def _until_three_wait(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    head = view.waiting_head[0]
    release_s = view.arrival_s[head] + params[0]
    if view.waiting_count[0] < 3 and view.now_s < release_s:
        out_quota[0] = 0
        return release_s
    return np.inf


class Batcher(Policy):
    """Holds groups of less than three for a while, on an idle engine too."""

    name = "batcher"
    admit = staticmethod(_until_three_wait)

    def __init__(self, hold_s: float) -> None:
        object.__setattr__(self, "hold_s", hold_s)

    def pack(self):  # type: ignore[no-untyped-def]
        return np.array([self.hold_s])  # type: ignore[attr-defined]


def test_a_hold_ends_at_the_very_time_it_names(simulate: Simulate) -> None:
    # Alone from 0.25: released at 2.75, no step boundary. Three at 10: at once.
    r = simulate(Batcher(2.5), [(0.25, 1, 1), (10.0, 1, 1), (10.0, 1, 1), (10.0, 1, 1)], max_idle_s=2.5)
    assert r.first_scheduled_s.tolist() == [2.75, 10.0, 10.0, 10.0]
    assert r.held_s.tolist() == [2.5, 0.0, 0.0, 0.0]
    check_policy(Batcher(0.2), max_idle_s=0.2)


def test_the_kit_finds_a_hold_longer_than_allowed() -> None:
    with pytest.raises(AssertionError, match=r"no idling while requests wait: policy batcher on workload"):
        check_policy(Batcher(0.2), max_idle_s=0.1)


def _never(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    out_quota[0] = 0
    return np.inf


class Never(Policy):
    name = "never"
    admit = staticmethod(_never)


def _nobody_runs(params, memory, view, out_mask):  # type: ignore[no-untyped-def]
    out_mask[:] = 0
    return np.inf


class Freeze(Policy):
    name = "freeze"
    advance = staticmethod(_nobody_runs)


@BOTH
@pytest.mark.parametrize(("policy", "residents"), [(Never(), 0), (Freeze(), 1)], ids=lambda p: getattr(p, "name", ""))
def test_holding_for_ever_is_an_error(policy: Policy, residents: int, compile: bool) -> None:
    with pytest.raises(Stalled, match=rf"policy {policy.name} holds requests forever.* {residents} are resident"):
        run(workload((0.0, 1, 2)), HARDWARE, policy, compile=compile)


def _first_one_pauses(params, memory, view, out_mask):  # type: ignore[no-untyped-def]
    out_mask[0] = 0
    return np.inf


class PauseFirst(Policy):
    name = "pause-first"
    advance = staticmethod(_first_one_pauses)


@BOTH
def test_evicting_each_other_for_ever_is_an_error(compile: bool) -> None:
    # Row 0 holds 2 of 6 blocks and never runs; rows 1 and 2 need 5 each, start anew and evict one another.
    with pytest.raises(Stalled, match=r"policy pause-first lets requests evict each other forever"):
        run(
            workload((0.0, 2, 2), (0.0, 1, 5), (0.0, 1, 5)),
            HARDWARE,
            PauseFirst(),
            EngineConfig(preemption="restart"),
            compile=compile,
        )


def _past_until_three_wait(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    out_quota[0] = 3 if view.waiting_count[0] >= 3 else 0
    return params[0]


class AsksInThePast(Batcher):
    name = "asks-in-the-past"
    admit = staticmethod(_past_until_three_wait)


@pytest.mark.parametrize("wake_s", [0.0, -1.0, float("-inf"), float("nan")])
def test_a_time_that_is_past_does_not_end_the_run(simulate: Simulate, wake_s: float) -> None:
    r = simulate(AsksInThePast(wake_s), [(0.0, 1, 1), (1.0, 1, 1), (2.0, 1, 1)], max_idle_s=2.0)
    assert r.first_scheduled_s.tolist() == [2.0, 2.0, 2.0]


def _class_seven(params, request):  # type: ignore[no-untyped-def]
    return 7 if request.row == 1 else 0


def _class_minus_one(params, request):  # type: ignore[no-untyped-def]
    return -request.row


class TooManyClasses(Policy):
    name = "too-many-classes"
    classify = staticmethod(_class_seven)


class NegativeClass(Policy):
    name = "negative-class"
    classify = staticmethod(_class_minus_one)


@BOTH
@pytest.mark.parametrize(("policy", "given"), [(TooManyClasses(), 7), (NegativeClass(), -1)], ids=["7", "-1"])
def test_a_class_that_does_not_exist_is_refused(policy: Policy, given: int, compile: bool) -> None:
    words = rf"policy {policy.name}: classify puts request 1 into class {given}, and its num_classes is 1"
    with pytest.raises(InputError, match=words):
        run(workload((0.0, 1, 1), (0.0, 1, 1)), HARDWARE, policy, compile=compile)


def _uses_a_set_of_text(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    names = {"a": [1], 2: "b"}
    return len(names) + undefined_name  # type: ignore[name-defined] # noqa: F821


class NotCompilable(Policy):
    name = "not-compilable"
    admit = staticmethod(_uses_a_set_of_text)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled under NUMBA_DISABLE_JIT")
def test_what_numba_cannot_compile_is_named() -> None:
    with pytest.raises(InputError, match=r"policy not-compilable: numba cannot compile its admit: .*'undefined_name'"):
        run(workload((0.0, 1, 1)), HARDWARE, NotCompilable())
    with pytest.raises(AssertionError, match=r"a run comes to its end: policy not-compilable .*, interpreted"):
        check_policy(NotCompilable())


def _longest_seen(params, request):  # type: ignore[no-untyped-def]
    params[0] = max(params[0], request.output_tokens)
    return 0.0


def _look_in_admit(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    memory[0] = max(memory[0], view.output_tokens.max())
    return np.inf


def _look_in_advance(params, memory, view, out_mask):  # type: ignore[no-untyped-def]
    memory[1] = max(memory[1], view.output_tokens.max())
    return np.inf


class Spy(Policy):
    """Keeps its parameters and its memory where the test can read them."""

    name = "spy"
    rank = staticmethod(_longest_seen)
    admit = staticmethod(_look_in_admit)
    advance = staticmethod(_look_in_advance)

    def __init__(self) -> None:
        object.__setattr__(self, "kept", (np.full(1, -9.0), np.full(2, -9.0)))

    def pack(self):  # type: ignore[no-untyped-def]
        return self.kept[0]  # type: ignore[attr-defined]

    def new_memory(self):  # type: ignore[no-untyped-def]
        return self.kept[1]  # type: ignore[attr-defined]


class LicensedSpy(Spy):
    name = "licensed-spy"
    needs_output_length = True


@BOTH
@pytest.mark.parametrize(("spy", "seen"), [(Spy, -1.0), (LicensedSpy, 5.0)])
def test_output_lengths_are_hidden_unless_declared(spy: type[Spy], seen: float, compile: bool) -> None:
    policy = spy()
    run(workload((0.0, 1, 5), (0.0, 1, 3)), HARDWARE, policy, compile=compile)
    assert policy.pack().tolist() == [seen]
    assert policy.new_memory().tolist() == [seen, seen]


def _count_events(params, memory, event):  # type: ignore[no-untyped-def]
    memory[event.kind] += 1
    memory[5 + event.kind] += event.now_s
    memory[10 + event.kind] += event.generated_tokens


class Witness(Spy):
    name = "witness"
    rank = None
    admit = None
    advance = None
    observe = staticmethod(_count_events)

    def __init__(self) -> None:
        object.__setattr__(self, "kept", (np.zeros(1), np.zeros(15)))


@BOTH
def test_observe_hears_of_every_event(compile: bool) -> None:
    # The eviction of tests/engine: row 1 enters at 0, has tokens at 1 and 2, is evicted in the step from 2, comes
    # back in the step from 4 and ends at 5; row 0 ends at 4.
    policy = Witness()
    r = run(workload((0.0, 2, 4), (0.0, 2, 3)), HARDWARE, policy, compile=compile)
    assert r.preemptions.tolist() == [0, 1]
    count, time_s, generated = np.split(policy.new_memory(), 3)
    kinds = [ARRIVED, ADMITTED, FIRST_TOKEN, FINISHED, PREEMPTED]
    assert count[kinds].tolist() == [2, 3, 2, 2, 1]
    assert time_s[kinds].tolist() == [0, 4, 2, 9, 2]
    assert generated[kinds].tolist() == [0, 2, 2, 7, 2]
