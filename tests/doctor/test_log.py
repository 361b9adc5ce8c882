"""vLLM's log to facts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.doctor import diagnose, facts_of_log
from fluidgate.errors import InputError

from .pages import log_line, refusal

DATA = Path(__file__).with_name("data")


def test_a_real_log_of_vllm() -> None:
    found = facts_of_log((DATA / "vllm_log.txt").read_text(), "vllm.log")
    assert [moment.running for moment in found.moments] == [12, 16, 13, 14, 11, 12, 5]
    assert [moment.waiting for moment in found.moments] == [124, 92, 76, 51, 32, 14, 0]
    assert found.moments[-1].kv_use == 0.625
    assert found.window_s == 18.0
    assert (found.kv_tokens, found.max_num_seqs, found.max_num_batched_tokens) == (1568, 32, 512)
    names = [finding.name for finding in diagnose(found).findings]
    assert names == ["kv-binds", "load"]


def test_preemptions_are_told_only_where_the_log_does() -> None:
    """vLLM 0.32 sets their number to 0 before it writes the line, so a log without them proves nothing."""
    silent = facts_of_log(log_line(), "vllm.log")
    assert silent.preemptions is None
    assert any("Cannot tell preemptions" in note for note in silent.notes)
    told = facts_of_log("\n".join([log_line(more=", Preemptions: 3"), log_line(more=", Preemptions: 4")]), "vllm.log")
    assert told.preemptions == 7
    assert not any("preemptions" in note for note in told.notes)


def test_deferred_requests_do_not_wait_for_capacity() -> None:
    found = facts_of_log(log_line(waiting=5, more=", Deferred: 4 reqs"), "vllm.log")
    assert found.moments[0].waiting == 1


def test_engines_apart_and_together() -> None:
    apart = facts_of_log("\n".join([log_line(), log_line(engine="Engine 001", running=4)]), "vllm.log")
    assert (apart.engines, apart.running) == (2, 6)
    together = facts_of_log(log_line(engine="4 Engines Aggregated", running=32, waiting=8), "vllm.log")
    assert (together.moments[0].running, together.moments[0].waiting) == (8, 2)


def test_colours_and_missing_times_do_no_harm() -> None:
    coloured = log_line().replace("(APIServer pid=1)", "\x1b[1;36m(APIServer pid=1)\x1b[0;0m")
    assert len(facts_of_log(coloured, "vllm.log").moments) == 1
    bare = "\n".join(line.split("] ", 1)[1] for line in (log_line(), log_line()))
    assert facts_of_log(bare, "vllm.log").window_s is None


def test_the_turn_of_the_year_is_no_step_back() -> None:
    lines = [log_line(time="12-31 23:59:50"), log_line(time="01-01 00:00:00"), log_line(time="01-01 00:00:10")]
    assert facts_of_log("\n".join(lines), "vllm.log").window_s == 20.0
    with pytest.raises(InputError, match="time goes backwards"):
        facts_of_log("\n".join([log_line(time="11-21 12:30:10"), log_line(time="11-21 12:30:00")]), "vllm.log")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("INFO 11-21 12:30:00 all is well\n", "holds no 'Avg prompt throughput:' line"),
        (log_line().replace("Running: 8 reqs", "Running: many"), "vllm.log, line 1: "),
        (log_line(kv_use=130.0), "must be at most 100%"),
        (log_line().replace("Running: 8", f"Running: {'9' * 4400}"), "running = '99"),
        (log_line(waiting=2**31), "waiting = '2147483648' must be at most 2,147,483,647"),
        (log_line(waiting=1, more=", Deferred: 2 reqs"), "2 requests deferred of 1 that wait"),
        (log_line() + f"\nGPU KV cache size: {'9' * 400} tokens", "KV cache size = '99"),
        (log_line() + f"\nnon-default args: {{'max_num_seqs': {10**11}}}", "max_num_seqs = '100000000000'"),
        (log_line().replace("tokens/s", "tok/s"), "is not worded as vLLM 0.6 to 0.33"),
    ],
)
def test_other_logs_are_refused_with_the_reason(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        facts_of_log(text, "vllm.log")


@given(st.lists(st.one_of(st.text(), st.builds(log_line, running=st.integers(0, 99), waiting=st.integers(0, 99)))))
def test_any_log_is_read_or_refused_with_a_sentence(lines: list[str]) -> None:
    refused = refusal(lambda: diagnose(facts_of_log("\n".join(lines), "vllm.log")))
    assert refused is None or refused.startswith("vllm.log")


def test_a_size_of_commas_is_no_size() -> None:
    assert facts_of_log(log_line() + "\nGPU KV cache size: ,,, tokens", "vllm.log").kv_tokens is None


def test_a_line_of_megabytes_is_no_work() -> None:
    text = log_line().replace("KV cache usage", "KV cache user") * 20_000
    assert refusal(lambda: facts_of_log(text, "vllm.log")) is not None


def test_digits_that_are_no_date_are_no_time() -> None:
    found = facts_of_log(log_line(time="99-99 99:99:99") + "\n" + log_line(), "vllm.log")
    assert (len(found.moments), found.window_s) == (2, None)


def test_an_engine_that_stands_still_tells_nothing_of_memory() -> None:
    still, moves = (log_line(kv_use=95.0, waiting=9, running=40, tokens_per_s=s) for s in ((0.0, 0.0), (0.0, 20.0)))
    (finding,) = diagnose(facts_of_log("\n".join([still] * 3), "vllm.log")).findings
    assert finding.name == "stands-still"
    assert finding.changes == ()
    found = facts_of_log("\n".join([still] * 3 + [moves] * 3), "vllm.log")
    assert len(found.moments) == 3
    assert "Left out 3 lines" in found.notes[0]
    assert "kv-binds" in [finding.name for finding in diagnose(found).findings]
    idle = facts_of_log(log_line(running=0, kv_use=0.0, tokens_per_s=(0.0, 0.0)), "vllm.log")
    assert not idle.stands_still


def test_the_first_engines_log_is_read() -> None:
    """vLLM up to 0.10: what is swapped out waits too, and blocks are logged instead of tokens."""
    line = (
        "INFO 09-12 10:01:20 metrics.py:396] Avg prompt throughput: 10.0 tokens/s, Avg generation throughput: 16.7 "
        "tokens/s, Running: 15 reqs, Swapped: 1 reqs, Pending: 9 reqs, GPU KV cache usage: 97.0%, CPU KV cache usage: "
        "2.0%."
    )
    start = "INFO 09-12 10:00:01 gpu_executor.py:76] # GPU blocks: 500, # CPU blocks: 20\n"
    found = facts_of_log(start + line, "v0.log")
    assert "first engine" in found.notes[0]
    assert found.kv_tokens == 500 * 16
    assert (found.moments[0].running, found.moments[0].waiting, found.moments[0].kv_use) == (15, 10, 0.97)
    assert "kv-binds" in [finding.name for finding in diagnose(found).findings]
