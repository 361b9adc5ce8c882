"""Several servers: each by itself, and together where they are alike; shares of KV are never added."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluidgate.doctor import Facts, FleetDiagnosis, diagnose_fleet, facts_of, facts_of_log, read_facts, read_servers
from fluidgate.doctor.pooled import difference, pool
from fluidgate.errors import InputError
from fluidgate.vllm_metrics import Scrape

from .pages import log_line, page
from .test_findings import BOUNDARY, FULL, MACHINE, RESIDENTS, named, names


def server(name: str = "a", settings: dict[str, Any] | None = None, **changes: Any) -> Facts:
    return replace(facts_of(Scrape.of(page(**changes), name)), **(settings or {}))


def told(fleet: FleetDiagnosis, name: str) -> Any:
    assert fleet.together is not None
    return named(fleet.together, name)


def test_shares_of_kv_are_not_added_and_rates_are() -> None:
    """0.52 and 0.43 are two caches with room, not one that is full; two caches allow twice the rate of one."""
    fleet = diagnose_fleet([server("a", kv_use=0.52, running=30), server("b", kv_use=0.43, running=20)])
    assert fleet.kv_use_range == (0.43, 0.52)
    assert told(fleet, "nothing-wrong").says.startswith("Nothing to change")
    assert told(fleet, "load").numbers["memory_rate"] == pytest.approx(2 * RESIDENTS / (50 * 0.02))
    assert [replica.name for replica in fleet.replicas] == ["a", "b"]


def test_rates_over_different_times_are_added_as_rates() -> None:
    """108 requests in 10 s, and as many in 100 s."""
    fleet = [server("a", {"window_s": 10.0}), server("b", {"window_s": 100.0})]
    assert pool(fleet, "both").rate == pytest.approx(10.8 + 1.08)
    unknown = [server("a", {"window_s": 10.0}), server("b")]
    assert pool(unknown, "both").rate is None


def test_a_pool_of_one_is_that_server() -> None:
    alone = server(preemptions=30, **FULL)
    pooled = pool([alone], alone.source)
    assert (pooled.arrivals, pooled.kv_use, pooled.engines) == (alone.arrivals, alone.kv_use, 1)
    assert (pooled.finished, pooled.preemptions, pooled.computed_tokens) == (100, 30, alone.computed_tokens)


def test_more_servers_are_asked_for_by_their_number() -> None:
    """Two servers at 1.5 times the boundary of both take four at 75%."""
    window_s = 108 / (1.5 * BOUNDARY)
    fleet = diagnose_fleet([server(name, {"window_s": window_s}) for name in "ab"], MACHINE)
    load = told(fleet, "load")
    assert load.numbers["load"] == pytest.approx(1.5)
    assert load.changes[0].what == "4 of these servers"
    assert "75%" in load.changes[0].why


def test_servers_that_could_be_spared_are_counted() -> None:
    """Four servers at a tenth of the boundary: one would do, at 40%."""
    fleet = diagnose_fleet([server(name, {"window_s": 1080 / BOUNDARY}) for name in "abcd"], MACHINE)
    spare = told(fleet, "spare")
    assert spare.numbers["needed"] == 1
    assert spare.numbers["load_then"] == pytest.approx(0.4)
    busy = diagnose_fleet([server(name, {"window_s": 108 / (0.7 * BOUNDARY)}) for name in "ab"], MACHINE)
    assert busy.together is not None
    assert "spare" not in names(busy.together)


def test_uneven_work_is_found_and_chance_is_not() -> None:
    """200 against 20 is no fair coin; 30 against 20 may be."""
    uneven = diagnose_fleet([server("a", running=100, waiting=100, kv_use=0.97), server("b", running=20)])
    finding = told(uneven, "imbalance")
    assert finding.severity == "act"
    assert finding.benefit == pytest.approx(90 / 200)
    assert "a has 200 requests, b has 20" in finding.says
    assert "One has a queue while the other has none." in finding.says
    even = diagnose_fleet([server("a", running=30), server("b", running=20)])
    assert even.together is not None
    assert "imbalance" not in names(even.together)


def test_one_full_cache_among_several_is_a_share_of_the_moments() -> None:
    fleet = diagnose_fleet([server("a", **FULL), server("b"), server("c"), server("d")])
    finding = told(fleet, "kv-binds")
    assert finding.numbers["share_of_moments"] == 0.25
    assert "at 25% of 4 moments with work the cache was 97% full" in finding.says


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("models", {"model": "x"}),
        ("sizes of their KV caches", {"config": {"num_gpu_blocks": 900}}),
        ("sizes of their KV caches", {"config": {"num_gpu_blocks": "None"}}),
        ("dtypes of the KV cache", {"config": {"cache_dtype": "fp8"}}),
        ("schedulers", {"gate": {}}),
    ],
)
def test_servers_that_are_not_alike_are_not_looked_at_as_one(what: str, other: dict[str, Any]) -> None:
    fleet = diagnose_fleet([server("a"), server("b", **other)])
    assert fleet.together is None
    assert what in fleet.apart
    assert all(replica.diagnosis is not None for replica in fleet.replicas)
    assert difference([server("a"), server("b", config={"num_gpu_blocks": 995})]) is None, "GPUs differ a little"


def test_a_server_that_does_not_answer_is_a_finding() -> None:
    fleet = diagnose_fleet([server("http://h1:8000/metrics")], unread=[("http://h2:8000/metrics", "no answer")])
    assert [replica.name for replica in fleet.replicas] == ["h1:8000", "h2:8000"]
    assert told(fleet, "unread").says == "1 of 2 servers could not be read: h2:8000."
    assert fleet.to_dict()["replicas"][1]["error"] == "no answer"


def test_the_same_numbers_twice_are_doubted() -> None:
    assert "a and b show the very same numbers" in told(diagnose_fleet([server("a"), server("b")]), "twice").says


def test_pages_logs_and_pods_are_read_as_replicas(tmp_path: Path) -> None:
    both, log = tmp_path / "both.txt", tmp_path / "vllm.log"
    both.write_text(page(replica="a") + page(replica="b", running=4))
    log.write_text(f"{log_line(running=3)}\n")
    servers, unread = read_servers([str(both)])
    assert ([facts.running for facts in servers], unread) == ([8, 4], [])
    assert [replica.name for replica in diagnose_fleet(servers).replicas] == ["pod=a", "pod=b"]
    servers, _ = read_servers([str(both), str(log)])
    assert [facts.server for facts in servers] == [f"{both} (pod=a)", f"{both} (pod=b)", str(log)]
    with pytest.raises(InputError, match="holds several servers"):
        read_facts(str(both))
    with pytest.raises(InputError, match="is given twice"):
        read_servers([str(both), str(both)])
    with pytest.raises(InputError, match="goes with one first scrape"):
        read_servers([str(both), str(log)], both)


def test_pods_are_told_apart_in_two_scrapes(tmp_path: Path) -> None:
    earlier, later, alone = (tmp_path / name for name in ("earlier.txt", "later.txt", "alone.txt"))
    earlier.write_text(page(replica="a", preemptions=1) + page(replica="b", preemptions=2))
    later.write_text(page(replica="b", preemptions=7) + page(replica="a", preemptions=2))
    alone.write_text(page(replica="a", preemptions=2))
    servers, _ = read_servers([str(earlier)], later, 10.0)
    assert {facts.server.partition(" (")[2]: facts.preemptions for facts in servers} == {"pod=b)": 5, "pod=a)": 1}
    with pytest.raises(InputError, match="only this page holds"):
        read_servers([str(earlier)], alone, 10.0)


def test_logs_of_several_servers_are_pooled() -> None:
    fleet = diagnose_fleet([facts_of_log(log_line(kv_use=97.0, waiting=9), name) for name in ("a.log", "b.log")])
    assert told(fleet, "kv-binds").numbers["share_of_moments"] == 1.0


def test_an_engine_that_computes_nothing_between_two_scrapes_stands_still() -> None:
    still = facts_of(Scrape.of(page(waiting=9, kv_use=0.97), "b"), Scrape.of(page(waiting=9, kv_use=0.97), "a"), 10.0)
    assert still.stands_still
    moved = facts_of(Scrape.of(page(unfinished=(0, 9)), "b"), Scrape.of(page(), "a"), 10.0)
    assert not moved.stands_still
    idle = facts_of(Scrape.of(page(running=0), "b"), Scrape.of(page(running=0), "a"), 10.0)
    assert not idle.stands_still
