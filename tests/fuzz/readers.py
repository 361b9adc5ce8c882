"""What is done with an input that a reader takes: what the commands would do next, on a small scale."""

import contextlib
import io
import json
import re
import shlex
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fluidgate.calibration import calibrate_steps, read_steps
from fluidgate.calibration.server.bench_process import BenchError, last_line
from fluidgate.calibration.server.iteration_log import IterationLog
from fluidgate.calibration.server.live_steps import Counters, Look, PhaseLooks
from fluidgate.cli import _spread_bounds, command_line
from fluidgate.doctor import diagnose, read_facts
from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError, ResultsWarning
from fluidgate.hardware import (
    Hardware,
    Serving,
    estimate_hardware,
    find_gpu,
    find_model,
    load_profile,
    read_gpu,
    read_hardware,
    read_model_config,
    write_hardware,
)
from fluidgate.metrics import summarize
from fluidgate.policies import Greedy, make_policy
from fluidgate.report import calibration_table, facts_table, plan_table
from fluidgate.runs import Runner, compare, plan_for
from fluidgate.serving.flags import serve_command, serve_flags
from fluidgate.serving.planfile import PlanFile
from fluidgate.words import escaped
from fluidgate.workload import Workload, info, read_results, read_trace, write_mooncake, write_vidur
from latency_grids import fit_grid, read_grids

from . import seeds
from .campaign import Reader

CONFIG = EngineConfig(max_num_seqs=64)
MAX_REQUESTS, MAX_TOKENS, MAX_BLOCKS = 12, 3000, 10**5
"""Of a run: larger ones are as legal, and take as long as they take."""


def shown(table: Any) -> None:
    """Print a table as the commands do; no control character may come out."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=120, markup=False, emoji=False).print(table)
    unclean = {character for character in out.getvalue() if ord(character) < 32 and character != "\n"}
    assert not unclean, f"{unclean} reach the terminal"


def is_clean(line: str) -> bool:
    """Whether a line for people is one line and holds nothing that steers a terminal or hides from the eye."""
    return not any(mark in line for mark in "\t\n") and escaped(line) == line


def simulated(workload: Workload, hardware: Hardware) -> None:
    """Plan, run and sum up the first requests, where that is little work."""
    first = workload.take(slice(0, MAX_REQUESTS))
    planned = plan_for(first, hardware, CONFIG)
    json.dumps(planned.to_dict(), allow_nan=False)
    if (first.prompt_tokens + first.output_tokens).sum() <= MAX_TOKENS and hardware.num_gpu_blocks <= MAX_BLOCKS:
        summary = summarize(run(first, hardware, Greedy(), CONFIG)).to_dict()
        json.dumps(summary, allow_nan=False)


def trace(format: str | None, **options: list[Any]) -> Callable[[Path, Random], None]:
    """Read a trace, with one of the options' values; facts, writing and reading back, plan and run."""

    def use(path: Path, rng: Random) -> None:
        chosen = {name: rng.choice(values) for name, values in options.items()}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        workload, note = read_trace(path, format, **chosen)
        assert "\n" not in note
        facts = info(workload)
        json.dumps(facts, allow_nan=False)
        if rng.random() < 0.1:
            shown(facts_table(facts, title=workload.name))
        if rng.random() < 0.3:
            write, suffix = rng.choice(((write_vidur, "csv"), (write_mooncake, "jsonl")))
            copy = path.with_name(f"copy.{suffix}")
            write(workload, copy)
            back, _ = read_trace(copy)
            assert np.array_equal(back.prompt_tokens, workload.prompt_tokens)
        if rng.random() < 0.3:
            simulated(workload.scaled(rng.choice((1.0, 1.0, 3.0))), seeds.TINY)

    return use


def times(path: Path, _rng: Random) -> None:
    """Read a result's runs with the times of their requests."""
    for measured in read_results(path, failed="drop"):
        assert "\n" not in measured.note
        for latencies_s in measured.timings.latencies_s.values():
            assert np.all((latencies_s >= 0) | np.isnan(latencies_s))


def hardware(path: Path, rng: Random) -> None:
    """Read, write and read back; plan and run."""
    machine = read_hardware(path)
    write_hardware(machine, path.with_name("copy.json"))
    if machine.grid is None:
        assert repr(read_hardware(path.with_name("copy.json"))) == repr(machine)
    if rng.random() < 0.4:
        shown(plan_table(plan_for(seeds.LOAD, machine, CONFIG)))
        simulated(seeds.LOAD, machine)


def plan(path: Path, _rng: Random) -> None:
    """Load, make the policy, write the serve lines, save and load again."""
    file = PlanFile.load(path)
    file.make_policy()
    assert is_clean(file.policy_line())
    for form in ("plugin", "stock"):
        line = serve_command(serve_flags(file, form), file.model.name or "MODEL", "plan.json")  # type: ignore[arg-type]
        assert is_clean(line)
    file.save(path.with_name("copy.json"))
    assert PlanFile.load(path.with_name("copy.json")) == file


def doctor(path: Path, rng: Random) -> None:
    """Read facts and diagnose them, with and without step times."""
    machine = load_profile("llama-2-7b", "a100-80gb") if rng.random() < 0.4 else None
    facts = read_facts(str(path))
    diagnosis = diagnose(facts, machine)
    json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert all(is_clean(finding.says) for finding in diagnosis.findings)
    assert all(map(is_clean, diagnosis.notes))


def two_scrapes(path: Path, rng: Random) -> None:
    """The damaged page as the earlier or the later of two."""
    other = path.with_name("other.txt")
    page = path.read_text(encoding="utf-8", errors="replace")
    other.write_text(seeds.grown(page) if rng.random() < 0.5 else page, encoding="utf-8")
    first, second = (path, other) if rng.random() < 0.8 else (other, path)
    json.dumps(diagnose(read_facts(str(first), second, 30.0)).to_dict(), allow_nan=False)


def steps(path: Path, rng: Random) -> None:
    """Calibrate on the steps, and write the machine."""
    file = read_steps(path)
    if rng.random() < 0.3:
        report = calibrate_steps(file.points, has_pairs=file.has_pairs)
        json.dumps(report.to_dict(), allow_nan=False)
        shown(calibration_table(report, title=path.stem))
        write_hardware(report.hardware("mine", 1000, 16, "steps"), path.with_name("copy.json"))


def iterations(path: Path, rng: Random) -> None:
    """Steps from the log as it grew under looks half a second apart, and calibrate on them."""
    looks, size = seeds.ITERATIONS // 10 + 1, path.stat().st_size
    phase = PhaseLooks("p", 4, 16)
    for k in range(looks):
        counts = Counters(*[0.0] * len(Counters._fields))._replace(iterations=10.0 * k, prompt=1e3 * k, first_tokens=k)
        log_bytes = rng.randint(0, size) if rng.random() < 0.005 else size * k // (looks - 1)
        phase.looks.append(Look(0.5 * k, 4.0, 0.0, counts, log_bytes))
    points = IterationLog(path, 32_000, 16).steps([phase])
    assert all(np.isfinite(values).all() for values in points[1:])
    if rng.random() < 0.3:
        json.dumps(calibrate_steps(points).to_dict(), allow_nan=False)


def bench_output(path: Path, _rng: Random) -> None:
    """What a benchmark that failed printed last is part of a sentence."""
    with path.open("rb") as file:
        message = str(BenchError(last_line(file)))
    assert message.strip()
    assert "\n" not in message
    assert message == escaped(message)


def config(path: Path, rng: Random) -> None:
    """Estimate a machine from the dimensions, and plan on it."""
    shape = read_model_config(path)
    blocks = rng.choice((None, 3000))
    machine = estimate_hardware(shape, find_gpu("a100-80gb"), Serving(tp=rng.choice((1, 1, 2)), num_gpu_blocks=blocks))
    if rng.random() < 0.5:
        simulated(seeds.LOAD, machine)


def gpu(path: Path, rng: Random) -> None:
    """Estimate on the data sheet."""
    estimate_hardware(find_model("llama-2-7b"), read_gpu(path), Serving(num_gpu_blocks=rng.choice((None, 300))))


def grids(path: Path, rng: Random) -> None:
    """Fit the grids."""
    for grid in read_grids(path):
        machine, report = fit_grid(grid, kv_capacity_tokens=rng.choice((None, 50_000)))
        assert np.isfinite(report.mean_error)
        write_hardware(machine, path.with_name("copy.json"))


def results(path: Path, _rng: Random) -> None:
    """Resume from the file: what it holds is compared, what it lacks runs again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResultsWarning)  # what it is to say of lines that it runs again
        found = compare([seeds.LOAD], seeds.TINY, ["greedy", "watermark"], runner=Runner(results=path), timelines=False)
    json.dumps(found.to_dict("fluidgate compare"), allow_nan=False)


def policy(path: Path, _rng: Random) -> None:
    """Make the policy, and keep it in a plan file where vLLM could run it."""
    made = make_policy(path.read_text(encoding="utf-8", errors="replace").strip("\n"), seeds.small_plan())
    made.new_memory()
    if type(made).rank is not None:  # vLLM has its own order, and plan files are for it
        return
    config = EngineConfig(max_num_seqs=64, max_num_batched_tokens=512)
    PlanFile.of(seeds.small_plan(), made, config).save(path.with_name("copy.json"))


def warm() -> None:
    """Load or compile what inputs are timed with."""
    simulated(seeds.LOAD, seeds.TINY)
    for replicas in ("1", "2"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            words = ["simulate", "--requests", "20", "--rate", "5", "--replicas", replicas]
            command_line(words)(words, standalone_mode=False)


SLOW = {"--requests": 500, "--repeats": 3, "--replicas": 20, "--num-gpu-blocks": 10**6}
"""Options that may ask for much work, and the most that is run here; beyond its limit a value is refused at once."""


def command(path: Path, _rng: Random) -> None:
    """Run a command line in this process; its output and its refusals are checked."""
    import typer

    try:
        words = shlex.split(path.read_text(encoding="utf-8", errors="replace").replace("\x00", ""))
    except ValueError as error:
        raise InputError(f"no command line: {error}") from None
    for option, value in pairwise(words):
        if option in SLOW and value.strip().isdecimal() and SLOW[option] < int(value[:30]) <= 2 * 10**9:
            raise InputError("legal, and long")
    if not words or words[0] not in ("plan", "simulate", "serve-args"):
        raise InputError("another command")
    if any(re.match("-[-A-Za-z]", word) and word not in KNOWN for word in words):
        raise InputError("another option")  # that may write files, or run for long
    plan_path = path.with_name("plan.json")
    plan_path.write_text(seeds.plans()[0], encoding="utf-8")
    words = [str(plan_path) if word == "PLAN" else word for word in words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(typer.Exit):
        try:
            command_line(words)(_spread_bounds(words), standalone_mode=False)
        except typer.Exit:
            raise  # `--help` and the like
        except Exception as error:
            if not hasattr(error, "format_message"):  # what the parser of options refuses, it says itself
                raise
            raise InputError(error.format_message()) from None
    assert "\x1b" not in out.getvalue() + err.getvalue().replace("\x1b[?25h", "").replace("\x1b[?25l", "")


KNOWN = {word for line in seeds.COMMANDS for word in line.split() if word.startswith("-")}

FAILED = ["stop", "drop"]
UNITS = [None, None, "ms"]
READERS = (
    Reader("azure.csv", lambda: seeds.AZURE, trace("azure")),
    Reader("burstgpt.csv", lambda: seeds.BURSTGPT, trace("burstgpt", failed=FAILED)),
    Reader("vidur.csv", lambda: seeds.VIDUR, trace("vidur")),
    Reader("mooncake.jsonl", lambda: seeds.MOONCAKE, trace("mooncake", jitter_seed=[None, 3])),
    Reader("sharegpt.json", lambda: seeds.SHAREGPT, trace("sharegpt", failed=FAILED)),
    Reader("vllm-bench.json", lambda: seeds.VLLM_BENCH, trace("vllm-bench", failed=FAILED)),
    Reader("appended.json", lambda: seeds.VLLM_APPENDED, trace("vllm-bench", failed=FAILED, run=[1, 2])),
    Reader("guidellm.json", lambda: seeds.GUIDELLM[:1], trace("guidellm", failed=FAILED, run=[None, 1])),
    Reader("aiperf.jsonl", lambda: seeds.AIPERF[:1], trace("aiperf", failed=FAILED)),
    Reader("bailian.jsonl", lambda: seeds.BAILIAN, trace("bailian", time_unit=UNITS)),
    Reader("table.csv", lambda: seeds.TABLES, trace("table", failed=FAILED, time_unit=UNITS)),
    Reader("openai.jsonl", lambda: seeds.OPENAI, trace("openai", failed=FAILED)),
    Reader("litellm.csv", lambda: seeds.LITELLM, trace("litellm", failed=FAILED)),
    Reader("otel.json", lambda: seeds.OTEL, trace("otel", failed=FAILED)),
    Reader("langfuse.csv", lambda: seeds.LANGFUSE, trace("langfuse", failed=FAILED)),
    Reader("times.json", lambda: (*seeds.VLLM_BENCH, *seeds.VLLM_APPENDED, *seeds.GUIDELLM, *seeds.AIPERF), times),
    Reader(
        "any.trace",
        lambda: (
            *seeds.AZURE,
            *seeds.BURSTGPT,
            *seeds.VIDUR,
            *seeds.MOONCAKE,
            *seeds.SHAREGPT,
            *seeds.VLLM_BENCH,
            *seeds.GUIDELLM[:1],
            *seeds.AIPERF[:1],
            *seeds.BAILIAN,
            *seeds.TABLES,
            *seeds.OPENAI,
            *seeds.LITELLM,
            *seeds.OTEL,
            *seeds.LANGFUSE,
        ),
        trace(None),
    ),
    Reader("plan.json", seeds.plans, plan),
    Reader("hardware.json", seeds.hardware, hardware),
    Reader("scrape.txt", seeds.scrapes, doctor),
    Reader("second.txt", seeds.scrapes, two_scrapes),
    Reader("log.txt", seeds.logs, doctor),
    Reader("steps.csv", seeds.steps, steps),
    Reader("iterations.log", seeds.iterations, iterations, examples=600),
    Reader("bench.txt", lambda: seeds.BENCH_OUTPUT, bench_output, examples=600),
    Reader("config.json", lambda: seeds.CONFIGS, config),
    Reader("quantised.json", lambda: seeds.QUANTISED, config),
    Reader("gpu.json", lambda: seeds.GPUS, gpu),
    Reader("grids.json", seeds.grids, grids),
    Reader("results.jsonl", seeds.results, results, examples=300),
    Reader("policy.txt", lambda: seeds.POLICIES, policy),
    Reader("command.txt", lambda: seeds.COMMANDS, command, examples=400),
)
