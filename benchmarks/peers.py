"""fluidgate beside other simulators: the same requests, in the same run, alternating.

    make bench-peers      or: python benchmarks/peers.py [--requests N] [--rounds N] [--peer NAME]... [TRACE.csv]

Each peer runs in a process and an environment of its own (`drivers/`) on its own A100 data for an 8B Llama; what is
timed is its replay alone. AISimulate and sched-sim come from `.venv-peers` (PEERS_PYTHON names another Python). Vidur
runs where VIDUR_PYTHON names a Python that has it and VIDUR_HOME its checkout, whose profiling data no wheel has.
Ratios compare rows of one round; processor time is what a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table
from speed import PEERS_HARDWARE, TRACE, azure_conversation

from fluidgate import EngineConfig, Workload
from fluidgate.engine import run
from fluidgate.policies import Greedy
from fluidgate.workload import write_mooncake

HERE = Path(__file__).parent
CONSOLE = Console(width=120)
CONFIG = EngineConfig(max_num_seqs=256, max_num_batched_tokens=2048)
SETTINGS = {"seats": 256, "token_budget": 2048, "blocks": PEERS_HARDWARE.num_gpu_blocks, "block_size": 16}
OUR_RUNS = 9  # a run takes milliseconds, so a round takes the median of several


class BadAnswerError(Exception):
    """A peer failed, or did not replay the requests that it was given."""


@dataclass(frozen=True)
class Peer:
    """A simulator that is not ours, and where it runs."""

    name: str
    python: Path
    driver: Path
    folder: Path = HERE


@dataclass(frozen=True)
class Replay:
    """One replay: how long the simulator took, and until when the requests ran in virtual time."""

    version: str
    wall_s: float
    cpu_s: float
    makespan_s: float


def peers() -> list[Peer]:
    """The peers that this machine has."""
    python = Path(os.environ.get("PEERS_PYTHON", HERE.parent / ".venv-peers" / "bin" / "python"))
    found = [Peer(name, python, HERE / "drivers" / f"{name}_replay.py") for name in ("aisimulate", "sched_sim")]
    if "VIDUR_PYTHON" in os.environ and "VIDUR_HOME" in os.environ:
        home = Path(os.environ["VIDUR_HOME"])
        found.append(Peer("vidur", Path(os.environ["VIDUR_PYTHON"]), HERE / "drivers" / "vidur_replay.py", home))
    return found


def parse_answer(name: str, stdout: str, workload: Workload) -> Replay:
    """What a driver printed last, checked against the requests that it was given.

    Errors: BadAnswerError for anything but one JSON object with positive finite times, for all requests and tokens.
    """
    last = stdout.strip().rpartition("\n")[2]
    try:
        answer = json.loads(last)
        replay = Replay(str(answer["version"]), *(float(answer[key]) for key in ("wall_s", "cpu_s", "makespan_s")))
        counts = answer["finished"], answer["output_tokens"]
    except (ValueError, TypeError, KeyError) as error:
        raise BadAnswerError(f"{name}: not the answer of a driver ({error!r}): {last[:200]!r}") from error
    for key in ("wall_s", "cpu_s", "makespan_s"):
        value = getattr(replay, key)
        if not (math.isfinite(value) and value > 0):
            raise BadAnswerError(f"{name}: {key} is {value}, not a time")
    expected = len(workload), int(workload.output_tokens.sum())
    if counts != expected:
        raise BadAnswerError(
            f"{name}: finished {counts[0]} requests with {counts[1]} tokens of {expected[0]} with {expected[1]}"
        )
    return replay


def peers_replay(peer: Peer, trace: Path, workload: Workload) -> Replay:
    """The trace through one peer, in a process of its own."""
    command = [str(peer.python), str(peer.driver), str(trace), json.dumps(SETTINGS)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=peer.folder)
    except OSError as error:
        raise BadAnswerError(f"{peer.name}: {error}; `make bench-peers` makes its environment") from error
    if ended.returncode:
        raise BadAnswerError(f"{peer.name}: its driver failed with status {ended.returncode}:\n{ended.stderr[-2000:]}")
    return parse_answer(peer.name, ended.stdout, workload)


def our_replay(workload: Workload) -> Replay:
    """Median of several runs of the compiled engine, which has run before."""
    walls, cpus = [], []
    for _ in range(OUR_RUNS):
        wall, cpu = time.perf_counter(), time.process_time()
        records = run(workload, PEERS_HARDWARE, Greedy(), CONFIG)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    makespan_s = float(np.nanmax(records.last_token_s) - workload.arrival_s[0])
    return Replay("", median(walls), median(cpus), makespan_s)


def middle(values: list[float]) -> str:
    """Median, with the smallest and the largest value."""
    shown = [
        f"{x:.4f}" if x < 1 else f"{x:.2f}" if x < 100 else f"{x:,.0f}"
        for x in (median(values), min(values), max(values))
    ]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def compare(workload: Workload, chosen: list[Peer], rounds: int, load: str) -> None:
    """A table of all simulators on one workload."""
    replays: dict[str, list[Replay]] = {"fluidgate": [], **{peer.name: [] for peer in chosen}}
    our_replay(workload)  # compiled before the clock starts
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "requests.jsonl"
        write_mooncake(workload, trace)
        for _ in range(rounds):
            replays["fluidgate"].append(our_replay(workload))
            for peer in chosen:
                replays[peer.name].append(peers_replay(peer, trace, workload))
    table = Table(
        title=f"Azure conversation trace, {len(workload):,} requests, {load}: median (min to max), {rounds} rounds"
    )
    for column in ("simulator", "CPU seconds", "× ours, CPU", "wall seconds", "× ours, wall", "makespan, s"):
        table.add_column(column, justify="left" if column == "simulator" else "right")
    ours = replays["fluidgate"]
    for name, own in replays.items():
        cells = []
        for clock in ("cpu_s", "wall_s"):
            seconds = [getattr(replay, clock) for replay in own]
            cells.append(middle(seconds))
            pairs = zip(own, ours, strict=True)
            cells.append(middle([getattr(a, clock) / getattr(b, clock) for a, b in pairs]) if own is not ours else "")
        table.add_row(f"{name} {own[0].version}", *cells, f"{own[0].makespan_s:,.1f}")
    CONSOLE.print(table)


def main() -> None:
    """The trace as it is and at twice its rate."""
    parser = argparse.ArgumentParser(description="fluidgate beside other simulators")
    parser.add_argument("trace", nargs="?", type=Path, default=TRACE)
    parser.add_argument("--requests", type=int, help="only the first of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="append", help="one of those that are here; default: all")
    arguments = parser.parse_args()
    here = peers()
    unknown = set(arguments.peer or ()) - {peer.name for peer in here}
    if unknown:
        sys.exit(f"no peer {', '.join(sorted(unknown))} here; there are {', '.join(peer.name for peer in here)}")
    chosen = [peer for peer in here if not arguments.peer or peer.name in arguments.peer]
    if "vidur" not in {peer.name for peer in here}:
        CONSOLE.print("Vidur is not here: set VIDUR_PYTHON and VIDUR_HOME to compare it too")
    workload = azure_conversation(arguments.trace).take(slice(0, arguments.requests))
    try:
        for factor, load in ((1, "as recorded"), (2, "at 2 × the rate")):
            compare(workload.scaled(factor), chosen, arguments.rounds, load)
    except BadAnswerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
