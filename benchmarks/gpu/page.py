"""The page of `run.py --study paper-h3`, from its file; without one, a page that says what is open.

    python benchmarks/gpu/page.py                                 # docs/gpu-results.md from docs/measured/paper-h3.json
    python benchmarks/gpu/page.py RESULT.json --page PAGE.md

Needs neither PyTorch nor a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from fluidgate.errors import InputError
from fluidgate.jsonfile import read_object
from fluidgate.output import write_text

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULT, PAGE = DOCS / "measured" / "paper-h3.json", DOCS / "gpu-results.md"
COMPARED = {
    "mean_ttft_ms": "TTFT mean",
    "mean_tpot_ms": "TPOT mean",
    "mean_e2el_ms": "E2E mean",
    "p99_longest_silence_s": "silence p99",
    "output_throughput": "output tok/s",
}
EQUAL = 0.01
"""Mean E2E latencies this close count as one place."""

Row = dict[str, Any]

INTRO = """# A real GPU

[The paper's](paper.md) appendix on a real GPU, on the GPU at hand: (i) step times of p256-d20 at batches of 1 to 128,
(ii) p512-d20 at loads from 0.2 to 1.1 of the stability boundary, (iii) LMSYS lengths at the same loads. The model has
Llama-2-7B's shape and random weights, attention reads a paged KV cache, and every policy decides by the functions
that the simulator runs. The machine is calibrated first, then all runs are simulated and the predictions written to
the file, then the runs are measured ([how](validation.md#on-a-gpu)).

<!-- not run: needs PyTorch and a GPU -->
```bash
python benchmarks/gpu/run.py --study paper-h3 --out docs/measured/paper-h3.json
python benchmarks/gpu/page.py
```
"""
OPEN = "**Figures for a GPU are open**: the study has not run on one yet."
PUBLISHED = """Published for an A100 with 80 GB: R² 0.9957 and a mean error of 1.51% over 25 batch sizes (in another
version of the text 0.9943 and 1.93%, over powers of two), with d0 = 276 ms and d1 = 0.0115 ms per KV token. A decode
step does not take 276 ms; read as the time of 20 of them, that is 13.8 ms and 0.58 µs a step."""


def page(result: Row | None) -> str:
    """The page as Markdown; None: there is no result yet."""
    if result is None:
        return f"{INTRO}\n{OPEN}\n\n{PUBLISHED}\n"
    parts = [INTRO.rstrip(), _machine(result), _steps(result)]
    for workload, rows in groupby(result.get("runs", []), key=lambda row: row["workload"]):
        parts.append(_workload(workload, list(rows)))
    return "\n\n".join(parts) + "\n"


def _machine(result: Row) -> str:
    runs = result.get("runs", [])
    done = sum(row["measured"] is not None for row in runs)
    what = (
        f"Below: {result['model']} in {result['dtype']} on {result['device']}, {result['attention']} attention, "
        f"{result['num_gpu_blocks']:,} KV blocks of {result['block_size']} tokens, PyTorch {result['torch']}; "
        f"{done} of {len(runs)} runs measured in {result['wall_s']:.0f} s; from `{result['command']}`."
    )
    if result["on_gpu"]:
        return what
    return (
        f"{OPEN} What follows is the same study of a tiny model on a CPU: it shows that the way works, and its times "
        f"mean nothing for a GPU.\n\n{what}"
    )


def _steps(result: Row) -> str:
    if "sweep" not in result:
        return "The study ended before its step times were fitted."
    sweep, calibration = result["sweep"], result["calibration"]
    line, step, batch = (sweep[key] for key in ("line", "calibrated_decode_step", "calibrated_batch"))
    held_out = calibration["held_out_error"]
    fits = [
        ("line through the decode steps", f"{line['r2']:.4f}", f"{line['mean_error']:.2%}"),
        ("calibration, decode steps", f"{step['r2']:.4f}", f"{step['mean_error']:.2%}"),
        ("calibration, whole batches with prompts", f"{batch['r2']:.4f}", f"{batch['mean_error']:.2%}"),
    ]
    rows = [(f"{count}", f"{kv:,.0f}", *(_ms(seconds) for seconds in times)) for count, kv, *times in sweep["rows"]]
    head = ("requests", "KV tokens", "decode step", "line", "calibration", "whole batch", "calibration")
    return "\n\n".join(
        (
            "## Step times of p256-d20",
            f"The line: d0 = {_ms(line['d0_s'])}, d1 = {1e6 * line['d1_s_per_kv_token']:.3g} µs per KV token. The "
            f"calibration is fitted to {calibration['steps']} other steps, of which held-out ones are off by "
            f"{held_out['mean_without_outliers']:.1%}. {PUBLISHED}",
            _table(("fit", "R²", "mean error"), fits),
            _table(head, rows),
        )
    )


def _workload(name: str, rows: Sequence[Row]) -> str:
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    cells = [
        (f"{load:g}", f"{here[0]['rate']:.3g}", f"{here[0]['requests']}", *(_e2e(row) for row in here))
        for load, here in ((load, list(group)) for load, group in groupby(rows, key=lambda row: row["load"]))
    ]
    done = [row for row in rows if row["measured"] is not None]
    sections = [
        f"## {name}",
        "Mean E2E latency in seconds, measured (predicted); in bold within 1% of the least measured at that load.",
        _table(("load", "req/s", "requests", *policies), _bold(cells, rows)),
    ]
    if done:
        errors = [
            (label, *(_error(key, [row for row in done if row["policy"] == policy]) for policy in policies))
            for key, label in COMPARED.items()
        ]
        sections += ["Mean |predicted ÷ measured − 1| over loads:", _table(("", *policies), errors), _ranking(done)]
    return "\n\n".join(sections)


def _ranking(done: Sequence[Row]) -> str:
    """Whether the prediction names a policy that is best, or close to it."""
    told, loads = 0, 0
    for _, group in groupby(done, key=lambda row: row["load"]):
        here = list(group)
        chosen = min(here, key=lambda row: row["predicted"]["mean_e2el_ms"])
        told += chosen["measured"]["mean_e2el_ms"] <= _least(here) * (1 + EQUAL)
        loads += 1
    return (
        f"The policy with the least predicted mean E2E is within 1% of the least measured at {told} of {loads} loads."
    )


def _least(rows: Sequence[Row]) -> float:
    return min((row["measured"]["mean_e2el_ms"] for row in rows if row["measured"] is not None), default=float("nan"))


def _e2e(row: Row) -> str:
    predicted = f"({row['predicted']['mean_e2el_ms'] / 1e3:.3g})"
    return (
        f"{row['measured']['mean_e2el_ms'] / 1e3:.3g} {predicted}" if row["measured"] else f"not measured {predicted}"
    )


def _bold(cells: Iterable[Sequence[str]], rows: Sequence[Row]) -> list[tuple[str, ...]]:
    marked = []
    for cell, (_, group) in zip(cells, groupby(rows, key=lambda row: row["load"]), strict=True):
        here = list(group)
        limit = _least(here) * (1 + EQUAL)
        best = [row["measured"] is not None and row["measured"]["mean_e2el_ms"] <= limit for row in here]
        marked.append((*cell[:3], *(f"**{text}**" if b else text for text, b in zip(cell[3:], best, strict=True))))
    return marked


def _error(key: str, rows: Sequence[Row]) -> str:
    pairs = [(row["predicted"][key], row["measured"][key]) for row in rows]
    errors = [abs(predicted / measured - 1.0) for predicted, measured in pairs if predicted is not None and measured]
    return f"{np.mean(errors):.1%}" if errors else "–"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.4g} ms"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", help=f"file that run.py wrote ({RESULT.name} in the docs)")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    write_text(args.page, page(read_result(args.result)))


def read_result(path: Path | None) -> Row | None:
    """What the study wrote to a file; None: to the one in the docs, if it is there.

    Raises:
        InputError: no such file, or not of this study.
    """
    if path is None and not RESULT.exists():
        return None
    read = read_object(path or RESULT, "a file that run.py --study paper-h3 wrote")
    if read.text("study", default="none") != "paper-h3":
        raise InputError(f"{read.where}: is not of --study paper-h3; give the file that the study wrote")
    return read.values


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"page.py: {error}")
