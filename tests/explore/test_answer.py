"""The page's answer, without a server: it is the plan's boundary and a run's numbers, and says what cannot be had."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.explore.answer import MOST_STEPS, REQUESTS, answer, latency_legend
from fluidgate.explore.form import form
from fluidgate.explore.settings import POLICIES, Settings, read_settings
from fluidgate.hardware import get_hardware
from fluidgate.metrics import summarize
from fluidgate.report.words import measured
from fluidgate.runs import plan_for, simulate
from fluidgate.words import number
from fluidgate.workload import generate

START = Settings(rate=5.0, gpu="l40s", policy="greedy")


def numbers(settings: Settings) -> dict[str, str]:
    return dict(answer(settings)["numbers"])


@pytest.fixture(scope="module")
def drawn():
    return generate("azure-conv-2023", n=REQUESTS, seed=0)


def test_the_boundary_is_the_plans_and_the_latencies_are_a_runs(drawn) -> None:
    longer = replace(drawn, output_tokens=2 * drawn.output_tokens)
    requests = longer.scaled(5.0 / drawn.rate)
    hardware, config = get_hardware("llama-3.1-8b", "l40s", tp=2), EngineConfig(max_num_seqs=64)
    plan = plan_for(requests, hardware, config)
    found = answer(replace(START, output_factor=2.0, tp=2, seats=64))
    assert found["boundary_rate"] == pytest.approx(plan.stability.boundary_rate, rel=1e-9)
    assert found["load"] == pytest.approx(plan.stability.load, rel=1e-9)
    assert found["binding"] == plan.stability.binding
    assert found["verdict"] == list(plan.verdict)
    count = int(re.search(r"One run of ([\d,]+) requests", found["notes"][0])[1].replace(",", ""))
    part = longer.take(slice(0, count))
    run = simulate(part.scaled(5.0 / part.rate), hardware, "greedy", config=config)
    summary = summarize(run)
    shown = dict(found["numbers"])
    assert shown["TTFT, p99"] == measured("p99_ttft_ms", summary.p99_ttft_ms)
    assert shown["TPOT, p95"] == measured("p95_tpot_ms", summary.p95_tpot_ms)
    assert shown["Output throughput"] == f"{number(summary.output_throughput)} tok/s"


def test_every_setting_changes_something() -> None:
    base = answer(START)
    for changed in (
        {"preset": "lmsys"},
        {"rate": 6.0},
        {"prompt_factor": 1.5},
        {"output_factor": 0.5},
        {"model": "llama-2-7b"},
        {"gpu": "h100-80gb"},
        {"tp": 2},
        {"seats": 16},
        {"budget": 512},
        {"policy": "concurrency-cap:cap=5"},
        {"price": 2.0},
    ):
        assert answer(replace(START, **changed))["numbers"] != base["numbers"], changed


def test_same_settings_same_answer() -> None:
    assert answer(START) == answer(START)


def test_the_cost_follows_price_and_gpus() -> None:
    one, two = (float(numbers(replace(START, price=p))["Cost of a million output tokens"]) for p in (1.0, 2.0))
    assert two == pytest.approx(2 * one, rel=0.01)
    assert "Cost of a million output tokens" not in numbers(START)


def test_figures_are_drawings_with_words_for_those_who_do_not_see_them() -> None:
    for name, drawing in answer(START)["figures"].items():
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 40, name
        assert "style=" not in drawing  # the page's policy allows none
        assert "data-hover" not in drawing


def test_the_legend_has_the_colours_of_the_lines() -> None:
    drawing = ElementTree.fromstring(answer(START)["figures"]["latency"])
    drawn = {line.findtext("title"): line.find("path").get("stroke") for line in drawing.iter("g")}
    items = ElementTree.fromstring(latency_legend())
    assert {"".join(item.itertext()): item.find(".//rect").get("fill") for item in items} == drawn
    assert len(set(drawn.values())) == 3


def test_what_cannot_be_had_says_why() -> None:
    assert "does not fit" in answer(replace(START, model="llama-3.1-70b"))["why_not"]
    assert "does not divide" in answer(replace(START, tp=3))["why_not"]
    assert "key=value" in answer(replace(START, policy="fluid:x"))["why_not"]


def test_overload_and_estimates_are_said() -> None:
    notes = " ".join(answer(replace(START, rate=100.0, gpu="l4"))["notes"])
    assert "Overload" in notes
    assert "estimate" in notes
    assert "Overload" not in " ".join(answer(replace(START, rate=1.0))["notes"])


@pytest.mark.parametrize("preset", ["r1-reasoning", "mooncake-conversation", "lmsys"])
def test_a_run_stays_short(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the answers of a workload are; its requests alone would take twenty times as many steps."""
    seen = []

    def counted(records, *arguments):
        seen.append(summarize(records, *arguments))
        return seen[-1]

    monkeypatch.setattr("fluidgate.explore.answer.summarize", counted)
    for rate in (0.1, 2.0, 50.0):
        assert "why_not" not in answer(replace(START, gpu="h100", preset=preset, rate=rate))
    assert max(summary.iterations for summary in seen) < 5 * MOST_STEPS


def test_settings_are_read_and_refused_in_one_sentence() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"rate": 3, "gpu": "h100"}) == Settings(rate=3.0, gpu="h100-80gb")
    for values, words in (
        ([], "not an object"),
        ({"speed": 1}, "not a known key"),
        ({"rate": "x"}, "must be a number"),
        ({"rate": 0}, "between"),
        ({"rate": 1e9}, "between"),
        ({"tp": 1.5}, "whole number"),
        ({"tp": 0}, "at least 1"),
        ({"seats": -1}, "at least 0"),
        ({"preset": "none"}, "unknown preset"),
        ({"gpu": "/etc/sheet.json"}, "built in"),
        ({"model": 7}, "text in quotes"),
        ({"policy": "gready"}, "did you mean greedy"),
    ):
        with pytest.raises(InputError, match=words):
            read_settings(values)


def test_the_form_has_a_label_for_every_setting() -> None:
    controls = form(replace(START, policy="fluid:evicted_share=0.1"))
    closed = re.sub(r"<input([^>]*)>", r"<input\1/>", controls)
    root = ElementTree.fromstring(f"<form>{closed}</form>")
    fields = {element.get("name"): element for element in root.iter() if element.get("name")}
    assert set(fields) == set(vars(START))
    labelled = {label.get("for") for label in root.iter("label")}
    assert {element.get("id") for element in fields.values()} <= labelled
    chosen = [option.get("value") for option in fields["policy"] if option.get("selected") is not None]
    assert chosen == ["fluid:evicted_share=0.1"]
    assert {option.get("value") for option in fields["policy"]} == {*POLICIES, *chosen}
    for slider in (element for element in root.iter("input") if element.get("type") == "range"):
        assert slider.get("aria-label")
