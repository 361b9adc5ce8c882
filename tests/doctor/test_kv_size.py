"""The size of the KV cache: what a page states, whether it fits what runs, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluidgate.doctor import Diagnosis, Facts, Finding, Severity, diagnose, facts_of, facts_of_log
from fluidgate.doctor.finding import GATE
from fluidgate.doctor.held import held_of
from fluidgate.errors import InputError
from fluidgate.hardware import Hardware, KvGroup, KvLaw, ServerDefaults, StepTime
from fluidgate.vllm_metrics import Scrape, kv_size

from .pages import log_line, page

DATA = Path(__file__).with_name("data")
MACHINE = Hardware("machine", StepTime(c0=0.01, c_tok=1e-5), num_gpu_blocks=5000)


def stated(length: int, size: int, blocks: int, needed: int, **more: object) -> dict[str, object]:
    """The labels of vLLM 0.32, where a request of `max_model_len` takes `needed` blocks of all groups together.

    v1/core/kv_cache_utils.py: the concurrency is blocks / needed, and the tokens are int(concurrency · max_model_len).
    """
    concurrency = blocks / needed
    labels = {"num_gpu_blocks": blocks, "block_size": size, "kv_cache_size_tokens": int(concurrency * length)}
    return {**labels, "kv_cache_max_concurrency": concurrency, **more}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (stated(length=512, size=32, blocks=49, needed=16), 48 * 32),
        (stated(length=1000, size=16, blocks=1001, needed=63), 16_000),
        (stated(length=20, size=16, blocks=1001, needed=2), 16_000),
        (stated(length=131_072, size=16, blocks=30_001, needed=8192), 480_000),
        (stated(length=4096, size=16, blocks=1001, needed=256, kv_cache_max_concurrency="3.91"), 16_000),
        ({"num_gpu_blocks": 1001, "block_size": 16, "kv_cache_size_tokens": 16_016}, 16_000),
        ({"num_gpu_blocks": 1001, "block_size": 16}, 16_000),
        ({"num_gpu_blocks": "None", "block_size": 16, "kv_cache_size_tokens": 5000}, 5000),
    ],
)
def test_in_one_group_every_block_but_the_null_block_holds_tokens(config: dict[str, object], tokens: float) -> None:
    """Also where the longest request does not fill its last block, so that vLLM states fewer tokens."""
    found = kv_size(Scrape.of(page(config=config), "page"))
    assert found is not None
    assert (found.tokens, found.several_groups) == (tokens, False)


@pytest.mark.parametrize(
    "config",
    [
        stated(length=32_768, size=16, blocks=41_000, needed=2048 + 5 * 577, effective_attention_block_size=64),
        stated(length=4096, size=528, blocks=3200, needed=8 + 3),
        stated(length=32_768, size=16, blocks=1001, needed=577),
        {"num_gpu_blocks": 1001, "block_size": 16, "kv_cache_size_tokens": 5000},
    ],
    ids=["windows of 1,024 and a chunk of 8,192", "a state per sequence", "windows only", "no concurrency"],
)
def test_in_several_groups_the_stated_tokens_count(config: dict[str, object]) -> None:
    found = facts_of(Scrape.of(page(config=config), "page"))
    assert found.kv_tokens == config["kv_cache_size_tokens"]
    assert found.several_kv_groups


def test_with_context_parallelism_blocks_are_larger() -> None:
    """Two ranks keep a half of each request: a block of 16 tokens of each makes up 32."""
    config = stated(length=32_768, size=16, blocks=1001, needed=1024, effective_attention_block_size=32)
    found = kv_size(Scrape.of(page(config=config), "page"))
    assert found is not None
    assert (found.tokens, found.block_size, found.several_groups) == (32_000, 32, False)


def test_blocks_are_those_of_all_engines_and_tokens_those_of_one() -> None:
    """vLLM sums the blocks of its data-parallel engines, and nothing else (v1/engine/core_client.py)."""
    one = stated(length=512, size=16, blocks=1001, needed=32)
    for config in (one | {"num_gpu_blocks": 2002}, {"num_gpu_blocks": 2002, "block_size": 16}):
        found = facts_of(Scrape.of(page(config=config) + page(engine="1", config=config), "page"))
        assert (found.engines, found.kv_tokens, found.several_kv_groups) == (2, 16_000, False)


@pytest.mark.parametrize("text", ["many", "nan", "0", "-1"])
def test_a_concurrency_that_is_none_is_refused(text: str) -> None:
    config = {"kv_cache_size_tokens": 16_000, "kv_cache_max_concurrency": text}
    with pytest.raises(InputError, match="holds a kv_cache_max_concurrency that is no number above 0"):
        facts_of(Scrape.of(page(config=config), "page"))


# 900 requests of 1,000 prompt and 200 output tokens hold 1,107 tokens on average, with half a block of rounding.
LENGTHS: dict[str, Any] = {"prompts": (1000,) * 900, "outputs": (200,) * 900, "finished": 900}
EACH = 1000 + 199 / 2 + 7.5
HYBRID: dict[str, Any] = {
    **LENGTHS,
    "running": 86,
    "waiting": 12,
    "kv_use": 0.93,
    "preemptions": 120,
    "gaps_s": (0.02,) * 900,
    "unfinished": (86_000, 13_000),
    "config": stated(length=32_768, size=16, blocks=41_000, needed=12_215),
}
STALE: dict[str, Any] = {
    **LENGTHS,
    "running": 250,
    "kv_use": 0.19,
    "config": {"num_gpu_blocks": 3200, "block_size": 16, "enable_prefix_caching": "False"},
}


def facts(**changes: Any) -> Facts:
    return facts_of(Scrape.of(page(**changes), "page"))


def finding(found: Diagnosis, name: str) -> Finding:
    (one,) = [finding for finding in found.findings if finding.name == name]
    return one


def names(found: Diagnosis) -> set[str]:
    return {finding.name for finding in found.findings}


def test_several_groups_are_counted_by_their_tokens() -> None:
    """About 110,000 of them, where the blocks would make 656,000."""
    tokens = HYBRID["config"]["kv_cache_size_tokens"]
    assert tokens == pytest.approx(110_000, rel=0.01)
    found = diagnose(facts(**HYBRID))
    assert finding(found, "load").numbers["memory_rate"] == pytest.approx(tokens / EACH / (200 * 0.02))
    cap = f"`--max-num-active-seqs {round(tokens / EACH)}`"
    whats = [change.what for change in found.changes]
    assert cap in whats
    assert "kv-size" not in names(found)
    boundary = finding(diagnose(facts(**HYBRID), MACHINE), "load").numbers["residents_at_boundary"]
    assert boundary == pytest.approx(tokens / EACH)


def test_several_groups_are_gated_as_one_is_and_noted() -> None:
    several, one = diagnose(facts(**HYBRID)), diagnose(facts(**HYBRID | {"config": {"num_gpu_blocks": 6875}}))
    assert several.changes[0].what == one.changes[0].what == GATE.what
    assert "several groups of layers" in several.notes[-1]
    assert one.notes == ()


def test_a_block_size_that_is_not_the_engines_is_found_out() -> None:
    """0.19 · 3,199 · 16 tokens over 250 requests: 39 each, where the prompts have 1,000 and nothing is shared."""
    found = diagnose(facts(**STALE))
    said = finding(found, "kv-size")
    assert said.severity is Severity.WATCH
    assert said.numbers["stated_tokens_each"] == pytest.approx(0.19 * 3199 * 16 / 250)
    assert "38.9 tokens each, while prompts alone have 1,000 on average and the prefix cache is off" in said.says
    assert found.changes[0].what == "run doctor again with `--kv-cache-tokens N`"
    assert "memory_rate" not in finding(found, "load").numbers
    assert "in doubt" in finding(diagnose(facts(**STALE), MACHINE), "load").says


def test_the_size_that_the_log_prints_corrects_it() -> None:
    """3,199 blocks of 528 tokens."""
    found = diagnose(facts(**STALE).with_kv_tokens(3199 * 528))
    assert "kv-size" not in names(found)
    assert finding(found, "load").numbers["memory_rate"] == pytest.approx(3199 * 528 / EACH / (200 * 0.02))
    wrong = finding(diagnose(facts(**STALE).with_kv_tokens(10_000)), "kv-size")
    assert wrong.says.startswith("--kv-cache-tokens contradicts the page")
    assert "correct the size" in wrong.changes[0].what


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, True),
        ({"config": {**STALE["config"], "enable_prefix_caching": "True"}, "prefix": (900_000, 90_000)}, True),
        ({"config": {**STALE["config"], "enable_prefix_caching": "True"}, "prefix": (900_000, 700_000)}, False),
        ({"config": {**STALE["config"], "enable_prefix_caching": "True"}}, False),
        ({"config": {**STALE["config"], "sliding_window": "32"}}, False),
        ({"unfinished": (5_000, 0)}, False),
        ({"unfinished": (250_000, 30_000)}, True),
        ({"running": 5, "kv_use": 0.004}, False),
        ({"kv_use": 0.0}, False),
        ({"kv_use": 0.9, "config": {"num_gpu_blocks": 17_000, "enable_prefix_caching": "False"}}, False),
    ],
    ids=[
        "nothing shared",
        "a tenth shared",
        "most shared",
        "unknown what is shared",
        "a window of 32",
        "short prompts run",
        "prompts run",
        "few run",
        "no account",
        "it fits",
    ],
)
def test_residents_hold_less_only_for_a_reason(changes: dict[str, Any], wrong: bool) -> None:
    assert ("kv-size" in names(diagnose(facts(**STALE | changes)))) is wrong


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, True),
        ({"unfinished": (2_000_000, 6_000_000)}, False),
        ({"outputs": (1,) * 900}, False),
        ({"unfinished": (0, 0)}, False),
        ({"extra": ['vllm:prompt_tokens_by_source_total{engine="0",source="external_kv_transfer"} 5']}, False),
        ({"kv_use": 0.02}, False),
    ],
    ids=["no request is so long", "longer ones run", "others fetch it", "any may run", "fetched", "it fits"],
)
def test_residents_hold_more_only_for_a_reason(changes: dict[str, Any], wrong: bool) -> None:
    """Tokens given as blocks, 16 times too many: 86 requests would hold 87,000 tokens each."""
    tokens = facts(**HYBRID | {"config": {"num_gpu_blocks": 500_000, "block_size": 16}} | changes)
    assert ("kv-size" in names(diagnose(tokens))) is wrong


def test_the_hardwares_size_is_looked_at_too() -> None:
    unknown = HYBRID | {"config": {"num_gpu_blocks": "None"}}
    assert "kv-size" not in names(diagnose(facts(**unknown), replace(MACHINE, num_gpu_blocks=7000)))
    found = finding(diagnose(facts(**unknown), replace(MACHINE, num_gpu_blocks=500_000)), "kv-size")
    assert found.says.startswith("The hardware's KV cache contradicts the page")


@pytest.mark.parametrize("name", ["busy_earlier", "busy_later", "gate"])
def test_real_pages_do_not_contradict_themselves(name: str) -> None:
    """What is held, as the gauges have it, is what was computed and has not finished, but for blocks not full."""
    found = facts_of(Scrape.of((DATA / f"{name}.txt").read_text(), name))
    held = held_of(found)
    assert held is not None
    assert not held.contradicts
    assert held.stated - found.unfinished_tokens <= held.running * 32
    assert held.stated >= 0.8 * found.unfinished_tokens


def test_the_size_in_a_log_is_not_the_hardwares() -> None:
    """A log states tokens and no blocks."""
    lines = [log_line(kv_use=97.0, waiting=9), "GPU KV cache size: 110,000 tokens"]
    found = facts_of_log("\n".join(lines), "vllm.log")
    assert finding(diagnose(found, MACHINE), "kv-binds").numbers == finding(diagnose(found), "kv-binds").numbers
    assert found.with_kv_tokens(50_000).kv_tokens == 50_000


WINDOWS = replace(
    MACHINE,
    kv_law=KvLaw((KvGroup("full", 4, 16), KvGroup("sliding", 4, 16, 128), KvGroup("sliding", 4, 16, 128))),
    server=ServerDefaults(64, 2048, 131_072),
)


def test_the_boundary_counts_stated_tokens_once_however_many_groups_keep_them() -> None:
    """The page's size is in tokens of requests; the hardware's law would count each short one three times."""
    found = [finding(diagnose(facts(**HYBRID), machine), "load").numbers for machine in (MACHINE, WINDOWS)]
    assert found[0] == found[1]


def test_the_hardwares_size_of_several_groups_is_as_a_server_states_it() -> None:
    """131,072 tokens take 8,192 blocks, and of each window ⌈(127 + 2 · 2,048)/16⌉ + 1."""
    found = diagnose(facts(**HYBRID | {"config": {"num_gpu_blocks": "None"}}), WINDOWS)
    tokens = int(5000 / (8192 + 2 * 265) * 131_072)
    stated = diagnose(facts(**HYBRID | {"config": {"num_gpu_blocks": "None"}}).with_kv_tokens(tokens), WINDOWS)
    assert finding(found, "load").numbers == finding(stated, "load").numbers
    assert any("several groups" in note for note in found.notes)
