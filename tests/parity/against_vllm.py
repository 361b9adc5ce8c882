"""One way to hold the simulator against vLLM's own scheduler."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluidgate.engine import EngineConfig, RunRecords
from fluidgate.hardware import Hardware
from fluidgate.policies import Greedy, Policy
from fluidgate.runs import simulate
from fluidgate.serving import emulate, first_difference
from fluidgate.workload import Workload

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed here; `make test` runs these in an environment of their own",
)


def serve_parser() -> Any:
    """The parser of `vllm serve`, wherever this version has it."""
    import vllm.entrypoints
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    folder = Path(vllm.entrypoints.__path__[0])
    place = next(part for part in ("common", "launchers", "openai") if (folder / part / "cli_args.py").exists())
    module = importlib.import_module(f"vllm.entrypoints.{place}.cli_args")
    return module.make_arg_parser(FlexibleArgumentParser())


def simulate_as_vllm(
    workload: Workload, hardware: Hardware, config: EngineConfig, policy: Policy | None = None
) -> RunRecords:
    """The simulator's run, equal to vLLM's in every decision and record."""
    policy = policy or Greedy()
    emulated = emulate(workload, hardware, policy, config=config, record="decisions")
    config = replace(config, cut_lone_prefill=emulated.config.cut_lone_prefill)
    simulated = simulate(workload, hardware, policy, config=config, record="decisions")
    difference = first_difference(simulated, emulated)
    assert difference is None, difference
    return simulated
