"""What a whole command costs, from the shell to its table, beside an interpreter that imports NumPy and ends.

    make bench            or: python benchmarks/startup.py [AzureLLMInferenceTrace_conv.csv]

Processor time, user and system, of processes that take turns; ratios compare the processes of one round. Everything is
warm: a first round, which is not counted, compiles what is not kept yet. Without a trace file the simulated workload
is the built-in fit of the same trace.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

TRACE = Path(__file__).parents[2] / "shared" / "traces" / "AzureLLMInferenceTrace_conv.csv"
CONSOLE = Console(width=120)
ROUNDS = 7
YARDSTICK = "python -c 'import numpy'"


def cpu_s(words: list[str]) -> float:
    """Processor seconds of a process."""
    # as for a user, whose Python keeps the bytecode of what it imports
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    trace = Path(sys.argv[1]) if len(sys.argv) > 1 else TRACE
    load = f"--trace {trace}" if trace.exists() else "--preset azure-conv-2023 --requests 19366"
    commands = (
        "serve-args --help",
        "plan --model llama-3.1-8b --gpu l40s --preset r1-reasoning --rate 0.19",
        f"simulate {load} --policy greedy",
        f"compare {load} --policy greedy --policy fluid",
    )
    processes = {YARDSTICK: [sys.executable, "-c", "import numpy"]}
    processes |= {f"fluidgate {line}": [sys.executable, "-m", "fluidgate", *line.split()] for line in commands}
    for words in processes.values():
        cpu_s(words)
    rounds = [{line: cpu_s(words) for line, words in processes.items()} for _ in range(ROUNDS)]
    table = Table(title=f"Processor time of whole commands, median of {ROUNDS} rounds (min to max)")
    table.add_column("command")
    for column in ("seconds", "÷ the first row"):
        table.add_column(column, justify="right")
    for line in processes:
        seconds = [times[line] for times in rounds]
        ratios = [times[line] / times[YARDSTICK] for times in rounds]
        table.add_row(
            line.replace(str(trace), trace.name),
            f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
            f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
        )
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
