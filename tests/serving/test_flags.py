"""A plan as `vllm serve` arguments: what each form sets, and a line that the shell takes as meant."""

import shlex
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix, plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import ConcurrencyCap, Greedy, Policy, Watermark, make_policy, policy_class, policy_names
from fluidgate.serving.flags import Flag, Form, is_stock, lost, serve_command, serve_flags
from fluidgate.serving.planfile import PlanFile, ServedModel
from fluidgate.serving.versions import known_release

A100 = Hardware("7B on A100", StepTime(0.012, 4e-5, 3.5e-7), num_gpu_blocks=6876)
MIX = RequestMix([1.0, 2.0, 0.5], [200, 400, 800], [50, 300, 900])
PLAN = plan(MIX, A100)
SERVABLE = [name for name in policy_names() if policy_class(name).rank is None]
PACED = sorted(set(SERVABLE) - {"greedy", "watermark", "concurrency-cap"})


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
