"""Pages and logs of the kinds that people posted, kept beside the repository: each gives its right value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fluidgate.doctor import Diagnosis, Facts, Group, diagnose, diagnose_fleet, read_facts, read_servers
from fluidgate.errors import InputError
from fluidgate.hardware import get_hardware

from .test_findings import named, names

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs the folder ../shared/cases beside the repository")


def place(case: str, name: str) -> str:
    return str(next(CASES.glob(f"{case}-*")) / name)


def found(case: str, name: str, **options: Any) -> tuple[Facts, Diagnosis]:
    facts = read_facts(place(case, name), **options)
    return facts, diagnose(facts)


def test_03_a_hybrid_models_cache_has_the_tokens_that_the_page_states() -> None:
    """15.655 req/s of 136,992 tokens, scaled to 110,000; 86 requests fill 93%."""
    facts, told = found("03", "hybrid.txt")
    assert facts.kv_tokens == 110_000
    assert named(told, "load").numbers["memory_rate"] == pytest.approx(15.655 * 110_000 / 136_992, rel=0.01)
    (cap,) = [change.flag for change in told.changes if change.flag and change.flag[0] == "--max-num-active-seqs"]
    assert 84 <= int(cap[1]) <= 92


def test_05_a_block_size_of_another_model_is_contradicted() -> None:
    _, told = found("05", "stale16.txt")
    assert "The page contradicts itself" in named(told, "kv-size").says
    assert "memory_rate" not in named(told, "load").numbers
    assert "--kv-cache-tokens" in named(told, "kv-size").changes[0].what


@pytest.mark.parametrize(("name", "use"), [("twopods.txt", (0.35, 0.45)), ("twopods_busy.txt", (0.43, 0.52))])
def test_06_two_pods_are_two_servers(name: str, use: tuple[float, float]) -> None:
    servers, _ = read_servers([place("06", name)])
    fleet = diagnose_fleet(servers)
    assert [replica.name for replica in fleet.replicas] == ["pod=a", "pod=b"]
    assert fleet.kv_use_range == use
    assert fleet.together is not None
    assert named(fleet.together, "load").numbers["memory_rate"] == pytest.approx(31.3, rel=0.01)
    assert "nothing-wrong" in names(fleet.together)
    assert not fleet.together.changes


def test_08_clients_that_gave_up_arrived() -> None:
    facts = read_facts(place("08", "ab1.txt"), place("08", "ab2.txt"), 100.0)
    told = diagnose(facts, get_hardware("llama-3.1-8b", "a100-80gb"))
    assert facts.rate == pytest.approx(10.0, rel=0.01)
    assert named(told, "load").severity == "act"
    assert named(told, "load").numbers["load"] > 1.3
    assert named(told, "failed").numbers["gave_up_share"] == pytest.approx(0.7, rel=0.01)
    assert "fine" not in {named(told, name).severity for name in ("load", "failed")}


def test_09_a_log_that_stands_still_gives_no_advice_on_memory() -> None:
    _, told = found("09", "stale.log")
    assert names(told) == {"stands-still"}
    assert not told.changes
    assert told.ready_line is None


def test_11_a_step_of_speculation_gives_2_49_tokens() -> None:
    facts, told = found("11", "spec.txt")
    assert facts.tokens_per_step == pytest.approx((300_000 - 900) / 120_000)
    assert named(told, "load").numbers["memory_rate"] == pytest.approx(26.0, rel=0.01)
    assert any("decodes speculatively" in note for note in told.notes)


def test_21_a_page_of_an_older_release_is_read() -> None:
    facts, told = found("21", "v08.txt")
    assert facts.kv_use == 0.97
    assert facts.histogram("inter_token_latency_seconds") is not None
    assert facts.release == (0, 10)
    assert "kv-binds" in names(told)
    assert all("GateScheduler" not in change.what for change in told.changes), "it has no such scheduler class"


def test_22_a_log_of_the_first_engine_is_read() -> None:
    facts, told = found("22", "v0.log")
    assert facts.kv_tokens == 5691 * 16
    assert [(moment.running, moment.waiting) for moment in facts.moments] == [(16, 9), (15, 10)]
    assert "kv-binds" in names(told)
    assert Group.ADMISSION not in {group.group for group in told.alternatives}


def test_31_another_engines_log_is_named() -> None:
    with pytest.raises(InputError, match=re.escape("is SGLang's log; fluidgate reads vLLM's")):
        read_facts(place("31", "sglang.log"))
