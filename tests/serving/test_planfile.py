"""Plan files come back as they were written, and say what is wrong where they were not."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fluidgate
from fluidgate.engine import EngineConfig
from fluidgate.errors import InputError
from fluidgate.fluid import FluidPlan, RequestMix, plan
from fluidgate.hardware import Hardware, StepTime
from fluidgate.policies import (
    ConcurrencyCap,
    Greedy,
    NestedWait,
    Policy,
    RateLimited,
    Wait,
    Watermark,
    make_policy,
    policy,
    policy_class,
    policy_names,
    registry,
)
from fluidgate.serving.labels import Classes
from fluidgate.serving.plan_sections import ServedModel
from fluidgate.serving.planfile import PlanFile
from fluidgate.workload import Workload

A100 = Hardware("7B on A100", StepTime(0.012, 4e-5, 3.5e-7), num_gpu_blocks=6876)
MIX = RequestMix([1.0, 2.0, 0.5], [200, 400, 800], [50, 300, 900])
CONFIG = EngineConfig()
SERVABLE = [name for name in policy_names() if policy_class(name).rank is None]
SPECS = SERVABLE
STRICT = ["wait:strict=true", "nested-wait:strict=true"]

finite = st.floats(1e-9, 1e11)
rising = st.lists(st.floats(1.0, 1e6), max_size=6, unique=True).map(sorted)


def of_plan(**changes: Any) -> FluidPlan:
    return plan(MIX, A100, **changes)


PLAN = of_plan()


def with_thresholds(kind: type[Wait | NestedWait]) -> st.SearchStrategy[Policy]:
    def make(edges: list[float]) -> st.SearchStrategy[Policy]:
        thresholds = st.tuples(*[finite] * (len(edges) + 1))
        return st.builds(kind, st.floats(0.0, 1e6), st.just(False), thresholds, st.just(tuple(edges)))

    return rising.flatmap(make)


policies: st.SearchStrategy[Policy] = st.one_of(
    st.just(Greedy()),
    st.builds(ConcurrencyCap, st.floats(1.0, 1e11)),
    st.builds(RateLimited, finite),
    st.builds(Watermark, st.floats(0.0, 1.0, exclude_max=True)),
    *(with_thresholds(kind) for kind in (Wait, NestedWait)),
)
configs = st.builds(
    EngineConfig,
    max_num_seqs=st.integers(8, 256),
    max_num_active_seqs=st.none() | st.integers(1, 8),
    max_num_batched_tokens=st.integers(256, 8192),
    watermark=st.none() | st.floats(0.0, 0.9),
    enable_prefix_caching=st.booleans(),
    long_prefill_token_threshold=st.integers(0, 512),
)
models = st.builds(
    ServedModel,
    name=st.none() | st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), min_size=1),
    tensor_parallel_size=st.none() | st.integers(1, 16),
    gpu_memory_utilization=st.none() | st.floats(0.01, 1.0),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    PlanFile.of(PLAN, make_policy("nested-wait", PLAN), CONFIG, ServedModel(name="m")).save(path)
    return path


@pytest.mark.parametrize("name", sorted(set(policy_names()) - set(SERVABLE)))
def test_a_policy_that_orders_the_queue_cannot_be_served(name: str) -> None:
    with pytest.raises(InputError, match=f"policy {name} orders the queue, and vLLM's queue has its own order"):
        PlanFile.of(PLAN, make_policy(name, PLAN), CONFIG)


@pytest.mark.parametrize("spec", STRICT)
def test_a_policy_that_may_hold_for_ever_cannot_be_served(spec: str, saved: Path, tmp_path: Path) -> None:
    made = make_policy(spec, PLAN)
    with pytest.raises(InputError, match=f"policy {made.name} with strict=true may leave requests waiting forever"):
        PlanFile.of(PLAN, made, CONFIG)
    path = tmp_path / "wait.json"
    PlanFile.of(PLAN, make_policy("wait", PLAN), CONFIG).save(path)
    values = json.loads(path.read_text())
    thresholds = [float(round(n) or 1) for n in values["parameters"]["thresholds"]]
    values["parameters"] |= {"strict": True, "thresholds": thresholds}
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="waiting forever"):
        PlanFile.load(path)


LABELLED = Workload(
    np.arange(300) / 10.0,
    np.full(300, 100),
    np.where(np.arange(300) % 3, 50, 400),
    class_id=(np.arange(300) % 3 > 0).astype(np.int64),
    class_names=("agents", "chat"),
)


def test_classes_go_with_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    labelled = plan(LABELLED, A100)
    class_map = ["adapter:sql=v2=agents", "priority:-1=chat"]
    PlanFile.of(labelled, make_policy("fluid", labelled), CONFIG, class_map=class_map).save(path)
    classes = PlanFile.load(path).classes.to_classes()
    assert classes == Classes(("agents", "chat"), {"sql=v2": "agents"}, {-1: "chat"})
    assert PlanFile.of(PLAN, make_policy("fluid", PLAN), CONFIG).classes.names == ()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("adapter:sql=nobody", "'sql' is given to class 'nobody', which the plan does not know .known: agents, chat"),
        ("priority:first=chat", "'first' must be a whole number"),
        ("model:sql=chat", "'model:sql=chat' does not tell a class: give adapter:NAME=CLASS or priority:NUMBER=CLASS"),
        ("chat", "'chat' does not tell a class"),
    ],
)
def test_a_class_map_that_tells_nothing_is_refused(entry: str, words: str) -> None:
    labelled = plan(LABELLED, A100)
    with pytest.raises(InputError, match=words):
        PlanFile.of(labelled, make_policy("fluid", labelled), CONFIG, class_map=[entry])


@pytest.mark.parametrize("spec", SPECS)
def test_every_policy_comes_back_as_planned(spec: str, tmp_path: Path) -> None:
    made = make_policy(spec, PLAN)
    file = PlanFile.of(PLAN, made, CONFIG)
    file.save(tmp_path / "plan.json")
    loaded = PlanFile.load(tmp_path / "plan.json")
    assert loaded == file
    assert loaded.make_policy() == made
    assert type(loaded.make_policy()) is type(made)
    assert loaded.make_policy().pack().tobytes() == made.pack().tobytes()


@given(made=policies, config=configs, model=models)
def test_any_plan_comes_back_exactly(
    made: Policy, config: EngineConfig, model: ServedModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    budget = config.max_num_batched_tokens
    file = PlanFile.of(of_plan(max_num_seqs=config.seats, max_num_batched_tokens=budget), made, config, model)
    path = tmp_path_factory.getbasetemp() / "any.json"
    file.save(path)
    loaded = PlanFile.load(path)
    assert loaded == file
    assert loaded.make_policy() == made
    assert loaded.model == model


def test_the_numbers_are_the_plans(saved: Path) -> None:
    file = PlanFile.load(saved)
    assert file.fluidgate == fluidgate.__version__
    assert (file.hardware.num_gpu_blocks, file.hardware.kv_capacity_tokens) == (6876, 6875 * 16)
    assert (file.traffic.rate, file.traffic.max_output_tokens) == (3.5, 900)
    assert file.traffic.mean_prompt_tokens == pytest.approx((200 + 2 * 400 + 0.5 * 800) / 3.5)
    assert file.planned.load == pytest.approx(file.traffic.rate / file.planned.boundary_rate)
    assert file.planned.concurrency_cap == PLAN.concurrency_cap
    assert file.planned.kv_peak > PLAN.stability.kv_use
    assert file.verdict == PLAN.verdict
    assert (file.engine.max_num_seqs, file.engine.max_num_batched_tokens, file.engine.watermark) == (256, 2048, 0.0)


def test_the_policys_own_engine_settings_are_in_force() -> None:
    assert PlanFile.of(PLAN, Watermark(0.125), EngineConfig(watermark=0.5)).engine.watermark == 0.125


@pytest.mark.usefixtures("clean_registry")
def test_a_users_policy_comes_back_with_its_types(tmp_path: Path) -> None:
    @policy("mine")
    class Mine(Policy):
        share: float
        window: int = 5
        steps: tuple[int, ...] = (1, 2)
        eager: bool = True

    made = Mine(0.25, window=7, steps=(3,), eager=False)
    PlanFile.of(PLAN, made, CONFIG).save(tmp_path / "plan.json")
    again = PlanFile.load(tmp_path / "plan.json").make_policy()
    assert again == made
    assert isinstance(again, Mine)
    assert (type(again.window), type(again.steps[0])) == (int, int)
    registry._REGISTRY.pop("mine")
    with pytest.raises(InputError, match=r"plan\.json: unknown policy 'mine'"):
        PlanFile.load(tmp_path / "plan.json")


@pytest.mark.usefixtures("clean_registry")
def test_what_a_file_cannot_keep_is_refused() -> None:
    @policy("named")
    class Named(Policy):
        label: str = "x"

    @policy("endless")
    class Endless(Policy):
        limit: float = math.inf

    class Unregistered(Greedy):
        """Greedy by another name."""

    def refused(made: Policy, words: str, config: EngineConfig = CONFIG) -> None:
        with pytest.raises(InputError, match=words):
            PlanFile.of(PLAN, made, config)

    refused(Named(), r"'parameters\.label' = 'x' must be a finite number")
    refused(Endless(), r"'parameters\.limit' = inf must be a finite number")
    refused(Unregistered(), "Unregistered is not the policy registered as 'greedy'")
    refused(Policy(), "unknown policy 'policy'")
    refused(Greedy(), "no mode sarathi", EngineConfig(mode="sarathi"))
    refused(Greedy(), "plan is for max_num_seqs = 256, the engine has 64", EngineConfig(max_num_seqs=64))


def test_limits_that_vllm_refuses_are_refused_at_once() -> None:
    config = EngineConfig(max_num_batched_tokens=100)
    with pytest.raises(InputError, match=r"max_num_batched_tokens = 100 is below max_num_seqs = 256"):
        PlanFile.of(of_plan(max_num_batched_tokens=100), Greedy(), config)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no/such/plan\.json: cannot be written \(there is no folder"):
        PlanFile.of(PLAN, Greedy(), CONFIG).save(tmp_path / "no/such/plan.json")


def put(*place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for key in place[:-1]:
            values = values[key]
        values[place[-1]] = value

    return change


def drop(*place: str) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for key in place[:-1]:
            values = values[key]
        del values[place[-1]]

    return change


MALFORMED = {
    "no format": (drop("format"), "is not a plan for a server: its 'format' is None"),
    "another format": (put("format", value="x"), "its 'format' is 'x', not 'fluidgate-plan'"),
    "later version": (put("version", value=2), rf"'version' = 2 .* this is fluidgate {fluidgate.__version__}.*install"),
    "version as text": (put("version", value="1"), "'version' = '1'"),
    "version true": (put("version", value=True), "'version' = True"),
    "no version": (drop("version"), "'version' = None"),
    "no policy": (drop("policy"), "'policy' is missing"),
    "no section": (drop("planned"), "'planned' is missing"),
    "missing key": (drop("traffic", "rate"), r"'traffic\.rate' is missing; make the file again"),
    "unknown key": (put("engine", "seats", value=3), r"'engine\.seats' is not a known key; take it out"),
    "section of text": (put("engine", value="fast"), "'engine' = 'fast': it must be"),
    "text for a number": (put("engine", "max_num_seqs", value="256"), r"'engine\.max_num_seqs' = '256': .* integer"),
    "fraction": (put("engine", "max_num_seqs", value=1.5), r"'engine\.max_num_seqs' = 1\.5: .* integer"),
    "true for a number": (put("planned", "load", value=True), r"'planned\.load' = True: it must be a valid number"),
    "nan": (put("planned", "boundary_rate", value=math.nan), r"'planned\.boundary_rate' = nan: .* finite"),
    "infinite": (put("traffic", "rate", value=math.inf), r"'traffic\.rate' = inf: .* finite"),
    "negative": (put("traffic", "rate", value=-1), r"'traffic\.rate' = -1.*: it must be greater than 0"),
    "watermark of 1": (put("engine", "watermark", value=1.0), r"'engine\.watermark' = 1\.0: it must be less than 1"),
    "empty name": (put("model", "name", value=""), r"'model\.name' = ''"),
    "capacity": (put("hardware", "kv_capacity_tokens", value=5), r"hardware: kv_capacity_tokens = 5, but .* 110000"),
    "budget": (put("engine", "max_num_batched_tokens", value=9), "engine: max_num_batched_tokens = 9 is below"),
    "seats": (put("engine", "max_num_active_seqs", value=999), "engine: max_num_active_seqs = 999 is above"),
    "unknown policy": (put("policy", value="nested-weight"), "'nested-weight'; did you mean nested-wait"),
    "other policy": (put("policy", value="concurrency-cap"), r"'parameters\.cap' is missing: policy concurrency-cap"),
    "no parameter": (drop("parameters", "cuts"), r"'parameters\.cuts' is missing: policy nested-wait"),
    "odd parameter": (put("parameters", "speed", value=3), r"'parameters\.speed' is not a parameter .*known: hold_s"),
    "nan parameter": (put("parameters", "hold_s", value=math.nan), r"'parameters\.hold_s' = nan must be a finite"),
    "null parameter": (put("parameters", "hold_s", value=None), r"'parameters\.hold_s' = None must be a finite number"),
    "text parameter": (put("parameters", "hold_s", value="1"), r"'parameters\.hold_s' = '1' must be a finite number"),
    "nan in a list": (put("parameters", "cuts", value=[math.nan]), r"'parameters\.cuts' = .*nan.* must be a finite"),
    "number for a list": (put("parameters", "cuts", value=5), r"'parameters\.cuts' = 5: it must be a valid array"),
    "list for a number": (put("parameters", "hold_s", value=[5]), r"'parameters\.hold_s' = \[5\]: .* valid number"),
    "number for a switch": (put("parameters", "strict", value=1), r"'parameters\.strict' = 1: .* valid boolean"),
    "out of range": (put("parameters", "hold_s", value=-1), r"policy nested-wait: hold_s = -1\.0 must be at least 0"),
    "cuts that fall": (put("parameters", "cuts", value=[9, 5]), "policy nested-wait: needs one threshold"),
    "verdict of one": (put("verdict", value="fine"), "'verdict' = 'fine': it must be a valid array"),
}


@pytest.mark.parametrize(("change", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_plan_names_file_and_key(change: Any, words: str, saved: Path, tmp_path: Path) -> None:
    values = json.loads(saved.read_text())
    change(values)
    (tmp_path / "bad.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=words) as refusal:
        PlanFile.load(tmp_path / "bad.json")
    assert str(refusal.value).startswith(f"{tmp_path / 'bad.json'}: ")


def test_a_former_name_of_a_parameter_is_refused_with_the_present_one(tmp_path: Path) -> None:
    PlanFile.of(PLAN, make_policy("fluid", PLAN), CONFIG).save(tmp_path / "plan.json")
    values = json.loads((tmp_path / "plan.json").read_text())
    values["parameters"]["stalled_share"] = values["parameters"].pop("evicted_share")
    (tmp_path / "plan.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"plan\.json: 'parameters\.stalled_share' is now called evicted_share; make"):
        PlanFile.load(tmp_path / "plan.json")


def test_a_later_version_says_who_wrote_it(saved: Path, tmp_path: Path) -> None:
    values = json.loads(saved.read_text()) | {"version": 3, "fluidgate": "9.9"}
    (tmp_path / "late.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"was written by fluidgate 9\.9"):
        PlanFile.load(tmp_path / "late.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("{", r":1: is not JSON"),
        ("[]", "holds a JSON list"),
        ('{"format": "fluidgate-plan", "format": "fluidgate-plan"}', "'format' is given twice"),
        ('{"version": ' + "1" * 5000 + "}", "holds a number too long"),
        ("[" * 100_000, "nested too deeply"),
        ("\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=words):
        PlanFile.load(tmp_path / "bad.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        PlanFile.load(tmp_path / "none.json")


def test_a_plan_file_cannot_be_changed_in_memory(saved: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        PlanFile.load(saved).policy = "greedy"  # type: ignore[misc]


def test_reading_a_plan_needs_no_vllm(saved: Path) -> None:
    code = (
        "import sys; from fluidgate.serving.planfile import PlanFile; PlanFile.load(sys.argv[1]); "
        "sys.exit('vllm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(saved)], check=False).returncode == 0
