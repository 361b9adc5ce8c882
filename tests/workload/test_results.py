"""Results of load generators: the requests as a workload, and the times at which they were served."""

import json

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.workload import read_results, read_trace

BENCH = {
    "backend": "vllm",
    "num_prompts": 3,
    "request_rate": 2.0,
    "burstiness": 0.25,
    "max_concurrency": None,
    "input_lens": [10, 20, 30],
    "output_lens": [3, 2, 1],
    "ttfts": [0.1, 0.2, 0.3],
    "itls": [[0.01, 0.02], [0.05], []],
    "errors": ["", "", ""],
}


@pytest.fixture
def save(tmp_path):
    """Write results, one a line, and give the file's path."""

    def write(*results):
        path = tmp_path / "result.json"
        path.write_text("\n".join(map(json.dumps, results)))
        return path

    return write


def test_times_of_vllm_bench_follow_the_order_of_arrival(save):
    (run,) = read_results(save(BENCH | {"start_times": [7.0, 5.0, 6.0]}))
    assert run.workload.prompt_tokens.tolist() == [20, 30, 10]
    np.testing.assert_allclose(run.timings.arrival_s, [0, 1, 2])
    np.testing.assert_allclose(run.timings.first_token_s, [0.2, 1.3, 2.1])
    np.testing.assert_allclose(run.timings.last_token_s, [0.25, 1.3, 2.13])
    assert [gaps.tolist() for gaps in run.timings.gaps_s] == [[0.05], [], [0.01, 0.02]]
    tpot_s = run.timings.latencies_s["TPOT"]
    np.testing.assert_allclose(tpot_s, [0.05, np.nan, 0.015])
    assert run.max_concurrency is None


def test_an_old_result_is_lengths_whose_arrivals_are_drawn_as_it_says(save):
    path = save(
        BENCH | {"input_lens": [10] * 4000, "output_lens": [3] * 4000, "errors": [], "ttfts": None, "itls": None}
    )
    workload, note = read_trace(path, seed=3)
    assert "no arrival times in the file" in note
    assert "with seed 3" in note
    gaps_s = np.diff(workload.arrival_s)
    assert workload.rate == pytest.approx(2.0, rel=0.1)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(2.0, rel=0.1), "burstiness is 1/cv²"
    assert read_trace(path, seed=4)[0].digest != workload.digest


def test_endless_burstiness_is_requests_at_equal_distances(save):
    workload, _ = read_trace(save(BENCH | {"burstiness": float("inf")}))
    np.testing.assert_allclose(np.diff(workload.arrival_s), 0.5, rtol=0.01)


@pytest.mark.parametrize("rate", ["inf", float("inf"), None, "trace"])
def test_an_old_result_without_a_rate_is_lengths_alone(save, rate):
    workload, note = read_trace(save(BENCH | {"request_rate": rate}))
    assert "no arrival times in the file: all arrive at 0" in note
    assert workload.duration_s == 0


def test_start_times_of_a_closed_loop_follow_from_its_latencies(save):
    """Two in flight: the third request is sent when the first of the two ended."""
    (run,) = read_results(save(BENCH | {"request_rate": "inf", "max_concurrency": 2}))
    np.testing.assert_allclose(run.timings.arrival_s, [0, 0, 0.13])
    assert run.max_concurrency == 2
    assert "in flight ended" in run.note
    assert (run.workload.concurrency, run.workload.arrival_s.tolist()) == (2, [0, 0, 0])  # what was offered
    (at_once,) = read_results(save(BENCH | {"request_rate": "inf"}))
    assert at_once.timings.arrival_s.tolist() == [0, 0, 0]


def test_a_rate_does_not_say_when_each_request_was_sent(save):
    with pytest.raises(InputError, match=r"no arrival times in the file.*--request-rate inf"):
        read_results(save(BENCH))


def test_a_result_without_times_of_requests_is_refused(save):
    with pytest.raises(InputError, match=r"request 0: no time to first token"):
        read_results(save({key: value for key, value in BENCH.items() if key != "ttfts"}))


def test_a_first_token_at_once_is_none(save):
    with pytest.raises(InputError, match=r"request 1: its first token after 0 s"):
        read_results(save(BENCH | {"start_times": [0, 1, 2], "ttfts": [0.1, 0, 0.3]}))


def test_appended_results_are_runs_of_their_own(save):
    path = save(
        BENCH | {"start_times": [0, 1, 2]}, BENCH | {"start_times": [700, 700.5, 702], "output_lens": [3, 2, 0]}
    )
    with pytest.raises(InputError, match=r"holds 2 runs, one a line, as --append-result writes them.*--run 2"):
        read_trace(path)
    assert len(read_trace(path, run=1)[0]) == 3
    workload, note = read_trace(path, run=2, failed="drop")
    assert workload.arrival_s.tolist() == [0, 0.5]
    assert "run 2" in note
    with pytest.raises(InputError, match="has no run 3: it holds 2"):
        read_trace(path, run=3)
    with pytest.raises(InputError, match=r"run 2, request 2: failed \(no output\)"):
        read_results(path)
    assert [run.name for run in read_results(path, failed="drop")] == ["result.json, run 1", "result.json, run 2"]


TIMES = {
    "0.2": {"start_time": 9.0, "first_token_time": 9.5, "last_token_time": 12.0, "end_time": 12.1},
    "0.4": {
        "scheduler_info": {"request_timings": {"request_start": 9.0, "first_iteration": 9.5, "last_iteration": 12.0}}
    },
    "0.5": {
        "request_start_time": 9.0,
        "request_end_time": 12.1,
        "time_to_first_token_ms": 500.0,
        "info": {"timings": {"request_start": 9.0, "first_token_iteration": 9.5, "last_token_iteration": 12.0}},
    },
    "0.5 without the details": {"request_start_time": 9.0, "request_end_time": 12.0, "time_to_first_token_ms": 500.0},
}


@pytest.mark.parametrize("version", TIMES)
def test_times_of_guidellm_whatever_its_version(save, version):
    request = {"prompt_tokens": 30, "output_tokens": 11} | TIMES[version]
    strategy = {"type_": "concurrent", "streams": 4}
    benchmark = {
        "config": {"strategy": strategy},
        "requests": {"successful": [request], "errored": [], "incomplete": []},
    }
    (run,) = read_results(save({"benchmarks": [benchmark]}))
    np.testing.assert_allclose(run.timings.first_token_s, 0.5)
    np.testing.assert_allclose(run.timings.last_token_s, 3.0)
    np.testing.assert_allclose(run.timings.latencies_s["TPOT"], 0.25)
    assert run.max_concurrency == 4


def test_every_benchmark_of_guidellm_is_a_run(save):
    request = {"prompt_tokens": 30, "output_tokens": 11} | TIMES["0.2"]
    path = save({"benchmarks": [{"requests": {"successful": [request]}}] * 3})
    assert len(read_results(path)) == 3
    with pytest.raises(InputError, match="holds 3 runs, one for each rate"):
        read_trace(path)


def test_times_of_aiperf(save):
    record = {
        "metadata": {"request_start_ns": 1764000000 * 10**9, "request_end_ns": 17640000003 * 10**8},
        "metrics": {
            "input_sequence_length": {"value": 30, "unit": "tokens"},
            "output_sequence_length": {"value": 3, "unit": "tokens"},
            "time_to_first_token": {"value": 250.0, "unit": "ms"},
            "inter_chunk_latency": {"value": [20.0, 30.0], "unit": "ms"},
        },
        "error": None,
    }
    lost = {
        "metadata": {"request_start_ns": 1764000001 * 10**9, "was_cancelled": True},
        "metrics": {"error_isl": {"value": 550, "unit": "tokens"}},
        "error": {"type": "RequestCancellationError"},
    }
    path = save(record, lost)
    with pytest.raises(InputError, match=r"result.json:2: failed \(RequestCancellationError\)"):
        read_results(path)
    (run,) = read_results(path, failed="drop")
    np.testing.assert_allclose(run.timings.first_token_s, 0.25)
    np.testing.assert_allclose(run.timings.last_token_s, 0.3)
    assert [gaps.tolist() for gaps in run.timings.gaps_s] == [[0.02, 0.03]]


def test_a_table_with_times_is_a_run(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens,first_token_at,last_token_at\n5,10,3,5.5,6\n4,9,1,4.5,4.5\n"
    )
    (run,) = read_results(path)
    np.testing.assert_allclose(run.timings.first_token_s, [0.5, 1.5])
    assert run.workload.prompt_tokens.tolist() == [9, 10]


def test_a_format_without_times_is_refused(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n")
    with pytest.raises(InputError, match=r"format azure has no times.*aiperf, guidellm, vidur, vllm-bench"):
        read_results(path)


def test_a_request_that_ends_before_it_begins_is_refused(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens,first_token_at,last_token_at\n0,10,3,5,4\n")
    with pytest.raises(InputError, match=r"run.csv:2: its first token after 5 s and its last after 4 s"):
        read_results(path)
