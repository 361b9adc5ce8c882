"""The study on a GPU, on a CPU: paged attention, predictions before measurements, nothing lost, and its page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fluidgate.hardware import Hardware, StepTime
from fluidgate.workload import generate

torch = pytest.importorskip("torch", reason="needs PyTorch, which is not here")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
CPU = torch.device("cpu")
POLICIES = ["greedy", "concurrency-cap", "wait", "nested-wait", "fluid"]
HARDWARE = Hardware("tiny", StepTime(2e-3, 1e-5, 1e-7), num_gpu_blocks=101, block_size=16)
"""Three requests of p512-d20 enter, and outgrow it."""


@dataclass(frozen=True)
class Scripts:
    """The benchmark's modules."""

    dense: ModuleType
    attention: ModuleType
    engine: ModuleType
    model: ModuleType
    study: ModuleType
    sweep: ModuleType
    run: ModuleType


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tensors are tiny; more threads wait for each other on a busy machine
        yield Scripts(*(import_module(name) for name in Scripts.__dataclass_fields__))
        torch.set_num_threads(threads)


SHAPES = [(4, 2, 16, 4), (4, 4, 32, 16), (8, 1, 16, 16)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_paged_attention_equals_dense(scripts: Scripts, shape: tuple[int, ...], dtype: Any) -> None:
    off = scripts.dense.difference(scripts.attention.torch_attention, *shape, CPU, dtype)
    assert off <= scripts.dense.TOLERANCE[dtype]


INTERPRETED = """
import json, sys
import torch
from dense import difference
from engine import Engine, serve
from paged import triton_attention
from model import TINY, random_model
from attention import torch_attention
from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import Greedy
from fluidgate.workload import Workload
import numpy as np

cpu = torch.device("cpu")
shapes = json.loads(sys.argv[1])
off = [difference(triton_attention, *shape, cpu, torch.float32) for shape in shapes]
load = Workload(np.zeros(4), np.array([40, 70, 1, 20]), np.array([4, 6, 8, 3]), name="four")
hardware = Hardware("tiny", StepTime(1e-3), num_gpu_blocks=12, block_size=16)
config = EngineConfig(max_num_batched_tokens=64, scheduler_reserve_full_isl=False)
model, tokens = random_model(TINY, cpu, torch.float32), []
for attention in (torch_attention, triton_attention):
    engine = Engine(model, hardware.num_gpu_blocks, attention=attention)
    assert serve(engine, load, hardware, Greedy(), config).records.finished.all()
    rows = zip(engine.tokens.tolist(), load.prompt_tokens + load.output_tokens)
    tokens.append([row[:end] for row, end in rows])
print(json.dumps({"off": off, "tokens": tokens}))
"""


def test_the_kernel_equals_dense_attention_and_generates_the_same_tokens() -> None:
    """In Triton's interpreter, in a process of its own: Triton has to know from the start."""
    pytest.importorskip("triton", reason="needs Triton, which is not here")
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(FOLDER), *filter(None, sys.path)])}
    command = [sys.executable, "-c", INTERPRETED, json.dumps(SHAPES)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=env)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert len(found["off"]) == len(SHAPES)
    assert max(found["off"]) <= 1e-4
    plain, kernel = found["tokens"]
    assert plain == kernel
    assert len({token for row in plain for token in row[-3:]}) > 4  # or equal tokens would say little


@pytest.mark.parametrize("wrong", ["blocks swapped", "a slot too many", "a slot too few"])
def test_a_wrong_attention_differs(scripts: Scripts, wrong: str) -> None:
    def attention(batch: Any, block_size: int, put: Any) -> Any:
        if wrong == "blocks swapped":
            blocks = batch.blocks.copy()
            blocks[3, [0, 1]] = blocks[3, [1, 0]]
            blocks[7, -2:] = blocks[7, -2:][::-1]
            batch = replace(batch, blocks=np.roll(blocks, 1, axis=0))
        else:
            batch = replace(batch, before=np.maximum(batch.before + (1 if wrong == "a slot too many" else -1), 0))
        return scripts.attention.torch_attention(batch, block_size, put)

    assert scripts.dense.difference(attention, 4, 2, 16, 16, CPU, torch.float32) > 0.1


# The compiler needs no GPU, so that what only a GPU can run is at least known to compile for one.
@pytest.mark.parametrize("queries", ["DECODE_QUERIES", "CHUNK_QUERIES"])
def test_the_kernel_compiles_for_an_h100(scripts: Scripts, queries: str) -> None:
    triton = pytest.importorskip("triton", reason="needs Triton, which is not here")
    targets = pytest.importorskip("triton.backends.compiler")
    paged = import_module("paged")
    constants = {"GROUP": 1, "BLOCK_SIZE": 16, "WIDTH": 128, "QUERIES": getattr(paged, queries), "SLOTS": paged.SLOTS}
    constants |= {"PRECISION": "tf32"}
    types = dict.fromkeys(("q", "keys", "values", "out"), "*bf16")
    types |= dict.fromkeys(("table", "requests", "rows", "counts", "positions"), "*i64") | {"scale": "fp32"}
    types |= dict.fromkeys(("table_stride", "q_stride", "block_stride", "head_stride"), "i32")
    source = triton.compiler.ASTSource(paged._attend, types | dict.fromkeys(constants, "constexpr"), constants)
    compiled = triton.compile(source, target=targets.GPUTarget("cuda", 90, 32))
    assert compiled.metadata.shared < 227 * 1024  # what a block of an H100 has


def tiny_study(scripts: Scripts, out: Path, budget_s: float) -> Any:
    """A study whose runs are short, on a machine that is calibrated already."""
    model = scripts.model.random_model(scripts.model.TINY, CPU, torch.float32)
    engine = scripts.engine.Engine(model, HARDWARE.num_gpu_blocks + 3)
    scale = replace(scripts.study.TINY, requests={"p512-d20": 6}, loads=(1.1,), budget_s=budget_s)
    about = {"study": "paper-h3", "model": "tiny", "device": "CPU"}
    return scripts.study.Study(
        engine, HARDWARE.num_gpu_blocks, scale, 0, about, out, lambda text: None, time.perf_counter()
    )


def test_predictions_come_first_and_no_block_is_used_twice(
    scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, found, used_blocks = tmp_path / "result.json", [], []
    serve, plain_run = scripts.study.serve, scripts.engine.Engine.run

    def watched_serve(*arguments: Any) -> Any:
        found.append(json.loads(out.read_text(encoding="utf-8"))["runs"])
        return serve(*arguments)

    def watched_run(self: Any, batch: Any) -> float:
        needed = -(-(batch.before + batch.new) // self.block_size)
        used = np.concatenate([row[:count] for row, count in zip(batch.blocks, needed, strict=True)])
        assert len(set(used.tolist())) == len(used)
        assert used.min() >= 1  # block 0 holds nothing
        assert used.max() < self.kv.shape[2] == HARDWARE.num_gpu_blocks
        used_blocks.append(len(used))
        return float(plain_run(self, batch))

    monkeypatch.setattr(scripts.study, "serve", watched_serve)
    monkeypatch.setattr(scripts.engine.Engine, "run", watched_run)
    study = tiny_study(scripts, out, 600.0)
    study.measure(study.predict(HARDWARE), HARDWARE)
    assert max(used_blocks) > 0.95 * HARDWARE.num_gpu_blocks  # or the bound would say little
    assert len(found) == len(POLICIES)
    final = json.loads(out.read_text(encoding="utf-8"))["runs"]
    for done, runs in enumerate(found):  # each is kept as it comes, and no prediction changes afterwards
        assert [run["measured"] is not None for run in runs] == [i < done for i in range(len(POLICIES))]
        assert [run["predicted"] for run in runs] == [run["predicted"] for run in final]
        assert all(run["predicted"]["completed"] == run["requests"] for run in runs)


def test_a_budget_that_is_spent_leaves_predictions(scripts: Scripts, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    study = tiny_study(scripts, out, 1e-3)
    study.measure(study.predict(HARDWARE), HARDWARE)
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
    assert [run["policy"] for run in runs] == POLICIES
    assert all(run["measured"] is None and run["predicted"]["completed"] == run["requests"] for run in runs)
    assert {run["requests"] for run in runs} == {scripts.study.TINY.least_requests}


def test_a_line_is_found_again(scripts: Scripts) -> None:
    step_time = StepTime(8e-3, 0.0, 3e-7)
    rows = [
        scripts.sweep.Swept(n, 265.0 * n, 8e-3 + 3e-7 * 265 * n, scripts.sweep.predicted_s(step_time, n))
        for n in (1, 8, 64)
    ]
    fits = scripts.sweep.fits(rows, step_time)
    assert fits["line"]["d0_s"] == pytest.approx(8e-3)
    assert fits["line"]["d1_s_per_kv_token"] == pytest.approx(3e-7)
    for fit in ("line", "calibrated_decode_step", "calibrated_batch"):
        assert fits[fit]["r2"] == pytest.approx(1.0)
        assert fits[fit]["mean_error"] == pytest.approx(0.0, abs=1e-9)
    slower = scripts.sweep.fits(rows, replace(step_time, c0=8.8e-3))["calibrated_decode_step"]
    assert slower["mean_error"] == pytest.approx(np.mean([0.8e-3 / row.decode_step_s for row in rows]))
    assert slower["r2"] < 1


def test_a_batch_of_the_sweep_takes_the_steps_of_the_engine(scripts: Scripts) -> None:
    """Nine requests: two steps of prompts, then 19 decodes, counted by hand."""
    assert scripts.sweep.predicted_s(StepTime(1.0), 9) == 21
    assert scripts.sweep.predicted_s(StepTime(1e-6, 1.0), 9) == pytest.approx(9 * 256 + 19 * 9, rel=1e-6)
    kv = 9 * 256 + sum(9 * (256 + i) for i in range(1, 20))
    assert scripts.sweep.predicted_s(StepTime(1e-6, 0.0, 1.0), 9) == pytest.approx(kv, rel=1e-6)


WITHOUT_PACKAGES = """
import runpy, sys
sys.modules.update(dict.fromkeys(("numba", "llvmlite", "pyarrow", "pydantic", "typer", "rich")))
del sys.argv[0]
sys.path.insert(0, str(sys.argv[0].rpartition("/")[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script as a machine with PyTorch, SciPy and no more would."""


def test_the_study_writes_all_it_promises(scripts: Scripts, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    script = [sys.executable, "-c", WITHOUT_PACKAGES, str(FOLDER / "run.py")]
    ran = subprocess.run(
        [
            *script,
            "--study",
            "paper-h3",
            "--model",
            "tiny",
            "--device",
            "cpu",
            "--requests",
            "4",
            "--budget-s",
            "900",
            "--out",
            str(out),
        ],
        capture_output=True,
        text=True,
        timeout=1800,  # of which it needs half a minute; more is a hang
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert [row[0] for row in result["sweep"]["rows"]] == list(scripts.study.TINY.batches)
    assert result["calibration"]["steps"] == len(result["steps"]) >= 20
    assert [(run["workload"], run["load"], run["policy"]) for run in result["runs"]] == [
        (workload, load, policy) for workload in ("p512-d20", "lmsys") for load in (0.5, 1.1) for policy in POLICIES
    ]
    for run in result["runs"]:
        requests = generate(run["workload"], n=run["requests"], seed=0)
        measured, tokens = run["measured"], int(requests.output_tokens.sum())
        assert measured["completed"] == run["predicted"]["completed"] == len(requests)
        assert measured["sampled_tokens"] == run["output_tokens"] == tokens
        once = int(requests.prompt_tokens.sum()) + tokens - len(requests)  # no one computes the last token
        assert measured["computed_tokens"] == once + measured["recomputed_tokens"]
        assert 0 < measured["peak_blocks"] < result["num_gpu_blocks"]
        assert measured["mean_e2el_ms"] > measured["mean_ttft_ms"] > 0
        assert run["step_time_error"]["total_predicted_over_measured"] > 0
    assert "run.py --study paper-h3" in result["command"]
    page = tmp_path / "page.md"
    subprocess.run([sys.executable, str(FOLDER / "page.py"), str(out), "--page", str(page)], check=True, timeout=300)
    text = page.read_text(encoding="utf-8")
    assert "Figures for a GPU are open" in text
    assert "20 of 20 runs measured" in text
    assert "not measured" not in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--study", "paper-h3", "--load", "0.9"), "--study sets workloads and loads"),
        (("--budget-s", "60"), "--budget-s is for a --study"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    scripts: Scripts, arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        scripts.run.arguments(list(arguments))
    assert refused.value.code == 2
    assert sentence in capsys.readouterr().err


def test_an_attention_that_is_wrong_here_is_refused(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(batch: Any, block_size: int, put: Any) -> Any:
        return scripts.attention.torch_attention(replace(batch, blocks=batch.blocks[::-1]), block_size, put)

    def broken() -> Any:
        raise RuntimeError("no compiler\nand a long trace")

    choose, tiny = scripts.run.choose_attention, (scripts.model.TINY, CPU, torch.float32)
    assert choose("auto", *tiny) is scripts.attention.torch_attention
    monkeypatch.setattr(scripts.run, "triton_attention", lambda: swapped)
    with pytest.raises(scripts.run.InputError, match="differs from dense attention by"):
        choose("triton", *tiny)
    monkeypatch.setattr(scripts.run, "triton_attention", broken)
    with pytest.raises(scripts.run.InputError, match="does not run here: no compiler; use another"):
        choose("triton", *tiny)
