"""The affine stand-in of a grid: exact where the grid is affine, and the mean step at the boundary where it is not."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from fluidgate.arrays import FloatArray
from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.fluid import Limits, RequestMix, affine_step_time, plan, stability
from fluidgate.hardware import Hardware, StepGrid, StepTime
from fluidgate.hardware.knots import TOKEN_KNOTS_PER_OCTAVE, knots_to
from fluidgate.policies import ConcurrencyCap
from fluidgate.workload import Workload

DECODES, CONTEXTS, CHUNKS = knots_to(256), knots_to(4096), knots_to(2048)
TOKENS = knots_to(2304, TOKEN_KNOTS_PER_OCTAVE)


def machine(power: float, blocks: int = 1000) -> Hardware:
    """Shared time that grows with a power of the tokens; 1 is affine, 0.4 much like a mixture of experts."""
    n, c = np.meshgrid(DECODES, CONTEXTS, indexing="ij")
    p, q = np.meshgrid(CHUNKS, CONTEXTS, indexing="ij")

    def shared_s(tokens: FloatArray) -> FloatArray:
        return np.asarray(0.004 + 1e-4 * tokens if power == 1.0 else 0.002 + 0.002 * tokens**power)

    tables = StepGrid(shared_s(n) + 2e-7 * n * c, 2e-7 * n * c, shared_s(TOKENS), 1e-9 * p * q)
    return Hardware("tables", StepTime(1.0), blocks, 16, grid=tables)


def mix_of(load: Workload) -> RequestMix:
    return RequestMix.from_workload(load, 1.0)


@pytest.fixture(scope="module")
def load() -> Workload:
    rng = np.random.default_rng(5)
    return Workload(np.sort(rng.uniform(0, 300, 3000)), rng.integers(20, 400, 3000), rng.integers(1, 200, 3000))


def test_without_a_grid_it_is_the_machines_own(load: Workload) -> None:
    plain = replace(machine(1.0), grid=None)
    assert affine_step_time(mix_of(load), plain, Limits.of(plain)) is plain.step_time


def test_an_affine_grid_gives_its_terms(load: Workload) -> None:
    found = affine_step_time(mix_of(load), machine(1.0), Limits.of(machine(1.0), 2048, 256))
    assert found.c0 == pytest.approx(0.004, rel=0.02)
    assert found.c_tok == pytest.approx(1e-4, rel=0.02)
    assert found.c_kv == pytest.approx(2e-7, rel=0.02)


def test_the_rate_does_not_matter(load: Workload) -> None:
    hardware, limits = machine(0.4), Limits.of(machine(0.4), 2048, 256)
    slow, fast = (asdict(affine_step_time(mix_of(load).scaled(rate), hardware, limits)) for rate in (0.1, 70.0))
    assert slow == pytest.approx(fast, rel=1e-9)


@pytest.mark.parametrize("blocks", [300, 1000, 3000])
def test_the_boundary_is_what_a_full_engine_serves(load: Workload, blocks: int) -> None:
    """A backlog under a cap at the boundary's residents; the four terms at hand would say 1 s per step."""
    hardware, config = machine(0.4, blocks), EngineConfig(max_num_batched_tokens=2048, enable_prefix_caching=False)
    predicted = plan(load, hardware, max_num_batched_tokens=2048, max_num_seqs=256).stability
    backlog = Workload(np.zeros(len(load)), load.prompt_tokens, load.output_tokens)
    records = run(backlog, hardware, ConcurrencyCap(predicted.residents), config)
    served = records.finished.sum() / records.end_s
    assert served == pytest.approx(predicted.boundary_rate, rel=0.06)


@pytest.mark.parametrize(
    ("prompt", "output", "seats", "limit"),
    [(2500, 1500, 4, "seats"), (4000, 90, 8, "seats"), (3000, 1, 16, "token budget"), (1, 1, 64, "seats")],
)
def test_the_boundary_of_one_kind_of_request(prompt: int, output: int, seats: int, limit: str) -> None:
    """Prompts of which few come per thousand iterations, those that take two chunks, and requests without a decode."""
    hardware, n = machine(0.4, 3000), 60 if prompt > 100 else 3000
    law = Workload(np.arange(n) * 1.0, np.full(n, prompt), np.full(n, output))
    predicted = plan(law, hardware, max_num_batched_tokens=2048, max_num_seqs=seats).stability
    backlog = Workload(np.zeros(n), law.prompt_tokens, law.output_tokens)
    config = EngineConfig(max_num_seqs=seats, max_num_batched_tokens=2048, enable_prefix_caching=False)
    records = run(backlog, hardware, ConcurrencyCap(float(seats)), config)
    assert predicted.limit == limit
    assert n / records.end_s == pytest.approx(predicted.boundary_rate, rel=0.07)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_below_the_boundary_steps_are_those_of_smaller_batches(load: Workload, share: float) -> None:
    hardware, limits = machine(0.4), {"max_num_batched_tokens": 2048, "max_num_seqs": 256}
    boundary = plan(load, hardware, **limits).stability
    lighter = load.scaled(share * boundary.boundary_rate / load.rate)
    planned = plan(lighter, hardware, **limits)
    records = run(lighter, hardware, ConcurrencyCap(256.0), EngineConfig(max_num_batched_tokens=2048))
    assert planned.equilibrium is not None
    assert planned.equilibrium.iteration_time_s == pytest.approx(records.busy_s / records.iterations, rel=0.15)
    assert planned.equilibrium.iteration_time_s < boundary.iteration_time_s
    used = 16 * records.mean_blocks * records.busy_s / records.end_s
    assert planned.stability.kv_use * hardware.kv_capacity_tokens == pytest.approx(used, rel=0.3)


def test_as_many_seats_as_the_tables_have_are_within_them() -> None:
    """Outputs of 50 tokens: x* times 50 is a little more than 48 in binary."""
    n, c = np.meshgrid(knots_to(48), CONTEXTS, indexing="ij")
    p, q = np.meshgrid(CHUNKS, CONTEXTS, indexing="ij")
    tables = StepGrid(0.01 + 0.0 * n * c, 0.0 * n * c, 0.01 + 0.0 * TOKENS, 0.0 * p * q)
    full = Hardware("48 seats", StepTime(1.0), 5000, 16, grid=tables)
    for output in (50, 100, 200, 400, 750, 800, 850):
        law = RequestMix(np.ones(1), np.array([100]), np.array([output]))
        assert plan(law, full, max_num_batched_tokens=2048, max_num_seqs=48).stability.residents == pytest.approx(48)


@pytest.mark.parametrize(
    ("blocks", "budget", "named"),
    [(8000, 2048, "256 requests at once, and 4"), (1000, 4096, "2,048 tokens in a step, and 4,096")],
)
def test_a_plan_beyond_the_tables_is_refused(load: Workload, blocks: int, budget: int, named: str) -> None:
    with pytest.raises(InputError, match=f"tables: its step times are known up to {named}"):
        plan(load, machine(0.4, blocks), max_num_batched_tokens=budget, max_num_seqs=None)


def test_no_limit_on_tokens_is_the_grids_reach(load: Workload) -> None:
    hardware = machine(0.4)
    free = stability(mix_of(load), affine_step_time(mix_of(load), hardware, Limits.of(hardware)), Limits.of(hardware))
    assert free.limit == "memory"
    assert free.boundary_rate > 0


def test_a_plan_names_the_tables(load: Workload) -> None:
    hardware = machine(0.4)
    told = plan(load, hardware).to_dict()["hardware"]
    assert hardware.grid is not None
    assert told["grid"] == {"digest": hardware.grid.digest}
    assert told["step_time"] == asdict(hardware.step_time)


def test_prompts_that_take_all_the_time_leave_a_fixed_time() -> None:
    """Steps at the boundary are full of prompts, whose time grows faster than their tokens: the line that fits them
    best begins below 0. At a low load a step is one of few decodes, of 5 ms."""
    n, c = np.meshgrid(DECODES, CONTEXTS, indexing="ij")
    p, q = np.meshgrid(CHUNKS, CONTEXTS, indexing="ij")
    steep = StepGrid(0.005 + 0.0 * n * c, 0.0 * n * c, 0.005 + 1e-8 * TOKENS**2.0, 0.0 * p * q)
    mix = RequestMix([0.5, 0.5], [500, 1500], [20, 20])
    for rate in (1.0, 10.0):
        found = plan(mix, Hardware("steep", StepTime(1.0), 4000, 16, grid=steep), rate=rate)
        assert found.equilibrium is not None
        assert 0.004 < found.equilibrium.iteration_time_s < 0.01
