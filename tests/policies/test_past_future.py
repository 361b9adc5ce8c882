"""`past-future`: draws from the past, the peak of the future."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.engine import EngineConfig, RunRecords, run
from fluidgate.errors import InputError
from fluidgate.fluid import plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.kernel import interpreted
from fluidgate.policies import Event, PastFuture, make_policy
from fluidgate.policies.protocol import FINISHED
from fluidgate.testing import check_policy, small_hardware, small_workloads
from fluidgate.workload import Workload

Simulate = Callable[..., RunRecords]
Decide = Callable[..., int]
Lengths = list[tuple[int, int]]


def past_future(*quantiles: float, reserve: float = 0.0, window: float = 50.0, seats: float = 256.0) -> PastFuture:
    return PastFuture(reserve, window, seats, quantiles)


def test_memory_peaks_where_one_ends(decide: Decide) -> None:
    # Outputs are 10. Two residents, with 9 and 4 generated, hold 2 + 9 and 2 + 4 in the next iteration, the last of the
    # first of them, and the newcomer 2. In the sixth, the last of the second, they hold 11 + 7, in the tenth 11.
    residents = [(2, 9), (2, 4)]
    assert decide(past_future(10.0), residents, [(2, 0)], blocks=19) == 1
    assert decide(past_future(10.0), residents, [(2, 0)], blocks=18) == 0
    # a second one ends with the first: 19 + 2 at first, 18 + 7 in the sixth iteration, 22 in the last
    assert decide(past_future(10.0), residents, [(2, 0)] * 2, blocks=25) == 2
    assert decide(past_future(10.0), residents, [(2, 0)] * 2, blocks=24) == 1


def test_a_share_stays_in_reserve(decide: Decide) -> None:
    # The peak of 19 fits if 20 · (1 - reserve) is at least that.
    assert decide(past_future(10.0, reserve=0.05), [(2, 9), (2, 4)], [(2, 0)], blocks=20) == 1
    assert decide(past_future(10.0, reserve=0.06), [(2, 9), (2, 4)], [(2, 0)], blocks=20) == 0


def test_blocks_are_half_empty_at_their_ends(decide: Decide) -> None:
    # In blocks of 4 each of the three holds 1.5 tokens more: 19 + 4.5 of 24.
    assert decide(past_future(10.0), [(2, 9), (2, 4)], [(2, 0)], blocks=6, block_size=4) == 1
    assert decide(past_future(10.0), [(2, 9), (2, 4)], [(2, 0)], blocks=5, block_size=4) == 0


def test_a_length_is_drawn_from_those_not_yet_passed(decide: Decide) -> None:
    # Outputs are 2 or 12: who has generated 2 goes on to 12, and both end with 1 + 11 tokens. Who has outlasted every
    # length ends with the next token: 1 + 12 beside 1 + 2.
    policy = past_future(2.0, 12.0)
    assert decide(policy, [(1, 2)], [(1, 2)], blocks=24) == 1
    assert decide(policy, [(1, 2)], [(1, 2)], blocks=23) == 0
    assert decide(policy, [(1, 12)], [(1, 2)], blocks=16) == 1
    assert decide(policy, [(1, 12)], [(1, 2)], blocks=15) == 0


@pytest.mark.parametrize("iteration", [0, 1, 17, 12345])
def test_draws_follow_the_law(decide: Decide, iteration: int) -> None:
    # Half of the prompts of 1 get outputs of 1, half 3: n hold n tokens at once, and 3 · n/2 at the end.
    n = decide(past_future(1.0, 3.0), [], [(1, 0)] * 200, blocks=150, iteration=iteration)
    assert 97 <= n <= 103


def test_every_iteration_draws_anew(decide: Decide) -> None:
    # The resident goes on to 50: 38 more steps from 13 tokens. A newcomer's output is 2, and they never hold more than
    # 13 + 37, or 50, and they come to 13 + 37 + 10 + 37.
    policy = past_future(2.0, 50.0)
    admitted = [decide(policy, [(1, 12)], [(10, 0)], blocks=60, iteration=i) for i in range(100)]
    assert 45 <= sum(admitted) <= 55


def _fits(running: Lengths, length: int, blocks: int) -> bool:
    """Step by step: everybody runs to `length` outputs, a token per iteration, the last one without KV."""
    for step in range(length):
        held = [prompt + generated + step for prompt, generated in running if generated + step < length]
        if sum(held) > blocks:
            return False
    return True


REQUESTS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 24)), max_size=30)


@settings(max_examples=100, deadline=None)
@given(residents=REQUESTS, prompts=st.lists(st.integers(1, 30), min_size=1, max_size=8), blocks=st.integers(20, 1500))
def test_with_one_length_it_is_exact_look_ahead(
    decide: Decide, residents: Lengths, prompts: list[int], blocks: int
) -> None:
    policy = past_future(25.0)
    waiting = [(prompt, 0) for prompt in prompts]
    fitting = [n for n in range(len(waiting) + 1) if _fits(residents + waiting[:n], 25, blocks)]
    assert decide(policy, residents, waiting, blocks=blocks) == max([*fitting, 0 if residents else 1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20)), min_size=2, max_size=25), st.integers(1, 30))
def test_with_one_length_it_never_evicts(requests: Lengths, output: int) -> None:
    gap, prompt = (np.array(column) for column in zip(*requests, strict=True))
    workload = Workload(np.cumsum(gap).astype(float), prompt, np.full(len(prompt), output))
    hardware = Hardware("crowded", StepTime(c0=1.0), 60, 1)
    config = EngineConfig(max_num_batched_tokens=10_000)
    assert run(workload, hardware, past_future(float(output)), config).preemptions.sum() == 0


def test_the_window_learns(simulate: Simulate) -> None:
    # 9 blocks. A length of 8 is expected: 2 + 7 tokens, one at a time. Row 0 ends after 2 outputs, and the window of 1
    # knows nothing else: rows 1, 2 and 3 hold 3 tokens each at their ends.
    r = simulate(past_future(8.0, window=1.0), [(0.0, 2, 2)] * 5, blocks=9)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0, 2.0, 2.0, 4.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 8), st.lists(st.integers(0, 20), max_size=30)
)
def test_the_window_holds_the_last_lengths(prior: list[int], window: int, outputs: list[int]) -> None:
    policy = past_future(*map(float, prior), window=float(window))
    memory = policy.new_memory()
    for output in outputs:
        event = Event(
            FINISHED,
            1.0,
            0,
            0.0,
            prompt_tokens=1,
            generated_tokens=output,
            computed_tokens=0,
            class_id=0,
            policy_class=0,
        )
        interpreted(policy.observe)(policy.pack(), memory, event)
    first = [prior[i % len(prior)] for i in range(window)]
    came = first + [output for output in outputs if output > 0]  # one without output was aborted
    assert memory[1 + window : 1 + 2 * window].tolist() == sorted(came[-window:])


def test_seats_are_a_cap(simulate: Simulate) -> None:
    r = simulate(past_future(3.0, seats=2.0), [(0.0, 1, 3)] * 4)
    assert r.first_scheduled_s.tolist() == [0.0, 0.0, 3.0, 3.0]


def test_the_first_of_an_idle_engine_is_let_in(simulate: Simulate) -> None:
    r = simulate(past_future(100.0), [(0.0, 2, 2)] * 2, blocks=5)
    assert r.first_scheduled_s.tolist() == [0.0, 2.0]


def test_takes_its_parameters_from_the_plan() -> None:
    overload = next(w for w in small_workloads() if w.name == "overload")
    policy = make_policy("past-future", plan(overload, small_hardware()))
    assert isinstance(policy, PastFuture)
    assert (policy.reserve, policy.window, policy.seats) == (0.05, 1000.0, 24.0)
    found, wanted = (
        np.quantile(policy.output_quantiles, [0.25, 0.75]),
        np.quantile(overload.output_tokens, [0.25, 0.75]),
    )
    assert found == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize(
    "policy",
    [past_future(1.0), past_future(1e6), past_future(5.0, reserve=0.9), past_future(2.0, 9.0, window=1.0, seats=1.0)],
    ids=repr,
)
def test_conforms_at_its_extremes(policy: PastFuture) -> None:
    check_policy(policy)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"reserve": -0.1}, "reserve = -0.1 must"),
        ({"reserve": 1.0}, "reserve = 1.0 must"),
        ({"reserve": np.nan}, "reserve = nan must"),
        ({"window": 0.0}, "window = 0.0 must"),
        ({"window": np.inf}, "window = inf must"),
        ({"seats": np.nan}, "seats = nan must"),
        ({"output_quantiles": ()}, "needs at least one output quantile"),
        ({"output_quantiles": (4.0, 0.0)}, "output quantiles .* must"),
        ({"output_quantiles": (np.nan,)}, "output quantiles .* must"),
    ],
)
def test_refuses_what_is_out_of_range(bad: dict[str, object], named: str) -> None:
    good: dict[str, object] = {"reserve": 0.05, "window": 10.0, "seats": 8.0, "output_quantiles": (4.0,)}
    with pytest.raises(InputError, match=f"policy past-future: {named}"):
        PastFuture(**(good | bad))  # type: ignore[arg-type]
