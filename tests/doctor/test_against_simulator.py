"""Runs of the simulator as a server would show them: what doctor reckons against what is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fluidgate as fg
from fluidgate.doctor import diagnose, facts_of
from fluidgate.fluid import Limits, RequestMix, stability
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
    hardware = fg.get_hardware("llama-2-7b", "a100-80gb")
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
    hardware = replace(fg.get_hardware("llama-2-7b", "a100-80gb"), num_gpu_blocks=2500)
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
