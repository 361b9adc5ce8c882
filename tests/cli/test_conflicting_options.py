"""Options that contradict each other, or would change nothing, are refused; those that go together are taken."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .calls import FLUIDGATE, fluidgate_run, good

SMALL = ["--preset", "p512-d20", "--requests", "80"]
SHEET = ["--gpu", "mine", "--gpu-memory-gib", "48", "--gpu-bandwidth", "900", "--gpu-tflops", "200"]
STEPS = ["calibrate", "steps", "steps.csv", "--out", "out.json", "--gpu", "l40s", "--model", "llama-2-7b"]


CONFLICTS = [
    (["compare", "--load", "0.9", "--rate", "5"], "--load sets the arrival rate: leave --rate out"),
    (["compare", "--trace", "good.csv", "--load", "1", "--rate-scale", "2"], "leave --rate-scale out"),
    (["compare", *SMALL, "--parquet", "out.txt"], "--parquet out.txt: readers know"),
    (["frontier", "--trace", "good.csv", "--rate", "5"], "frontier finds the rate itself: leave --rate out"),
    (["frontier", "--axis", "model-gpu", "--gpu", "l40s", "--num-gpu-blocks", "9"], "leave --gpu and --num-gpu-blocks"),
    (["frontier", "--goodput", "ttft:2000", "--slo", "p99:ttft:2000"], "add --slo goodput:SHARE"),
    (["plan", "--rate", "inf", "--rate-scale", "2"], "--rate inf lets all requests arrive at once"),
    (["plan", "--requests", "1", "--rate", "5"], "one request has no arrival rate"),
    (["plan", "--policy-file", "mine.py"], "--policy-file holds a policy to save: add --save"),
    (["plan", "--num-gpu-blocks", "900", "--gpu-memory-utilization", "0.8"], "leave --gpu-memory-utilization out"),
    (["plan", "--gpu", "mine.json", "--gpu-memory-gib", "48"], "is a data sheet: leave --gpu-memory-gib out"),
    (["plan", "--variant", "paper", *SHEET], "variant 'paper': mine as its data sheet describes it has no profile"),
    (["simulate", *SMALL, "--router", "least-kv"], "--router without --replicas would change nothing"),
    (["simulate", *SMALL, "--gauge-age", "3"], "--gauge-age without --gate outside would change nothing"),
    (["simulate", *SMALL, "--gate", "beside"], "unknown place of a gate"),
    ([*STEPS, "--num-gpu-blocks", "9", "--gpu-memory-utilization", "0.8"], "leave --gpu-memory-utilization out"),
    (["experiment", "gate", "--part", "curves", "--mooncake", "good.csv"], "--mooncake is for part loads"),
    (["experiment", "accuracy", "--part", "judges", "--measured", "f"], "--measured is for part open-loop"),
]


@pytest.mark.parametrize(("arguments", "words"), CONFLICTS, ids=[" ".join(arguments) for arguments, _ in CONFLICTS])
def test_what_contradicts_is_refused_in_one_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,5,5\n1.0,6,6\n")
    done = fluidgate_run(*arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last


@pytest.mark.parametrize("study", ["gate", "paper", "scaling", "deadlines"])
def test_figures_that_cannot_be_drawn_are_refused_before_any_run(study: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    kept = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [FLUIDGATE, "experiment", study, "--figures", "drawn"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": kept}, capture_output=True, text=True, check=False
    )
    assert done.stderr == "error: figures need matplotlib: pip install 'fluidgate[figures]'\n"
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.is_file()] == []


def test_few_requests_make_a_plan_with_a_warning() -> None:
    assert "80 requests tell little of the traffic" in fluidgate_run("plan", *SMALL, "--rate", "5").stderr
    assert "tell little" not in fluidgate_run("plan", *SMALL[:2], "--requests", "100", "--rate", "5").stderr


def test_a_comparison_as_json_answers_as_the_table_does() -> None:
    options = ("compare", *SMALL, "--policy", "greedy", "--policy", "fluid", "--load", "0.5", "--load", "0.9")
    answers = json.loads(good(*options, "--format", "json").stdout)["answers"]
    said = " ".join(good(*options).stdout.split())
    assert [answer["load"] for answer in answers] == [0.5, 0.9]
    assert all(f"{answer['headline']}." in said for answer in answers)
    assert {answer["policy"] for answer in answers} <= {"greedy", "fluid"}


def test_lengths_without_arrivals_come_at_any_load(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "a question " * 40}, {"from": "gpt", "value": "an answer " * 30}]
    (tmp_path / "chats.json").write_text(json.dumps([{"id": str(k), "conversations": talk} for k in range(30)]))
    command = ("compare", "--trace", "chats.json", "--policy", "greedy", "--repeats", "1", "--format", "json")
    for shape in ((), ("--burstiness", "0.5")):
        found = json.loads(good(*command, "--load", "0.4", *shape, cwd=tmp_path).stdout)
        (scenario,) = found["scenarios"]
        assert scenario["plan"]["stability"]["load"] == pytest.approx(0.4, rel=0.01)
