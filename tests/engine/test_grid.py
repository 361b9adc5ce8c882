"""Runs on a machine whose step times are tables: the same laws, and the same runs where the tables say the same."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig, Fleet, RunRecords, run, run_fleet
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, StepGrid, StepTime
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.policies import Greedy
from fluidgate.testing import check_records, check_same
from fluidgate.workload import Workload

from .cases import Case, random_case

DECODES, CONTEXTS, CHUNKS = knots_to(16), knots_to(1024), knots_to(4096)
TOKENS = knots_to(4112, TOKEN_KNOTS_PER_OCTAVE)


def grid(power: float) -> StepGrid:
    """Time that grows with a power of the tokens, as where a batch wakes more and more experts; 1 is affine."""
    n, c = np.meshgrid(DECODES, CONTEXTS, indexing="ij")
    p, q = np.meshgrid(CHUNKS, CONTEXTS, indexing="ij")
    tokens = 0.25 * n**power
    return StepGrid(0.5 + tokens + 1e-3 * n * c, 1e-3 * n * c, 0.5 + 0.25 * TOKENS**power, 1e-4 * p * q)


CASES = st.randoms(use_true_random=False).map(random_case)


def simulate(case: Case, power: float, *, compile: bool = True) -> RunRecords:
    workload, hardware, policy, config = case
    return run(workload, replace(hardware, grid=grid(power)), policy, config, record="decisions", compile=compile)


@settings(max_examples=60, deadline=None)
@given(CASES, st.sampled_from([0.3, 1.0]))
def test_the_laws_hold(case: Case, power: float) -> None:
    records = simulate(case, power)
    check_records(records)
    check_same(records, simulate(case, power, compile=False), "interpreted equals compiled")


@pytest.mark.parametrize("mode", ["vllm", "sarathi", "prefill-first"])
def test_a_table_of_three_terms_gives_the_run_of_the_terms(mode: str) -> None:
    """Powers of two of seconds, so that both add up to the same bits: then every decision is the same."""
    n, c = np.meshgrid(DECODES, CONTEXTS, indexing="ij")
    same = StepGrid(0.5 + 0.25 * n, 0.0 * n * c, 0.5 + 0.25 * TOKENS, np.zeros((len(CHUNKS), len(CONTEXTS))))
    four = Hardware("three terms", StepTime(0.5, c_tok=0.25), 40, 4)
    rng = np.random.default_rng(3)
    load = Workload(np.arange(60) * 4.0, rng.integers(1, 30, 60), rng.integers(1, 30, 60))
    config = EngineConfig(mode=mode, max_num_seqs=12, max_num_batched_tokens=64)  # type: ignore[arg-type]
    a, b = (run(load, hardware, Greedy(), config, record="decisions") for hardware in (four, replace(four, grid=same)))
    assert a.preemptions.sum() > 0
    assert a.steps is not None
    assert b.steps is not None
    assert np.array_equal(a.steps.batch, b.steps.batch)
    assert np.array_equal(a.last_token_s, b.last_token_s)


def test_replicas_share_the_tables() -> None:
    rng = np.random.default_rng(7)
    load = Workload(np.arange(40) * 1.0, rng.integers(1, 30, 40), rng.integers(1, 30, 40))
    machine, config = Hardware("tables", StepTime(1.0), 40, 4, grid=grid(0.3)), EngineConfig(max_num_seqs=12)
    fleet = run_fleet(load, machine, Greedy(), Fleet(replicas=2, router="round-robin"), config)
    for k in (0, 1):
        own = slice(k, None, 2)
        alone = run(load.take(own), machine, Greedy(), config)
        assert np.allclose(np.diff(fleet.last_token_s[own]), np.diff(alone.last_token_s))


@pytest.mark.parametrize(
    ("config", "prompt", "named"),
    [
        (EngineConfig(max_num_seqs=17), 10, "up to 16 requests at once, and 17"),
        (EngineConfig(max_num_seqs=16), 1020, "up to 1,024 tokens of context, and 1,029"),
        (EngineConfig(max_num_seqs=16, max_num_batched_tokens=8192), 10, "up to 4,096 tokens in a step, and 8,192"),
    ],
)
def test_a_run_that_could_leave_the_tables_is_refused(config: EngineConfig, prompt: int, named: str) -> None:
    load = Workload(np.zeros(30), np.full(30, prompt), np.full(30, 9))
    with pytest.raises(InputError, match=named):
        run(load, Hardware("mine", StepTime(1.0), 4000, grid=grid(1.0)), Greedy(), config)
