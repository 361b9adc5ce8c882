"""`recommend`: which policy to use at a load, by one stated rule, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, isnan

from fluidgate.metrics import METRICS, mean_interval, paired_difference
from fluidgate.report.shown_metrics import BUSY_TIME
from fluidgate.report.words import counted, measured, tenths, unfinished
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import listed, percent

SELDOM_FULL = 0.01
"""With KV above 90% for less than this share of the busy time, a memory gate has next to nothing to decide."""


@dataclass(frozen=True)
class Criterion:
    """A metric, and the largest difference in it that is too small to decide.

    Attributes:
        words: the metric's name in a sentence.
        absolute: in the metric's unit.
        relative: a share of the best value, added to `absolute`.
    """

    metric: str
    words: str
    absolute: float = 0.0
    relative: float = 0.0

    def margin(self, best: float) -> float:
        """The largest difference from `best` that counts as none."""
        return self.absolute + self.relative * abs(best)


THROUGHPUT = Criterion("output_throughput", "output throughput", relative=0.01)
GOODPUT = Criterion("request_goodput", "goodput", relative=0.01)
SILENCE = Criterion("p99_longest_silence_s", "p99 longest silence", absolute=0.1)
LATENCY = Criterion("mean_e2el_ms", "mean E2E latency", relative=0.01)
FIRST_TOKEN = Criterion("mean_ttft_ms", "mean TTFT", absolute=100.0, relative=0.05)


@dataclass(frozen=True)
class Recommendation:
    """Which policy to use at a load.

    Attributes:
        policy: the one to use.
        headline: the answer in a few words.
        reason: why, with numbers.
        equals: the policies that do equally well, within the rule's margins.
        others: the remaining policies, each with what speaks against it.
    """

    policy: str
    headline: str
    reason: str
    equals: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


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


def criteria(comparison: Comparison) -> tuple[Criterion, ...]:
    """What the rule looks at, in order; goodput replaces throughput where an SLO was given."""
    return (THROUGHPUT if comparison.slo is None else GOODPUT, SILENCE, LATENCY, FIRST_TOKEN)


def rule(comparison: Comparison) -> str:
    """The rule, as a paragraph."""
    delivered = criteria(comparison)[0].words
    return (
        "Policies that leave requests unfinished are set aside if others finish all of them. Below the stability "
        "boundary, so are policies that are unstable in most repeats, if another is stable in most. "
        f"Of the rest, those within {percent(THROUGHPUT.relative)} of the best {delivered} stay; then those within "
        f"{SILENCE.absolute:g} s of the lowest {SILENCE.words}; then those within {percent(LATENCY.relative)} of the "
        f"lowest {LATENCY.words}; then those within {FIRST_TOKEN.absolute:g} ms plus {percent(FIRST_TOKEN.relative)} "
        f"of the lowest {FIRST_TOKEN.words}. A policy is removed only if the whole 95% interval of its paired "
        f"difference lies beyond the margin. If several remain, {comparison.baseline} (the baseline) is kept if it is "
        f"among them, otherwise the one with the lowest {LATENCY.words}."
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
    for criterion in criteria(comparison):
        _narrow(choice, criterion)
    pick = _pick(comparison, choice.pool)
    rivals = [c for c in choice.pool if c is not pick]
    equals = tuple(c.policy for c in rivals if _equal(c, pick, criteria(comparison)))
    against = choice.removed | {c.policy: _unresolved(comparison) for c in rivals if c.policy not in equals}
    return Recommendation(
        pick.policy,
        headline=_headline(scenario, pick, cells, equals, choice.removed),
        reason=_reason(comparison, scenario, pick, equals),
        equals=equals,
        others=tuple((c.policy, against[c.policy]) for c in cells if c.policy in against),
    )


def _drop_unstable(choice: _Choice, scenario: Scenario) -> None:
    """Only below the boundary: above it every policy is unstable, and the steadiest ones show it first."""
    if scenario.load > 1.0 or not any(_mostly(c, True) for c in choice.pool):
        return
    choice.keep([c for c in choice.pool if not _mostly(c, False)], {c.policy: _instability(c) for c in choice.pool})


def _mostly(cell: Cell, stable: bool) -> bool:
    return 2 * sum(summary.stable is stable for summary in cell.summaries) > len(cell.summaries)


def _instability(cell: Cell) -> str:
    reasons = [summary.stability_reason for summary in cell.summaries if summary.stable is False]
    return f"{reasons[0]} (in {len(reasons)} of {len(cell.summaries)} repeats)" if reasons else ""


def _narrow(choice: _Choice, criterion: Criterion) -> None:
    candidates = [c for c in choice.pool if isfinite(_mean(c, criterion.metric))]
    if not candidates:
        return
    best = min(candidates, key=lambda c: _sign(criterion) * _mean(c, criterion.metric))
    margin = criterion.margin(_mean(best, criterion.metric))
    kept = [c for c in candidates if _deficit(c, best, criterion)[0] <= margin]
    choice.keep(kept, {c.policy: _shortfall(c, best, criterion) for c in choice.pool})


def _sign(criterion: Criterion) -> float:
    return 1.0 if METRICS[criterion.metric].better == "lower" else -1.0


def _mean(cell: Cell, metric: str) -> float:
    return mean_interval([getattr(s, metric) for s in cell.summaries]).mean


def _deficit(cell: Cell, best: Cell, criterion: Criterion) -> tuple[float, float]:
    """By how much `cell` is worse than `best`, at least and at most; with one repeat both are the difference itself."""
    values, best_values = ([getattr(s, criterion.metric) for s in c.summaries] for c in (cell, best))
    difference = paired_difference(values, best_values)
    ends = [difference.mean if isnan(end) else end for end in (difference.low, difference.high)]
    low, high = sorted(_sign(criterion) * end for end in ends)
    return low, high


def _equal(cell: Cell, pick: Cell, by: tuple[Criterion, ...]) -> bool:
    """Whether every interval of the difference lies within its margin."""
    for criterion in by:
        reference = _mean(pick, criterion.metric)
        if isnan(reference) and isnan(_mean(cell, criterion.metric)):
            continue
        low, high = _deficit(cell, pick, criterion)
        margin = criterion.margin(reference)
        if not (low >= -margin and high <= margin):
            return False
    return True


def _shortfall(cell: Cell, best: Cell, criterion: Criterion) -> str:
    value, least = (_mean(c, criterion.metric) for c in (cell, best))
    if isnan(value):
        return f"{criterion.words} unknown"
    metric = criterion.metric
    return f"{criterion.words} {measured(metric, value)}, where {best.policy} has {measured(metric, least)}"


def _pick(comparison: Comparison, pool: list[Cell]) -> Cell:
    for cell in pool:
        if cell.policy == comparison.baseline:
            return cell
    return min(pool, key=lambda c: (isnan(_mean(c, LATENCY.metric)), _mean(c, LATENCY.metric)))


def _unresolved(comparison: Comparison) -> str:
    return f"no clear difference in {counted(comparison.repeats, 'repeat')}; run more"


def _headline(
    scenario: Scenario, pick: Cell, cells: tuple[Cell, ...], equals: tuple[str, ...], removed: dict[str, str]
) -> str:
    if len(cells) == 1:
        return f"Only {pick.policy} was run"
    if len(equals) == len(cells) - 1:
        return "The policy does not matter at this load"
    if not removed:
        return f"No difference shown; keep {pick.policy}"
    return f"{'Overload: use' if scenario.load > 1.0 else 'Use'} {pick.policy}"


def _reason(comparison: Comparison, scenario: Scenario, pick: Cell, equals: tuple[str, ...]) -> str:
    """One paragraph: the numbers of the choice, which others do equally well, how full memory is, what to doubt."""
    cells = comparison.at(scenario)
    numbers = [f"{c.words} {measured(c.metric, _mean(pick, c.metric))}" for c in criteria(comparison)]
    sentences = [f"{pick.policy}: {', '.join(numbers)}."]
    if len(equals) == len(cells) - 1 > 0:
        sentences.append(f"All {len(cells)} policies do equally well, within the rule's margins.")
    elif equals:
        sentences.append(
            f"{listed(equals)} {'does' if len(equals) == 1 else 'do'} equally well, within the rule's margins."
        )
    sentences.append(_fullness(scenario, cells))
    sentences += _busy_time(scenario, pick)
    if scenario.load > 1.0:
        sentences.append("The load is above the stability boundary: the queue grows for as long as the load lasts.")
    if comparison.repeats == 1 and len(cells) > 1:
        sentences.append("One repeat gives no interval: differences may be noise.")
    return " ".join(sentences)


def _busy_time(scenario: Scenario, pick: Cell) -> list[str]:
    """How close the choice comes to the fluid bound, at loads where under-use is a loss."""
    onset = scenario.plan.stability.onset_load
    bound, recomputation, under_use = (_mean(pick, key) for key in BUSY_TIME)
    if onset is None or scenario.load < onset or isnan(bound + recomputation + under_use):
        return []
    return [
        f"Of the busy time of {pick.policy}, the fluid bound needs {tenths(bound)}; recomputation costs "
        f"{tenths(recomputation)} and under-use {tenths(under_use)}."
    ]


def _fullness(scenario: Scenario, cells: tuple[Cell, ...]) -> str:
    """How often memory is short under the policy that fills it most; a gate would hide the shortage."""
    busy = [c for c in cells if isfinite(_mean(c, "kv_above_90"))]
    if not busy:
        return "The KV cache was never in use."
    fullest = max(busy, key=lambda c: _mean(c, "kv_above_90"))
    share, onset = _mean(fullest, "kv_above_90"), scenario.plan.stability.onset_load
    if share >= SELDOM_FULL:
        return f"Under {fullest.policy}, the KV cache is more than 90% full for {percent(share)} of the busy time."
    most = "never more than 90% full" if share == 0 else f"more than 90% full for at most {percent(share)} of the time"
    plan = (
        "the plan says it never will"
        if onset is None
        else f"the plan says it will from {percent(onset)} of the boundary"
    )
    return f"The KV cache hardly fills ({most}; {plan}), so a memory gate has next to nothing to decide."
