"""Runs of the simulator as a server would show them: what doctor reckons against what is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fluidgate as fg
from fluidgate.doctor import diagnose, facts_of
from fluidgate.doctor.held import held_of
from fluidgate.engine.records import RunRecords
from fluidgate.fluid import Limits, RequestMix, stability
from fluidgate.hardware import load_profile
from fluidgate.vllm_metrics import Scrape
from fluidgate.workload import Workload

from .pages import page


def shuffled(preset: str, n: int) -> Workload:
    """A preset's requests with outputs dealt out anew: doctor takes prompts and outputs as independent."""
    drawn = fg.generate(preset, n=n, seed=3)
    outputs = np.random.default_rng(3).permutation(drawn.output_tokens)
    return Workload(drawn.arrival_s, drawn.prompt_tokens, outputs)


@pytest.mark.parametrize("preset", ["azure-conv-2023", "lmsys", "r1-reasoning"])
def test_the_boundary_lies_where_the_histograms_allow(preset: str) -> None:
    hardware = load_profile("llama-2-7b", "a100-80gb")  # which takes requests of any length
    work = shuffled(preset, 2000)
    exact = stability(RequestMix.from_workload(work), hardware.step_time, Limits.of(hardware)).boundary_rate
    text = page(
        finished=len(work),
        prompts=work.prompt_tokens.tolist(),
        outputs=work.output_tokens.tolist(),
        config={"num_gpu_blocks": hardware.num_gpu_blocks, "block_size": hardware.block_size},
    )
    found = diagnose(facts_of(Scrape.of(text, "page")), hardware)
    (numbers,) = [finding.numbers for finding in found.findings if finding.name == "load"]
    assert numbers["boundary_rate_low"] * 0.99 <= exact <= numbers["boundary_rate_high"] * 1.01
    assert numbers["boundary_rate"] == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("preset", ["azure-conv-2023", "r1-reasoning"])
def test_what_preemptions_recompute(preset: str) -> None:
    """Greedy admission past the boundary, without a prefix cache that would find the work again."""
    hardware = replace(load_profile("llama-2-7b", "a100-80gb"), num_gpu_blocks=2500)
    work = fg.generate(preset, n=500, seed=1)
    load = fg.plan(work, hardware, max_num_seqs=1024).stability.load
    config = fg.EngineConfig(max_num_seqs=1024, enable_prefix_caching=False)
    summary = fg.summarize(fg.simulate(work.scaled(1.5 / load), hardware, "greedy", config=config))
    assert summary.preemptions > 30
    text = page(
        finished=len(work),
        preemptions=summary.preemptions,
        prompts=work.prompt_tokens.tolist(),
        outputs=work.output_tokens.tolist(),
        config={"num_gpu_blocks": hardware.num_gpu_blocks},
    )
    (numbers,) = [f.numbers for f in diagnose(facts_of(Scrape.of(text, "page"))).findings if f.name == "preemptions"]
    assert numbers["recomputed_tokens"] == pytest.approx(summary.recomputed_tokens, rel=0.3)


def page_at(run: RunRecords, step: int, blocks: int | None = None) -> str:
    """What a server would show after a step; outputs of residents are taken to grow evenly."""
    assert run.steps is not None
    work, now_s = run.workload, run.steps.end_s[step]
    done, begun = run.last_token_s <= now_s, run.first_token_s <= now_s
    left = begun & ~done
    grown = (now_s - run.first_token_s[left]) / (run.last_token_s - run.first_token_s)[left] * work.output_tokens[left]
    return page(
        running=int(run.steps.running[step]),
        waiting=int(run.steps.waiting[step]),
        kv_use=1.0 - run.steps.free_blocks[step] / run.total_blocks,
        finished=int(done.sum()),
        prompts=work.prompt_tokens[done].tolist(),
        outputs=work.output_tokens[done].tolist(),
        unfinished=(int(work.prompt_tokens[left].sum()), float(grown.sum())),
        config={"num_gpu_blocks": blocks or run.hardware.num_gpu_blocks, "enable_prefix_caching": "False"},
    )


def sized_wrongly(run: RunRecords, blocks: int | None = None) -> tuple[int, int]:
    """How many of the pages of a run are called contradictory, and how many could be."""
    assert run.steps is not None
    steps = np.linspace(0, len(run.steps) - 1, 25).astype(int)
    pages = [facts_of(Scrape.of(page_at(run, step, blocks), "page")) for step in steps]
    held = [found for facts in pages if (found := held_of(facts)) is not None]
    return sum(found.contradicts for found in held), len(held)


def crowded(work: Workload, blocks: int, load: float) -> RunRecords:
    """A run without a prefix cache, at a load relative to the boundary."""
    hardware = replace(fg.get_hardware("llama-2-7b", "a100-80gb"), num_gpu_blocks=blocks)
    config = fg.EngineConfig(max_num_seqs=1024, enable_prefix_caching=False)
    present = fg.plan(work, hardware, max_num_seqs=1024).stability.load
    return fg.simulate(work.scaled(load / present), hardware, "greedy", config=config, record="steps")


@pytest.mark.parametrize("load", [0.5, 1.5])
@pytest.mark.parametrize("preset", ["azure-conv-2023", "azure-code-2023", "r1-reasoning", "lmsys", "three-types"])
def test_no_page_of_a_server_contradicts_itself(preset: str, load: float) -> None:
    wrong, seen = sized_wrongly(crowded(fg.generate(preset, n=300, seed=2), 4000, load))
    assert seen > 5
    assert wrong == 0


@pytest.mark.parametrize("long_first", [True, False])
def test_traffic_that_changed_is_no_contradiction(long_first: bool) -> None:
    """The histograms count since the start: hours of long prompts, and then of short ones, or the other way round."""
    rng, n = np.random.default_rng(4), 400
    long_prompts = (np.arange(n) < n / 2) == long_first
    prompts = np.where(long_prompts, rng.integers(3000, 4000, n), rng.integers(50, 100, n))
    work = Workload(np.arange(n, dtype=float), prompts, rng.integers(100, 500, n))
    wrong, seen = sized_wrongly(crowded(work, 8000, 0.9))
    assert seen > 5
    assert wrong == 0


@pytest.mark.parametrize(("factor", "share"), [(1 / 33, 0.4), (20, 0.4)])
def test_a_size_that_is_wrong_by_far_is_found_out(factor: float, share: float) -> None:
    """A block size of 16 published for one of 528, and tokens given as blocks: on many of the pages, not on all."""
    run = crowded(fg.generate("azure-conv-2023", n=300, seed=2), 4000, 1.5)
    wrong, seen = sized_wrongly(run, max(2, round(4000 * factor)))
    assert wrong > share * seen
