"""A plan as `vllm serve` arguments: what each form sets, and a line that the shell takes as meant."""

import shlex
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix, plan
from fluidgate.hardware import Hardware, ServerDefaults, StepTime
from fluidgate.policies import (
    ConcurrencyCap,
    Greedy,
    Interval,
    Policy,
    Watermark,
    make_policy,
    policy_class,
    policy_names,
)
from fluidgate.runs import plan_for
from fluidgate.serving.flags import Flag, Form, is_stock, lost, serve_command, serve_flags
from fluidgate.serving.plan_sections import ServedModel
from fluidgate.serving.planfile import PlanFile
from fluidgate.serving.versions import known_release
from fluidgate.workload import Workload

A100 = Hardware("7B on A100", StepTime(0.012, 4e-5, 3.5e-7), num_gpu_blocks=6876)
MIX = RequestMix([1.0, 2.0, 0.5], [200, 400, 800], [50, 300, 900])
PLAN = plan(MIX, A100)
LOAD = Workload(np.arange(40.0), np.full(40, 200), np.full(40, 50))
SERVABLE = [name for name in policy_names() if policy_class(name).rank is None]
PACED = sorted(set(SERVABLE) - {"greedy", "watermark", "concurrency-cap", "interval"})


def file_of(made: Policy | str, config: EngineConfig | None = None, **model: Any) -> PlanFile:
    config = config or EngineConfig()
    fluid_plan = plan(
        MIX, A100, max_num_seqs=config.seats, max_num_batched_tokens=config.max_num_batched_tokens or 2048
    )
    return PlanFile.of(fluid_plan, make_policy(made, fluid_plan), config, ServedModel(**model))


def values(file: PlanFile, form: Form, **more: Any) -> dict[str, str]:
    return {flag.name: flag.value for flag in serve_flags(file, form, **more)}


def test_the_plugin_runs_the_policy_and_vllm_keeps_its_limits() -> None:
    assert values(file_of("nested-wait"), "plugin") == {
        "--scheduler-cls": "fluidgate.serving.scheduler.GateScheduler",
        "--max-num-seqs": "256",
        "--max-num-batched-tokens": "2048",
    }


def test_stock_flags_are_the_policy_where_vllm_has_it() -> None:
    limits = {"--max-num-seqs": "256", "--max-num-batched-tokens": "2048"}
    assert values(file_of(Greedy()), "stock") == limits
    assert values(file_of(Watermark(0.0625)), "stock") == limits | {"--watermark": "0.0625"}
    assert values(file_of(ConcurrencyCap(25.9)), "stock") == limits | {"--max-num-active-seqs": "25"}
    assert values(file_of(ConcurrencyCap(1e9)), "stock")["--max-num-active-seqs"] == "256"
    assert all(is_stock(file_of(made)) for made in (Greedy(), Watermark(0.1), ConcurrencyCap(3)))


@pytest.mark.parametrize("name", PACED)
def test_stock_flags_come_near_the_other_policies(name: str) -> None:
    file = file_of(name)
    stock = values(file, "stock")
    assert stock["--max-num-active-seqs"] == str(int(PLAN.concurrency_cap))
    assert float(stock["--watermark"]) == pytest.approx(PLAN.watermark, abs=5e-4)
    assert not is_stock(file)


def test_the_interval_is_printed_where_it_gains_and_vllm_has_it() -> None:
    """What was planned with goes first, then what the plan proposes; older releases have it for other ranks' sake."""
    flag = "--prefill-schedule-interval"
    assert all(flag not in values(file_of("greedy"), form) for form in ("plugin", "stock"))  # its step time is affine
    for file in (file_of(Interval(4.0)), file_of("greedy", EngineConfig(prefill_schedule_interval=4)), proposing(4)):
        assert [values(file, form)[flag] for form in ("plugin", "stock")] == ["4", "4"]
        old = known_release("0.32")
        assert flag not in values(file, "stock", release=old)
        said = "vLLM 0.32 has no --prefill-schedule-interval for an engine by itself; prompts are computed as they come"
        assert lost(file, "stock", release=old) == (said,)
    assert flag not in values(proposing(4, "nested-wait"), "plugin")  # it pauses residents
    assert is_stock(file_of(Interval(4.0)))


def proposing(steps: int, policy: str = "rate-limited") -> PlanFile:
    file = file_of(policy)
    return file.model_copy(update={"planned": file.planned.model_copy(update={"prefill_interval": steps})})


def test_the_engines_own_settings_are_kept() -> None:
    config = EngineConfig(
        max_num_seqs=64,
        max_num_active_seqs=40,
        max_num_batched_tokens=4096,
        watermark=0.25,
        enable_prefix_caching=False,
        scheduler_reserve_full_isl=False,
        long_prefill_token_threshold=512,
    )
    own = {
        "--max-num-seqs": "64",
        "--max-num-active-seqs": "40",
        "--max-num-batched-tokens": "4096",
        "--watermark": "0.25",
        "--no-enable-prefix-caching": "",
        "--no-scheduler-reserve-full-isl": "",
        "--long-prefill-token-threshold": "512",
    }
    assert values(file_of(Greedy(), config), "stock") == own
    assert values(file_of(ConcurrencyCap(30), config), "stock") == own | {"--max-num-active-seqs": "30"}
    assert values(file_of("rate-limited", config), "stock")["--watermark"] == "0.25"  # above the planned one
    plugin = values(file_of(ConcurrencyCap(30), config), "plugin")
    assert plugin.pop("--scheduler-cls")
    assert plugin == own


def test_memory_is_the_planned_memory() -> None:
    file = file_of(Greedy(), tensor_parallel_size=4, gpu_memory_utilization=0.85)
    assert {"--tensor-parallel-size": "4", "--gpu-memory-utilization": "0.85"}.items() <= values(file, "stock").items()
    assert "--tensor-parallel-size" not in values(file_of(Greedy(), tensor_parallel_size=1), "stock")
    wide = replace(A100, block_size=32)
    assert values(PlanFile.of(plan(MIX, wide), Greedy(), EngineConfig()), "stock")["--block-size"] == "32"


H100 = replace(A100, name="7B on H100", server=ServerDefaults(1024, 8192, 4096))
LIMITS = ("--max-num-seqs", "--max-num-batched-tokens", "--max-model-len")


def limit_flags(config: EngineConfig, hardware: Hardware = H100, version: str = "0.33") -> dict[str, Flag]:
    """Of the plan for that engine."""
    made = plan_for(LOAD, hardware, config)
    flags = serve_flags(PlanFile.of(made, Greedy(), config), "stock", release=known_release(version))
    return {flag.name: flag for flag in flags if flag.name in LIMITS}


@pytest.mark.parametrize(
    ("config", "printed"),
    [
        (EngineConfig(), {}),
        (EngineConfig(max_num_seqs=1024, max_num_batched_tokens=8192, max_model_len=4096), {}),
        (EngineConfig(max_num_seqs=256), {"--max-num-seqs": "256"}),
        (EngineConfig(max_num_batched_tokens=512), {"--max-num-batched-tokens": "512"}),  # then stock has 512 seats
        (
            EngineConfig(max_num_seqs=1024, max_num_batched_tokens=1024),
            {"--max-num-batched-tokens": "1024"},
        ),
        (EngineConfig(max_num_seqs=1), {"--max-num-seqs": "1"}),  # then stock has 4,096 tokens
        (
            EngineConfig(max_num_seqs=1, max_num_batched_tokens=8192),
            {"--max-num-seqs": "1", "--max-num-batched-tokens": "8192"},
        ),
        (EngineConfig(max_model_len=2048), {"--max-model-len": "2048"}),
    ],
)
def test_only_what_a_stock_server_would_not_do_is_on_the_line(config: EngineConfig, printed: dict[str, str]) -> None:
    flags = limit_flags(config)
    assert {name: flag.value for name, flag in flags.items()} == printed
    defaults = dict(zip(LIMITS, ("1,024", "8,192", "4,096"), strict=True))
    assert all(defaults[name] in flag.why for name, flag in flags.items())


@pytest.mark.parametrize(("hardware", "version"), [(A100, "0.33"), (H100, "0.29")])
def test_where_the_defaults_are_not_known_all_are_on_the_line(hardware: Hardware, version: str) -> None:
    """A hardware file that states none, or a release with other defaults than those in the table."""
    limits = EngineConfig().on(hardware)
    flags = limit_flags(EngineConfig(), hardware, version)
    assert {name: int(flag.value) for name, flag in flags.items()} == {
        "--max-num-seqs": limits.max_num_seqs,
        "--max-num-batched-tokens": limits.max_num_batched_tokens,
    }
    assert all("not known" in flag.why for flag in flags.values())


def test_a_cap_on_an_older_vllm_is_its_seats() -> None:
    made = plan_for(LOAD, H100, EngineConfig())
    file = PlanFile.of(made, ConcurrencyCap(1), EngineConfig())
    flags = {flag.name: flag.value for flag in serve_flags(file, "stock", release=known_release("0.30"))}
    assert flags["--max-num-seqs"] == "1"
    assert flags["--max-num-batched-tokens"] == "8192", "with one seat stock vLLM would take 4,096"


def test_more_than_the_model_takes_needs_a_variable() -> None:
    flags = limit_flags(EngineConfig(max_model_len=8192))
    assert "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1" in flags["--max-model-len"].why


def test_a_server_whose_cache_holds_no_longest_request_is_given_a_shorter_one() -> None:
    """vLLM does not start where the KV cache, without the null block, holds fewer tokens than `max_model_len`."""
    small = replace(H100, num_gpu_blocks=101)
    assert limit_flags(EngineConfig(), small)["--max-model-len"].value == "1600"
    assert "--max-model-len" not in limit_flags(EngineConfig(), replace(H100, num_gpu_blocks=257))


def test_vllms_own_share_of_the_memory_stays_off_the_line() -> None:
    assert "--gpu-memory-utilization" not in values(file_of(Greedy(), gpu_memory_utilization=0.92), "stock")


def test_the_queue_clears_within_the_longest_wait() -> None:
    file = file_of("concurrency-cap")
    in_flight = int(values(file, "stock", max_wait_s=30.0)["--max-num-queued-reqs"])
    assert in_flight == ceil(PLAN.concurrency_cap + 30 * PLAN.stability.boundary_rate)
    assert "--max-num-queued-reqs" not in values(file, "stock")


def test_an_older_vllm_gets_the_flags_that_it_has_and_is_told_what_it_loses() -> None:
    file, asked = file_of("rate-limited"), {"max_wait_s": 30.0}
    newest = values(file, "stock", **asked)
    for version, lacking in [
        ("0.33", set()),
        ("0.31", set()),
        ("0.30", {"--max-num-active-seqs"}),
        ("0.29", {"--max-num-active-seqs"}),
        ("0.28", {"--max-num-active-seqs", "--max-num-queued-reqs"}),
        ("0.24", {"--max-num-active-seqs", "--max-num-queued-reqs"}),
    ]:
        release = known_release(version)
        older = values(file, "stock", release=release, **asked)
        assert newest.keys() - older.keys() == lacking
        seats = newest["--max-num-active-seqs" if lacking else "--max-num-seqs"]
        assert older == {name: newest[name] for name in older} | {"--max-num-seqs": seats}
        told = lost(file, "stock", release=release, **asked)
        assert {flag for flag in newest if any(f"vLLM {version} has no {flag};" in one for one in told)} == lacking
        assert lost(file, "stock", release=release) == told[: len(lacking - {"--max-num-queued-reqs"})]


@pytest.mark.parametrize("wait_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_wait_that_is_none_is_refused(wait_s: float) -> None:
    with pytest.raises(InputError, match=r"max_wait_s = .* must be above 0 and at most 8\.58993e\+09 seconds"):
        serve_flags(file_of(Greedy()), max_wait_s=wait_s)


@pytest.mark.parametrize("form", ["plugin", "stock"])
@pytest.mark.parametrize("name", SERVABLE)
def test_each_flag_has_its_reason_in_one_line(name: str, form: Form) -> None:
    flags = serve_flags(file_of(name, tensor_parallel_size=2, gpu_memory_utilization=0.9), form, max_wait_s=30.0)
    assert len({flag.name for flag in flags}) == len(flags)
    for flag in flags:
        assert flag.name.startswith("--")
        assert 10 < len(flag.why) <= 90
        assert "\n" not in flag.why


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(words.filter(lambda name: not name.startswith("-")), words)
def test_the_line_reads_back_as_its_words(model: str, path: str) -> None:
    flags = [Flag("--max-num-seqs", "8", "w"), Flag("--no-enable-prefix-caching", "", "w")]
    line = serve_command(flags, model, path)
    assert shlex.split(line) == [
        f"FLUIDGATE_PLAN={path}",
        *("vllm", "serve", model, "--max-num-seqs", "8", "--no-enable-prefix-caching"),
    ]
    assert line.startswith("FLUIDGATE_PLAN=")  # quoted after the =, or the shell would not take it as a variable
    assert shlex.split(serve_command(flags, model)) == shlex.split(line)[1:]


@pytest.mark.parametrize("model", ["", "-x", "--help"])
def test_a_model_that_looks_like_an_option_is_refused(model: str) -> None:
    with pytest.raises(InputError, match="cannot be served"):
        serve_command([], model)
