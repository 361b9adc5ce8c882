"""The GPU benchmark on a CPU: its engine generates what the model says, and its script runs from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fluidgate.engine import EngineConfig
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import make_policy
from fluidgate.runs import plan_for
from fluidgate.workload import Workload

torch = pytest.importorskip("torch", reason="needs PyTorch, which is not here")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
CPU = torch.device("cpu")
BLOCK_SIZE = 4


@dataclass(frozen=True)
class Scripts:
    """The benchmark's modules."""

    model: ModuleType
    engine: ModuleType
    measure: ModuleType


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield Scripts(*map(import_module, ("model", "engine", "measure")))


@pytest.fixture(scope="module")
def model(scripts: Scripts) -> Any:
    """In double precision, so that no two tokens tie by rounding."""
    return scripts.model.random_model(scripts.model.TINY, CPU, torch.float64, seed=1)


def all_earlier(layer: int, q: Any, k: Any, v: Any) -> Any:
    """Attention of one sequence to itself, spelled out."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(future, float("-inf")).softmax(-1), v)


def generated_naively(model: Any, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens with everything computed anew for each."""
    tokens = list(prompt)
    for _ in range(count):
        at = torch.arange(len(tokens))
        logits = model(torch.tensor(tokens), at, all_earlier, at[-1:])
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def test_the_model_is_a_llama(scripts: Scripts) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers, which is not here")
    shape = scripts.model.TINY
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        rms_norm_eps=scripts.model.NORM_EPS,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    ours = scripts.model.random_model(shape, CPU, torch.float32)
    theirs = transformers.LlamaForCausalLM(config).eval()
    weights = ours.state_dict()
    theirs.load_state_dict({name if name.startswith("lm_head") else f"model.{name}": weights[name] for name in weights})
    tokens = torch.randint(0, shape.vocab_size, (100,), generator=torch.Generator().manual_seed(0))
    at = torch.arange(len(tokens))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(tokens, at, all_earlier, at), theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-5
        )


# Eight requests at once, some of one token, some of several chunks; together about three times the KV cache.
CROWD = Workload(
    np.zeros(8), np.array([1, 21, 40, 9, 33, 2, 17, 28]), np.array([30, 12, 25, 1, 20, 34, 16, 9]), name="crowd"
)
HARDWARE = Hardware("tiny", StepTime(1e-3, 1e-5), num_gpu_blocks=25, block_size=BLOCK_SIZE)
SETTINGS = {
    "own blocks found again": {},
    "all recomputed": {"enable_prefix_caching": False},
    "restarted": {"preemption": "restart"},
    "sarathi": {"mode": "sarathi"},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_generates_what_a_full_recomputation_does(scripts: Scripts, model: Any, setting: dict[str, Any]) -> None:
    config = EngineConfig(max_num_batched_tokens=16, scheduler_reserve_full_isl=False, **setting)
    engine = scripts.engine.Engine(model, HARDWARE.num_gpu_blocks, BLOCK_SIZE)
    greedy = make_policy("greedy", plan_for(CROWD, HARDWARE, config))
    served = scripts.engine.serve(engine, CROWD, HARDWARE, greedy, config)
    records = served.records
    assert records.finished.all()
    assert records.preemptions.sum() >= 2
    assert (records.steps.scheduled[records.steps.tokens == 16] < 16).any()  # a chunk beside others
    assert records.steps.scheduled.max() >= 4
    seen = set()
    for row, (prompt, output) in enumerate(zip(CROWD.prompt_tokens, CROWD.output_tokens, strict=True)):
        tokens = engine.tokens[row, : prompt + output].tolist()
        assert tokens[prompt:] == generated_naively(model, tokens[:prompt], output), f"request {row}"
        seen.update(tokens[prompt:])
    assert len(seen) > 20  # or equal tokens would say little


@pytest.mark.parametrize("name", ["wait", "nested-wait"])
def test_gates_serve_every_request_on_the_measured_clock(scripts: Scripts, model: Any, name: str) -> None:
    config = EngineConfig(max_num_batched_tokens=16)
    load = replace(CROWD, arrival_s=np.arange(8) * 1e-3)
    engine = scripts.engine.Engine(model, HARDWARE.num_gpu_blocks, BLOCK_SIZE)
    policy = make_policy(name, plan_for(load, HARDWARE, config))
    served = scripts.engine.serve(engine, load, HARDWARE, policy, config)
    assert served.records.finished.all()
    steps = served.records.steps
    assert served.predicted_step_s.shape == steps.start_s.shape
    assert (steps.end_s[steps.tokens > 0] > steps.start_s[steps.tokens > 0]).all()
    expected_s = HARDWARE.step_time.c0 + HARDWARE.step_time.c_tok * steps.tokens
    np.testing.assert_allclose(served.predicted_step_s[steps.tokens > 0], expected_s[steps.tokens > 0])


def test_a_cache_of_another_size_is_refused(scripts: Scripts, model: Any) -> None:
    engine = scripts.engine.Engine(model, HARDWARE.num_gpu_blocks + 1, BLOCK_SIZE)
    policy = make_policy("greedy", plan_for(CROWD, HARDWARE, EngineConfig()))
    with pytest.raises(scripts.engine.InputError, match="must be the engine's"):
        scripts.engine.serve(engine, CROWD, HARDWARE, policy, EngineConfig())


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / "run.py"), "--model", "tiny", *arguments],
        capture_output=True,
        text=True,
        timeout=1800,  # of which it needs seconds; more is a hang
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_a_fixed_time_that_noise_hides_is_a_share_of_the_shortest_step(scripts: Scripts) -> None:
    measure = scripts.measure
    points = [measure.Point("decode", 1, 16, 16, 1, seconds) for seconds in (0.5, 0.2)]
    assert measure.with_fixed_time(StepTime(c0=0.0, c_tok=0.1), points) == StepTime(c0=0.002, c_tok=0.1)
    assert measure.with_fixed_time(StepTime(c0=0.1), points) == StepTime(c0=0.1)


def test_the_script_writes_all_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ("--requests", "10", "--num-gpu-blocks", "80", "--workload", "lmsys")
    ran = run_script("--device", "cpu", *sizes, "--out", str(out))
    assert ran.returncode == 0, ran.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert "run.py --model tiny --device cpu" in result["command"]
    assert result["torch"] == torch.__version__
    assert {key: result[key] for key in ("model", "dtype", "num_gpu_blocks", "block_size")} == {
        "model": "tiny",
        "dtype": "float32",
        "num_gpu_blocks": 80,
        "block_size": 16,
    }
    assert set(result["step_time"]) == {"c0", "c_tok", "c_kv", "c_attn", "c_seq"}
    kinds = {"decode", "decode, spread", "prefill", "prefill, later chunk", "prompts", "mixed"}
    assert set(result["fit"]["error_by_kind"]) == kinds
    assert result["fit"]["points"] == len(result["steps"])
    assert result["workload"]["requests"] == 10
    assert result["workload"]["rate"] == pytest.approx(1.2 * result["workload"]["boundary_rate"])
    assert set(result["policies"]) == {"greedy", "wait", "nested-wait"}
    for policy in result["policies"].values():
        for world in ("measured", "predicted"):
            numbers = policy[world]
            assert numbers["completed"] == 10
            assert numbers["mean_e2el_ms"] > numbers["mean_ttft_ms"] > 0
            assert min(numbers["mean_tpot_ms"], numbers["p99_longest_silence_s"], numbers["output_throughput"]) > 0
            assert numbers["preemptions"] >= 0
        assert policy["step_time_error"]["total_predicted_over_measured"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--num-gpu-blocks", "0"), "must be a whole number, at least 1"),
        (("--out", "no/such/folder/result.json"), "its folder is not there"),
        pytest.param(
            ("--device", "cuda"),
            "finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_what_cannot_run_is_said_at_once(arguments: tuple[str, ...], sentence: str) -> None:
    ran = run_script(*arguments)
    assert ran.returncode != 0
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr
