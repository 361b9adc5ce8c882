"""`recommend`: which policy to use at a load, by one stated rule, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, isnan

from fluidgate.report.contradictions import SELDOM_FULL, UNGATED, mostly
from fluidgate.report.criteria import (
    FIRST_TOKEN,
    LATENCY,
    SILENCE,
    THROUGHPUT,
    TIE_BREAKERS,
    Criterion,
    Difference,
    criteria,
    deciding,
    in_numbers,
    mean_of,
)
from fluidgate.report.shown_metrics import BUSY_TIME
from fluidgate.report.standing import Equal, Near, Standing, Worse, standing
from fluidgate.report.words import counted, measured, tenths, unfinished
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import listed, percent


@dataclass(frozen=True)
class Recommendation:
    """Which policy to use at a load.

    Attributes:
        policy: the one to use.
        headline: the answer in a few words.
        reason: why, with numbers.
        standings: how every other policy stands beside it, in the order of the comparison.
    """

    policy: str
    headline: str
    reason: str
    standings: tuple[Standing, ...]

    @property
    def equals(self) -> tuple[str, ...]:
        """The policies that do equally well, within the rule's margins."""
        return _equals(self.standings)

    @property
    def others(self) -> tuple[tuple[str, str], ...]:
        """The policies that do not do exactly as well, each with what is to be said of it."""
        return tuple((s.policy, s.sentence) for s in self.standings if not isinstance(s, Equal))


@dataclass
class _Choice:
    """The policies still in the running, and what removed the others."""

    pool: list[Cell]
    removed: dict[str, str] = field(default_factory=dict)

    def keep(self, kept: list[Cell], why_not: dict[str, str]) -> None:
        """Narrow the pool to `kept`, unless that is empty."""
        if kept:
            self.removed |= {cell.policy: why_not[cell.policy] for cell in self.pool if cell not in kept}
            self.pool = kept


def rule(comparison: Comparison) -> str:
    """The rule, as a paragraph."""
    delivered = criteria(comparison)[0].words
    return (
        "Policies that leave requests unfinished are set aside if others finish all of them. Below the stability "
        "boundary, so are policies that are unstable in most repeats, if another is stable in most; and those that "
        "miss an objective, if another misses none. "
        f"Of the rest, those within {percent(THROUGHPUT.relative)} of the best {delivered} stay; then those within "
        f"{SILENCE.absolute:g} s of the lowest {SILENCE.words}; then those within {percent(LATENCY.relative)} of the "
        f"lowest {LATENCY.words}; then those within {FIRST_TOKEN.absolute:g} ms plus {percent(FIRST_TOKEN.relative)} "
        f"of the lowest {FIRST_TOKEN.words}. A policy is removed only if the whole 95% interval of its paired "
        f"difference lies beyond the margin. If several remain, {comparison.baseline} (the baseline) is kept if it is "
        f"among them, otherwise the one with the lowest {LATENCY.words}, unless another is better in every one of "
        "these, or has fewer evictions or less recomputation and is worse by no more than the margin in any, its whole "
        "interval being so."
    )


def recommend(comparison: Comparison, scenario: Scenario) -> Recommendation:
    """Choose by `rule` among the policies at `scenario`."""
    cells = comparison.at(scenario)
    choice = _Choice(list(cells))
    choice.keep(
        [c for c in choice.pool if unfinished(c) == 0],
        {c.policy: f"{counted(unfinished(c), 'request')} unfinished" for c in cells},
    )
    _drop_unstable(choice, scenario)
    missed = {c.policy: [j.words for j in comparison.judged(c) if j.met is False] for c in cells}
    choice.keep([c for c in choice.pool if not missed[c.policy]], {name: "; ".join(m) for name, m in missed.items()})
    for criterion in criteria(comparison):
        _narrow(choice, criterion)
    kept = _kept(comparison, choice.pool)
    pick = _preferred(choice.pool, kept, criteria(comparison))
    standings = tuple(
        Worse(c.policy, choice.removed[c.policy])
        if c.policy in choice.removed
        else standing(c, pick, criteria(comparison))
        for c in cells
        if c is not pick
    )
    return Recommendation(
        pick.policy,
        _headline(scenario, pick, standings, pick is not kept),
        _reason(comparison, scenario, pick, _equals(standings)),
        standings,
    )


def _equals(standings: tuple[Standing, ...]) -> tuple[str, ...]:
    return tuple(s.policy for s in standings if isinstance(s, Equal) or (isinstance(s, Near) and s.equal))


def _drop_unstable(choice: _Choice, scenario: Scenario) -> None:
    """Only below the boundary: above it every policy is unstable, and the steadiest ones show it first."""
    if scenario.load > 1.0 or not any(mostly(c, True) for c in choice.pool):
        return
    choice.keep([c for c in choice.pool if not mostly(c, False)], {c.policy: _instability(c) for c in choice.pool})


def _instability(cell: Cell) -> str:
    reasons = [summary.stability_reason for summary in cell.summaries if summary.stable is False]
    return f"{reasons[0]} (in {len(reasons)} of {len(cell.summaries)} repeats)" if reasons else ""


def _narrow(choice: _Choice, criterion: Criterion) -> None:
    candidates = [c for c in choice.pool if isfinite(mean_of(c, criterion.metric))]
    if not candidates:
        return
    best = min(candidates, key=lambda c: criterion.sign * mean_of(c, criterion.metric))
    differences = {c.policy: Difference.of(c, best, criterion) for c in candidates}
    kept = [c for c in candidates if differences[c.policy].low <= differences[c.policy].margin]
    choice.keep(kept, {c.policy: _shortfall(c, best, criterion) for c in choice.pool})


def _shortfall(cell: Cell, best: Cell, criterion: Criterion) -> str:
    value, least = (mean_of(c, criterion.metric) for c in (cell, best))
    if isnan(value):
        return f"{criterion.words} unknown"
    metric = criterion.metric
    return f"{criterion.words} {measured(metric, value)}, where {best.policy} has {measured(metric, least)}"


def _kept(comparison: Comparison, pool: list[Cell]) -> Cell:
    """The baseline, or else the policy of the lowest latency."""
    for cell in pool:
        if cell.policy == comparison.baseline:
            return cell
    return min(pool, key=lambda c: (isnan(mean_of(c, LATENCY.metric)), mean_of(c, LATENCY.metric)))


def _preferred(pool: list[Cell], kept: Cell, by: tuple[Criterion, ...]) -> Cell:
    """The policy of the fewest evictions among those that are to be preferred to `kept`; that, if none is."""
    better = [cell for cell in pool if cell is not kept and _is_better(cell, kept, by)]
    return min(better, key=lambda c: [mean_of(c, key) for key in ("preemptions", LATENCY.metric)], default=kept)


def _is_better(cell: Cell, kept: Cell, by: tuple[Criterion, ...]) -> bool:
    main, ties = ([Difference.of(cell, kept, criterion) for criterion in some] for some in (by, TIE_BREAKERS))
    if any(d.shown == "worse" for d in ties):
        return False
    return all(d.shown == "better" for d in main) or (
        all(d.high <= d.margin for d in main) and any(d.shown == "better" for d in ties)
    )


def _headline(scenario: Scenario, pick: Cell, others: tuple[Standing, ...], preferred: bool) -> str:
    name = pick.policy
    if not others:
        return f"Only {name} was run"
    if len(_equals(others)) == len(others):
        return "The policy does not matter at this load" + (": change nothing" if name == UNGATED else "")
    if preferred or any(isinstance(other, Worse) for other in others):
        return f"{'Overload: use' if scenario.load > 1.0 else 'Use'} {name}"
    if any(isinstance(other, Near) for other in others):
        return f"Nothing is clearly better; keep {name}"
    return f"No difference shown; keep {name}"


def _reason(comparison: Comparison, scenario: Scenario, pick: Cell, equals: tuple[str, ...]) -> str:
    """One paragraph: the numbers of the choice, which others do equally well, how full memory is, what to doubt."""
    cells = comparison.at(scenario)
    sentences = [in_numbers(comparison, pick)]
    sentences += _beside_baseline(comparison, scenario, pick)
    if len(equals) == len(cells) - 1 > 0:
        sentences.append(
            f"{'Both' if len(cells) == 2 else f'All {len(cells)}'} policies do equally well, within the rule's margins."
        )
    elif equals:
        sentences.append(
            f"{listed(equals)} {'does' if len(equals) == 1 else 'do'} equally well, within the rule's margins."
        )
    sentences.append(_fullness(scenario, cells))
    sentences += _busy_time(scenario, pick)
    if scenario.load > 1.0:
        then = "clients give up" if comparison.gives_up else "the queue grows"
        sentences.append(f"The load is above the stability boundary: {then} for as long as the load lasts.")
    if comparison.repeats == 1 and len(cells) > 1:
        sentences.append("One repeat gives no interval: differences may be noise.")
    return " ".join(sentences)


def _beside_baseline(comparison: Comparison, scenario: Scenario, pick: Cell) -> list[str]:
    """What the choice gains and costs, wherever the interval excludes zero."""
    baseline = next(cell for cell in comparison.at(scenario) if cell.policy == comparison.baseline)
    every = [Difference.of(pick, baseline, c) for c in deciding(comparison)]
    shown = [str(d) for d in every if d.shown]
    return [f"Beside {baseline.policy}: {listed(shown)}."] if shown else []


def _busy_time(scenario: Scenario, pick: Cell) -> list[str]:
    """How close the choice comes to the fluid bound, at loads where under-use is a loss."""
    onset = scenario.plan.stability.onset_load
    bound, recomputation, under_use = (mean_of(pick, key) for key in BUSY_TIME)
    if onset is None or scenario.load < onset or isnan(bound + recomputation + under_use):
        return []
    return [
        f"Of the busy time of {pick.policy}, the fluid bound needs {tenths(bound)}; recomputation costs "
        f"{tenths(recomputation)} and under-use {tenths(under_use)}."
    ]


def _fullness(scenario: Scenario, cells: tuple[Cell, ...]) -> str:
    """How often memory is short under the policy that fills it most; a gate would hide the shortage."""
    busy = [c for c in cells if isfinite(mean_of(c, "kv_above_90"))]
    if not busy:
        return "The KV cache was never in use."
    fullest = max(busy, key=lambda c: mean_of(c, "kv_above_90"))
    share, onset = mean_of(fullest, "kv_above_90"), scenario.plan.stability.onset_load
    if share >= SELDOM_FULL:
        return f"Under {fullest.policy}, the KV cache is more than 90% full for {percent(share)} of the busy time."
    most = "never more than 90% full" if share == 0 else f"more than 90% full for at most {percent(share)} of the time"
    plan = (
        "the plan says it never will"
        if onset is None
        else f"the plan says it will from {percent(onset)} of the boundary"
    )
    return f"The KV cache hardly fills ({most}; {plan}), so a memory gate has next to nothing to decide."
