"""What the paper claims of a decode-only server, judged."""

from __future__ import annotations

from fluidgate.studies.paper.decode_server import GAP, MACHINES, PUBLISHED_S, RATES, DecodeRun, mean_of
from fluidgate.studies.paper.settings import SEARCHED, V1, VLLM
from fluidgate.studies.paper.verdicts import CLEAR, NEAR, NEAR_LATENCY, Claim, by_machine, judged

_TABLE = "A decode-only server"


def decode_claims(runs: dict[DecodeRun, dict[str, float]]) -> list[Claim]:
    """That of the figure, its numbers, and whether the thresholds do it."""
    gaps = {on: [gap(runs, on, VLLM, rate) for rate in RATES] for on in MACHINES}
    verdict, owner = judged({on: min(of) >= (1.0 - NEAR) * GAP for on, of in gaps.items()}, "open", "the paper's")
    of_the_figure = Claim(
        "Appendix, disaggregated: WAIT's mean E2E is below vLLM's at every rate, by",
        "45% at 100 to 55% at 500 req/s",
        by_machine({on: f"{min(of):.0%} to {max(of):.0%}" for on, of in gaps.items()}),
        verdict,
        owner,
        f"{_TABLE}: the model of the authors' runs, Llama-3-8B, gives it",
    )
    return [of_the_figure, _latencies(runs), _thresholds(runs)]


def gap(runs: dict[DecodeRun, dict[str, float]], on: str, baseline: str, rate: float) -> float:
    """How far WAIT's mean latency is below that of a baseline, as a share of it."""
    return 1.0 - mean_of(runs, "mean_e2e_s", on, SEARCHED, rate) / mean_of(runs, "mean_e2e_s", on, baseline, rate)


def _latencies(runs: dict[DecodeRun, dict[str, float]]) -> Claim:
    ends = (RATES[0], RATES[-1])

    def shown(of: dict[str, dict[float, float]]) -> str:
        return " / ".join(f"{of[who][rate]:.3g}" for rate in ends for who in (VLLM, SEARCHED))

    found = {
        on: {who: {rate: mean_of(runs, "mean_e2e_s", on, who, rate) for rate in ends} for who in (VLLM, SEARCHED)}
        for on in MACHINES
    }
    near = {
        on: all(abs(of[who][rate] / PUBLISHED_S[who][rate] - 1.0) <= NEAR_LATENCY for who in of for rate in ends)
        for on, of in found.items()
    }
    verdict, owner = judged(near, "open", "the paper's")
    return Claim(
        "The authors' notes on it: mean E2E of vLLM / WAIT at 100, then at 500 req/s, s",
        shown(PUBLISHED_S),
        by_machine({on: shown(of) for on, of in found.items()}),
        verdict,
        owner,
        _TABLE,
    )


def _thresholds(runs: dict[DecodeRun, dict[str, float]]) -> Claim:
    gaps = {on: [gap(runs, on, V1, rate) for rate in RATES] for on in MACHINES}
    holds = all(max(of) > CLEAR and min(of) > -CLEAR for of in gaps.values())
    return Claim(
        "The threshold does it (not in the paper: WAIT's mean E2E is below that of vLLM V1, which always decodes, by)",
        "above 0",
        by_machine({on: f"{min(of):.1%} to {max(of):.1%}" for on, of in gaps.items()}),
        "reproduced" if holds else "not",
        "none" if holds else "the paper's",
        f"{_TABLE}: its vLLM runs what arrives alone, while residents stand still",
    )
