"""Which limit binds is decided once: whatever is on a page, findings agree with each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.doctor import Facts, Severity, diagnose, facts_of
from fluidgate.doctor.binding import BUDGET, SEATS, Limit, binding_of
from fluidgate.vllm_metrics import Scrape

from .pages import page
from .test_findings import FULL, MACHINE, ROOM, SPIKES, asked, diagnosis, named, names


def facts(settings: dict[str, Any] | None = None, **changes: Any) -> Facts:
    return replace(facts_of(Scrape.of(page(**changes), "page")), **(settings or {}))


@pytest.mark.parametrize(
    ("limit", "settings", "changes"),
    [
        (Limit.NONE, {}, {}),
        (Limit.MEMORY, {}, FULL),
        (Limit.UNKNOWN, {}, ROOM),
        (Limit.SEATS, {"max_num_seqs": 8}, ROOM),
        (Limit.BUDGET, {"max_num_batched_tokens": 64}, ROOM),
        (Limit.GATE, {}, {"gate": {"held_requests": 12}, "waiting": 12}),
        (Limit.NONE, {}, {"kv_use": 0.4, "running": 30, "waiting": 2}),
        (Limit.MEMORY, {"max_num_seqs": 8}, FULL),
    ],
)
def test_the_limit(limit: Limit, settings: dict[str, int], changes: dict[str, Any]) -> None:
    assert binding_of(facts(settings, **changes)).limit is limit


def test_68_preemptions_with_9_of_256_seats_taken_are_memory() -> None:
    """Room in the cache at one moment is what evictions left; seats that are told and free cannot bind."""
    crowded = {"running": 9, "waiting": 77, "kv_use": 0.854, "preemptions": 68, "finished": 64}
    for settings in ({"max_num_seqs": 256}, {}):
        found = diagnose(facts(settings, **crowded))
        finding = named(found, "kv-binds")
        assert finding.says.startswith("KV memory binds: 68 evictions show it; at the moment of the scrape 77 requests")
        assert "the room is what evictions left" in finding.says
        assert not names(found) & {"seats-bind", "budget-binds", "limit-unknown"}
    calm = diagnose(facts({"max_num_seqs": 256}, **(crowded | {"preemptions": 0})))
    unknown = named(calm, "limit-unknown")
    assert "The token budget may bind, not memory nor seats (9 of 256 seats are taken)" in unknown.says
    assert asked(unknown) == [f"run doctor again with `{BUDGET} N`"]


def test_steps_that_were_larger_exclude_the_token_budget() -> None:
    """One step had over 1,024 tokens, so that a mean of 64 is far from the budget."""
    found = diagnose(facts(**ROOM, steps=(64,) * 99 + (2000,)))
    assert "Seats may bind, not memory nor the token budget" in named(found, "limit-unknown").says
    assert asked(named(found, "limit-unknown")) == [f"run doctor again with `{SEATS} N`"]


def test_the_first_tokens_finding_names_the_same_limit() -> None:
    late = {"queue_s": (9.0,) * 100, "prefill_s": (1.0,) * 100}
    assert "What keeps it there is KV memory." in named(diagnosis(**FULL, **late), "first-token").says
    assert "What keeps it there" not in named(diagnosis(**ROOM, **late), "first-token").says


def test_a_mean_load_below_the_boundary_does_not_deny_the_evictions() -> None:
    calm = named(diagnose(replace(facts(preemptions=0), window_s=100.0), MACHINE), "load").says
    bursts = named(diagnose(replace(facts(preemptions=50), window_s=100.0), MACHINE), "load").says
    assert "no admission policy matters" in calm
    assert "no admission policy matters" not in bursts
    assert "arrivals come in bursts" in bursts


@given(
    st.fixed_dictionaries(
        {
            "running": st.integers(0, 300),
            "waiting": st.integers(0, 300),
            "kv_use": st.floats(0.0, 1.0),
            "preemptions": st.integers(0, 300),
            "finished": st.integers(1, 300),
            "gaps_s": st.sampled_from([(0.02,) * 500, SPIKES]),
        }
    ),
    st.fixed_dictionaries(
        {
            "max_num_seqs": st.none() | st.integers(1, 300),
            "max_num_batched_tokens": st.none() | st.integers(16, 9000),
            "release": st.none() | st.just((0, 9)) | st.just((0, 28)) | st.just((0, 33)),
        }
    ),
)
def test_findings_never_contradict_each_other(changes: dict[str, Any], settings: dict[str, Any]) -> None:
    told = facts(settings, **changes)
    found = diagnose(told, MACHINE)
    limits = names(found) & {"kv-binds", "seats-bind", "budget-binds", "limit-unknown"}
    assert len(limits) <= 1, "one limit binds at a time"
    urgent = {finding.name for finding in found.findings if finding.severity in (Severity.ACT, Severity.WATCH)}
    assert not (urgent and "nothing-wrong" in names(found))
    seats = told.max_num_seqs
    if seats is not None and told.running < 0.95 * seats:
        assert "seats-bind" not in names(found)
        assert SEATS not in str([finding.changes for finding in found.findings if finding.name == "limit-unknown"])
    if limits & {"seats-bind", "budget-binds"}:
        assert "KV memory" not in {group.group for group in found.alternatives if group.urgent}
    whats = [change.what for change in found.changes]
    assert len(whats) == len(set(whats)), "each change once"
    flags = [change.flag[0] for change in found.changes if change.flag]
    if told.release is not None and told.release < (0, 24):
        assert not {"--scheduler-cls", "--watermark", "--max-num-active-seqs"} & set(flags)
    line = found.ready_line or ""
    assert all(line.count(f" {name} ") <= 1 for name in (SEATS, BUDGET, "--gpu-memory-utilization")), line
    assert "fp8" not in line
