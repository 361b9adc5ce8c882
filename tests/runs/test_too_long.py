"""Requests that are longer than the model takes: refused, counted, in no latency, and lost nowhere."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

import fluidgate as fg
from fluidgate.engine import EngineConfig, Fleet, run
from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix, plan
from fluidgate.fluid.plan_rows import all_rows
from fluidgate.hardware import Hardware, ServerDefaults, StepTime, get_hardware
from fluidgate.policies import Greedy
from fluidgate.report import frontier_table
from fluidgate.runs import Frontier, compare, frontier, plan_for, simulate
from fluidgate.workload import Workload, generate

MACHINE = Hardware("takes 100", StepTime(0.01, 1e-5, 1e-7), 2000, server=ServerDefaults(max_model_len=100))
UNLIMITED = replace(MACHINE, server=ServerDefaults())
#                  fits, exactly, one more, prompt alone, prompt alone exactly, output alone, fits
PROMPTS, OUTPUTS = [10, 80, 81, 150, 100, 1, 50], [10, 20, 20, 1, 1, 100, 7]
MIXED = Workload(np.arange(7.0), PROMPTS, OUTPUTS, class_id=[0, 1, 0, 1, 0, 1, 0], class_names=("a", "b"))


def mixed(n: int = 2000, rate: float = 20.0) -> Workload:
    """Every fourth request is too long."""
    return Workload(np.arange(n) / rate, np.where(np.arange(n) % 4, 30, 90), np.full(n, 20), name="mixed")


def test_what_is_taken_is_as_it_was() -> None:
    """A prompt that fills the model has no room for an answer, as in vLLM."""
    taken = MIXED.within(100)
    assert taken.prompt_tokens.tolist() == [10, 80, 50]
    assert taken.arrival_s.tolist() == [0.0, 1.0, 6.0]
    assert taken.class_id.tolist() == [0, 1, 0]
    assert taken.refused is not None
    assert taken.refused.prompt_tokens.tolist() == [81, 150, 100, 1]
    assert taken.refused.arrival_s.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert taken.offered == len(MIXED)
    assert taken.within(100) is taken
    assert MIXED.within(None) is MIXED
    assert MIXED.within(151) is MIXED


def test_none_is_lost_by_a_second_limit_or_another_rate() -> None:
    twice = MIXED.within(120).within(100).scaled(2.0)
    assert twice.refused is not None
    assert twice.refused.arrival_s.tolist() == [1.0, 1.5, 2.0, 2.5]
    assert twice.refused.prompt_tokens.tolist() == [81, 150, 100, 1]
    assert twice.offered == len(MIXED)


def test_the_shared_prefixes_of_what_is_taken_stay() -> None:
    load = Workload(
        np.arange(3.0), [20, 200, 20], [5, 5, 5], prefix_ids=[7, 8, 9, 7], prefix_offsets=[0, 1, 3, 4],
        prefix_block_tokens=16,
    )  # fmt: skip
    taken = load.within(100)
    assert taken.prefix_ids.tolist() == [7, 7]
    assert taken.prefix_offsets.tolist() == [0, 1, 2]


@pytest.mark.parametrize("mode", ["vllm", "sarathi", "prefill-first"])
def test_a_run_serves_the_others_as_if_they_were_alone(mode: str) -> None:
    config = EngineConfig(mode=mode)  # type: ignore[arg-type]
    records = simulate(MIXED, MACHINE, "greedy", config=config)
    alone = simulate(MIXED.take(np.array([0, 1, 6])), UNLIMITED, "greedy", config=config)
    assert np.array_equal(records.last_token_s, alone.last_token_s)
    assert records.config.max_model_len == 100
    summary = fg.summarize(records, fg.Slo(ttft_ms=1e6))
    assert (summary.offered, summary.completed, summary.unfinished, summary.refused) == (7, 3, 0, 4)
    assert summary.goodput_share == pytest.approx(3 / 7), "a refused request has not met the objective"
    assert fg.summarize(alone).refused == 0


def test_the_engine_itself_refuses_them() -> None:
    assert run(MIXED, MACHINE, Greedy()).workload.offered == 7
    assert len(run(MIXED, UNLIMITED, Greedy(), EngineConfig(max_model_len=101))) == 6
    assert len(run(MIXED, UNLIMITED, Greedy())) == 7, "hand-made hardware takes any length"


def test_a_given_limit_goes_before_the_models() -> None:
    assert len(simulate(MIXED, MACHINE, "greedy", config=EngineConfig(max_model_len=30))) == 1
    assert len(simulate(MIXED, MACHINE, "greedy", config=EngineConfig(max_model_len=1000))) == 7


def test_replicas_are_sent_none_of_them() -> None:
    records = simulate(mixed(), MACHINE, "greedy", fleet=Fleet(3, "least-kv"))
    summary = fg.summarize(records)
    assert (summary.offered, summary.completed, summary.refused) == (2000, 1500, 500)


def test_a_workload_of_them_alone_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"every request has more than the 10 tokens, .* \(max_model_len\)"):
        simulate(MIXED, MACHINE, "greedy", config=EngineConfig(max_model_len=10))
    with pytest.raises(InputError, match=r"request mix: every request has more than the 10 tokens"):
        plan(RequestMix([1.0], [10], [10]), UNLIMITED, max_model_len=10)


def test_a_plan_is_for_the_others_and_says_so() -> None:
    load = mixed()
    made = plan_for(load, MACHINE, EngineConfig())
    alone = plan_for(load.take(np.arange(len(load)) % 4 > 0), UNLIMITED, EngineConfig())
    assert made.stability.boundary_rate == pytest.approx(alone.stability.boundary_rate)
    assert made.mix.rate == pytest.approx(0.75 * load.rate, rel=1e-3)
    assert made.limits.max_model_len == 100
    refused = made.mix.refused
    assert refused is not None
    assert refused.requests == pytest.approx(0.25, rel=1e-3)
    assert refused.prompt_tokens == pytest.approx(90 / (90 + 3 * 30), rel=1e-3)
    assert refused.output_tokens == pytest.approx(0.25, rel=1e-3)
    assert made.verdict[0].startswith("25% of the requests, with 50% of the prompt tokens and 25% of the output tokens")
    assert "HTTP 400" in made.verdict[0]
    assert ("longest request", "100 tokens; 25% of the requests are refused") in all_rows(made)
    assert made.to_dict()["mix"]["refused"]["requests"] == refused.requests
    assert alone.mix.refused is None
    assert "refused" not in alone.verdict[0]


def test_a_plan_of_a_mix_leaves_out_the_same() -> None:
    mix = RequestMix.from_workload(mixed(), rate=8.0)
    made, given = plan(mix, MACHINE), plan(mixed(), MACHINE, rate=8.0)
    assert made.mix.rate == pytest.approx(6.0)
    assert made.mix.refused == given.mix.refused
    assert made.stability.boundary_rate == given.stability.boundary_rate
    assert plan(mix, MACHINE, max_model_len=None).mix.refused is None
    assert plan(mix, UNLIMITED, max_model_len=100).mix.refused == made.mix.refused


def test_loads_of_a_comparison_are_of_what_is_taken() -> None:
    result = compare(mixed(400), MACHINE, ["greedy"], loads=[0.5], repeats=2)
    (cell,) = result.cells
    assert cell.scenario.plan.stability.load == pytest.approx(0.5)
    assert (cell.summaries[0].completed, cell.summaries[0].refused) == (300, 100)
    assert all(s.offered == 400 and s.completed + s.refused == 400 for s in cell.summaries)
    assert result.requests == 400


def test_a_stable_rate_is_of_what_is_taken_on_each_machine() -> None:
    short = Hardware("takes 220", StepTime(0.01, 1e-5, 1e-7), 300, server=ServerDefaults(max_model_len=220))
    found = frontier("three-types", short, ["greedy"], requests=200, tolerance=0.1, replications=4)
    assert 0.3 < found.rates[0].refused_share == pytest.approx(share_above("three-types", 220), abs=0.05)
    assert found.rates[0].share == pytest.approx(1.0, abs=0.15)
    assert "are too long, and left out" in shown(found)
    assert found.rates[0].boundary_rate == pytest.approx(
        plan(generate("three-types", n=4000, seed=0), short).stability.boundary_rate, rel=0.1
    )


def shown(found: Frontier) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(frontier_table(found))
    return console.export_text()


def share_above(preset: str, tokens: int) -> float:
    load = generate(preset, n=20_000, seed=5)
    return float((load.prompt_tokens + load.output_tokens > tokens).mean())


def test_half_of_r1_reasoning_is_longer_than_llama_2() -> None:
    """47.7% in the draw that showed it: `max_position_embeddings` of Llama-2-7B is 4,096."""
    load = generate("r1-reasoning", n=4000, seed=0)
    made = plan_for(load, get_hardware("llama-2-7b", "a100-80gb"), EngineConfig())
    assert made.mix.refused is not None
    assert made.mix.refused.requests == pytest.approx(0.477, abs=0.01)
    assert made.mix.max_prompt_tokens + made.mix.max_output_tokens < 2 * 4096
    long = plan_for(load, get_hardware("llama-3.1-8b", "a100-80gb"), EngineConfig())
    assert long.mix.refused is None
