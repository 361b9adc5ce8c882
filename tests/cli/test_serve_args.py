"""From `fluidgate plan --save` to `vllm serve`: the two commands as a user types them."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from fluidgate.policies import policy_names

from .calls import fluidgate_run, good

SMALL = ["--preset", "p512-d20", "--requests", "80", "--rate", "5"]

OWN_POLICY = """
from __future__ import annotations

import fluidgate


@fluidgate.policy("half-open")
class HalfOpen(fluidgate.Policy):
    share: float = 0.5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "own.py").write_text(OWN_POLICY)
    model = ["--model", "meta-llama/Llama-2-7b-hf", "--gpu", "a100-80gb"]
    good("plan", *SMALL, *model, "--policy", "rate-limited", "--save", "paced.json", cwd=folder)
    late = json.loads((folder / "paced.json").read_text()) | {"version": 2}
    (folder / "late.json").write_text(json.dumps(late))
    return folder


def test_plan_saves_fluid_unless_told_otherwise(folder: Path) -> None:
    done = good("plan", *SMALL, "--save", "plan.json", cwd=folder)
    assert "policy saved" in done.stdout
    assert "fluid (evicted_share = 0.1," in done.stdout
    assert "wrote plan.json" in done.stderr
    assert json.loads((folder / "plan.json").read_text())["policy"] == "fluid"
    assert "policy saved" not in good("plan", *SMALL, cwd=folder).stdout


def test_json_of_the_plan_stays_alone_on_stdout(folder: Path) -> None:
    done = good("plan", *SMALL, "--save", "also.json", "--format", "json", cwd=folder)
    saved = json.loads((folder / "also.json").read_text())
    assert json.loads(done.stdout)["mix"]["output_quantiles"] == saved["parameters"]["output_quantiles"]


@pytest.mark.parametrize("spec", ["wait:hold_s=0.25", "concurrency-cap:cap=25"])
def test_a_spec_is_saved_as_given(spec: str, folder: Path) -> None:
    good("plan", *SMALL, "--policy", spec, "--save", "spec.json", cwd=folder)
    name, _, rest = spec.partition(":")
    key, _, text = rest.partition("=")
    saved = json.loads((folder / "spec.json").read_text())
    assert saved["policy"] == name
    assert saved["parameters"][key] == json.loads(text)


def test_both_lines_and_a_reason_for_each_flag(folder: Path) -> None:
    done = good("serve-args", "paced.json", cwd=folder)
    lines = [line for line in done.stdout.splitlines() if "vllm serve" in line and "--" in line]
    plugin, stock = (shlex.split(line) for line in lines)
    assert plugin[:4] == ["FLUIDGATE_PLAN=paced.json", "vllm", "serve", "meta-llama/Llama-2-7b-hf"]
    assert plugin[4:6] == ["--scheduler-cls", "fluidgate.serving.scheduler.GateScheduler"]
    assert stock[:3] == ["vllm", "serve", "meta-llama/Llama-2-7b-hf"]
    assert {word for word in stock if word.startswith("--")} == {"--max-num-active-seqs", "--watermark"}
    assert "nearest to rate-limited in stock vLLM" in done.stdout
    assert "KV cache as planned: 32 × full attention, bfloat16, the model's dtype" in done.stdout
    assert done.stderr == ""


def test_json_holds_what_the_table_shows(folder: Path) -> None:
    arguments = ("serve-args", "paced.json", "--model-name", "my models/x", "--max-wait-s", "20")
    made = json.loads(good(*arguments, "--format", "json", cwd=folder).stdout)
    assert (made["policy"], made["model"]) == ("rate-limited", "my models/x")
    for form in ("plugin", "stock"):
        flags = [word for flag in made[form]["flags"] for word in (flag["name"], flag["value"])]
        assert shlex.split(made[form]["command"])[-len(flags) :] == flags
        assert "--max-num-queued-reqs" in flags
        assert "'my models/x'" in made[form]["command"]


def test_an_older_vllm_is_said_to_lose_flags(folder: Path) -> None:
    asked = ("serve-args", "paced.json", "--max-wait-s", "20", "--vllm-version")
    older = good(*asked, "0.28.1", cwd=folder)
    assert "--max-num-active-seqs" not in older.stdout
    assert "vLLM 0.28 has no --max-num-active-seqs; --max-num-seqs is lowered to that cap" in older.stderr
    assert "vLLM 0.28 has no --max-num-queued-reqs; nothing bounds the queue" in older.stderr
    newer = good(*asked, "0.33", "--format", "json", cwd=folder)
    assert newer.stderr == ""
    made = json.loads(newer.stdout)
    assert (made["vllm_version"], made["stock"]["lost"]) == ("0.33", [])
    assert json.loads(good(*asked, "0.30", "--format", "json", cwd=folder).stdout)["stock"]["lost"]


def test_the_support_table_is_printed_without_a_plan(folder: Path) -> None:
    from fluidgate.serving.versions import support_table

    assert good("serve-args", "--support", cwd=folder).stdout == support_table() + "\n"


def test_the_parallelism_of_a_variant_is_served(folder: Path) -> None:
    gpus = ["--model", "llama-3.1-70b", "--gpu", "a100-80gb", "--variant", "tp4"]
    good("plan", *SMALL, *gpus, "--save", "wide.json", cwd=folder)
    done = good("serve-args", "wide.json", cwd=folder)
    assert "--tensor-parallel-size 4" in done.stdout
    assert "give the name that vLLM loads with --model-name" in done.stderr


def test_given_blocks_do_not_tell_a_share_of_memory(folder: Path) -> None:
    good("plan", *SMALL, "--num-gpu-blocks", "4000", "--save", "blocks.json", cwd=folder)
    assert "--gpu-memory-utilization" not in good("serve-args", "blocks.json", cwd=folder).stdout


def test_a_hardware_file_needs_a_model_name(folder: Path) -> None:
    hardware = {"version": 1, "name": "mine", "step_time": {"c0": 0.01}, "num_gpu_blocks": 4000}
    (folder / "hardware.json").write_text(json.dumps(hardware))
    good("plan", *SMALL, "--hardware", "hardware.json", "--save", "bare.json", cwd=folder)
    assert "vllm serve org/m " in good("serve-args", "bare.json", "--model-name", "org/m", cwd=folder).stdout
    done = fluidgate_run("serve-args", "bare.json", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "names no model; add --model-name" in done.stderr


def test_a_hardware_file_that_states_no_defaults_has_all_limits_on_the_line(folder: Path) -> None:
    hardware = {"version": 1, "name": "mine", "step_time": {"c0": 0.01}, "num_gpu_blocks": 4000}
    (folder / "silent.json").write_text(json.dumps(hardware))
    stated = {"max_num_seqs": 1024, "max_num_batched_tokens": 8192, "max_model_len": 4096}
    (folder / "stated.json").write_text(json.dumps(hardware | stated))
    for name, flags in (("silent", {"--max-num-seqs": "256", "--max-num-batched-tokens": "2048"}), ("stated", {})):
        good("plan", *SMALL, "--hardware", f"{name}.json", "--policy", "greedy", "--save", "p.json", cwd=folder)
        made = good("serve-args", "p.json", "--model-name", "org/m", "--format", "json", cwd=folder).stdout
        assert {flag["name"]: flag["value"] for flag in json.loads(made)["stock"]["flags"]} == flags


def test_half_of_r1_reasoning_is_refused_by_llama_2_in_one_sentence(folder: Path) -> None:
    """Of 4,000 requests 47.5% have more than the model's 4,096 tokens; with a limit of one's own, the line has it."""
    traffic = ("--model", "llama-2-7b", "--gpu", "a100-80gb", "--preset", "r1-reasoning", "--rate", "0.15")
    plan = good("plan", *traffic, "--save", "long.json", cwd=folder)
    told = " ".join(plan.stdout.split())
    assert "47.5% of the requests, with" in told
    assert "have more than the 4,096 tokens, prompt and output, that the model takes" in told
    assert "--max-model-len" not in good("serve-args", "long.json", cwd=folder).stdout
    planned = json.loads((folder / "long.json").read_text())
    assert planned["traffic"]["max_prompt_tokens"] + planned["traffic"]["max_output_tokens"] < 2 * 4096
    assert (planned["engine"]["max_model_len"], planned["defaults"]["max_model_len"]) == (4096, 4096)
    shorter = good("plan", *traffic, "--max-model-len", "2048", "--save", "short.json", cwd=folder)
    assert "than the 2,048 tokens" in " ".join(shorter.stdout.split())
    assert "--max-model-len 2048" in good("serve-args", "short.json", cwd=folder).stdout


def test_an_overload_asks_for_a_bound_on_the_wait(folder: Path) -> None:
    heavy = ["--preset", "p512-d20", "--requests", "80", "--rate", "5000"]
    good("plan", *heavy, "--save", "heavy.json", cwd=folder)
    named = ("serve-args", "heavy.json", "--model-name", "org/m")
    assert "--max-wait-s bounds the wait" in good(*named, cwd=folder).stderr
    assert good(*named, "--max-wait-s", "9", cwd=folder).stderr == ""


def test_a_plan_for_clients_that_give_up_names_the_middleware_and_no_endless_queue(folder: Path) -> None:
    heavy = ["--preset", "p512-d20", "--requests", "80", "--rate", "5000", "--client-timeout", "60"]
    good("plan", *heavy, "--save", "patient.json", cwd=folder)
    told = good("serve-args", "patient.json", "--model-name", "org/m", cwd=folder).stderr
    assert "--middleware fluidgate.serving.admission.Admission" in told
    assert "--max-wait-s" not in told


def test_a_users_own_policy(folder: Path) -> None:
    own = ("--policy-file", "own.py")
    good("plan", *SMALL, "--policy", "half-open:share=0.25", *own, "--save", "own.json", cwd=folder)
    done = good("serve-args", "own.json", *own, cwd=folder)
    assert "half-open (share = 0.25)" in done.stdout
    refused = fluidgate_run("serve-args", "own.json", cwd=folder)
    assert refused.returncode == 1
    assert "unknown policy 'half-open'" in refused.stderr
    assert all(name in refused.stderr for name in policy_names())


BAD = [
    (("serve-args", "none.json"), "none.json: no such file"),
    (("serve-args", "late.json"), "install the fluidgate that wrote it"),
    (("serve-args", "own.py"), "own.py:2: is not JSON"),
    (("serve-args", "paced.json", "--max-wait-s", "nan"), "max_wait_s = nan"),
    (("serve-args", "paced.json", "--vllm-version", "0.23"), "vLLM '0.23' is not a version that fluidgate knows"),
    (("serve-args", "paced.json", "--vllm-version", "new"), "give one from 0.24 to 0.33, such as 0.33.0"),
    (("serve-args", "paced.json", "--model-name=--help"), "model name '--help' cannot be served"),
    (("plan", *SMALL, "--policy", "greedy"), "add --save plan.json"),
    (("plan", *SMALL, "--policy", "greeedy", "--save", "x.json"), "did you mean greedy?"),
    (("plan", *SMALL, "--save", "no/such/folder/x.json"), "cannot be written"),
    (
        ("plan", *SMALL, "--save", "x.json", "--max-num-batched-tokens", "64", "--max-num-seqs", "65"),
        "is below max_num_seqs = 65",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], words: str, folder: Path) -> None:
    done = fluidgate_run(*arguments, cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert "Traceback" not in done.stderr
    assert not (folder / "x.json").exists()


def test_help_shows_an_example(folder: Path) -> None:
    assert "fluidgate serve-args plan.json" in " ".join(good("serve-args", "--help", cwd=folder).stdout.split())


def test_a_cache_of_several_groups_is_left_to_stock_vllm(folder: Path) -> None:
    """Gemma 3 12B: 40 layers with windows, 8 without, in 6 groups."""
    config = {
        "model_type": "gemma3_text",
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "num_hidden_layers": 48,
        "sliding_window": 1024,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    }
    (folder / "gemma.json").write_text(json.dumps(config))
    model = ("--model", "gemma-3-12b", "--model-config", "gemma.json", "--gpu", "l40s", "--kv-cache-dtype", "fp8")
    good("plan", *model, "--preset", "p512-d20", "--rate", "1", "--save", "gemma-plan.json", cwd=folder)
    done = good("serve-args", "gemma-plan.json", "--model-name", "google/gemma-3-12b-it", cwd=folder)
    assert "groups of layers" not in done.stderr, "the gate runs on them"
    assert "--kv-cache-dtype fp8" in done.stdout
    text = " ".join(done.stdout.split())
    assert "40 × sliding window of 1,024 tokens + 8 × full attention, fp8, as asked" in text


def test_thresholds_for_llm_d_are_written_beside_the_lines(folder: Path) -> None:
    good("plan", *SMALL, "--save", "picker.json", cwd=folder)
    line = ("serve-args", "picker.json", "--model-name", "org/model")
    done = good(*line, "--llm-d", "epp.yaml", "--replicas", "3", "--max-wait-s", "20", cwd=folder)
    assert "wrote epp.yaml" in done.stderr
    assert done.stdout == good(*line, "--max-wait-s", "20", cwd=folder).stdout
    written = yaml.safe_load((folder / "epp.yaml").read_text(encoding="utf-8"))
    rate = json.loads((folder / "picker.json").read_text())["planned"]["boundary_rate"]
    assert written["flowControl"] == {"defaultRequestTTL": "20s", "maxRequests": int(rate * 3 * 20)}
    made_by = (folder / "epp.yaml").read_text(encoding="utf-8").splitlines()[1]
    again = shlex.split(made_by.removeprefix("# Made by: fluidgate "))
    before = (folder / "epp.yaml").read_bytes()
    good(*again, "--model-name", "org/model", cwd=folder)
    assert (folder / "epp.yaml").read_bytes() == before


def test_replicas_without_llm_d_are_refused(folder: Path) -> None:
    good("plan", *SMALL, "--save", "picker.json", cwd=folder)
    done = fluidgate_run("serve-args", "picker.json", "--replicas", "3", cwd=folder)
    assert done.returncode == 1
    assert "give --llm-d too" in done.stderr
