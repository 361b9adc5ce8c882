"""vLLM's own parser and configuration take every flag that `serve-args` prints, with the value that was planned."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from fluidgate.engine import EngineConfig
from fluidgate.fluid import RequestMix, plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import make_policy, policy_class, policy_names
from fluidgate.serving.flags import VLLM_BLOCK_SIZE, Form, serve_command, serve_flags
from fluidgate.serving.plan_sections import ServedModel
from fluidgate.serving.planfile import PlanFile
from fluidgate.serving.versions import FLAG_SINCE, NEWEST, Release, find_release

from .against_vllm import needs_vllm, serve_parser

pytestmark = needs_vllm

MIX = RequestMix([1.0, 2.0, 0.5], [200, 400, 800], [50, 300, 900])
WIDE = Hardware("7B on A100", StepTime(0.012, 4e-5, 3.5e-7), num_gpu_blocks=3438, block_size=32)
EVERYTHING = EngineConfig(
    max_num_seqs=96,
    max_num_active_seqs=64,
    max_num_batched_tokens=4096,
    watermark=0.0625,
    enable_prefix_caching=False,
    scheduler_reserve_full_isl=False,
    long_prefill_token_threshold=512,
)


def planned(policy: str, config: EngineConfig) -> PlanFile:
    made = plan(MIX, WIDE, max_num_seqs=config.seats, max_num_batched_tokens=config.max_num_batched_tokens or 2048)
    model = ServedModel(name="org/model", tensor_parallel_size=2, gpu_memory_utilization=0.85)
    return PlanFile.of(made, make_policy(policy, made), config, model)


@pytest.fixture(scope="module")
def parser() -> Any:
    return serve_parser()


@pytest.fixture(scope="module")
def release() -> Release:
    """The installed one."""
    from fluidgate.serving.vllm_core import VLLM_VERSION

    return find_release(VLLM_VERSION) or NEWEST


@pytest.fixture(scope="module")
def known(parser: Any) -> set[str]:
    """Every flag; argparse alone would also take the beginning of a longer name."""
    return set(parser._option_string_actions)  # with those that its help leaves out


def test_the_table_tells_which_flags_this_version_has(known: set[str], release: Release) -> None:
    had = {flag for flag, since in FLAG_SINCE.items() if release.number >= since}
    assert had == known & set(FLAG_SINCE)


@pytest.mark.parametrize("config", [EngineConfig(), EVERYTHING], ids=["defaults", "everything"])
@pytest.mark.parametrize("form", ["plugin", "stock"])
@pytest.mark.parametrize("policy", [name for name in policy_names() if policy_class(name).rank is None])
def test_vllm_takes_the_line(
    policy: str, form: Form, config: EngineConfig, parser: Any, known: set[str], release: Release
) -> None:
    from vllm.config import SchedulerConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    flags = serve_flags(planned(policy, config), form, max_wait_s=30.0, release=release)
    words = shlex.split(serve_command(flags, "org/model"))
    assert {flag.name for flag in flags} <= known
    parsed = parser.parse_args(words[2:])
    assert parsed.model_tag == "org/model"
    args = AsyncEngineArgs.from_cli_args(parsed)
    for flag in flags:
        name = flag.name.removeprefix("--").removeprefix("no-").replace("-", "_")
        expected = flag.value or "False"
        assert str(getattr(args, name)) == expected, flag.name
    limits = ("max_num_seqs", "max_num_active_seqs", "max_num_batched_tokens", "watermark", "max_num_queued_reqs")
    given = {name: getattr(args, name) for name in limits if hasattr(args, name)}
    SchedulerConfig(max_model_len=4096, is_encoder_decoder=False, **given)


def test_what_stays_off_the_line_is_vllms_default() -> None:
    from vllm.config import CacheConfig
    from vllm.engine.arg_utils import EngineArgs

    stock = EngineArgs(model="org/model")
    engine = planned("greedy", EngineConfig()).engine
    assert (stock.watermark, getattr(stock, "max_num_active_seqs", None)) == (engine.watermark, None)
    assert engine.max_num_active_seqs is None
    assert stock.scheduler_reserve_full_isl == engine.scheduler_reserve_full_isl
    assert stock.long_prefill_token_threshold == engine.long_prefill_token_threshold
    assert CacheConfig.enable_prefix_caching == engine.enable_prefix_caching
    assert (CacheConfig.DEFAULT_BLOCK_SIZE, stock.tensor_parallel_size) == (VLLM_BLOCK_SIZE, 1)
    assert getattr(stock, "max_num_queued_reqs", None) is None
