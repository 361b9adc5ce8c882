"""Changes: alternatives together, what the server's vLLM allows, and one line that can be run."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from fluidgate.doctor import Diagnosis, Group, diagnose, facts_of
from fluidgate.doctor.changes import GATE, GATE_CLASS, GATE_RELEASES, SINCE
from fluidgate.serving.flags import SCHEDULER_CLASS
from fluidgate.serving.versions import FLAG_SINCE, NEWEST, OLDEST
from fluidgate.vllm_metrics import Scrape

from .pages import page
from .test_findings import FULL, RESIDENTS, ROOM, SPIKES, names

EVICTS: dict[str, Any] = {"preemptions": 300, **FULL}


def of(version: str | None = None, settings: dict[str, Any] | None = None, **changes: Any) -> Diagnosis:
    facts = facts_of(Scrape.of(page(**changes), "page")).of_version(version)
    return diagnose(replace(facts, **(settings or {})))


def groups(found: Diagnosis) -> dict[Group, list[str]]:
    return {group.group: [change.what for change in group.changes] for group in found.alternatives}


def test_what_the_doctor_knows_of_releases_is_what_serving_knows() -> None:
    assert GATE_CLASS == SCHEDULER_CLASS
    assert (OLDEST.number, NEWEST.number) == GATE_RELEASES
    assert FLAG_SINCE.items() <= SINCE.items()


def test_alternatives_stand_together_and_what_changes_answers_comes_last() -> None:
    found = of(**EVICTS)
    cap = int(RESIDENTS)
    admission = groups(found)[Group.ADMISSION]
    assert [what.split()[0] for what in admission] == ["`--scheduler-cls", "`--watermark", "`--max-num-active-seqs"]
    assert admission[2] == f"`--max-num-active-seqs {cap}`"
    assert groups(found)[Group.MEMORY][-1] == "`--kv-cache-dtype fp8`"
    assert found.alternatives[0].size == "at most 66.7% of the computed tokens"
    assert found.to_dict()["alternatives"][0]["group"] == "against evictions"


@pytest.mark.parametrize(
    ("version", "first", "cap"),
    [
        ("0.33.0", GATE.what, "--max-num-active-seqs"),
        ("0.31.1rc2", GATE.what, "--max-num-active-seqs"),
        ("0.28", GATE.what, "--max-num-seqs"),
        ("0.9.1", f"`--max-num-seqs {int(RESIDENTS)}`", "--max-num-seqs"),
        ("0.34.0", "`--watermark", "--max-num-active-seqs"),
        (None, GATE.what, "--max-num-active-seqs"),
    ],
)
def test_only_what_the_release_has_is_advised(version: str | None, first: str, cap: str) -> None:
    found = of(version, **EVICTS)
    admission = groups(found)[Group.ADMISSION]
    assert admission[0].startswith(first)
    assert admission[-1] == f"`{cap} {int(RESIDENTS)}`"
    lacking = [note for note in found.notes if "does not have" in note]
    assert bool(lacking) == (version not in (None, "0.33.0", "0.31.1rc2"))
    if version == "0.9.1":
        assert lacking[0].startswith("vLLM 0.9.1 does not have fluidgate's scheduler, --watermark, --max-num-queued")


def test_old_names_on_a_page_tell_an_old_release() -> None:
    text = page(**EVICTS).replace("kv_cache_usage_perc", "gpu_cache_usage_perc")
    facts = facts_of(Scrape.of(text, "page"))
    assert facts.release == (0, 10)
    found = diagnose(facts)
    assert groups(found)[Group.ADMISSION] == [f"`--max-num-seqs {int(RESIDENTS)}`"]
    assert "vLLM 0.10 or older does not have" in found.notes[-1]
    assert facts.of_version("0.10.2").version == "0.10.2", "what a server states goes before it"


def test_seats_that_are_fewer_than_the_cap_are_left_alone() -> None:
    whats = groups(of("0.9.1", {"max_num_seqs": 100}, **EVICTS)).get(Group.ADMISSION)
    assert whats is None


def test_the_ready_line_runs_the_first_of_each_urgent_group() -> None:
    found = of("0.33.0", {"max_num_seqs": 256}, model="org/Some-7B", config={"gpu_memory_utilization": "0.9"}, **EVICTS)
    assert found.ready_line is not None
    words = shlex.split(found.ready_line)
    assert words[:3] == ["vllm", "serve", "org/Some-7B"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    assert flags == {
        "--scheduler-cls": SCHEDULER_CLASS,
        "--gpu-memory-utilization": "0.95",
        "--max-num-seqs": "256",
    }


def test_flags_that_the_server_has_stay_on_the_line() -> None:
    tuned = {"cache_dtype": "fp8", "gpu_memory_utilization": "0.97", "enable_prefix_caching": "False"}
    found = of("0.33.0", {"max_num_seqs": 8}, config=tuned, **ROOM)
    assert found.ready_line == (
        f"vllm serve m --max-num-seqs {int(RESIDENTS)} --gpu-memory-utilization 0.97 --kv-cache-dtype fp8 "
        "--no-enable-prefix-caching"
    )


def test_where_nothing_is_urgent_the_line_has_what_may_be_worth_it() -> None:
    found = of(None, {"max_num_batched_tokens": 8192}, gaps_s=SPIKES)
    assert names(found) >= {"gap-spikes"}
    assert found.ready_line == ("vllm serve m --max-num-batched-tokens 4096 --gpu-memory-utilization 0.92")
    assert of().ready_line is None


def test_a_larger_and_a_smaller_budget_are_alternatives() -> None:
    slow = {"queue_s": (0.5,) * 100, "prefill_s": (4.5,) * 100}
    found = of(None, {"max_num_batched_tokens": 8192}, gaps_s=SPIKES, **slow)
    assert groups(found)[Group.TOKENS] == ["`--max-num-batched-tokens 16384`", "`--max-num-batched-tokens 4096`"]
    assert found.ready_line is not None
    assert found.ready_line.count("--max-num-batched-tokens") == 1


@pytest.mark.parametrize(
    ("extra", "share", "words"),
    [
        (['vllm:request_success_total{engine="0",model_name="m",finished_reason="error"} 25'], 0.2, "20%) ended in an"),
        (
            ['vllm:request_success_total{engine="0",model_name="m",finished_reason="abort"} 25'],
            0.2,
            "their clients gave",
        ),
    ],
)
def test_requests_that_failed_are_found(extra: list[str], share: float, words: str) -> None:
    found = of(extra=extra)
    (finding,) = (finding for finding in found.findings if finding.name == "failed")
    assert (finding.severity, finding.benefit) == ("act", share)
    assert words in finding.says
    assert "failed" not in names(of())


def test_slow_tokens_are_found() -> None:
    found = of(gaps_s=(0.12,) * 500)
    (finding,) = (finding for finding in found.findings if finding.name == "slow-tokens")
    assert finding.numbers["median_gap_low_s"] == 0.1
    assert "half of the gaps last over 100 ms, 120 ms per token on average, with 8 requests" in finding.says
    assert "slow-tokens" not in names(of(gaps_s=(0.09,) * 500))
