"""Pages of several servers, names of every release, and OpenMetrics."""

from __future__ import annotations

import re

import pytest

from fluidgate.errors import InputError
from fluidgate.vllm_metrics import Scrape
from fluidgate.vllm_metrics.exposition import parse
from fluidgate.vllm_metrics.names import RENAMED, Renamed, newest_release

from ..doctor.pages import page


def servers(text: str) -> dict[str, Scrape]:
    return {scrape.server: scrape for scrape in Scrape.servers(text, "page")}


def relabelled(text: str, **labels: str) -> str:
    told = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return text.replace("{", f"{{{told},")


def test_a_page_of_two_pods_is_two_servers() -> None:
    found = servers(page(replica="a", running=30, kv_use=0.45) + page(replica="b", running=20, kv_use=0.62))
    assert list(found) == ["pod=a", "pod=b"]
    assert [scrape.moments()[0].kv_use for scrape in found.values()] == [0.45, 0.62]
    assert [scrape.in_system() for scrape in found.values()] == [30, 20]
    assert found["pod=a"].where == "page (pod=a)"


def test_one_server_has_no_name() -> None:
    assert list(servers(page(replica="a") + page(replica="a", engine="1"))) == [""]
    assert list(servers(page(engine="0") + page(engine="1"))) == [""]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([{"instance": "h1:8000"}, {"instance": "h2:8000"}], ["instance=h1:8000", "instance=h2:8000"]),
        ([{"server": "x"}, {"server": "y"}], ["server=x", "server=y"]),
        (
            [{"namespace": "n", "pod": "a"}, {"namespace": "m", "pod": "a"}],
            ["namespace=n", "namespace=m"],
        ),
        (
            [{"zone": "1", "rack": "1"}, {"zone": "1", "rack": "2"}, {"zone": "2", "rack": "1"}],
            ["rack=1, zone=1", "rack=2, zone=1", "rack=1, zone=2"],
        ),
        ([{"pod": "a\\nb"}, {"pod": ""}], [r"pod='a\nb'", "pod=''"]),
    ],
)
def test_servers_are_named_by_the_label_that_tells_them_apart(labels: list[dict[str, str]], names: list[str]) -> None:
    text = "".join(relabelled(page(running=at), **told) for at, told in enumerate(labels, 1))
    found = servers(text)
    assert list(found) == names
    assert [scrape.in_system() for scrape in found.values()] == list(range(1, len(labels) + 1))


def test_pods_are_servers_whatever_the_number_of_their_engine() -> None:
    assert len(servers(page(replica="a", engine="0") + page(replica="b", engine="1"))) == 2


def test_lines_of_other_programs_belong_to_nobody_and_vllms_must_say_whose_they_are() -> None:
    both = page(replica="a") + page(replica="b")
    assert len(servers(both + "up 1\nprocess_start_time_seconds 5\n")) == 2
    orphan = both.replace('vllm:num_preemptions_total{engine="0",model_name="m",pod="b"}', "vllm:num_preemptions_total")
    with pytest.raises(InputError, match=r"num_preemptions_total does not say which of 2 servers it is of \(pod=a, po"):
        servers(orphan)


def test_a_line_with_some_of_the_labels_belongs_to_the_server_that_has_them() -> None:
    texts = [relabelled(page(running=at), instance=f"h{at}", pod=f"p{at}") for at in (1, 2)]
    found = servers("".join(text.replace('pod="p2",engine="0",num_gpu', 'engine="0",num_gpu') for text in texts))
    assert [scrape.count("num_gpu_blocks") for scrape in found.values()] == [1001, 1001]


def test_a_line_that_is_twice_on_a_page_is_refused() -> None:
    line = next(line for line in page().splitlines() if line.startswith("vllm:num_preemptions"))
    with pytest.raises(InputError, match=r"repeats line \d+, with the same labels"):
        servers(f"{page()}{line}\n")


@pytest.mark.parametrize("renamed", RENAMED, ids=lambda renamed: renamed.before)
def test_every_older_name_is_read_as_the_present_one(renamed: Renamed) -> None:
    now = page(kv_use=0.4, prefix=(4000, 1000))
    older = now
    for before, after in renamed.pairs:
        assert after in now, "the page of the tests has every name of the table"
        older = older.replace(after, before)
    scrapes = [servers(text)[""] for text in (now, older)]
    for before, after in renamed.pairs:
        assert before not in now
        assert scrapes[0].total(after) == scrapes[1].total(after)
    assert scrapes[0].newest_release is None
    assert scrapes[1].newest_release == renamed.until


def test_a_page_with_both_names_is_not_of_an_old_release() -> None:
    both = {"vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"}
    assert newest_release(both) is None
    assert newest_release({"vllm:num_requests_swapped"}) == (0, 10)


def test_the_first_engine_swaps_and_early_ones_do_not_count_preemptions() -> None:
    old = page(running=15, waiting=9).replace("kv_cache_usage_perc", "gpu_cache_usage_perc")
    swapped = servers(old + 'vllm:num_requests_swapped{engine="0",model_name="m"} 1\n')[""]
    assert swapped.moments()[0].waiting == 10
    assert swapped.in_system() == 25
    early = re.sub(r"vllm:num_preemptions_total.*\n", "", old)
    assert servers(early)[""].total("vllm:num_preemptions_total") == 0
    with pytest.raises(InputError, match="has no vllm:num_preemptions_total"):
        servers(early.replace("gpu_cache_usage_perc", "kv_cache_usage_perc"))


def test_open_metrics_is_read() -> None:
    """Exemplars, times in seconds with decimals, and the end of the page; `_created` lines are left alone."""
    line = 'vllm:time_to_first_token_seconds_bucket{le="0.5"} 8 # {trace_id="a b"} 0.43 1712345678.25'
    text = f"# TYPE vllm:x counter\n{line}\nvllm:x_total 17.0 1712345678.123\nvllm:x_created 1.7e9\n# EOF\n"
    first, second, created = parse(text, "page")
    assert (first.value, first.labels) == (8, {"le": "0.5"})
    assert (second.name, second.value, created.value) == ("vllm:x_total", 17, 1.7e9)
    whole = servers(page() + "# EOF\n")[""]
    assert whole.in_system() == servers(page())[""].in_system()


@pytest.mark.parametrize("line", ["vllm:x 8 # no exemplar", "vllm:x 8 9 10", 'vllm:x 8 #{a="b"}', "vllm:x 8 1.5.5"])
def test_what_follows_a_value_must_be_a_time_or_an_exemplar(line: str) -> None:
    with pytest.raises(InputError, match="is not a line of Prometheus metrics"):
        parse(line, "page")


def test_nothing_follows_the_end_of_a_page() -> None:
    with pytest.raises(InputError, match=r"line 3: follows the end of a page \('# EOF' in line 2\)"):
        parse("vllm:x 1\n# EOF\nvllm:x 2\n", "page")
