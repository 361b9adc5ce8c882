"""What one request costs, summed iteration by iteration, and the law of a workload."""

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix
from fluidgate.hardware.core import StepTime
from fluidgate.hardware.kv_law import KvLaw
from fluidgate.workload.core import Workload


@pytest.mark.parametrize(("prompt", "output"), [(1, 1), (7, 1), (5, 4), (100, 33)])
def test_engine_request_summed_over_its_iterations(prompt: int, output: int) -> None:
    kv = [prompt + i - 1 for i in range(1, output + 1)]
    mix = RequestMix([2.0], [prompt], [output])
    assert mix.iterations[0] == len(kv)
    assert mix.kv_token_iterations[0] == sum(kv)
    assert mix.peak_kv_tokens[0] == kv[-1]
    assert mix.tokens[0] == prompt + output - 1
    assert mix.attention_pairs[0] == sum(range(1, prompt + 1))
    assert mix.squared_memory_iterations(KvLaw.full(1))[0] == sum(k * k for k in kv)
    assert mix.squared_memory_iterations(KvLaw.full(16))[0] == pytest.approx(sum((k + 7.5) ** 2 for k in kv))
    assert mix.memory_token_iterations(KvLaw.full(16))[0] == pytest.approx(sum(k + 7.5 for k in kv))
    assert [mix.block_iterations(size)[0] for size in (1, 4, 16)] == [sum(-(-k // b) for k in kv) for b in (1, 4, 16)]


@pytest.mark.parametrize(("prompt", "output"), [(1, 0), (5, 4), (100, 33)])
def test_paper_request_summed_over_its_stages(prompt: int, output: int) -> None:
    kv = [prompt + s for s in range(output + 1)]
    mix = RequestMix([2.0], [prompt], [output], prefill_emits_token=False)
    assert mix.iterations[0] == len(kv)
    assert mix.kv_token_iterations[0] == sum(kv)
    assert mix.peak_kv_tokens[0] == kv[-1]
    assert mix.tokens[0] == prompt + output
    assert mix.block_iterations(4)[0] == sum(-(-k // 4) for k in kv)


def test_blocks_round_up_by_half_a_block_on_average() -> None:
    output = 16 * 50
    blocks = sum(16 * -(-(33 + i - 1) // 16) for i in range(1, output + 1))
    assert RequestMix([1.0], [33], [output]).memory_token_iterations(KvLaw.full(16))[0] == pytest.approx(
        blocks, rel=1e-12
    )


def test_work_is_the_sum_of_the_steps_it_takes_part_in() -> None:
    step = StepTime(c0=0.5, c_tok=1e-3, c_kv=1e-5, c_attn=1e-7, c_seq=2e-3)
    prompt, output = 9, 6
    steps = [step.duration_s(prompt, prompt, prompt * (prompt + 1) / 2, 1)]
    steps += [step.duration_s(1, prompt + i - 1, 0, 1) for i in range(2, output + 1)]
    work = RequestMix([1.0], [prompt], [output]).work_s(step)[0]
    assert work == pytest.approx(sum(steps) - output * step.c0)


def test_from_workload_counts_pairs_exactly() -> None:
    w = Workload([0.0, 1.0, 2.0, 4.0], [10, 10, 20, 10], [5, 5, 5, 6])
    mix = RequestMix.from_workload(w)
    law = dict(zip(zip(mix.prompt_tokens, mix.output_tokens, strict=True), mix.rate, strict=True))
    assert law == pytest.approx({(10, 5): 0.375, (10, 6): 0.1875, (20, 5): 0.1875})
    assert mix.total_rate == pytest.approx(w.rate)
    assert RequestMix.from_workload(w, 8.0).rate.sum() == pytest.approx(8.0)
    assert mix.mean(mix.kv_token_iterations) == pytest.approx(
        np.mean([sum(p + i for i in range(o)) for p, o in [(10, 5), (10, 5), (20, 5), (10, 6)]])
    )


def test_classes_follow_the_workloads_own_bins() -> None:
    rng = np.random.default_rng(1)
    w = Workload(np.arange(500.0), rng.integers(1, 99, 500), rng.integers(1, 99, 500))
    classes = RequestMix.from_workload(w).grouped(np.array([10, 60]))
    labelled = w.classed_by_length([10, 60]).class_id
    assert classes.rate == pytest.approx(np.bincount(labelled) * w.rate / 500)
    means = [w.prompt_tokens[labelled == k].mean() for k in range(3)]
    assert classes.mean(classes.mix.prompt_tokens) == pytest.approx(means)


def test_quantiles_of_the_output_law() -> None:
    law = RequestMix([1, 1, 2], [1, 1, 1], [30, 10, 20]).by_output
    assert law.quantiles(np.array([0.25, 0.26, 0.75, 0.76])).tolist() == [10, 20, 30]


@pytest.mark.parametrize("count", [3, 12, 49, 60])
def test_quantiles_at_exact_shares_survive_rounding(count: int) -> None:
    lengths = np.arange(1, count + 1)
    law = RequestMix(np.full(count, 0.1), np.ones(count), lengths).by_output
    assert [law.quantiles(np.array([k / count])).tolist() for k in lengths] == [[k] for k in lengths]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (([1.0], [5], [0]), "output_tokens = 0"),
        (([1.0], [0], [5]), "prompt_tokens = 0"),
        (([1.0, 0.0], [5, 5], [5, 5]), "type 1: rate = 0.0"),
        (([-1.0], [5], [5]), "rate = -1.0"),
        (([float("nan")], [5], [5]), "rate = nan"),
        (([1.0], [5.5], [5]), "whole number"),
        (([1.0], [float("nan")], [5]), "whole number"),
        (([], [], []), "at least one type"),
        (([1.0, 2.0], [5], [5]), "one of each per type"),
        ((["a"], [5], [5]), "list of numbers"),
        (([[1.0]], [5], [5]), "list of numbers"),
    ],
)
def test_bad_columns_are_refused(columns: tuple[list, list, list], words: str) -> None:
    with pytest.raises(InputError, match=words):
        RequestMix(*columns)


def test_bad_rates_and_edges_are_refused() -> None:
    mix = RequestMix([1.0, 1.0], [5, 5], [5, 9])
    burst = Workload([1.0, 1.0], [5, 5], [5, 5])
    with pytest.raises(InputError, match="all requests arrive at once"):
        RequestMix.from_workload(burst)
    assert RequestMix.from_workload(burst, 3.0).total_rate == pytest.approx(3.0)
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            mix.scaled(rate)
        with pytest.raises(InputError, match="above 0"):
            RequestMix.from_workload(burst, rate)
    with pytest.raises(InputError, match="drop the edge 20"):
        mix.grouped(np.array([5, 20]))
    with pytest.raises(InputError, match="must rise"):
        mix.grouped(np.array([7, 7]))
    with pytest.raises(InputError, match="block_size"):
        mix.memory_token_iterations(KvLaw.full(0))
