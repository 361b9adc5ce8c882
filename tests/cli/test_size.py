"""`fluidgate size` as a user types it: what it prints, the files it writes, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from fluidgate.serving.flags import PLAN_VARIABLE
from fluidgate.serving.planfile import PlanFile

from .calls import FLUIDGATE

KUBERNETES_VERSION = "1.37"
TRAFFIC = ("--preset", "p512-d20", "--requests", "800", "--rate", "20", "--replications", "4")
SMALL = (*TRAFFIC, "--model", "llama-3.1-8b", "--slo", "p90:ttft:1500", "p90:tpot:80")
STOCK = (*SMALL, "--gpu", "a100-80gb,l4", "--price", "a100-80gb=2,l4=0.6", "--max-gpus", "4")
GATED = (*SMALL, "--gpu", "l4", "--tp", "2", "--policy", "fluid", "--try-seats", "", "--try-budgets", "")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray (extra [ray])")


def sized(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FLUIDGATE, "size", *arguments], capture_output=True, text=True, check=False)


def written(folder: Path, *arguments: str) -> str:
    """Size into a folder; what was printed."""
    done = sized(*arguments, "--output-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An answer that stock vLLM serves, and what was printed of it."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "printed.txt").write_text(written(folder, *STOCK, "--results", str(folder / "size.jsonl")))
    return folder


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An answer that needs the plugin."""
    folder = tmp_path_factory.mktemp("gated")
    written(folder, *GATED)
    return folder


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet that follows a day."""
    folder = tmp_path_factory.mktemp("day") / "of mine"
    answer = [word for word in STOCK if word not in ("--rate", "20")]
    (folder / "printed.txt").write_text(
        written(folder, *answer, "--day", "2,8,20", "--growth", "2", "--startup", "600")
    )
    return folder


def loaded(folder: Path) -> Any:
    return json.loads((folder / "size.json").read_text(encoding="utf-8"))


def without_command(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "command"}


def resources(folder: Path) -> dict[str, Any]:
    """The manifest's documents by kind, each valid by its schema."""
    documents = list(yaml.safe_load_all((folder / "kubernetes.yaml").read_text(encoding="utf-8")))
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    return {document["kind"]: document for document in documents}


def container(folder: Path) -> dict[str, Any]:
    (found,) = resources(folder)["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_table_fits_and_cuts_no_number(stock: Path) -> None:
    printed, document = (stock / "printed.txt").read_text(), loaded(stock)
    *lines, serve = printed.splitlines()
    assert serve == f"On every replica: {document['serve']}"
    assert all(len(line) <= 80 for line in lines)
    table = printed.partition("Use ")[0]
    assert "…" not in table
    answer, (row,) = document["options"][0], [line for line in lines if line.lstrip().startswith("1 × a100")]
    assert f"{answer['replicas'] * 2.0:.2f}" in row.split()
    assert f"{answer['outcome']['figures']['p99_ttft_ms']:.3g} ms" in row
    assert f"{answer['outcome']['figures']['p95_tpot_ms']:.3g} ms" in row


def test_what_is_said_is_what_was_found(stock: Path) -> None:
    printed, document = " ".join((stock / "printed.txt").read_text().split()), loaded(stock)
    assert document["options"][0]["machine"]["gpu"] == "a100-80gb"
    assert f"every objective holds in {document['proof']['outcome']['runs']} runs" in printed
    for cheaper in document["proof"]["cheaper"]:
        assert cheaper["machine"]["gpu"] == "l4"
        assert cheaper["replicas"] * 0.6 < 2.0
        assert cheaper["outcome"]["holds"] is False
        assert f"Cheaper, {cheaper['replicas']} × l4" in printed


def test_json_on_stdout_is_what_the_folder_holds(stock: Path) -> None:
    printed = sized(*STOCK, "--format", "json", "--results", str(stock / "size.jsonl"))
    assert printed.returncode == 0, printed.stderr
    assert without_command(json.loads(printed.stdout)) == without_command(loaded(stock))


def test_a_stopped_search_resumes_to_the_same_bits(stock: Path, tmp_path: Path) -> None:
    whole = (stock / "size.jsonl").read_text().splitlines(keepends=True)
    assert len(whole) > 4
    results = tmp_path / "size.jsonl"
    results.write_text("".join(whole[:3]))  # the header and two jobs
    written(tmp_path, *STOCK, "--results", str(results))
    assert without_command(loaded(tmp_path)) == without_command(loaded(stock))
    again = results.read_text().splitlines(keepends=True)
    assert again[:3] == whole[:3]
    assert len(again) == len(whole)
    other = sized(*STOCK, "--seed", "1", "--results", str(results))
    assert other.returncode == 1
    assert str(results) in other.stderr


@needs_ray
def test_ray_gives_the_same_bits(stock: Path, tmp_path: Path) -> None:
    written(tmp_path, *STOCK, "--ray", "local", "--jobs", "2")
    assert without_command(loaded(tmp_path)) == without_command(loaded(stock))


def test_processes_give_the_same_bits(stock: Path, tmp_path: Path) -> None:
    written(tmp_path, *STOCK, "--jobs", "2")
    assert without_command(loaded(tmp_path)) == without_command(loaded(stock))


def test_the_page_is_in_the_folder_or_where_it_is_asked_for(stock: Path, tmp_path: Path) -> None:
    command, serve = loaded(stock)["command"], loaded(stock)["serve"]
    page = unescape((stock / "size.html").read_text(encoding="utf-8"))
    assert command in page
    assert f">{serve}</code>" in page
    target = tmp_path / "answer.html"
    done = sized(*STOCK, "--html", str(target), "--results", str(stock / "size.jsonl"))
    assert done.returncode == 0, done.stderr
    again = unescape(target.read_text(encoding="utf-8"))
    assert f"--html {target}" in again
    assert again.partition("How it was made")[0] == page.partition("How it was made")[0]


def test_a_stock_answer_needs_no_plan_on_kubernetes(stock: Path) -> None:
    assert set(resources(stock)) == {"Deployment", "Service"}
    server, answer = container(stock), loaded(stock)["options"][0]
    assert server["image"].startswith("vllm/vllm-openai:v")
    assert "--scheduler-cls" not in server["args"]
    assert PLAN_VARIABLE not in [variable["name"] for variable in server["env"]]
    assert resources(stock)["Deployment"]["spec"]["replicas"] == answer["replicas"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == str(answer["machine"]["tp"])
    assert server["command"] + server["args"][:-2] == loaded(stock)["serve"].split()


def test_a_gated_answer_brings_its_plan(gated: Path) -> None:
    document, parts = loaded(gated), resources(gated)
    assert set(parts) == {"ConfigMap", "Deployment", "Service"}
    saved = json.loads((gated / "plan.json").read_text(encoding="utf-8"))
    assert json.loads(parts["ConfigMap"]["data"]["plan.json"]) == saved
    answer, server = document["options"][0], container(gated)
    assert answer["replicas"] > 1
    assert parts["Deployment"]["spec"]["replicas"] == answer["replicas"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == str(answer["machine"]["tp"]) == "2"
    variable, *line = document["serve"].split()
    assert variable == f"{PLAN_VARIABLE}=plan.json"
    assert server["command"] + server["args"][:-2] == line


def test_the_plan_is_of_one_replica(gated: Path) -> None:
    plan, answer = PlanFile.load(gated / "plan.json"), loaded(gated)["options"][0]
    assert plan.policy == "fluid"
    assert plan.model.tensor_parallel_size == 2
    planned = loaded(gated)["plan"]
    assert planned["mix"]["rate"] == pytest.approx(20.0 / answer["replicas"], rel=0.1)  # of the requests drawn


def test_nothing_that_holds_is_said_and_writes_no_plan(tmp_path: Path) -> None:
    printed = written(tmp_path, *TRAFFIC, "--gpu", "l4", "--model", "llama-3.1-8b", "--slo", "p90:ttft:5")
    assert "No fleet within the limits is shown to keep every objective." in printed
    document = loaded(tmp_path)
    assert (document["options"], document["proof"], document["serve"]) == ([], None, None)
    assert document["nearest"]["machine"]["gpu"] == "l4"
    assert not (tmp_path / "plan.json").exists()
    assert not (tmp_path / "kubernetes.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "h1000", "--slo", "p99:ttft:2000"), "unknown GPU 'h1000'"),
        (("--gpu", "h100,l4", "--price", "h100=2", "--slo", "p99:ttft:2000"), "no price for l4"),
        (("--gpu", "h100", "--price", "h100", "--slo", "p99:ttft:2000"), "price 'h100': write a number above 0"),
        (("--gpu", "h100"), "give --slo"),
        (("--slo", "p95:ttft:3000", "p99:ttft:2000"), "p95:ttft:3000 says nothing beside p99:ttft:2000"),
        (("--tp", "x", "--slo", "p99:ttft:2000"), "--tp 'x': give whole numbers"),
        (("--replications", "1", "--slo", "p99:ttft:2000"), "1 replications are too few"),
        (("--alpha", "2", "--slo", "p99:ttft:2000"), "alpha 2.0 must be a probability"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = sized(*TRAFFIC, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]


def test_a_day_is_sized_hour_by_hour(day: Path) -> None:
    document, printed = loaded(day), (day / "printed.txt").read_text()
    fleet = document["day"]
    assert document["rate"] == 40.0
    assert fleet["day"]["rates"] == [4.0, 16.0, 40.0]
    assert max(fleet["needed"]) == fleet["fixed"]
    assert fleet["needed"][2] == document["options"][0]["replicas"]
    ready = sum(fleet["needed"]) * fleet["machine"]["price"] * fleet["machine"]["tp"]
    assert fleet["cost"] == pytest.approx(ready + fleet["startup_cost"])
    assert f"{fleet['fixed']} replicas all day" in " ".join(printed.split())
    line = next(line for line in printed.splitlines() if line.startswith("To follow it: "))
    words = shlex.split(line.removeprefix("To follow it: fluidgate "))
    command = [FLUIDGATE, *words, "--rules", str(day / "r.yaml"), "--scaled-object", str(day / "s.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_second_price_for_a_gpu_is_refused() -> None:
    done = sized(*SMALL, "--gpu", "h100", "--price", "h100=1,h100-80gb=9")
    assert done.returncode == 1
    assert "is the second one for h100-80gb" in done.stderr


def test_the_peak_of_a_trace_is_its_busiest_hour(tmp_path: Path) -> None:
    times = [*(k / 4 for k in range(800)), *(200 + k / 40 for k in range(8000))]
    trace = tmp_path / "day.csv"
    rows = "".join(f"{time},100,5\n" for time in times)
    trace.write_text(f"time,prompt_tokens,output_tokens\n{rows}")
    line = ["--trace", str(trace), "--time-unit", "s", "--gpu", "h100", "--model", "llama-3.1-8b", "--day", "trace"]
    done = sized(*line, "--bucket", "200", "--slo", "p90:ttft:1500", "--requests", "1600", "--format", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["rate"] == pytest.approx(40.0, rel=0.01)
    assert document["long_s"] == pytest.approx(1600 / 40, rel=0.05)  # no quiet stretch is sped up
    assert document["day"]["day"]["rates"] == pytest.approx([4.0, 40.0], rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--day", "1,2"], "--day has the rates: leave --rate out"),
        (["--startup", "60"], "--startup without --day would change nothing"),
        (["--day", "1,two"], "give requests per second with commas"),
        (["--day", "trace"], "takes the rates of a trace: add --trace"),
        (["--day", "0,0"], "a day needs rates"),
    ],
)
def test_a_day_that_cannot_be_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = sized(*STOCK, *arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
