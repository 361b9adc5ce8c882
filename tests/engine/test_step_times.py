"""An iteration takes what the step time says of its batch, the cost per sequence included, to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.hardware import Hardware, StepGrid, StepTime
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.policies import Greedy
from fluidgate.testing import check_records, check_same
from fluidgate.workload import Workload

from .cases import Case, random_case

CASES = st.randoms(use_true_random=False).map(random_case)
SECONDS = st.floats(0, 1)
quick = settings(max_examples=60, deadline=None)


def both(case: Case, **changes: object) -> RunRecords:
    """The run with this step time or grid, which is the same compiled and interpreted."""
    workload, machine, policy, config = case
    hardware = Hardware("drawn", num_gpu_blocks=machine.num_gpu_blocks, block_size=machine.block_size, **changes)  # type: ignore[arg-type]
    compiled, interpreted = (
        run(workload, hardware, policy, config, record="decisions", compile=compile) for compile in (True, False)
    )
    check_same(compiled, interpreted, "interpreted equals compiled")
    return compiled


@quick
@given(CASES, st.floats(1e-3, 1), SECONDS, SECONDS)
def test_an_iteration_takes_its_tokens_and_its_sequences(case: Case, c0: float, c_tok: float, c_seq: float) -> None:
    records = both(case, step_time=StepTime(c0, c_tok, c_seq=c_seq))
    steps = records.steps
    assert steps is not None
    ran = steps.scheduled > 0
    expected_s = c0 + c_tok * steps.tokens + c_seq * steps.scheduled
    assert np.array_equal(steps.end_s[ran], (steps.start_s + expected_s)[ran])
    assert records.busy_s == pytest.approx(expected_s[ran].sum())


@quick
@given(CASES, st.floats(1e-3, 1), SECONDS, SECONDS, SECONDS, SECONDS)
def test_a_replay_of_the_decisions_costs_the_same_with_any_terms(
    case: Case, c0: float, c_tok: float, c_kv: float, c_attn: float, c_seq: float
) -> None:
    check_records(both(case, step_time=StepTime(c0, c_tok, c_kv, c_attn, c_seq)))


def constant_grid(sequence_s: float) -> StepGrid:
    """Every step takes a second, and each sequence so much more."""
    decodes, contexts, chunks = knots_to(16), knots_to(1024), knots_to(4096)
    tables = (np.ones((len(decodes), len(contexts))), np.zeros((len(decodes), len(contexts))))
    shared_s = np.ones(len(knots_to(4112, TOKEN_KNOTS_PER_OCTAVE)))
    return StepGrid(*tables, shared_s, np.zeros((len(chunks), len(contexts))), sequence_s)


@quick
@given(CASES, SECONDS)
def test_on_a_grid_too(case: Case, sequence_s: float) -> None:
    """The affine stand-in, which has another cost per sequence, has no part in it."""
    records = both(case, step_time=StepTime(1.0, c_seq=0.7), grid=constant_grid(sequence_s))
    steps = records.steps
    assert steps is not None
    ran = steps.scheduled > 0
    assert np.array_equal(steps.end_s[ran], (steps.start_s + (1.0 + sequence_s * steps.scheduled))[ran])
    check_records(records)


@given(st.floats(1e-3, 1), SECONDS, SECONDS, SECONDS, st.integers(1, 10**6), st.integers(1, 10**9))
def test_without_a_cost_per_sequence_four_terms_keep_their_bits(
    c0: float, c_tok: float, c_kv: float, c_attn: float, tokens: int, kv: int
) -> None:
    four_s = c0 + c_tok * tokens + c_kv * kv + c_attn * kv
    assert StepTime(c0, c_tok, c_kv, c_attn).duration_s(tokens, kv, kv, tokens) == four_s


def test_chunks_beside_decodes_by_hand() -> None:
    """Prompts of 3 and 5 tokens, 4 tokens per step: 3 and 1, a decode and 3, a decode and 1, two decodes."""
    load = Workload(np.zeros(2), np.array([3, 5]), np.array([4, 2]))
    config = EngineConfig(max_num_batched_tokens=4, enable_prefix_caching=False, scheduler_reserve_full_isl=False)
    records = run(load, Hardware("m", StepTime(1.0, c_seq=0.25), 50, 4), Greedy(), config, record="steps")
    assert records.steps is not None
    assert records.steps.scheduled.tolist() == [2, 2, 2, 2]
    assert records.steps.tokens.tolist() == [4, 4, 2, 2]
    assert records.steps.end_s.tolist() == [1.5, 3.0, 4.5, 6.0]
