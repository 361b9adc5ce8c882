"""Whether `size` finds what trying everything finds, whether what it proves holds, and how long a large question takes.

    make bench-size       or: python benchmarks/size.py [search] [proof] [time]

search: 100 random small questions, answered by the search and by an exhaustive one that uses none of its short cuts.
proof: of the same questions, every fleet that was proved, run on seeds that neither search nor proof saw.
time: 4 GPUs × 4 tensor parallelisms × up to 16 replicas × 4 policies, for a chat service, in two processes.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.runs.sizing_cases import CONFIG, REQUESTS, Case, cheapest_of, exhaustive, random_case, searched

from fluidgate.runs import Runner
from fluidgate.runs.size import Choices, machines_of, size
from fluidgate.runs.size.answer import Option
from fluidgate.runs.size.demand import Demand
from fluidgate.runs.size.trials import Replications, Trial

CASES = 100
UNSEEN, UNSEEN_RUNS = 5_000_000, 16
"""First seed of the runs that try a proof, and how many; a search begins at 0 and a proof at 1,000,000."""

GPUS = ("h100", "h200", "a100-80gb", "l40s")
LARGE = Choices(policies=("greedy", "watermark", "concurrency-cap", "fluid"))
CONSOLE = Console(width=88, highlight=False)


def compare_searches() -> None:
    """Print of how many questions both searches give the same answer, and which they do not."""
    differ, answered = [], 0
    for seed in range(CASES):
        case = random_case(seed)
        wanted = exhaustive(case)
        answered += wanted is not None
        if cheapest_of(case, searched(case)) != wanted:
            differ.append(seed)
    CONSOLE.print(f"search: {CASES - len(differ)} of {CASES} questions answered as by trying everything", end="")
    CONSOLE.print(f" ({answered} have an answer){f'; not those of seeds {differ}' if differ else ''}")


def try_proofs() -> None:
    """Print of how many proved fleets every objective holds on average over runs with other seeds."""
    tried, missed = 0, []
    for seed in range(CASES):
        case = random_case(seed)
        answer = size(case.source, case.machines, case.objectives, **case.asked).answer
        if answer is not None:
            tried += 1
            excess = _excess_on_other_seeds(case, answer)
            if excess >= 0.0:
                missed.append(f"seed {seed}: {answer.label}, {answer.flags.words}, exceeded by {excess:.2%}")
    CONSOLE.print(f"proof: {tried - len(missed)} of {tried} proved fleets hold on {UNSEEN_RUNS} runs with other seeds")
    for line in missed:
        CONSOLE.print(f"  {line}")


def _excess_on_other_seeds(case: Case, answer: Option) -> float:
    """The largest mean excess of any objective over all the runs, whatever an earlier look would decide."""
    assert answer.machine.hardware is not None
    demand = Demand(case.source, case.rate, case.objectives, requests=REQUESTS)
    trial = Trial(
        answer.machine.hardware,
        answer.flags,
        answer.replicas,
        first_seed=UNSEEN,
        replications=UNSEEN_RUNS,
        first_look=UNSEEN_RUNS,
    )
    return Replications(trial, demand, CONFIG, 0.05).outcome().excess


def time_large_question() -> None:
    """Print wall and processor seconds, after a small question that loads the compiled code."""
    case = random_case(7)
    size(case.source, case.machines, case.objectives, **case.asked)
    machines = machines_of("llama-3.1-8b", GPUS, (1, 2, 4, 8))
    before, start = _processor_s(), time.perf_counter()
    sizing = size(
        "azure-conv-2023",
        machines,
        ["p99:ttft:2000", "p95:tpot:60"],
        rate=40.0,
        max_gpus=16 * 8,
        choices=LARGE,
        runner=Runner(jobs=2),
    )
    wall_s, processor_s = time.perf_counter() - start, _processor_s() - before
    answer = "nothing holds" if sizing.answer is None else f"{sizing.answer.label}, {sizing.answer.flags.words}"
    CONSOLE.print(
        f"time: {wall_s:.0f} s, {processor_s:.0f} s of processors, for {len(machines)} machines, "
        f"{len(LARGE.policies)} policies and {sizing.runs:,} runs of up to {sizing.requests:,} requests "
        f"in two processes on {os.cpu_count()} cores: {answer}"
    )


def _processor_s() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


PARTS = {"search": compare_searches, "proof": try_proofs, "time": time_large_question}

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        sys.exit(f"{', '.join(unknown)}: give any of {', '.join(PARTS)}, or nothing for all")
    for name in wanted:
        PARTS[name]()
