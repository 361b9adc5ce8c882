"""`fluidgate calibrate requests` as a user types it: results in, a hardware file out, whose overhead reports add."""

import json
from pathlib import Path

import numpy as np
import pytest

import requests_errors as made
from fluidgate.hardware import Hardware, StepTime
from fluidgate.hardware.server_defaults import ServerDefaults
from fluidgate.workload import Workload

from ..doctor.pages import page
from .calls import fluidgate_run, good

SERVER = ServerDefaults(256, 2048)  # it schedules asynchronously, as servers do
STEP_TIME = StepTime(c0=0.016, c_tok=9e-5, c_kv=1.3e-7, c_attn=6e-9)
TRUTH = Hardware("truth", STEP_TIME, num_gpu_blocks=1001, server=SERVER)
MACHINE = ("--model", "llama-3.1-8b", "--gpu", "rtx-4090")


def result(rate: float, requests: int, seed: int) -> dict[str, object]:
    """As `vllm bench serve --save-result --save-detailed` writes it."""
    rng = np.random.default_rng(seed)
    prompt, output = rng.integers(50, 1000, requests), rng.integers(20, 200, requests)
    arrival_s = np.cumsum(rng.exponential(1 / rate, requests))
    timings = made.measured(Workload(arrival_s, prompt, output, name="made"), TRUTH, rng).timings
    times = timings.latencies_s
    gaps_s = [[tpot] * (n - 1) for tpot, n in zip(times["TPOT"].tolist(), output.tolist(), strict=True)]
    return {
        "backend": "vllm",
        "num_prompts": requests,
        "request_rate": rate,
        "input_lens": prompt.tolist(),
        "output_lens": output.tolist(),
        "start_times": (1000.0 + timings.arrival_s).tolist(),
        "ttfts": times["TTFT"].tolist(),
        "itls": gaps_s,
        "errors": [""] * requests,
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, appended, and beside them the server's page of metrics."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "page.txt").write_text(page())
    path = folder / "bench.json"
    path.write_text("\n".join(json.dumps(result(rate, n, seed)) for rate, n, seed in ((0.4, 60, 1), (3.0, 200, 2))))
    return path


@pytest.fixture(scope="module")
def hardware(results: Path) -> Path:
    """The file that the two runs give."""
    out = results.with_name("hardware.json")
    done = good("calibrate", "requests", results, *MACHINE, "--metrics", results.with_name("page.txt"), "--out", out)
    for text in ("µs per step", "bench.json, run 1", "bench.json, run 2", "Held out: a fit to the other loads."):
        assert text in done.stdout
    return out


def test_appended_runs_become_a_hardware_file(hardware: Path) -> None:
    file = json.loads(hardware.read_text())
    assert file["num_gpu_blocks"] == 1001
    assert file["step_time"]["c0"] == pytest.approx(0.016, rel=0.05)
    assert file["step_time"]["c_tok"] == pytest.approx(9e-5, rel=0.15)
    assert file["overhead_s"] == pytest.approx(made.OVERHEAD_S + made.OVERHEAD_SPREAD_S, abs=0.005)
    assert "bench.json, run 2" in file["source"]


def test_reports_add_the_overhead_unless_told_not_to(hardware: Path) -> None:
    overhead_ms = 1e3 * json.loads(hardware.read_text())["overhead_s"]
    load = ("--hardware", hardware, "--requests", "40", "--rate", "1", "--policy", "greedy", "--format", "json")
    simulated = [good("simulate", *load, *more) for more in ((), ("--no-overhead",))]
    added, without = (json.loads(done.stdout)[0] for done in simulated)
    for name in ("mean_ttft_ms", "p99_ttft_ms", "mean_e2el_ms"):
        assert added[name] - without[name] == pytest.approx(overhead_ms)
    assert added["mean_tpot_ms"] == without["mean_tpot_ms"]
    assert "ms outside the engine" in simulated[0].stderr
    assert "outside the engine" not in simulated[1].stderr
    table = good("compare", *load[:6], "--policy", "greedy", "--repeats", "2").stdout
    assert "ms outside the engine" in " ".join(table.split())


def test_json_has_everything(results: Path, tmp_path: Path) -> None:
    lines = results.read_text().split("\n")
    (tmp_path / "slow.json").write_text(lines[0])
    arguments = (tmp_path / "slow.json", *MACHINE, "--num-gpu-blocks", "1001", "--out", tmp_path / "h.json")
    report = json.loads(good("calibrate", "requests", *arguments, "--format", "json").stdout)
    assert report["loads"][0]["requests"] == 60
    assert len(report["loads"][0]["errors"]) == len(report["loads"][0]["held_out_errors"]) == 3
    assert any("One load does not show" in remark for remark in report["remarks"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "page.txt", "--num-gpu-blocks", "9"), "--metrics states the KV cache"),
        (("--metrics", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (("--metrics", "bench.json"), "is not a page of metrics"),
        (("--trace-format", "azure"), "format azure has no times at which requests were served"),
        (("--num-gpu-blocks", "20"), "KV"),
        (("--max-model-len", "500"), "tokens was served, so max_model_len = 500 is not the server's"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(results: Path, arguments: tuple[str, ...], message: str) -> None:
    folder = results.parent
    paths = [str(folder / word) if "." in word else word for word in arguments]
    done = fluidgate_run("calibrate", "requests", results, *MACHINE, *paths, "--out", folder / "unused.json")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "unused.json").exists()
