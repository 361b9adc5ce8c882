"""The equilibrium against the paper's figures and against the stage dynamics it is the fixed point of."""

import numpy as np
import pytest

from fluidgate.fluid import Limits, RequestMix, equilibrium, stability
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.kv_law import KvLaw

# Llama-2-7B on A100-80GB, LMSYS lengths (model.md §2): E[a] = 28,172, here of one type:
# (7 + 1)(3518 + 7/2). d0 is "about 10.6 ms"; its digits follow from M*(50) = 34,377 and d1/d0 = 3.784e-5.
LMSYS = RequestMix([1.0], [3518], [7], prefill_emits_token=False)
D0 = 34_377 / (1 + 3.784e-5 * 34_377) / (50 * 28_172)
PAPER = StepTime(c0=D0, c_kv=3.784e-5 * D0)


def test_the_papers_constants() -> None:
    assert LMSYS.kv_token_iterations[0] == 28_172
    assert pytest.approx(0.0106, rel=1e-3) == D0
    assert PAPER.c_kv == pytest.approx(0.40e-6, rel=5e-3)


@pytest.mark.parametrize(("rate", "kv_tokens"), [(50, 34_377), (60, 55_758), (70, 100_327), (80, 250_509)])
def test_the_papers_kv_memory(rate: float, kv_tokens: float) -> None:
    steady_state = equilibrium(LMSYS.scaled(rate), PAPER)
    assert steady_state is not None
    assert steady_state.kv_tokens == pytest.approx(kv_tokens, rel=5e-4)
    assert steady_state.throughput_tokens_s == pytest.approx(rate * 7)


def test_the_papers_boundary() -> None:
    boundary = stability(LMSYS, PAPER, Limits(137_000)).boundary_rate
    assert boundary == pytest.approx(74.1, abs=0.05)
    steady_state = equilibrium(LMSYS.scaled(boundary), PAPER)
    assert steady_state is not None
    assert steady_state.kv_tokens == pytest.approx(137_000)


def test_it_is_where_the_stage_dynamics_settle() -> None:
    """Admit λ·(last iteration) each time, shift every stage by one, and wait."""
    step = StepTime(c0=0.01, c_tok=2e-5, c_kv=3e-7, c_attn=1e-8, c_seq=1e-5)
    mix = RequestMix([3.0, 1.5], [40, 200], [30, 60])
    stages = [np.zeros(30), np.zeros(60)]
    duration_s = step.c0
    for _ in range(5000):
        tokens = kv = pairs = 0.0
        for j, stage in enumerate(stages):
            stage[1:] = stage[:-1]
            stage[0] = mix.rate[j] * duration_s
            length = mix.prompt_tokens[j]
            tokens += stage[0] * length + stage[1:].sum()
            kv += stage @ (length + np.arange(len(stage)))
            pairs += stage[0] * length * (length + 1) / 2
        duration_s = step.duration_s(tokens, kv, pairs, sum(stage.sum() for stage in stages))
    steady_state = equilibrium(mix, step)
    assert steady_state is not None
    assert steady_state.iteration_time_s == pytest.approx(duration_s, rel=1e-9)
    assert steady_state.kv_tokens == pytest.approx(kv, rel=1e-9)
    assert steady_state.requests_per_stage == pytest.approx([stage[-1] for stage in stages], rel=1e-9)
    assert steady_state.residents == pytest.approx(sum(stage.sum() for stage in stages), rel=1e-9)
    assert steady_state.admissions_per_iteration == pytest.approx(4.5 * duration_s, rel=1e-9)


def test_no_equilibrium_once_the_work_takes_all_the_time() -> None:
    step = StepTime(c0=0.01, c_kv=1e-6)
    mix = RequestMix([1.0], [100], [100])
    most = 1.0 / mix.work_s(step)[0]
    assert equilibrium(mix.scaled(most * 1.0001), step) is None
    assert equilibrium(mix.scaled(most * 0.9999), step) is not None


def test_memory_is_counted_in_blocks() -> None:
    step = StepTime(c0=0.01, c_kv=1e-7)
    steady_state = equilibrium(RequestMix([1.0], [100], [100]), step, KvLaw.full(16))
    assert steady_state is not None
    assert steady_state.memory_tokens == pytest.approx(steady_state.kv_tokens + 7.5 * steady_state.residents)
