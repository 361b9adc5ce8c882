"""Facts about a workload."""

import json

import numpy as np
import pytest

from fluidgate.workload import Workload, dispersion, generate, info, read_trace


def test_facts_of_a_small_workload():
    workload = Workload(
        arrival_s=[0, 1, 3, 4],
        prompt_tokens=[10, 20, 30, 40],
        output_tokens=[4, 3, 2, 1],
        class_id=[0, 1, 1, 1],
        class_names=("a", "b", "never"),
        prefix_ids=[7, 8, 7, 9, 7],
        prefix_offsets=[0, 2, 4, 4, 5],
        prefix_block_tokens=16,
    )
    facts = info(workload)
    assert facts["requests"] == 4
    assert facts["duration_s"] == 4
    assert facts["rate"] == pytest.approx(3 / 4)
    # Gaps 1, 2, 1: mean 4/3, variance 2/9.
    assert facts["gap_cv"] == pytest.approx(np.sqrt(2 / 9) / (4 / 3))
    assert facts["prompt_tokens"] == {"mean": 25, "p50": 25, "p90": 37, "p99": pytest.approx(39.7), "max": 40}
    assert facts["length_correlation"] == pytest.approx(-1)
    assert facts["repeated_prefix_share"] == pytest.approx(2 / 5)
    assert [row["requests"] for row in facts["classes"]] == [1, 3, 0]
    assert facts["classes"][1]["share"] == 0.75
    assert facts["classes"][1]["rate"] == pytest.approx(0.75 * 0.75)
    assert facts["classes"][1]["mean_output_tokens"] == 2
    assert facts["classes"][2]["mean_prompt_tokens"] is None


@pytest.mark.parametrize("arrival_s", [[5.0], [0.0, 0.0, 0.0]])
def test_facts_without_a_duration_are_none_and_all_is_json(arrival_s):
    n = len(arrival_s)
    facts = info(Workload(arrival_s, [3] * n, [4] * n))
    for key in ("rate", "gap_cv", "dispersion_1s", "length_correlation", "repeated_prefix_share"):
        assert facts[key] is None
    json.dumps(facts, allow_nan=False)


def test_dispersion_of_regular_and_of_batched_arrivals():
    regular = np.arange(1000) / 4
    assert dispersion(regular, 1) == pytest.approx(0, abs=1e-12)
    # Ten at once each tenth second: counts 10 with chance 1/10, so variance 9 and mean 1.
    batched = np.repeat(np.arange(0.0, 1000.0, 10.0), 10)
    assert dispersion(np.append(batched, 1000.0), 1) == pytest.approx(9)
    assert dispersion(regular, 60) is None


def test_facts_of_every_kind_of_workload_are_json():
    for name in ("azure-code-2023", "three-types"):
        json.dumps(info(generate(name, n=3_000)), allow_nan=False)


def test_facts_of_the_mooncake_trace(shared_dir):
    trace, _ = read_trace(shared_dir / "traces" / "conversation_trace.jsonl")
    seen: set[int] = set()
    repeated = 0
    for block in trace.prefix_ids.tolist():
        repeated += block in seen
        seen.add(block)
    facts = info(trace)
    assert facts["repeated_prefix_share"] == pytest.approx(repeated / len(trace.prefix_ids))
    assert facts["prompt_tokens"]["mean"] == pytest.approx(12_035, abs=1)
    assert facts["output_tokens"]["mean"] == pytest.approx(343, abs=1)
