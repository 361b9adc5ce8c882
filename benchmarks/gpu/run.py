"""Policies on real compute, beside what the simulator says of the same requests.

    python benchmarks/gpu/run.py --model llama-2-7b --device cuda --out result.json
    python benchmarks/gpu/run.py --study paper-h3 --out paper-h3.json

Needs PyTorch and one GPU (or `--model tiny --device cpu`); no weights and no network: the weights are random. First
it measures step times over a grid of batches and fits a `StepTime`. Then every policy serves one overloaded workload
on the model, and `simulate` predicts the same run from the fit. With `--study` it runs what the paper ran on a real
GPU (study.py), of which page.py makes a page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # every step has another shape

import torch
from attention import Attention, torch_attention
from dense import TOLERANCE, difference
from measure import Point, fitted, grid, measure
from model import Llama, model_shape, random_model
from outcome import METRICS, numbers, step_time_error
from study import FULL, TINY, Study, with_requests
from sweep import blocks_for

from engine import Engine, serve
from fluidgate import __version__
from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, ModelShape
from fluidgate.output import write_text
from fluidgate.policies import Policy, make_policy
from fluidgate.runs import plan_for, simulate
from fluidgate.workload import PRESETS, Workload, generate

POLICIES = ("greedy", "wait", "nested-wait")
BLOCKS = {"tiny": 128}
REQUESTS = {"tiny": 60}
BLOCK_SIZE = 16
RESERVE_BYTES = 4 << 30
"""For what one step needs beside weights and KV cache."""

ATTENTION_HELP = "triton reads KV in place; auto takes it on a GPU where it is at hand and right"

START = time.perf_counter()


def positive(text: str) -> int:
    """A whole number above 0, from the command line."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("llama-2-7b", "tiny"), default="llama-2-7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--num-gpu-blocks", type=positive, help="KV blocks of 16 tokens (llama-2-7b: 1500, tiny: 128)")
    parser.add_argument("--study", choices=("paper-h3",), help="the paper's runs on a real GPU, in place of one load")
    parser.add_argument("--workload", choices=tuple(PRESETS), help="(lmsys)")
    parser.add_argument("--requests", type=positive, help="requests per policy (llama-2-7b: 1500, tiny: 60)")
    parser.add_argument("--load", type=float, help="arrival rate ÷ stability boundary of the fit (1.2)")
    parser.add_argument("--budget-s", type=positive, help="seconds for a study (llama-2-7b: 540, tiny: 60)")
    parser.add_argument("--attention", choices=("auto", "triton", "torch"), default="auto", help=ATTENTION_HELP)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("result.json"))
    args = parser.parse_args(given)
    if not args.out.absolute().parent.is_dir():
        parser.error(f"--out {args.out}: its folder is not there; make it first")
    if args.study and (args.workload or args.load):
        parser.error("--study sets workloads and loads; leave out --workload and --load")
    if args.budget_s and not args.study:
        parser.error("--budget-s is for a --study; leave it out")
    args.workload, args.load = args.workload or "lmsys", args.load or 1.2
    args.num_gpu_blocks = args.num_gpu_blocks or BLOCKS.get(args.model, 1500)
    return args


def say(text: str) -> None:
    """A line of progress, with the time."""
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", flush=True)


def load_engine(shape: ModelShape, device: torch.device, num_gpu_blocks: int, attention: str) -> Engine:
    """A model with random weights and a KV cache of this size.

    Raises:
        InputError: no GPU here, too little free memory on it, or the attention asked for does not work.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError("PyTorch finds no GPU here; use --device cpu --model tiny")
        needed = shape.weight_bytes + num_gpu_blocks * shape.kv_law().bytes_per_block + RESERVE_BYTES
        free, _ = torch.cuda.mem_get_info(device)
        if needed > free:
            raise InputError(
                f"{shape.name} with {num_gpu_blocks:,} KV blocks needs {needed / 2**30:.1f} GiB and "
                f"{free / 2**30:.1f} GiB are free; use a smaller --num-gpu-blocks"
            )
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape, and every step has another
    attends = choose_attention(attention, shape, device, dtype)
    model: Llama = random_model(shape, device, dtype)
    return Engine(model, num_gpu_blocks, attention=attends)


def choose_attention(name: str, shape: ModelShape, device: torch.device, dtype: torch.dtype) -> Attention:
    """The attention by its name, after a look at whether it equals dense attention here.

    Raises:
        InputError: the one that was asked for does not.
    """
    on_cuda = device.type == "cuda"
    for tried in {"auto": ("triton", "torch") if on_cuda else ("torch",)}.get(name, (name,)):
        try:
            attends = triton_attention() if tried == "triton" else torch_attention
            off = difference(attends, shape.heads, shape.kv_heads, shape.head_dim, BLOCK_SIZE, device, dtype)
            problem = f"differs from dense attention by {off:.2g}" if not off <= TOLERANCE[dtype] else ""
        except Exception as error:  # of a compiler that is not ours, on a machine we do not know
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            problem = f"does not run here: {reason}"
        if not problem:
            say(f"{tried} attention over the block table differs from dense attention by {off:.2g}")
            return attends
        say(f"{tried} attention {problem}")
    raise InputError(f"--attention {name}: {problem}; use another --attention")


def triton_attention() -> Attention:
    """The Triton kernel; importing it imports Triton."""
    import paged

    return paged.triton_attention


def fit(engine: Engine, name: str, device_name: str) -> tuple[Hardware, dict[str, Any]]:
    """The engine as a `Hardware`, from its measured step times; and the fit for the file."""
    points: list[Point] = measure(engine, list(grid()), say)
    step_time, report = fitted(points)
    say(f"fitted {step_time}")
    errors = ", ".join(f"{kind} {error:.1%}" for kind, error in report.error_by_kind.items())
    say(f"mean error {report.mean_error:.1%} ({errors}), largest {report.max_error:.1%}")
    hardware = Hardware(
        f"{name} on {device_name}",
        step_time,
        engine.kv.shape[2],
        engine.block_size,
        source="benchmarks/gpu/run.py",
        relative_error=report.mean_error,
    )
    steps = [[p.kind, p.tokens, p.kv_tokens, p.attention_pairs, round(p.seconds, 7)] for p in points]
    return hardware, {"step_time": asdict(step_time), "fit": asdict(report), "steps": steps}


def compared(engine: Engine, workload: Workload, hardware: Hardware, policy: Policy) -> dict[str, Any]:
    """One policy on the engine and in the simulator, on the same requests."""
    config = EngineConfig(async_scheduling=False)

    def progress(finished: int, requests: int) -> None:
        say(f"{policy.name}: {finished:,} of {requests:,} requests finished")

    served = serve(engine, workload, hardware, policy, config, progress=progress)
    measured = numbers(served.records)
    predicted = numbers(simulate(workload, hardware, policy, config=config, compile=False))
    for key in METRICS:
        say(f"{policy.name}: {key} measured {measured[key]:,.4g}, predicted {predicted[key]:,.4g}")
    return {
        "parameters": asdict(policy),
        "measured": measured,
        "predicted": predicted,
        "step_time_error": step_time_error(served),
    }


def overloaded(args: argparse.Namespace, hardware: Hardware) -> tuple[Workload, dict[str, Any]]:
    """The workload at the load asked for, and what it is."""
    requests = args.requests or REQUESTS.get(args.model, 1500)
    drawn = generate(args.workload, n=requests, seed=args.seed)
    boundary_rate = plan_for(drawn, hardware, EngineConfig()).stability.boundary_rate
    workload = drawn.scaled(args.load * boundary_rate / drawn.rate)
    about = {
        "name": args.workload,
        "requests": requests,
        "seed": args.seed,
        "load": args.load,
        "rate": workload.rate,
        "boundary_rate": boundary_rate,
        "digest": workload.digest,
    }
    return workload, about


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    scale = with_requests(TINY if args.model == "tiny" else FULL, args.requests, args.budget_s)
    blocks = args.num_gpu_blocks
    if args.study:
        blocks = max(blocks, blocks_for(max(scale.batches), BLOCK_SIZE))
    engine = load_engine(model_shape(args.model), device, blocks, args.attention)
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    say(f"{args.model} on {device_name}, PyTorch {torch.__version__}, {args.num_gpu_blocks:,} KV blocks")
    about = {
        "command": " ".join(["python", *sys.argv]),
        "fluidgate": __version__,
        "torch": torch.__version__,
        "device": device_name,
        "model": args.model,
        "dtype": str(engine.kv.dtype).removeprefix("torch."),
        "attention": engine.attention.__name__.removesuffix("_attention"),
        "num_gpu_blocks": args.num_gpu_blocks,
        "block_size": engine.block_size,
    }
    if args.study:
        about |= {"study": args.study, "on_gpu": device.type == "cuda", "seed": args.seed}
        Study(engine, args.num_gpu_blocks, scale, args.seed, about, args.out, say, START).run()
    else:
        write_text(args.out, json.dumps(about | one_load(engine, args, device_name), indent=1) + "\n")
    say(f"wrote {args.out}")


def one_load(engine: Engine, args: argparse.Namespace, device_name: str) -> dict[str, Any]:
    """The fit, and every policy on one workload at one load."""
    hardware, fit_report = fit(engine, args.model, device_name)
    workload, about = overloaded(args, hardware)
    say(f"{len(workload):,} requests of {args.workload} at {workload.rate:.2f}/s, {args.load:g} × the boundary")
    plan = plan_for(workload, hardware, EngineConfig())
    return {
        **fit_report,
        "workload": about,
        "policies": {name: compared(engine, workload, hardware, make_policy(name, plan)) for name in POLICIES},
        "wall_s": round(time.perf_counter() - START, 1),
    }


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"run.py: {error}")
