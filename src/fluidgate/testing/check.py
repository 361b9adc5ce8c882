"""A policy against the laws: all at once, or one named check for each, which share their runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from unittest import SkipTest

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware
from fluidgate.policies import Policy
from fluidgate.testing.cases import case_in_words, small_configs, small_hardware, small_workloads
from fluidgate.testing.laws import LAWS, check_law, check_same
from fluidgate.workload import Workload

CALLS_WITHOUT_A_FINISH = 3
"""A small run that comes back this often with nothing new finished (tens of thousands of iterations) never ends."""


@dataclass
class Findings:
    """The laws that were tried on a policy, and what first broke one."""

    tried: set[str] = field(default_factory=set)
    broken: dict[str, AssertionError] = field(default_factory=dict)

    def note(self, law: str, check: Callable[[], None]) -> None:
        """Try a law, once more or for the first time."""
        self.tried.add(law)
        try:
            check()
        except AssertionError as problem:
            self.broken.setdefault(law, problem)


@dataclass(frozen=True)
class PolicyCheck:
    """One law for one policy. Call it; as text it is the policy and the law, the name of a test.

    Raises:
        AssertionError: the law does not hold; the sentence names it, the policy and the case.
        unittest.SkipTest: the law cannot be tried, because another one is broken that it builds on.
    """

    policy: Policy
    law: str
    findings: Callable[[], Findings] = field(repr=False)

    def __call__(self) -> None:
        outcome = self.findings()
        if self.law in outcome.broken:
            raise outcome.broken[self.law]
        if self.law not in outcome.tried:
            raise SkipTest(f"not tried: {next(iter(outcome.broken.values()))}")

    def __str__(self) -> str:
        return f"{self.policy!r}: {self.law}"


def check_policy(
    policy: Policy,
    *,
    workloads: Sequence[Workload] | None = None,
    hardware: Hardware | None = None,
    configs: Sequence[EngineConfig] | None = None,
    max_idle_s: float = 0.0,
) -> None:
    """Run a policy through every case, interpreted and compiled, and assert all laws.

    Args:
        policy: the policy, with its parameters.
        workloads, hardware, configs: the cases; by default `small_workloads()` and so on, a few seconds in all.
        max_idle_s: how long the policy may leave the engine idle while requests wait; a policy that declares
            `may_idle` may do so forever.

    Raises:
        AssertionError: a law does not hold; the sentence names it, the policy and the case.
        InputError: no workload or no configuration is given.
    """
    for check in policy_checks(policy, workloads=workloads, hardware=hardware, configs=configs, max_idle_s=max_idle_s):
        check()


def policy_checks(
    policy: Policy,
    *,
    workloads: Sequence[Workload] | None = None,
    hardware: Hardware | None = None,
    configs: Sequence[EngineConfig] | None = None,
    max_idle_s: float = 0.0,
) -> list[PolicyCheck]:
    """What `check_policy` asserts, one check for each law, for `pytest.mark.parametrize("check", ..., ids=str)`.

    The first check that is called runs all cases, for the others too: together they take as long as `check_policy`.

    Args:
        policy, workloads, hardware, configs, max_idle_s: as for `check_policy`.

    Raises:
        InputError: no workload or no configuration is given.
    """
    cases = [
        (workload, small_hardware() if hardware is None else hardware, config)
        for workload in (small_workloads() if workloads is None else workloads)
        for config in (small_configs() if configs is None else configs)
    ]
    if not cases:
        raise InputError(f"policy {policy.name}: there is nothing to check it on; give a workload and a configuration")
    findings = cache(partial(_findings, policy, cases, np.inf if policy.may_idle else max_idle_s))
    laws = (*_LAWS_OF_PARAMETERS, _END, *LAWS, _SAME, _AGAIN, *([_STANDS] if policy.refusals_stand else []))
    return [PolicyCheck(policy, law, findings) for law in laws]


_END = "a run comes to its end"
_SAME = "interpreted and compiled runs are equal to the bit"
_AGAIN = "a second run gives the same bits"
_STANDS = "a refusal stands until something changes"


def _finite(packed: FloatArray) -> bool:
    return packed.ndim == 1 and bool(np.isfinite(packed).all())


def _floats(memory: FloatArray) -> bool:
    return memory.ndim == 1 and memory.dtype == np.float64 and len(memory) > 0


_LAWS_OF_PARAMETERS: dict[str, Callable[[Policy], bool]] = {
    "pack() gives finite numbers in one row": lambda policy: _finite(policy.pack()),
    "new_memory() gives one row of at least one float": lambda policy: _floats(policy.new_memory()),
    "new_memory() makes a new array for every run": lambda policy: (
        not np.shares_memory(policy.new_memory(), policy.new_memory())
    ),
}


def _findings(policy: Policy, cases: Iterable[tuple[Workload, Hardware, EngineConfig]], max_idle_s: float) -> Findings:
    findings = Findings()
    for law in _LAWS_OF_PARAMETERS:
        findings.note(law, partial(_check_parameters, law, policy))
    for workload, hardware, config in cases:
        if findings.broken.keys() & {*_LAWS_OF_PARAMETERS, _END}:
            break  # a run that never ends takes seconds, and so would each of the others
        ended: list[RunRecords] = []
        findings.note(_END, partial(_run_thrice, policy, workload, hardware, config, ended))
        for interpreted in ended[:1]:
            for law in LAWS:
                findings.note(law, partial(check_law, law, interpreted, max_idle_s))
        for law, (one, other) in zip((_SAME, _AGAIN), pairwise(ended), strict=False):
            findings.note(law, partial(check_same, one, other, law))
        if policy.refusals_stand and ended:
            findings.note(_STANDS, partial(_check_refusals, policy, ended[0]))
    return findings


def _check_refusals(policy: Policy, records: RunRecords) -> None:
    """Ask in every iteration, as where refusals do not stand."""
    asked = copy(policy)
    object.__setattr__(asked, "refusals_stand", False)
    again = run(records.workload, records.hardware, asked, records.config, record="decisions", compile=False)
    check_same(records, again, _STANDS)


def _check_parameters(law: str, policy: Policy) -> None:
    if not _LAWS_OF_PARAMETERS[law](policy):
        raise AssertionError(f"{law}: policy {policy.name} does not")


def _run_thrice(
    policy: Policy, workload: Workload, hardware: Hardware, config: EngineConfig, ended: list[RunRecords]
) -> None:
    """Interpreted, compiled and compiled again; what fails interpreted could write anywhere in memory if compiled."""
    for compile in (False, True, True):
        ended.append(_run(policy, workload, hardware, config, compile=compile))


def _run(policy: Policy, workload: Workload, hardware: Hardware, config: EngineConfig, *, compile: bool) -> RunRecords:
    finished_before = [-1] * CALLS_WITHOUT_A_FINISH

    def watch(finished: int, _: int) -> None:
        finished_before.append(finished)
        if len(set(finished_before[-CALLS_WITHOUT_A_FINISH - 1 :])) == 1:
            raise TimeoutError(f"thousands of iterations pass with {finished} of {len(workload)} requests finished")

    try:
        return run(workload, hardware, policy, config, record="decisions", compile=compile, progress=watch)
    except Exception as error:
        how = "compiled" if compile else "interpreted"
        case = case_in_words(policy.name, workload, config)
        raise AssertionError(f"{_END}: {case}, {how}: {type(error).__name__}: {error}") from error
