"""The tables of the decode-only server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fluidgate.studies.markdown import number, section, table
from fluidgate.studies.paper.decode_claims import gap
from fluidgate.studies.paper.decode_server import (
    ENGINES,
    KNOWN,
    MACHINES,
    PUBLISHED_S,
    RATES,
    SATURATED,
    SATURATED_MACHINES,
    UNTUNED,
    V1_RECOMPUTES,
    boundary,
    chosen_cap,
    mean_of,
)
from fluidgate.studies.paper.settings import SEARCHED, V1, VLLM

if TYPE_CHECKING:
    from fluidgate.studies.paper.study import PaperResult


def decode_server(result: PaperResult) -> str:
    """Latency over rates, machine by machine, and the rate of a standing queue."""
    parts = [_over_rates(result, name) for name in MACHINES]
    return section("A decode-only server", *parts, _saturated(result))


def _over_rates(result: PaperResult, on: str) -> str:
    runs = result.decode
    rows = [
        (who, *(number(mean_of(runs, "mean_e2e_s", on, who, rate)) for rate in RATES))
        for who in (*ENGINES, SEARCHED, *UNTUNED)
    ]
    rows += [(f"{who}, published", *(number(of[rate]) for rate in RATES)) for who, of in PUBLISHED_S.items()]
    rows.append(("B", *(str(chosen_cap(runs, on, rate)) for rate in RATES)))
    for baseline in (VLLM, V1):
        rows.append((f"WAIT below {baseline} by", *(f"{gap(runs, on, baseline, rate):.1%}" for rate in RATES)))
    title = f"### p630-d20, {on}: mean E2E latency, seconds (no policy beyond {boundary('p630-d20', on):.0f} req/s)"
    return f"{title}\n\n" + table(("req/s", *(f"{rate:g}" for rate in RATES)), rows)


def _saturated(result: PaperResult) -> str:
    rows, schedulers = [], (*ENGINES, V1_RECOMPUTES, *UNTUNED)
    for workload in SATURATED:
        for on in SATURATED_MACHINES:
            lengths = "known" if workload in KNOWN else "unknown"
            cells = [_rate(result, workload, on, who) for who in schedulers]
            rows.append((f"{workload}, {on}; lengths {lengths}", f"{boundary(workload, on):.2f}", *cells))
    head = ("", "bound", *schedulers)
    note = "In brackets: restarts per request. The policies are set from the plan and run on vLLM V1."
    return f"### A standing queue, req/s\n\n{note}\n\n" + table(head, rows)


def _rate(result: PaperResult, workload: str, on: str, who: str) -> str:
    rate, restarts = (mean_of(result.decode, key, on, who, None, workload) for key in ("service_rate", "restarts"))
    return f"{rate:.2f}" + (f" ({restarts:.2f})" if restarts > 0 else "")
