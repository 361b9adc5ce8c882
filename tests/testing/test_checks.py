"""`policy_checks` gives each law a test of its own: a bug fails the one whose name it breaks, and no other."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import SkipTest

import numba
import numpy as np
import pytest

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.policies import Greedy, Policy
from fluidgate.testing import PolicyCheck, check_policy, policy_checks, small_hardware, small_workloads

BURST = small_workloads()[0]
CACHING, OFFLOADING = EngineConfig(), EngineConfig(enable_prefix_caching=False, preemption="offload")
NOT_CACHING = EngineConfig(enable_prefix_caching=False)
Plant = Callable[[RunRecords], RunRecords]


def outcomes(checks: list[PolicyCheck]) -> tuple[dict[str, str], set[str]]:
    """What each broken law says, and the laws that were not tried."""
    broken, skipped = {}, set()
    for check in checks:
        try:
            check()
        except AssertionError as problem:
            broken[check.law] = str(problem)
        except SkipTest:
            skipped.add(check.law)
    return broken, skipped


def at(array: np.ndarray, i: int, difference: float) -> np.ndarray:
    copy = array.copy()
    copy[i] += difference
    return copy


def lose_the_last(records: RunRecords) -> RunRecords:
    """The last to finish has its last token, and is said not to."""
    i = int(np.argmax(records.last_token_s))
    finished = np.arange(len(records)) != i
    return replace(records, finished=finished, generated_tokens=at(records.generated_tokens, i, -1))


def idle_at_first(records: RunRecords) -> RunRecords:
    """All that happens happens half a second later."""
    assert records.steps is not None
    steps = replace(records.steps, start_s=records.steps.start_s + 0.5, end_s=records.steps.end_s + 0.5)
    later = {
        name: getattr(records, name) + 0.5 for name in ("first_scheduled_s", "first_token_s", "last_token_s", "end_s")
    }
    return replace(records, steps=steps, **later)


def recompute_one_more(records: RunRecords) -> RunRecords:
    """A victim recomputes a token more than the engine computed."""
    return replace(records, recomputed_tokens=at(records.recomputed_tokens, int(np.argmax(records.preemptions)), 1))


def slower_hardware(records: RunRecords) -> RunRecords:
    step_time = replace(records.hardware.step_time, c_kv=2e-5)
    return replace(records, hardware=replace(records.hardware, step_time=step_time))


PLANTED: dict[str, tuple[EngineConfig, Plant]] = {
    "KV blocks never exceed the cache": (NOT_CACHING, lambda r: replace(r, mean_blocks=r.peak_blocks + 1.0)),
    "times are in order": (NOT_CACHING, lambda r: replace(r, held_s=at(r.held_s, 0, 1e6))),
    "no request is served twice": (NOT_CACHING, lambda r: replace(r, gap_sum_s=r.gap_sum_s + 0.01)),
    "tokens are conserved": (OFFLOADING, recompute_one_more),
    "no request is lost": (CACHING, lose_the_last),
    "no idling while requests wait": (NOT_CACHING, idle_at_first),
    "requests and blocks add up in every iteration": (NOT_CACHING, lambda r: replace(r, busy_s=r.busy_s * 1.01)),
    "token budget and seats are respected": (
        NOT_CACHING,
        lambda r: replace(r, config=replace(r.config, max_num_seqs=1)),
    ),
    "scheduled tokens are conserved": (NOT_CACHING, lambda r: replace(r, preemptions=r.preemptions * 2)),
    "a replay of the decisions gives the same run": (NOT_CACHING, slower_hardware),
}


@pytest.mark.parametrize("law", PLANTED)
def test_a_planted_bug_fails_its_own_check(monkeypatch: pytest.MonkeyPatch, law: str) -> None:
    config, plant = PLANTED[law]
    monkeypatch.setattr("fluidgate.testing.check.run", lambda *given, **settings: plant(run(*given, **settings)))
    broken, skipped = outcomes(policy_checks(Greedy(), workloads=[BURST], configs=[config]))
    assert list(broken) == [law]
    assert broken[law].startswith(f"{law}: policy greedy on workload 'burst' (")
    assert not skipped


def test_every_law_on_runs_has_a_planted_bug() -> None:
    laws = [check.law for check in policy_checks(Greedy())]
    elsewhere = [*PARAMETERS, "a run comes to its end", *BITS]
    assert sorted(laws) == sorted([*PLANTED, *elsewhere])
    assert len(set(laws)) == len(laws)


BITS = ("interpreted and compiled runs are equal to the bit", "a second run gives the same bits")


@pytest.mark.parametrize("law", BITS)
def test_a_run_that_differs_fails_its_own_check(monkeypatch: pytest.MonkeyPatch, law: str) -> None:
    done: list[bool] = []

    def run_third_differently(*given: object, compile: bool, **settings: object) -> RunRecords:
        done.append(compile)
        records = run(*given, compile=compile, **settings)  # type: ignore[arg-type]
        different = not compile if law == BITS[0] else len(done) == 3
        return replace(records, held_s=at(records.held_s, 0, 1e-12)) if different else records

    monkeypatch.setattr("fluidgate.testing.check.run", run_third_differently)
    broken, skipped = outcomes(policy_checks(Greedy(), workloads=[BURST], configs=[NOT_CACHING]))
    assert done == [False, True, True]
    assert list(broken) == [law]
    assert "held_s differs" in broken[law]
    assert not skipped


def _even_iterations(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    out_quota[0] = 1 if len(view.residents) == 0 else 1 - view.iteration % 2
    return np.inf


class EveryOther(Policy):
    """It refuses in every other iteration, and says that its refusals stand."""

    name = "every-other"
    refusals_stand = True
    admit = staticmethod(_even_iterations)


def test_a_refusal_that_does_not_stand_is_found() -> None:
    broken, skipped = outcomes(policy_checks(EveryOther(), workloads=[BURST], configs=[NOT_CACHING], max_idle_s=1.0))
    assert list(broken) == ["a refusal stands until something changes"]
    assert not skipped


def _root(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    root = float(memory[0] - 8.0) ** 0.5  # Python makes it a complex number, compiled code a nan, which equals nothing
    if root == root:
        out_quota[0] = max(1 - len(view.residents), 0)
    return np.inf


class TakesRoots(Policy):
    name = "takes-roots"
    admit = staticmethod(_root)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled under NUMBA_DISABLE_JIT")
def test_a_policy_that_compiles_to_something_else_is_found() -> None:
    broken, skipped = outcomes(policy_checks(TakesRoots(), workloads=[BURST], configs=[NOT_CACHING]))
    assert list(broken) == [BITS[0]]
    assert not skipped


class NotFinite(Greedy):
    name = "not-finite"

    def pack(self):  # type: ignore[no-untyped-def]
        return np.array([np.nan])


class WholeNumbers(Greedy):
    name = "whole-numbers"

    def new_memory(self):  # type: ignore[no-untyped-def]
        return np.zeros(1, np.int64)


class Keeps(Greedy):
    name = "keeps"
    kept = np.zeros(1)

    def new_memory(self):  # type: ignore[no-untyped-def]
        return self.kept


PARAMETERS = {
    "pack() gives finite numbers in one row": NotFinite(),
    "new_memory() gives one row of at least one float": WholeNumbers(),
    "new_memory() makes a new array for every run": Keeps(),
}


@pytest.mark.parametrize("law", PARAMETERS)
def test_bad_parameters_fail_their_own_check_and_nothing_is_run(monkeypatch: pytest.MonkeyPatch, law: str) -> None:
    monkeypatch.setattr("fluidgate.testing.check.run", None)
    policy = PARAMETERS[law]
    broken, skipped = outcomes(policy_checks(policy))
    assert broken == {law: f"{law}: policy {policy.name} does not"}
    assert skipped == {check.law for check in policy_checks(policy)} - set(PARAMETERS)


def _writes_outside(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    out_quota[3 if view.iteration > 2 else 0] = 1
    return np.inf


class OutOfRange(Policy):
    name = "out-of-range"
    admit = staticmethod(_writes_outside)


def test_a_run_that_fails_fails_its_own_check_and_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def watched(*given: object, compile: bool, **settings: object) -> RunRecords:
        calls.append(compile)
        return run(*given, compile=compile, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("fluidgate.testing.check.run", watched)
    checks = policy_checks(OutOfRange())
    broken, skipped = outcomes(checks)
    assert list(broken) == ["a run comes to its end"]
    assert "on workload 'burst' (default settings), interpreted: IndexError" in broken["a run comes to its end"]
    assert skipped == {*PLANTED, *BITS}
    assert calls == [False]
    with pytest.raises(SkipTest, match="not tried: a run comes to its end: policy out-of-range"):
        checks[-1]()


def test_the_runs_are_made_once_and_only_when_a_check_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def counted(*given: object, compile: bool, **settings: object) -> RunRecords:
        calls.append(compile)
        return run(*given, compile=compile, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("fluidgate.testing.check.run", counted)
    checks = policy_checks(Greedy(), workloads=[BURST], configs=[CACHING, NOT_CACHING])
    assert not calls
    assert outcomes(checks) == ({}, set())
    assert outcomes(checks) == ({}, set())
    assert calls == 2 * [False, True, True]


@dataclass(frozen=True)
class Capped(Policy):
    name = "capped"
    cap: float = 2.0

    @staticmethod
    def admit(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
        out_quota[0] = 0 if view.now_s < 0.01 else max(0, params.cap - len(view.residents))
        return 0.01 if view.now_s < 0.01 else np.inf


def test_a_check_is_named_by_policy_and_law() -> None:
    (first, *_) = policy_checks(Capped(cap=3.0))
    assert str(first) == "Capped(cap=3.0): pack() gives finite numbers in one row"


def test_the_longest_idle_time_is_handed_on() -> None:
    load = {"workloads": [BURST], "configs": [NOT_CACHING]}
    assert outcomes(policy_checks(Capped(), max_idle_s=0.01, **load)) == ({}, set())  # type: ignore[arg-type]
    broken, _ = outcomes(policy_checks(Capped(), max_idle_s=0.009, **load))  # type: ignore[arg-type]
    assert list(broken) == ["no idling while requests wait"]


@pytest.mark.parametrize("nothing", ["workloads", "configs"])
def test_no_case_is_refused(nothing: str) -> None:
    with pytest.raises(InputError, match="policy greedy: there is nothing to check it on"):
        policy_checks(Greedy(), **{nothing: []})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="policy greedy: there is nothing to check it on"):
        check_policy(Greedy(), **{nothing: []})  # type: ignore[arg-type]


USED = """
import numpy as np
import pytest

from fluidgate.policies import Greedy, Policy
from fluidgate.testing import policy_checks


class NotFinite(Greedy):
    def pack(self):
        return np.array([np.nan])


@pytest.mark.parametrize("check", policy_checks(NotFinite()), ids=str)
def test_mine(check):
    check()
"""


def test_in_pytest_each_law_is_a_named_test(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(USED)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-rA", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "FAILED test_mine.py::test_mine[NotFinite(): pack() gives finite numbers in one row]" in done.stdout
    assert "PASSED test_mine.py::test_mine[NotFinite(): new_memory() makes a new array for every run]" in done.stdout
    assert "1 failed, 2 passed, 13 skipped" in done.stdout


def test_the_small_hardware_makes_the_burst_preempt() -> None:
    """The planted bugs above need victims."""
    for config in (NOT_CACHING, OFFLOADING, CACHING):
        assert run(BURST, small_hardware(), Greedy(), config).preemptions.any()
