"""Pages of metrics to facts: what is counted, what is taken over a window, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.doctor import Facts, diagnose, facts_of
from fluidgate.errors import InputError
from fluidgate.vllm_metrics import Scrape

from .pages import page, refusal

DATA = Path(__file__).with_name("data")


def facts(*pages: str, apart_s: float | None = None) -> Facts:
    scrapes = [Scrape.of(text, f"page {k}") for k, text in enumerate(pages)]
    return facts_of(scrapes[-1], scrapes[0] if len(scrapes) > 1 else None, apart_s)


def test_one_page_counts_since_the_start() -> None:
    found = facts(page(running=8, waiting=3, deferred=2, finished=100, preemptions=7, prefix=(4000, 1000)))
    assert (found.arrivals, found.finished, found.preemptions) == (113, 100, 7)
    assert (found.prefix_queries, found.prefix_hits) == (4000, 1000)
    assert found.moments[0].waiting == 3, "two are deferred: they do not wait for capacity"
    assert found.kv_tokens == 16_000
    assert found.computed_tokens == 100 * (100 + 50)
    assert found.rate is None
    assert found.notes == ()


def test_two_pages_count_in_between() -> None:
    before = page(running=2, waiting=0, finished=100, preemptions=7)
    after = page(
        running=8, waiting=4, finished=160, preemptions=10, prompts=(100,) * 100 + (200,) * 60, outputs=(50,) * 160
    )
    found = facts(before, after, apart_s=30.0)
    assert found.arrivals == 60 + (12 - 2), "those that finished, and those that are there now and were not before"
    assert found.rate == pytest.approx(70 / 30)
    assert (found.finished, found.preemptions) == (60, 3)
    prompts = found.histogram("request_prompt_tokens")
    assert prompts is not None
    assert (prompts.count, prompts.mean) == (60, 200)
    assert [moment.running for moment in found.moments] == [2, 8]


def test_requests_that_were_abandoned_arrived_too() -> None:
    """In the time 100 prompts of 100 tokens were computed for requests of which 30 finished and none runs more."""
    many = (100,) * 130
    before = page(first_s=(0.2,) * 100)
    after = page(finished=130, prompts=many, outputs=(50,) * 130, first_s=(0.2,) * 200, unfinished=(7000, 900))
    found = facts(before, after, apart_s=10.0)
    assert found.arrivals == 30 + 70
    assert found.abandoned == 70
    (finding,) = (finding for finding in diagnose(found).findings if finding.name == "failed")
    assert "About 70 of 100 requests began and did not finish (70%)" in finding.says
    assert finding.benefit == 0.7
    calm = facts(before, page(finished=130, prompts=many, outputs=(50,) * 130, first_s=(0.2,) * 130), apart_s=10.0)
    assert (calm.arrivals, calm.abandoned, calm.notes) == (30, 0, ())


def test_with_few_finished_between_the_pages_the_lengths_are_those_of_the_run() -> None:
    found = facts(page(), page(finished=105, prompts=(100,) * 105, outputs=(50,) * 105), apart_s=9.0)
    prompts = found.histogram("request_prompt_tokens")
    assert prompts is not None
    assert prompts.count == 105
    assert "Fewer than 30 requests finished" in found.notes[0]


def test_engines_are_added_up_and_looked_at_apart() -> None:
    found = facts(page(engine="0", running=8, kv_use=0.2) + page(engine="1", running=4, kv_use=0.6, preemptions=5))
    assert found.engines == 2
    assert (found.running, found.kv_use, found.preemptions) == (6, pytest.approx(0.4), 5)
    gaps = found.histogram("inter_token_latency_seconds")
    assert gaps is not None
    assert gaps.count == 2 * 4900


def test_the_time_since_the_start_gives_a_rate_where_the_page_tells_it() -> None:
    text = page(running=0, finished=100, extra=["process_start_time_seconds 1000"])
    assert facts_of(Scrape.of(text, "page", taken_s=1050.0)).rate == pytest.approx(2.0)
    assert facts_of(Scrape.of(text, "page")).rate is None, "a file does not say when it was taken"


def test_a_page_without_the_size_of_the_cache_says_so() -> None:
    found = facts(page(config={"num_gpu_blocks": "None"}))
    assert found.kv_tokens is None
    assert "does not state the size of the KV cache" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<html><body>vLLM</body></html>", "is not a page of metrics but HTML"),
        ('{"detail": "Not Found"}', "is not a page of metrics but HTML or JSON"),
        ("hello world, this is no page", "page, line 1: "),
        ("up 1\n", "the metrics name no engine"),
        ("sglang:num_running_reqs 3\n", "the metrics are SGLang's; fluidgate reads vLLM's"),
        ("vllm:num_requests_running 1\n", "has no vllm:num_requests_waiting"),
        (
            page() + page(model="other", engine="1"),
            "which of 2 servers it is of (model_name=m, model_name=other)",
        ),
        (page(replica="a") + page(replica="b"), "of several servers (pod=a, pod=b); scrape one"),
        (page() + page(), "repeats line 3, with the same labels"),
        (page() + "# EOF\n" + page(engine="1"), "follows the end of a page ('# EOF' in line "),
        (page(kv_use=87.0), "vllm:kv_cache_usage_perc = 87 must be a share of at most 1"),
        (page(preemptions=-1), "vllm:num_preemptions_total = -1 must be a finite number of at least 0"),
        (page(running=float("nan")).replace(" nan", " NaN"), "vllm:num_requests_running = nan"),
        (page(config={"num_gpu_blocks": "many"}), "holds a num_gpu_blocks that is no number"),
        (page(config={"block_size": "9" * 400}), "holds a block_size that is no number"),
        (page(config={"block_size": "9" * 5000}), "holds a block_size that is no number"),
        (page(config={"num_gpu_blocks": "1"}), "holds nothing"),
        (page().replace('le="+Inf"', 'lee="+Inf"'), "a bucket needs a number as its label 'le'"),
        (re.sub(r".*request_prompt_tokens_sum.*\n", "", page()), "its sum be finite"),
    ],
)
def test_pages_that_cannot_be_used_are_refused_with_the_reason(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        facts_of(Scrape.of(text, "page"))


def test_names_of_older_versions_are_read() -> None:
    text = page(kv_use=0.4, prefix=(4000, 1000))
    older = text.replace("kv_cache_usage_perc", "gpu_cache_usage_perc").replace("vllm:prefix", "vllm:gpu_prefix")
    older = older.replace("inter_token_latency", "time_per_output_token")
    assert "inter_token" not in older
    now, then = facts(text), facts(older)
    assert (then.kv_use, then.prefix_hits) == (now.kv_use, now.prefix_hits) == (0.4, 1000)
    gaps = then.histogram("inter_token_latency_seconds")
    assert gaps is not None
    assert gaps.count == 4900


def test_a_replica_of_several_engines_is_one_server() -> None:
    assert facts(page(replica="a") + page(replica="a", engine="1")).engines == 2


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (page(preemptions=12), page(preemptions=0), "vllm:num_preemptions_total went backwards"),
        (page(finished=12), page(finished=3), "vllm:request_success_total went backwards between the two scrapes"),
        (page(steps=(64,) * 9), page(steps=(64,) * 5), "vllm:iteration_tokens_total went backwards"),
        (page(model="a"), page(model="b"), "are of two servers (a and b)"),
    ],
)
def test_two_pages_of_different_runs_are_refused(before: str, after: str, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        facts(before, after, apart_s=10.0)


@given(st.data())
def test_a_damaged_page_is_read_or_refused_with_a_sentence(data: st.DataObject) -> None:
    """Lines lost, doubled or garbled: an `InputError` or a diagnosis, never another error."""
    lines = page(waiting=4, kv_use=0.95, preemptions=9).splitlines()
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(lines) - 1))
        how = data.draw(st.sampled_from(["drop", "double", "zero", "huge", "cut", "noise"]))
        line = lines[at]
        lines[at : at + 1] = {
            "drop": [],
            "double": [line, line],
            "zero": [line.rsplit(" ", 1)[0] + " 0"],
            "huge": [line.rsplit(" ", 1)[0] + " 1e300"],
            "cut": [line[: data.draw(st.integers(0, len(line)))]],
            "noise": [line + data.draw(st.text(max_size=5))],
        }[how]
    refused = refusal(lambda: diagnose(facts_of(Scrape.of("\n".join(lines), "page"))))
    assert refused is None or len(refused) > 20


def test_a_real_page_of_vllm() -> None:
    """A small Llama on a CPU under 150 requests at once: the numbers as the page shows them."""
    text = (DATA / "busy_later.txt").read_text()
    found = facts(text)
    assert (found.finished, found.preemptions, found.computed_tokens) == (112, 109, 18_864)
    assert found.arrivals == 112 + 13 + 25
    assert (found.num_gpu_blocks, found.block_size, found.kv_use) == (49, 32, 1.0)
    assert (found.gpu_memory_utilization, found.prefix_caching, found.kv_cache_dtype) == (0.92, True, "auto")
    outputs = found.histogram("request_generation_tokens")
    assert outputs is not None
    assert (outputs.count, outputs.total) == (112, 10_348)


def test_two_real_pages_of_vllm() -> None:
    earlier, later = ((DATA / name).read_text() for name in ("busy_earlier.txt", "busy_later.txt"))
    found = facts(earlier, later, apart_s=6.0)
    assert (found.finished, found.preemptions, found.arrivals) == (112 - 64, 109 - 68, 0)
    with pytest.raises(InputError, match="went backwards"):
        facts(later, earlier, apart_s=6.0)


def test_several_engines_with_fluidgates_scheduler() -> None:
    lines = page(gate={}).splitlines()
    for name, values in {"held_requests": (3, 4), "longest_silence_seconds": (0.5, 2.0)}.items():
        lines = [line for line in lines if not line.startswith(f"fluidgate_{name} ")]
        lines += [f'fluidgate_{name}{{engine="{rank}"}} {value}' for rank, value in enumerate(values)]
    gate = facts("\n".join(lines)).gate
    assert gate is not None
    assert (gate.held, gate.longest_silence_s) == (7, 2.0)


def test_a_real_page_with_fluidgates_scheduler() -> None:
    found = facts((DATA / "gate.txt").read_text())
    assert found.gate is not None
    assert (found.gate.fallbacks, found.gate.held, found.gate.computed_tokens) == (0, 56, 14_194)
    assert found.preemptions == 0
