"""Why a policy is recommended, in a sentence or two: its paired differences from the policy it would replace."""

from __future__ import annotations

from math import isfinite

from fluidgate.report.amounts import difference_texts
from fluidgate.report.criteria import LATENCY, Difference, deciding, in_numbers, mean_of
from fluidgate.report.recommend import Recommendation
from fluidgate.report.standing import Equal, Near, Standing, Undecided, Worse
from fluidgate.report.words import counted, unfinished
from fluidgate.runs import Cell, Comparison, Scenario
from fluidgate.words import listed

MOST_SHOWN = 3
"""Differences in one sentence, for better and for worse each."""


def why(comparison: Comparison, scenario: Scenario, choice: Recommendation) -> str:
    """How the recommended policy differs from the baseline, or from its closest rival; then how the others stand."""
    cells = comparison.at(scenario)
    pick = next(cell for cell in cells if cell.policy == choice.policy)
    if len(cells) == 1:
        return in_numbers(comparison, pick)
    rival = _rival(comparison, cells, choice)
    sentences = [_beside(comparison, pick, rival)]
    own = [trouble for trouble in troubles(comparison, rival) if trouble not in troubles(comparison, pick)]
    if own:
        sentences.insert(0, f"{rival.policy}: {listed(own)}.")
    return " ".join([*sentences, *_others(choice, rival)])


def troubles(comparison: Comparison, cell: Cell) -> list[str]:
    """What speaks against a policy before any number: requests left, missed objectives, queues that should not grow."""
    left = unfinished(cell)
    unstable = sum(summary.stable is False for summary in cell.summaries) if cell.scenario.load <= 1.0 else 0
    return [
        *([f"{counted(left, 'request')} unfinished"] if left else []),
        *([f"unstable in {unstable} of {counted(len(cell.summaries), 'repeat')}"] if unstable else []),
        *(judged.words for judged in comparison.judged(cell) if judged.met is False),
    ]


def _standing(choice: Recommendation, cell: Cell) -> Standing:
    return next(standing for standing in choice.standings if standing.policy == cell.policy)


def _rival(comparison: Comparison, cells: tuple[Cell, ...], choice: Recommendation) -> Cell:
    """The baseline; where that is the choice, the policy of the lowest latency, not removed if any was not."""
    others = [cell for cell in cells if cell.policy != choice.policy]
    for cell in others:
        if cell.policy == comparison.baseline:
            return cell

    def rank(cell: Cell) -> tuple[bool, bool, float]:
        latency = mean_of(cell, LATENCY.metric)
        return isinstance(_standing(choice, cell), Worse), not isfinite(latency), latency

    return min(others, key=rank)


def _beside(comparison: Comparison, pick: Cell, rival: Cell) -> str:
    every = [d for d in (Difference.of(pick, rival, c) for c in deciding(comparison)) if isfinite(d.mean)]
    if not every:
        return f"{rival.policy} and {pick.policy} have no numbers to compare."
    if not any((d.mean, d.low, d.high) != (0.0, 0.0, 0.0) for d in every):
        return f"{rival.policy} and {pick.policy} gave the same numbers in every repeat."
    better, worse = ([d for d in _largest_first(every) if d.shown == word] for word in ("better", "worse"))
    beside = f"Beside {rival.policy}, {pick.policy} has"
    if better or worse:
        gains, costs = (listed([_words(d) for d in found[:MOST_SHOWN]]) for found in (better, worse))
        return f"{beside} {', but '.join(filter(None, (gains, costs)))}."
    first = [_words(d) for d in every[:MOST_SHOWN]]
    doubt = "nothing is shown with one repeat" if comparison.repeats == 1 else "every interval includes zero"
    return f"{beside} {listed(first)}: {doubt}."


def _largest_first(differences: list[Difference]) -> list[Difference]:
    """By margins; those without a margin keep their order at the end."""
    return sorted(differences, key=lambda d: -abs(d.mean) / d.margin if d.margin > 0 else 0.0)


def _words(difference: Difference) -> str:
    """`p99 longest silence −114 s [−191, −36.6]`."""
    criterion = difference.criterion
    return " ".join(filter(None, (criterion.words, *difference_texts(criterion.metric, difference.interval))))


def _others(choice: Recommendation, rival: Cell) -> list[str]:
    """How the policies stand that the sentence did not name."""
    named: dict[str, list[str]] = {}
    for standing in choice.standings:
        if standing.policy != rival.policy:
            named.setdefault(_place(standing), []).append(standing.policy)
    if not named:
        return []
    others = [f"{listed(names)} {place}" for place, names in named.items()]
    count = sum(map(len, named.values()))
    return [f"The other {'policy' if count == 1 else f'{count} policies'}: {'; '.join(others)}."]


def _place(standing: Standing) -> str:
    if isinstance(standing, Worse):
        return "worse"
    if isinstance(standing, Undecided) or (isinstance(standing, Near) and standing.undecided):
        return "undecided"
    return "equal" if isinstance(standing, Equal) or standing.equal else "near"
