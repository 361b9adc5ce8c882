"""`fluidgate scaling-rules` as a user types it."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from fluidgate.cli import command_line
from fluidgate.serving import PlanFile

PLANNED = ("plan", "--preset", "p512-d20", "--requests", "80", "--rate", "5", "--save", "plan.json")


def typed(*words: str) -> Result:
    return CliRunner().invoke(command_line(list(words)), list(words))


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanFile:
    monkeypatch.chdir(tmp_path)
    assert typed(*PLANNED, "--model", "meta-llama/Llama-2-7b-hf").exit_code == 0
    return PlanFile.load("plan.json")


def replica_rate() -> float:
    rules = yaml.safe_load(Path("scaling-rules.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    return float(rules[0]["expr"].removeprefix("vector(").removesuffix(")"))


def test_a_share_of_the_boundary(plan: PlanFile) -> None:
    assert typed("scaling-rules", "plan.json", "--load", "0.5").exit_code == 0
    assert replica_rate() == pytest.approx(0.5 * plan.planned.boundary_rate)


def test_a_rate_and_the_fleet(plan: PlanFile) -> None:
    words = ("--replica-rate", "7", "--least", "2", "--most", "9", "--startup", "240", "--deployment", "chat")
    assert typed("scaling-rules", "plan.json", *words, "--arrivals", "sum by (model_name) (my_rate)").exit_code == 0
    scaled = yaml.safe_load(Path("scaled-object.yaml").read_text(encoding="utf-8"))
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (2, 9)
    assert scaled["spec"]["scaleTargetRef"]["name"] == "chat"
    rules = Path("scaling-rules.yaml").read_text(encoding="utf-8")
    assert replica_rate() == 7.0
    assert "my_rate" in rules
    assert "request_success" not in rules
    assert "[600s], 240)" in rules


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what a replica is given: --load"),
        (("--load", "0.5", "--replica-rate", "3"), "say what a replica is given: --load"),
        (("--load", "1.5"), "lies above 0 and is at most 1"),
        (("--replica-rate", "-1"), "replica_rate = -1"),
        (("--load", "0.5", "--least", "3", "--most", "2"), "least = 3"),
        (("--load", "0.5", "--startup", "0.5"), "lead_s = 0.5"),
    ],
)
@pytest.mark.usefixtures("plan")
def test_what_is_refused(words: tuple[str, ...], said: str) -> None:
    done = typed("scaling-rules", "plan.json", *words)
    assert done.exit_code == 1
    assert said in str(done.exception)
    assert not Path("scaling-rules.yaml").exists()


def test_a_plan_without_a_model(plan: PlanFile) -> None:
    values = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    values["model"]["name"] = None
    Path("plan.json").write_text(json.dumps(values), encoding="utf-8")
    assert "add --model-name" in str(typed("scaling-rules", "plan.json", "--load", "0.5").exception)
    assert plan.model.name is not None
    assert typed("scaling-rules", "plan.json", "--load", "0.5", "--model-name", "mine").exit_code == 0
