"""Claims that formulas and small models answer: M*, the toy example, the limit cycle, the segments."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fluidgate.policies import Greedy
from fluidgate.studies.paper.cycle import (
    LENGTHS,
    POISSON_LENGTHS,
    POISSON_LOADS,
    CycleRun,
    cycle_share,
    largest_pace,
    toy_example,
    toy_wait,
)
from fluidgate.studies.paper.memory import (
    PUBLISHED,
    PUBLISHED_CROSSING,
    SEGMENT_COUNTS,
    crossing_rate,
    fluid_memory,
    guaranteed_rate,
)
from fluidgate.studies.paper.study import PaperResult
from fluidgate.studies.paper.verdicts import CLEAR, Claim, agreed, listed

_MEMORY_TABLE = "M\\* of LMSYS against C"
_CYCLE_TABLE = "The limit cycle"


def theory_claims(result: PaperResult) -> list[Claim]:
    """In the order of the papers."""
    return [*_memory(result), _toy(), *_cycle(result), _poisson(result), _segments()]


def _memory(result: PaperResult) -> Iterator[Claim]:
    formula = {rate: fluid_memory(rate) for rate in PUBLISHED}
    apart = max(abs(formula[rate] / PUBLISHED[rate] - 1.0) for rate in PUBLISHED)
    yield agreed(
        "Table 2: M* of LMSYS at 50 / 60 / 70 / 80 req/s, tokens",
        " / ".join(f"{tokens:,.0f}" for tokens in PUBLISHED.values()),
        " / ".join(f"{tokens:,.0f}" for tokens in formula.values()),
        apart < 1e-3,
        _MEMORY_TABLE,
    )
    yield agreed(
        "Table 2: M* = C at",
        f"{PUBLISHED_CROSSING} req/s",
        f"{crossing_rate():.1f} req/s",
        abs(crossing_rate() - PUBLISHED_CROSSING) < 0.1,
        _MEMORY_TABLE,
    )
    shares = [numbers["kv_tokens"] / numbers["predicted_tokens"] for numbers in result.memory.values()]
    yield agreed(
        "Section 3: a server that keeps up holds M* (linear step time, simulated KV ÷ M*)",
        "1",
        f"{min(shares):.3f} to {max(shares):.3f}, mean {np.mean(shares):.3f}",
        abs(float(np.mean(shares)) - 1.0) < CLEAR,
        _MEMORY_TABLE,
    )


def _toy() -> Claim:
    greedy, wait = toy_example(Greedy()), toy_example(toy_wait())
    return agreed(
        "Example 2: C = 12, 4 arrivals per iteration: completions per iteration, FCFS / WAIT",
        "3–3.5 / 4",
        f"{greedy:.2f} / {wait:.2f}",
        3.0 <= greedy <= 3.5 and wait == 4.0,
        "this line",
    )


def _cycle(result: PaperResult) -> Iterator[Claim]:
    runs = {(run.prompt, run.output, run.policy): numbers for run, numbers in result.cycles.items() if run.load is None}
    best = {lengths: largest_pace(*lengths) for lengths in LENGTHS}
    greedy = [runs[(*lengths, "greedy")]["per_iteration"] / best[lengths] for lengths in LENGTHS]
    predicted = [cycle_share(*lengths) for lengths in LENGTHS]
    yield agreed(
        f"[2]: saturated greedy ÷ x* is (2l+o+1)/(2(l+o)), for l/o {listed(f'{p}/{o}' for p, o in LENGTHS)}",
        listed(f"{share:.3f}" for share in predicted),
        listed(f"{share:.3f}" for share in greedy),
        bool(np.allclose(greedy, predicted, rtol=CLEAR)),
        _CYCLE_TABLE,
    )
    paced = [runs[(*lengths, "rate-limited")] for lengths in LENGTHS]
    shares = [numbers["per_iteration"] / best[lengths] for numbers, lengths in zip(paced, LENGTHS, strict=True)]
    restarts = max(numbers["restarts"] for numbers in paced)
    yield agreed(
        "[2]: pacing at 0.98 x* reaches it without an eviction",
        "0.98; 0 evictions",
        f"{min(shares):.3f} to {max(shares):.3f}; {restarts:g} evictions",
        min(shares) > 0.98 - CLEAR and restarts == 0,
        _CYCLE_TABLE,
    )


def _poisson(result: PaperResult) -> Claim:
    def unstable_from(backlog: bool) -> float | None:
        return next((load for load in POISSON_LOADS if _mean_growth(result, load, "greedy", backlog) > 0.02), None)

    lower = cycle_share(*POISSON_LENGTHS)
    empty, burst = unstable_from(False), unstable_from(True)
    expected = next(load for load in POISSON_LOADS if load > lower)
    texts = ["none" if load is None else f"{load:g} x*" for load in (empty, burst)]
    return Claim(
        f"[2]: Poisson arrivals above the cycle's rate, {lower:.2f} x*, destabilise greedy (l/o 10/100)",
        f"from {expected:g} x* of those tested",
        f"from an empty start: from {texts[0]}; from a backlog: from {texts[1]}",
        "reproduced" if empty == expected else "partly" if burst == expected else "not",
        # no finite run decides whether an empty start ends in the cycle some day
        "none" if empty == expected else "open",
        "Poisson arrivals",
    )


def _mean_growth(result: PaperResult, load: float, policy: str, backlog: bool) -> float:
    return float(
        np.mean(
            [
                numbers["growth"]
                for run, numbers in result.cycles.items()
                if (run.load, run.policy, run.backlog) == (load, policy, backlog)
            ]
        )
    )


def poisson_growth(result: PaperResult, run: CycleRun) -> float:
    """Mean over seeds of the share of arrivals left behind, for the load, policy and start of a run."""
    assert run.load is not None
    return _mean_growth(result, run.load, run.policy, run.backlog)


def _segments() -> Claim:
    rates = [guaranteed_rate(count, "mean") for count in SEGMENT_COUNTS]
    best = SEGMENT_COUNTS[int(np.argmax(rates))]
    return agreed(
        "Theorem 4: Nested WAIT's memory is U-shaped in L, a moderate L is best (largest guaranteed rate)",
        f"between {SEGMENT_COUNTS[0]} and {SEGMENT_COUNTS[-1]}",
        f"L = {best}: {max(rates):.1f} req/s; L = 1: {rates[0]:.1f}, L = {SEGMENT_COUNTS[-1]}: {rates[-1]:.1f}",
        best not in (SEGMENT_COUNTS[0], SEGMENT_COUNTS[-1]),
        "Segments of Nested WAIT",
    )
