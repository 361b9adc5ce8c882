"""The plan as a whole: what it says, what it refuses, how fast it is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.fluid import FluidPlan, RequestMix, plan
from fluidgate.fluid.plan import MAX_CLASSES
from fluidgate.fluid.plan_rows import all_rows
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.hardware.kv_law import KvLaw
from fluidgate.workload.core import Workload

STEP = StepTime(0.012, 4e-5, 3.5e-7)
A100 = Hardware("7B on A100", STEP, num_gpu_blocks=6876)
THREE = RequestMix([6.0, 4.0, 8.0], [20] * 3, [100, 200, 300])
CHAT = RequestMix(np.ones(60), np.full(60, 900), np.geomspace(30, 2000, 60).astype(int))


def said(p: FluidPlan, words: str) -> bool:
    return any(words in sentence for sentence in (*p.verdict, *p.thresholds_verdict))


def test_below_the_onset_the_policy_is_irrelevant() -> None:
    p = plan(THREE, A100, rate=10.0, max_num_seqs=None, max_num_batched_tokens=None)
    assert p.stability.load < p.stability.onset_load
    assert p.equilibrium is not None
    assert said(p, "Sustainable: 10 req/s")
    assert said(p, "KV memory binds")
    assert said(p, "policy is irrelevant")
    assert p.threshold_rate == pytest.approx(10.0)


def test_rows_of_what_memory_and_evictions_cost() -> None:
    p = plan(THREE, A100, rate=10.0, max_num_seqs=None, max_num_batched_tokens=None)
    less = plan(THREE, replace(A100, num_gpu_blocks=1 + 6875 * 9 // 10, block_size=16), rate=10.0, max_num_seqs=None)
    rows, stable = dict(all_rows(p)), p.stability
    assert rows["memory matters from"] == f"{stable.onset_load:.3f} of the boundary, {stable.onset_rate:.1f} req/s"
    assert rows["10% of memory left empty costs"].endswith("% of the boundary")
    assert p.to_dict()["empty_tenth_cost"] == p.empty_tenth_cost
    assert p.empty_tenth_cost == pytest.approx(1 - less.stability.boundary_rate / stable.boundary_rate, rel=1e-3)
    assert rows["one eviction per request costs"] == f"{100 * stable.eviction_cost:.3g}% of the boundary"
    seats = plan(THREE, A100, rate=10.0, max_num_seqs=64)
    assert dict(all_rows(seats))["10% of memory left empty costs"] == "0% of the boundary"


def test_overload_is_named_and_thresholds_stay_below_the_boundary() -> None:
    base = plan(THREE, A100, rate=10.0, max_num_seqs=None)
    boundary = base.stability.boundary_rate
    p = plan(THREE, A100, rate=1.25 * boundary, max_num_seqs=None)
    assert p.equilibrium is None
    assert p.stability.load == pytest.approx(1.25)
    assert said(p, "Overload")
    assert said(p, "25%")
    assert said(p, "never follow the rate")
    assert p.threshold_rate == pytest.approx(0.98 * boundary)
    assert p.wait.rate.sum() == pytest.approx(0.98 * boundary)
    assert p.wait.memory_tokens < A100.kv_capacity_tokens
    assert p.nested.rate <= p.threshold_rate
    assert p.nested.memory_tokens <= A100.kv_capacity_tokens * (1 + 1e-12)
    assert said(plan(THREE, A100, rate=1.02 * boundary, max_num_seqs=None), "KV tokens where 110,000 fit")
    assert said(plan(THREE, A100, rate=9 * boundary), "more than all the time")


def test_near_the_boundary_memory_matters() -> None:
    base = plan(THREE, A100, rate=1.0, max_num_seqs=None)
    p = plan(THREE, A100, rate=0.99 * base.stability.boundary_rate, max_num_seqs=None)
    assert p.equilibrium is not None
    assert said(p, "Memory control matters here")


def test_seats_that_bind_make_the_gate_pointless() -> None:
    p = plan(THREE, A100, rate=10.0, max_num_seqs=64)
    assert p.stability.binding == "seats"
    assert said(p, "max_num_seqs = 64")
    assert said(p, "nothing to decide")
    assert p.concurrency_cap == pytest.approx(64)
    assert dict(all_rows(p))["memory matters from"] == "never"


def test_compute_that_binds_is_said() -> None:
    p = plan(THREE, replace(A100, num_gpu_blocks=10**9), rate=1.0, max_num_seqs=None, max_num_batched_tokens=None)
    assert p.stability.binding == "compute"
    assert said(p, "Compute binds")


def test_integer_wait_and_loose_guarantees_are_said() -> None:
    p = plan(CHAT, A100, rate=3.0)
    assert not p.wait.integer_feasible
    assert said(p, "whole-number thresholds is infeasible")
    assert said(p, "too loose for this load")
    small = plan(CHAT, replace(A100, num_gpu_blocks=200), rate=0.01)
    assert said(small, "Nested WAIT")
    assert small.guaranteed_rate >= 0


def test_coherent_lengths_are_paced() -> None:
    assert said(plan(THREE, A100), "pace admissions")
    assert not said(plan(CHAT, A100, rate=1.0), "pace")


def test_parameters_for_policies() -> None:
    p = plan(THREE, A100, max_num_seqs=None, max_num_batched_tokens=None)
    assert p.rate_limit == pytest.approx(110_000 / THREE.mean(THREE.memory_token_iterations(KvLaw.full(16))))
    assert p.concurrency_cap == pytest.approx(p.rate_limit * THREE.mean(THREE.iterations))
    assert 0.01 <= p.watermark <= 0.3
    assert p.wait.output_edges.tolist() == [100, 200]
    budget = plan(THREE, A100, max_num_seqs=None, max_num_batched_tokens=100)
    assert budget.rate_limit == pytest.approx(100 / THREE.mean(THREE.tokens))


def test_prompt_bound_of_the_guarantee() -> None:
    mix = RequestMix([1.0, 1.0], [20, 900], [50, 50])
    mean, worst = plan(mix, A100), plan(mix, A100, prompt_bound="max")
    assert mean.guaranteed_rate == worst.guaranteed_rate
    assert worst.safety_buffer.required_tokens > mean.safety_buffer.required_tokens


@pytest.mark.parametrize("rate", [0.001, 3.0, 500.0])
def test_it_is_json_and_deterministic(rate: float) -> None:
    p = plan(CHAT, A100, rate=rate, max_num_seqs=None, max_num_batched_tokens=None)
    text = json.dumps(p.to_dict(), allow_nan=False)
    again = plan(CHAT, A100, rate=rate, max_num_seqs=None, max_num_batched_tokens=None)
    assert text == json.dumps(again.to_dict(), allow_nan=False)
    back = json.loads(text)
    assert back["stability"]["seat_limit"] is None
    assert back["hardware"]["relative_error"] is None
    assert back["rate_limit"] == p.rate_limit
    assert back["nested"]["thresholds"] == p.nested.thresholds.tolist()
    assert back["verdict"] == list(p.verdict)
    rows = all_rows(p)
    assert rows == all_rows(again)
    assert len({label for label, _ in rows}) == len(rows)
    assert all(isinstance(value, str) and value for _, value in rows)
    assert not any("nan" in value or "inf" in value for _, value in rows)


def test_a_workload_is_its_own_law() -> None:
    w = Workload(np.arange(100.0), np.tile([10, 20], 50), np.tile([30, 40], 50))
    p = plan(w, A100)
    assert p.mix.rate == pytest.approx(1.0)
    assert (p.mix.types, p.mix.max_prompt_tokens, p.mix.max_output_tokens) == (2, 20, 40)
    assert (p.mix.mean_prompt_tokens, p.mix.mean_output_tokens) == (15, 35)
    assert plan(w, A100, rate=7.0).mix.rate == pytest.approx(7.0)
    assert p.mix.output_quantiles == (30,) * 32 + (40,) * 32


def labelled(labels: list[int], names: tuple[str, ...]) -> Workload:
    """Prompts of 10, 20, … and outputs of 1, 2, … tokens."""
    n = len(labels)
    return Workload(
        np.arange(float(n)), 10 * np.arange(1, n + 1), np.arange(1, n + 1), class_id=np.array(labels), class_names=names
    )


def test_classes_are_planned_apart() -> None:
    chat, code = plan(labelled([0, 1, 0, 0], ("chat", "code")), A100).mix.classes
    assert (chat.name, chat.share, chat.mean_prompt_tokens) == ("chat", 0.75, pytest.approx(80 / 3))
    assert (code.name, code.share, code.mean_prompt_tokens) == ("code", 0.25, 20.0)
    assert set(code.output_quantiles) == {2}
    assert [chat.output_quantiles.count(length) for length in (1, 3, 4)] == [21, 22, 21]  # thirds of 64


def test_unlabelled_traffic_is_one_class() -> None:
    for w in (labelled([0] * 4, ("only",)), labelled([0] * 4, ("used", "unused")), CHAT):
        p = plan(w, A100, rate=1.0)
        (overall,) = p.mix.classes
        assert (overall.name, overall.share) == ("all", 1.0)
        assert overall.mean_prompt_tokens == p.mix.mean_prompt_tokens
        assert overall.output_quantiles == p.mix.output_quantiles


def test_a_label_without_requests_gets_the_lengths_of_all() -> None:
    p = plan(labelled([0, 2, 2, 0], ("a", "b", "c")), A100)
    a, b, c = p.mix.classes
    assert (a.share, c.share, b.name) == (0.5, 0.5, "b")
    assert 0 < b.share <= 0.25
    assert (b.mean_prompt_tokens, b.output_quantiles) == (p.mix.mean_prompt_tokens, p.mix.output_quantiles)


@pytest.mark.parametrize("count", [MAX_CLASSES, MAX_CLASSES + 1, 3 * MAX_CLASSES])
def test_labels_past_the_most_are_one_class(count: int) -> None:
    p = plan(labelled(list(range(count)), tuple(f"label {k}" for k in range(count))), A100)
    *apart, last = p.mix.classes
    assert len(apart) == MAX_CLASSES - 1
    assert [c.share for c in apart] == pytest.approx([1 / count] * len(apart))
    assert [c.mean_prompt_tokens for c in apart] == [10.0 * k for k in range(1, MAX_CLASSES)]
    assert last.share == pytest.approx((count - MAX_CLASSES + 1) / count)
    assert last.mean_prompt_tokens == pytest.approx(5.0 * (MAX_CLASSES + count))
    assert min(last.output_quantiles) == MAX_CLASSES
    assert max(last.output_quantiles) == count


def test_every_pair_of_lengths_in_a_trace_is_a_type_of_its_own() -> None:
    rng = np.random.default_rng(0)
    n = 19_366
    prompts = np.clip(rng.lognormal(6.4, 1, n), 1, 8000).astype(int)
    outputs = np.clip(rng.lognormal(5, 1, n), 1, 2000).astype(int)
    p = plan(Workload(np.arange(n) / 3, prompts, outputs), A100)
    assert p.mix.types == len(set(zip(prompts.tolist(), outputs.tolist(), strict=True)))
    assert p.mix.mean_prompt_tokens == pytest.approx(prompts.mean())
    assert p.mix.mean_output_tokens == pytest.approx(outputs.mean())


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(InputError, match=r"200,000 prompt and 5 output tokens.*never fit"):
        plan(RequestMix([1.0], [200_000], [5]), A100)
    with pytest.raises(InputError, match="c0 above 0"):
        plan(THREE, replace(A100, step_time=StepTime(0.0, 1e-5)))
    with pytest.raises(InputError, match="all requests arrive at once"):
        plan(Workload([0.0, 0.0], [5, 5], [5, 5]), A100)
    for bad in (
        {"rate": 0.0},
        {"rate": float("nan")},
        {"max_num_seqs": 0},
        {"max_num_batched_tokens": 0},
        {"horizon_s": -1.0},
        {"delta": 2.0},
    ):
        with pytest.raises(InputError):
            plan(THREE, A100, **bad)


@pytest.mark.parametrize("mix", [THREE, CHAT])
def test_the_boundary_itself_is_no_overload(mix) -> None:
    boundary = plan(mix, A100, rate=1.0).stability.boundary_rate
    at_boundary = plan(mix, A100, rate=1.0 * boundary)
    assert at_boundary.stability.load == 1.0
    assert not any("Overload" in sentence for sentence in at_boundary.verdict)
    assert any("Overload" in sentence for sentence in plan(mix, A100, rate=1.001 * boundary).verdict)
