"""Valid inputs, small, of every reader: what the damage starts from."""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fluidgate.engine import EngineConfig
from fluidgate.fluid import FluidPlan, RequestMix, plan
from fluidgate.hardware import Calibration, Hardware, StepTime, load_profile, write_hardware
from fluidgate.hardware.knots import knots_to
from fluidgate.hardware.step_grid import StepGrid
from fluidgate.policies import make_policy
from fluidgate.runs import Runner, compare
from fluidgate.serving.plan_sections import ServedModel
from fluidgate.serving.planfile import PlanFile
from fluidgate.workload import Workload

from ..doctor.pages import log_line, page

TINY = Hardware(
    "tiny", StepTime(c0=0.01, c_tok=1e-5, c_kv=4e-7, c_attn=1e-9, c_seq=1e-5), num_gpu_blocks=2000, block_size=16
)
LOAD = Workload(np.arange(12) * 0.05, np.arange(20, 140, 10), np.arange(3, 39, 3), name="load")
GRIDS = Path(__file__).parents[2] / "tools" / "llama_2_7b_a100_grid.json"
DOCTOR = Path(__file__).parents[1] / "doctor" / "data"
SPECS = ("greedy", "fluid", "wait", "nested-wait", "watermark", "concurrency-cap:cap=25", "rate-limited")


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"


AZURE = (
    _lines(
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        *(f"2023-11-16 18:15:{46 + i}.6805900,{374 + 9 * i},{44 + i}" for i in range(8)),
    ),
    _lines(
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        *(f"2024-05-10 00:00:0{i}.009930+00:00,{2162 - i},{5 + i}" for i in range(5)),
    ),
)
BURSTGPT = (
    _lines(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        *(f"{5 + 7 * i},{'GPT-4' if i % 3 else 'ChatGPT'},{472 + i},{18 + i},{490 + 2 * i},Chat log" for i in range(8)),
    ),
)

VIDUR = (
    _lines("arrived_at,num_prefill_tokens,num_decode_tokens", *(f"{i * 0.37},{34 + i},{51 + i}" for i in range(8))),
    _lines("num_prefill_tokens,num_decode_tokens,class", *(f"{34 + i},{51 + i},{'ab'[i % 2]}" for i in range(6))),
)
MOONCAKE = (
    _lines(
        *(
            json.dumps({"timestamp": 3000 * (i // 3), "input_length": 700 + i, "output_length": 5, "hash_ids": [0, i]})
            for i in range(8)
        )
    ),
    _lines(
        *(
            json.dumps(
                {"timestamp": 0.5 * i, "input_length": 40, "output_length": 7, "class": "ab"[i % 2], "block_tokens": 16}
            )
            for i in range(5)
        )
    ),
)
BAILIAN = (
    _lines(
        *(
            json.dumps(
                {
                    "chat_id": i,
                    "parent_chat_id": i - 1,
                    "timestamp": 61.5 + i,
                    "input_length": 40 + i,
                    "output_length": 5,
                }
                | {"type": "text", "turn": i + 1, "hash_ids": [1, i]}
            )
            for i in range(6)
        )
    ),
)
TABLES = (
    _lines(
        "ts;prompt_len;completion_len;class", *(f"{1764000000 + i};{30 + i};{2 + i};{'ab'[i % 2]}" for i in range(6))
    ),
    _lines(
        "started_at,isl,osl,timeout_s",
        *(f'"2025-11-24 16:00:0{i}.25+02:00",{30 + i},{2 + i},{"" if i % 2 else i + 1}' for i in range(6)),
    ),
    json.dumps({"data": [{"t_ms": 250 * i, "tokens": {"in": 30 + i, "out": 2.0}} for i in range(5)]}, indent=1),
)
OPENAI = (
    _lines(
        *(
            json.dumps({"created": 1764000000 + i, "usage": {"prompt_tokens": 30 + i, "completion_tokens": 1 + i}})
            for i in range(6)
        )
    ),
)
LITELLM = (
    _lines(
        "call_type,startTime,prompt_tokens,completion_tokens,status",
        *(f"acompletion,2025-11-24 16:00:0{i}.5,{30 + i},{2 + i},success" for i in range(5)),
        "aembedding,2025-11-24 16:00:09,30,0,failure",
    ),
)
OTEL = (
    json.dumps(
        {
            "resourceSpans": [
                {
                    "scopeSpans": [
                        {
                            "spans": [
                                {
                                    "startTimeUnixNano": f"{1764000000 + i}500000000",
                                    "attributes": [
                                        {"key": "gen_ai.usage.input_tokens", "value": {"intValue": str(30 + i)}},
                                        {"key": "gen_ai.usage.output_tokens", "value": {"intValue": 3}},
                                    ],
                                    "status": {"code": i % 2},
                                }
                                for i in range(4)
                            ]
                        }
                    ]
                }
            ]
        }
    ),
)
LANGFUSE = (
    _lines(
        "traceId,type,startTime,level,input,usageDetails",
        *(
            f't,GENERATION,2025-11-24T16:00:0{i}Z,DEFAULT,"a\nb","{{""input"": {30 + i}, ""output"": 4}}"'
            for i in range(4)
        ),
    ),
)
SHAREGPT = (
    json.dumps(
        [
            {
                "id": f"c{i}",
                "conversations": [{"from": "human", "value": "hello " * i}, {"from": "gpt", "value": "hi " * (3 * i)}],
            }
            for i in range(1, 6)
        ],
        indent=1,
    ),
)
VLLM_BENCH = (
    json.dumps(
        {
            "num_prompts": 5,
            "request_throughput": 3.5,
            "input_lens": [10, 20, 30, 40, 50],
            "output_lens": [2, 3, 2, 2, 2],
            "start_times": [1.5, 2.0, 2.25, 3.0, 4.0],
            "ttfts": [0.1, 0.2, 0.1, 0.1, 0.3],
            "itls": [[0.01], [0.01, 0.02], [0.02], [0.01], [0.01]],
            "errors": ["", "", "", "", ""],
        },
        indent=1,
    ),
)
VLLM_APPENDED = (
    _lines(
        *(
            json.dumps(
                {
                    "request_throughput": 3.5,
                    "request_rate": "inf",
                    "burstiness": 1.0,
                    "max_concurrency": 2,
                    "input_lens": [10, 20, 30],
                    "output_lens": [1, 2, 2],
                    "ttfts": [0.1, 0.2, 0.1],
                    "itls": [[], [0.02], [0.02]],
                }
            )
            for _run in range(2)
        )
    ),
)
GUIDELLM = tuple(
    json.dumps(
        {
            "benchmarks": [
                {
                    "config": {"strategy": {"type_": "concurrent", "streams": 2}},
                    "requests": {
                        "successful": [
                            {
                                "request_start_time": 10.0 + i,
                                "request_end_time": 12.5 + i,
                                "time_to_first_token_ms": 80.5,
                                "prompt_tokens": 30 + i,
                                "output_tokens": 9,
                            }
                            for i in range(4)
                        ],
                        "incomplete": [{"start_time": 15.0, "prompt_tokens": 3, "output_tokens": 2}][: runs - 1],
                    },
                }
            ]
            * runs
        },
        indent=1,
    )
    for runs in (1, 2)
)
AIPERF = tuple(
    _lines(
        *(
            json.dumps(
                {
                    "metadata": {"request_start_ns": 10**18 + 10**9 * i, "request_end_ns": 10**18 + 10**9 * (i + 3)},
                    "metrics": {
                        "input_sequence_length": {"value": 20 + i, "unit": "tokens"},
                        "output_sequence_length": {"value": 3, "unit": "tokens"},
                        "time_to_first_token": {"value": 25.5, "unit": "ms"},
                        "inter_chunk_latency": {"value": [5.5, 4.5], "unit": "ms"},
                    },
                    "error": {"type": "Timeout"} if i > 3 else None,
                }
            )
            for i in range(requests)
        )
    )
    for requests in (4, 6)
)


def hardware() -> Sequence[str]:
    """A hand-written file, a fitted profile, one with a calibration, one with a grid."""
    tables = [knots_to(64), knots_to(4096), knots_to(512, 16), knots_to(512), knots_to(4096)]
    decodes, contexts, tokens, chunks, queries = tables
    attention_s = 1e-8 * np.outer(decodes, contexts)
    grid = StepGrid(0.01 + attention_s, attention_s, 0.01 + 1e-5 * tokens, 1e-9 * np.outer(chunks, queries), 1e-5)
    calibration = Calibration(
        steps=120,
        plus_minus=(1e-4, 1e-7, None, 1e-12, 1e-6),
        correlation=tuple(tuple(float(i == k) for k in range(5)) for i in range(5)),
        misfit=0.02,
        tokens=(1.0, 2048.0),
        kv_tokens=(10.0, 30_000.0),
    )
    machines = (
        load_profile("llama-2-7b", "a100-80gb"),
        replace(TINY, calibration=calibration, relative_error=0.03),
        replace(TINY, grid=grid),
    )
    by_hand = {"version": 1, "name": "mine", "step_time": {"c0": 0.01, "c_kv": 4e-7}, "num_gpu_blocks": 1000}
    return (json.dumps(by_hand, indent=1), *(_written(machine) for machine in machines))


def _written(machine: Hardware) -> str:
    with tempfile.TemporaryDirectory() as folder:
        write_hardware(machine, Path(folder, "h.json"))
        return Path(folder, "h.json").read_text(encoding="utf-8")


@cache
def small_plan() -> FluidPlan:
    """What policies are made from."""
    return plan(RequestMix([3.0, 1.0], [60, 200], [20, 90]), TINY, max_num_batched_tokens=512, max_num_seqs=64)


def plans() -> Sequence[str]:
    """A plan file for some policies."""
    config = EngineConfig(max_num_seqs=64, max_num_batched_tokens=512)
    model = ServedModel(name="meta-llama/Llama-2-7b-hf", tensor_parallel_size=1, gpu_memory_utilization=0.9)
    files = (PlanFile.of(small_plan(), make_policy(spec, small_plan()), config, model) for spec in SPECS)
    return [json.dumps(file.model_dump(mode="json"), indent=2) for file in files]


def scrapes() -> Sequence[str]:
    """Pages at rest, under load, with fluidgate's own metrics; a real one, cut to what doctor reads."""
    busy = {"running": 16, "waiting": 40, "kv_use": 0.97, "preemptions": 30}
    return (
        page(),
        page(**busy, outputs=[50] * 60 + [900] * 40),
        page(**busy, gate={"held_requests": 12}, prefix=(1000, 300)),
    )


def grown(text: str) -> str:
    """The page some time later: every counter and bucket has doubled."""
    counter = re.compile(r"^(vllm:\w+_(?:total|bucket|sum|count)\{.*\}) (\d+)$", re.MULTILINE)
    return counter.sub(lambda found: f"{found[1]} {2 * int(found[2][:400])}", text)


def logs() -> Sequence[str]:
    """Lines of statistics, and a real log."""
    more = ", Deferred: 3 reqs"
    return (
        _lines(
            *(log_line(time=f"11-21 12:30:{10 * i}", running=8 + i, waiting=3 + 5 * i, more=more) for i in range(5))
        ),
        (DOCTOR / "vllm_log.txt").read_text(encoding="utf-8"),
    )


ITERATIONS = 200
"""Lines of steps in a log of them, of 50 ms each."""


def iterations() -> Sequence[str]:
    """A log of single steps, and one with what else vLLM writes among them."""
    rng = Random(2)
    lines = []
    for k in range(ITERATIONS):
        prompts, decodes = rng.choice((0, 0, 1, 2)), rng.randint(1, 60)
        lines.append(
            f"(APIServer pid=7) INFO 11-21 14:08:33 [loggers.py:199] Engine 000: Iteration({k}): {prompts} context "
            f"requests, {prompts * rng.randint(20, 400)} context tokens, {decodes} generation requests, {decodes} "
            f"generation tokens, iteration elapsed time: {rng.uniform(30, 48):.2f} ms, GPU KV cache usage: {decodes}.3%"
        )
    others = [log_line(), 'INFO:     127.0.0.1:5 - "POST /v1/completions HTTP/1.1" 200 OK']
    others.append(lines[0].replace(" ms,", " ms (dummy),"))
    among = [line for k, line in enumerate(lines) for line in (line, *(() if k % 20 else others))]
    return (_lines(*lines), _lines(*among))


BENCH_OUTPUT = (
    _lines(
        "Namespace(backend='openai', base_url='http://h:8000', num_prompts=64, seed=3)",
        "Starting initial single prompt test run...",
        "Traceback (most recent call last):",
        '  File "/opt/bin/vllm", line 8, in <module>',
        "    sys.exit(main())",
        "ValueError: Initial test run failed: Not Found",
    ),
    _lines("\r".join(f" {k}%|{'█' * (k // 10)}| {k}/100 [00:0{k // 10}<00:09]" for k in range(0, 101, 5))) * 20,
)


def steps() -> Sequence[str]:
    """Measured steps with and without attention pairs."""
    rng = Random(1)
    rows = [(rng.randint(1, 600), rng.randint(500, 90_000), rng.randint(0, 400_000)) for _ in range(26)]

    def ms(tokens: int, kv: int, pairs: int) -> float:
        return (8.0 + 0.01 * tokens + 2e-4 * kv + 1e-6 * pairs) * rng.uniform(0.97, 1.03)

    return (
        _lines("tokens,kv_tokens,attention_pairs,ms", *(f"{t},{k},{p},{ms(t, k, p):.4f}" for t, k, p in rows)),
        _lines("kind,num_tokens,context_tokens,step_ms", *(f"decode,{t},{k},{ms(t, k, 0):.4f}" for t, k, _ in rows)),
    )


_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 131072,
}
CONFIGS = tuple(
    json.dumps(config, indent=1)
    for config in (
        _CONFIG,
        _CONFIG | {"model_type": "qwen3", "head_dim": 128, "sliding_window": None, "tie_word_embeddings": True},
        _CONFIG
        | {
            "model_type": "mistral",
            "sliding_window": 131072,
            "layer_types": ["full_attention"] * _CONFIG["num_hidden_layers"],
        },
    )
)
QUANTISED = tuple(
    json.dumps(_CONFIG | {"quantization_config": section}, indent=1)
    for section in (
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        {"quant_method": "gptq", "bits": 8, "group_size": -1},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
            "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        },
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"},
    )
)
GPUS = tuple(
    json.dumps({"name": name, "memory_mib": mib, "hbm_gb_per_s": 1200, "bf16_tflops": 200.5, "source": "measured"})
    for name, mib in (("mine", 98304), ("yours", 24564))
)


def grids() -> Sequence[str]:
    """The published grid that the tools fit, cut small."""
    whole = json.loads(GRIDS.read_text(encoding="utf-8"))
    return (json.dumps(whole, indent=1), json.dumps(whole))


def results() -> Sequence[str]:
    """A finished results file of `compare`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.jsonl")
        compare([LOAD], TINY, ["greedy", "watermark"], runner=Runner(results=path), timelines=False)
        return (path.read_text(encoding="utf-8"),)


POLICIES = (
    *("greedy", "watermark:share=0.05", "concurrency-cap:cap=25", "rate-limited:per_iteration=0.5", "wait:hold_s=0.1"),
    *(
        "wait:strict=false",
        "nested-wait:hold_s=0.5",
        "fluid:evicted_share=0.2",
        "fluid-volume:patience_s=30",
        "no-evict",
    ),
    *(
        "max-utilization:batch_wait_timeout_iters=10",
        "interval:steps=3",
        "sglang:conservativeness=0.5",
        "past-future:reserve=0.05",
        "known-lengths",
        "mc-sf",
        "shortest-first",
        "a-min",
        "expected-completions:gamma=2",
    ),
)
COMMANDS = (
    "plan --preset p512-d20 --requests 60 --rate 5 --num-gpu-blocks 3000 --block-size 16 --max-num-seqs 64",
    "plan --preset lmsys --requests 40 --rate-scale 2.5 --max-num-batched-tokens 512 --seed 7 --tp 1",
    "simulate --preset p512-d20 --requests 30 --rate 20 --repeats 2 --goodput ttft:2000 tpot:50 --seed 1",
    "simulate --preset lmsys --requests 20 --max-num-seqs 8 --replicas 2 --watermark 0.02 --format json",
    "simulate --preset p512-d20 --requests 20 --gpu-memory-utilization 0.8 --long-prefill-token-threshold 64",
    "serve-args PLAN --max-wait-s 30",
)
