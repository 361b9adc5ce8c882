"""Compose and Kubernetes examples: valid by their schemas, and of one piece with the plan, the image and the plugin."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from fluidgate.serving.flags import PLAN_VARIABLE
from fluidgate.serving.manifest import deployment
from fluidgate.serving.versions import NEWEST

from .files import COMPOSE, DASHBOARD, DEPLOY, KUBERNETES, KUSTOMIZATION, ROOT, load

KUBERNETES_VERSION = "1.37"
SERVER = COMPOSE["services"]["vllm"]
POD = KUBERNETES[0]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
DRAIN = ["--shutdown-timeout", "90"]


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Target by source, of a service's mounts of files."""
    pairs = [
        (mount["source"], mount["target"]) if isinstance(mount, dict) else mount.split(":")[:2]
        for mount in service["volumes"]
    ]
    return {source: target for source, target in pairs if source.startswith(".")}


def check_compose(document: Any) -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    jsonschema.validators.validator_for(schema)(schema).validate(document)


def test_compose_is_valid() -> None:
    check_compose(COMPOSE)


def test_the_schema_of_compose_refuses_a_misspelt_key() -> None:
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"]["vllm"]["volume"] = wrong["services"]["vllm"].pop("volumes")
    with pytest.raises(jsonschema.ValidationError, match="volume"):
        check_compose(wrong)


@pytest.mark.parametrize("resource", KUBERNETES, ids=lambda resource: resource["kind"])
def test_kubernetes_resources_are_valid(resource: Any) -> None:
    kubernetes_validate.validate(resource, KUBERNETES_VERSION, strict=True)


def test_the_schema_of_kubernetes_refuses_a_misspelt_key() -> None:
    wrong = copy.deepcopy(KUBERNETES[0])
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSION, strict=True)


def test_the_example_is_what_the_template_gives() -> None:
    example = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    head, _, _ = example.partition("apiVersion")
    assert example == deployment(CONTAINER["args"], 1, 1, with_plan=True, plan_path="deploy/plan.json", head=head)


def test_mounted_files_exist() -> None:
    for service in COMPOSE["services"].values():
        for source in mounts(service):
            assert (DEPLOY / source).exists() or source == "./plan.json", source
    (plan_mount,) = (m for m in SERVER["volumes"] if isinstance(m, dict))
    assert plan_mount["bind"]["create_host_path"] is False, "a missing plan must stop the start, not become a folder"


def test_the_plan_is_where_the_plugin_looks() -> None:
    path = SERVER["environment"][PLAN_VARIABLE]
    assert mounts(SERVER)["./plan.json"] == path
    environment = {variable["name"]: variable.get("value") for variable in CONTAINER["env"]}
    places = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    volume = next(v for v in POD["spec"]["volumes"] if v.get("configMap", {}).get("name") == generated["name"])
    assert [f"{places[volume['name']]}/{file}" for file in generated["files"]] == [environment[PLAN_VARIABLE]] == [path]


def test_monitoring_is_wired_to_the_services() -> None:
    (job,) = load("prometheus.yaml")["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in COMPOSE["services"]
    assert any(published.endswith(f":{port}") for published in COMPOSE["services"][host]["ports"])
    (source,) = load("grafana/datasources.yaml")["datasources"]
    assert re.fullmatch(r"http://(\w+):9090", source["url"])[1] in COMPOSE["services"]
    (provider,) = load("grafana/dashboards.yaml")["providers"]
    folder = {target: here for here, target in mounts(COMPOSE["services"]["grafana"]).items()}[
        provider["options"]["path"]
    ]
    assert json.loads((DEPLOY / folder / "fluidgate.json").read_text(encoding="utf-8")) == DASHBOARD


def test_kubernetes_is_wired_to_itself() -> None:
    service = KUBERNETES[1]["spec"]
    assert service["selector"] == KUBERNETES[0]["spec"]["selector"]["matchLabels"]
    assert service["selector"].items() <= POD["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert service["ports"][0]["targetPort"] in ports
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(ports["http"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"]["port"] in ports
    assert {m["name"] for m in CONTAINER["volumeMounts"]} == {v["name"] for v in POD["spec"]["volumes"]}
    slept = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert slept + int(DRAIN[-1]) < POD["spec"]["terminationGracePeriodSeconds"]


def test_the_image_is_of_the_newest_tested_vllm() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (.+)$", dockerfile, re.MULTILINE) == [f"vllm/vllm-openai:v{NEWEST.tested}"]
    assert SERVER["image"] == CONTAINER["image"] == f"vllm-fluidgate:{NEWEST.tested}"
    (image,) = KUSTOMIZATION["images"]
    assert (image["name"], image["newTag"]) == ("vllm-fluidgate", NEWEST.tested)
    folder = re.search(r"^ENV PROMETHEUS_MULTIPROC_DIR=(.+)$", dockerfile, re.MULTILINE)
    assert folder is not None
    assert SERVER["tmpfs"] == [folder[1]]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [word for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]]
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    assert ROOT / SERVER["build"]["dockerfile"] == DEPLOY / "Dockerfile"
    assert (DEPLOY / SERVER["build"]["context"]).resolve() == ROOT


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of docs/deploy.md, of fewer requests."""
    folder = tmp_path_factory.mktemp("plan")
    for line in (
        "trace generate day.csv --preset azure-conv-2023 --requests 400 --rate 20",
        "plan --trace day.csv --model meta-llama/Llama-3.1-8B --gpu h100-80gb --policy fluid --save plan.json",
    ):
        subprocess.run([sys.executable, "-m", "fluidgate", *line.split()], cwd=folder, check=True, capture_output=True)
    return folder / "plan.json"


def test_the_servers_start_with_the_line_of_serve_args(plan_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fluidgate", "serve-args", str(plan_file), "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    _, *words = json.loads(done.stdout)["plugin"]["command"].split()
    assert SERVER["entrypoint"] + SERVER["command"] == CONTAINER["command"] + CONTAINER["args"] == words + DRAIN


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which renders kustomization.yaml")
def test_kustomize_adds_the_plan(plan_file: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(DEPLOY, tmp_path / "deploy")
    shutil.copy(plan_file, folder / "plan.json")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], check=True, capture_output=True, text=True)
    rendered = {resource["kind"]: resource for resource in yaml.safe_load_all(done.stdout)}
    for resource in rendered.values():
        kubernetes_validate.validate(resource, KUBERNETES_VERSION, strict=True)
    assert json.loads(rendered["ConfigMap"]["data"]["plan.json"]) == json.loads(plan_file.read_text(encoding="utf-8"))
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    assert rendered["ConfigMap"]["metadata"]["name"] in [v.get("configMap", {}).get("name") for v in pod["volumes"]]
    assert pod["containers"][0]["image"].startswith(KUSTOMIZATION["images"][0]["newName"])
