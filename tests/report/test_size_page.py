"""The page of a sizing: well-formed, self-contained, complete, and safe against hostile names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fluidgate.hardware import Hardware, StepTime
from fluidgate.metrics import Objective
from fluidgate.report import write_size_report
from fluidgate.report.size_chart import cost_chart
from fluidgate.report.size_grid import FAILS, HOLDS, OVERLOADED, TOO_SLOW, UNDECIDED, cells_of, fleet_map, ruled_out
from fluidgate.runs.size import Cheaper, Choices, Machine, Option, Sizing, fleet_label, size
from fluidgate.workload import Fixed, Independent, Poisson, Synthetic

from .markup import assert_self_contained, parsed

EQUAL = Synthetic("equal requests", Poisson(1.0), Independent(Fixed(400), Fixed(20)))
FAST = StepTime(c0=0.01, c_tok=5e-5, c_kv=2e-7, c_attn=1e-9, c_seq=1e-5)
MACHINES = (
    Machine("fast", 1, Hardware("fast", FAST, 2000, source="made up"), price=3.0),
    Machine("fair", 1, Hardware("fair", replace(FAST, c0=0.02), 2000, source="made up as well"), price=2.5),
    Machine("slow", 2, Hardware("slow", replace(FAST, c0=0.09), 2000), price=0.5),
    Machine("full", 1, None, "the model does not go on it", price=0.1),
)
CHOICES = Choices(policies=("greedy", "watermark"), seats=(), budgets=())
ASKED: dict[str, Any] = {"rate": 70.0, "choices": CHOICES, "requests": 1600, "replications": 8, "max_gpus": 6}
HOSTILE = '<script>alert("x")</script>&'


@pytest.fixture(scope="module")
def sizing() -> Sizing:
    """Machines that hold, one that is too slow alone, and one that does not take the model."""
    return size(EQUAL, MACHINES, ["p90:ttft:400", "p90:tpot:60"], **ASKED)


@pytest.fixture(scope="module")
def path(sizing: Sizing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("size") / "size.html"
    assert write_size_report(sizing, target, "fluidgate size --rate 70", "vllm serve MODEL --max-num-seqs 64") == target
    return target


@pytest.fixture(scope="module")
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def drawings(text: str) -> list[ElementTree.Element]:
    """The page's drawings, each as XML."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def words(drawing: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in drawing.iter("text")]


def test_tags_are_balanced_and_the_page_is_accessible(text: str) -> None:
    page = parsed(text)
    assert page.seen.count("h1") == 1
    assert page.seen.count("caption") == page.seen.count("table")
    assert page.seen.count("summary") == page.seen.count("details")
    assert all(drawing.get("aria-label") for drawing in drawings(text) if drawing.get("role") == "img")


def test_nothing_is_loaded_from_elsewhere(text: str) -> None:
    assert_self_contained(text)


def test_the_answer_comes_first_with_its_line(text: str, sizing: Sizing) -> None:
    answer = sizing.answer
    assert answer is not None
    use = text.index(f"Use {answer.label} with {answer.flags.words}: ${answer.cost:.2f}/h")
    assert use < text.index("vllm serve MODEL --max-num-seqs 64") < text.index('class="fold"')
    assert 'data-copy="serve"' in text


def test_every_option_is_in_the_table_and_on_the_chart(text: str, sizing: Sizing) -> None:
    assert len(sizing.options) > 1
    named = words(ElementTree.fromstring(cost_chart(sizing)))
    for option in sizing.options:
        assert option.label in text
        assert named.count(option.label) == 1
    assert "at most 400 ms" in named


def test_the_answer_alone_is_ringed(sizing: Sizing) -> None:
    drawing = ElementTree.fromstring(cost_chart(sizing))
    assert [element.get("class") for element in drawing.iter("circle")] == ["ring"]
    (hint,) = [element.text or "" for element in drawing.iter("title") if (element.text or "").endswith("the answer")]
    assert sizing.answer is not None
    assert hint.startswith(sizing.answer.label)


def test_a_goodput_alone_is_drawn_by_its_first_tokens(sizing: Sizing) -> None:
    options = tuple(replace(option, outcome=replace(option.outcome, values=(0.99,))) for option in sizing.options)
    promised = replace(sizing, objectives=(Objective("goodput", None, 0.95),), options=options)
    named = words(ElementTree.fromstring(cost_chart(promised)))
    assert "p99 TTFT, ms" in named
    assert not any(word.startswith("at most") for word in named)
    assert {option.label for option in options} <= set(named)


def test_a_latency_without_bound_is_said_and_not_drawn(sizing: Sizing) -> None:
    options = tuple(
        replace(option, outcome=replace(option.outcome, values=(float("inf"), 1.0))) for option in sizing.options
    )
    drawing = ElementTree.fromstring(cost_chart(replace(sizing, options=options)))
    assert words(drawing) == ["p90 TTFT is unbounded on every fleet."]


def test_names_on_a_crowded_chart_are_all_there(sizing: Sizing) -> None:
    answer = sizing.answer
    assert answer is not None
    crowd = tuple(_moved(answer, f"a machine with a long name {k}", 3.0 + 0.001 * k) for k in range(40))
    drawing = ElementTree.fromstring(cost_chart(replace(sizing, options=crowd)))
    assert {option.label for option in crowd} <= set(words(drawing))
    bottom = float(drawing.attrib["viewBox"].split()[-1])
    assert max(float(element.attrib["y"]) for element in drawing.iter("text")) < bottom


def _moved(option: Option, gpu: str, price: float) -> Option:
    return replace(option, machine=replace(option.machine, gpu=gpu, price=price))


def test_cells_say_what_was_found(sizing: Sizing) -> None:
    kinds = {
        machine.gpu: [cell.kind for cell in cells_of(sizing, machine, found)]
        for machine, found in zip(sizing.machines, sizing.found, strict=True)
    }
    assert kinds["full"] == []
    assert set(kinds["slow"]) == {TOO_SLOW}
    assert kinds["fast"] == [OVERLOADED, FAILS, HOLDS]
    for machine, found in zip(sizing.machines, sizing.found, strict=True):
        for cell, count in zip(cells_of(sizing, machine, found), found.counts, strict=True):
            assert (cell.kind == HOLDS) == bool(count.holds)
            assert (cell.kind in (OVERLOADED, TOO_SLOW)) == (count.outcome is None)
            assert count.why in cell.why


def test_a_cell_that_the_proof_ran_again_says_what_the_proof_says(sizing: Sizing) -> None:
    place, count = next(
        (place, count)
        for place, found in enumerate(sizing.found)
        for count in found.counts
        if count.holds and count.outcome is not None
    )
    proof, outcome = sizing.proof, count.outcome
    assert proof is not None
    assert outcome is not None
    undecided = replace(count, holds=None, outcome=replace(outcome, holds=None, objective="p90:tpot:60"))
    found = replace(sizing.found[place], counts=(undecided,))
    (cell,) = cells_of(sizing, sizing.machines[place], found)
    assert (cell.kind, cell.label) == (UNDECIDED, "TPOT ?")
    missed = replace(outcome, holds=False, objective="p90:ttft:400", excesses=(0.25, 0.5))
    below = Cheaper(sizing.machines[place], count.replicas, count.flags, "", missed)
    proved = replace(sizing, proof=replace(proof, cheaper=(below,)))
    (cell,) = cells_of(proved, sizing.machines[place], found)
    assert (cell.kind, cell.label) == (FAILS, "TTFT")
    assert "p90:ttft:400 is missed by 25%" in cell.why  # its own excess, not the other objective's


def test_the_map_names_every_machine_and_count(sizing: Sizing) -> None:
    drawing = ElementTree.fromstring(re.search(r"<svg.*</svg>", fleet_map(sizing), re.DOTALL)[0])  # type: ignore[index]
    said = drawing.get("aria-label") or ""
    for machine, found in zip(sizing.machines, sizing.found, strict=True):
        assert f"{machine.label}: " in said
        for cell in cells_of(sizing, machine, found):
            assert f"{cell.replicas} {cell.label}" in said
    (chosen,) = [element for element in drawing.iter("rect") if "chosen" in (element.get("class") or "")]
    assert "holds" in (chosen.get("class") or "")


def test_what_is_ruled_out_says_why(sizing: Sizing) -> None:
    table = ruled_out(sizing)
    assert "the model does not go on it" in table
    assert "even alone on it, 100% of the requests take longer" in table
    assert "no policy sustains" in table


def test_it_says_how_it_was_made(text: str, sizing: Sizing) -> None:
    for fact in ("fluidgate size --rate 70", "made up", f"{sizing.runs:,}", "from 0 on", "from 1,000,000 on"):
        assert fact in text


def test_names_are_escaped(sizing: Sizing, tmp_path: Path) -> None:
    named = {machine.gpu: replace(machine, gpu=machine.gpu + HOSTILE, why_not=HOSTILE) for machine in sizing.machines}
    options = tuple(replace(option, machine=named[option.machine.gpu]) for option in sizing.options)
    changed = replace(sizing, workload=HOSTILE, machines=tuple(named.values()), options=options)
    text = write_size_report(changed, tmp_path / "s.html", HOSTILE, HOSTILE).read_text(encoding="utf-8")
    page = parsed(text)
    assert page.seen.count("script") == 1  # the page's own
    assert "&lt;script&gt;" in text
    assert len(drawings(text)) > 2


def test_an_impossible_demand_has_a_page_with_the_nearest(tmp_path: Path) -> None:
    sizing = size(EQUAL, MACHINES[:1], ["p90:ttft:1"], **ASKED)
    text = write_size_report(sizing, tmp_path / "s.html").read_text(encoding="utf-8")
    parsed(text)
    assert "No fleet within the limits is shown to keep every objective." in text
    assert "The nearest possible, 6 × fast, cannot" in text
    assert "Copy" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    assert 'href="#proof"' not in text


def test_without_prices_gpus_are_counted(sizing: Sizing, tmp_path: Path) -> None:
    free = tuple(replace(machine, price=None) for machine in MACHINES)
    text = write_size_report(size(EQUAL, free, ["p90:ttft:400"], **ASKED), tmp_path / "s.html").read_text()
    assert "$" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    assert re.search(r"Use \d × \w+ with greedy: \d GPUs?\.", text)


@pytest.mark.xdist_group("browser")
def test_it_fits_every_screen(fits_screen: Callable[..., None], path: Path) -> None:
    fits_screen(path.as_uri(), "size")


@pytest.mark.xdist_group("browser")
def test_names_on_the_chart_are_within_it_and_over_no_other(browser: Any, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri())
    boxes = page.locator("figure svg text.name").evaluate_all(
        "(all) => all.map((e) => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; })"
    )
    left, right = page.locator("figure svg").evaluate(
        "(e) => { const b = e.getBoundingClientRect(); return [b.left, b.right]; }"
    )
    page.close()
    assert len(boxes) > 1
    for k, box in enumerate(boxes):
        assert box[0] >= left
        assert box[2] <= right + 1
        for other in boxes[:k]:
            apart = box[0] >= other[2] or other[0] >= box[2] or box[1] >= other[3] - 3 or other[1] >= box[3] - 3
            assert apart


@pytest.mark.xdist_group("browser")
def test_links_open_the_folds(browser: Any, path: Path) -> None:
    page = browser.new_page()
    page.goto(path.as_uri())
    assert not page.locator("#proof").is_visible()
    page.locator("nav a[href='#proof']").click()
    page.locator("#proof").wait_for()
    page.close()


def test_the_map_ends_at_the_gpus_that_are_allowed(sizing: Sizing) -> None:
    machine = next(machine for machine, found in zip(sizing.machines, sizing.found, strict=True) if found.counts)
    two_each = replace(machine, tp=2)
    counts = replace(sizing.found[sizing.machines.index(machine)].counts[0], replicas=1)
    found = replace(
        sizing.found[0], why_not="", counts=(counts, replace(counts, replicas=2), replace(counts, replicas=3))
    )
    tight = replace(sizing, machines=(two_each,), found=(found,), options=(), proof=None, max_gpus=4)
    drawn = fleet_map(tight)
    assert fleet_label(two_each, 2) in drawn
    assert fleet_label(two_each, 3) not in drawn
