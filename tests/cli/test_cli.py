"""The commands as a user types them: results, exit codes, and one clear sentence on bad input."""

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest

import fluidgate
from fluidgate.cli.options import WorkloadOptions

from .calls import FLUIDGATE, fluidgate_run, good

SMALL = ["--preset", "p512-d20", "--requests", "80", "--rate", "5"]


@pytest.mark.parametrize(
    "command",
    [
        ("plan",),
        ("simulate",),
        ("compare",),
        ("emulate",),
        ("trace", "info"),
        ("trace", "convert"),
        ("trace", "generate"),
    ],
    ids=" ".join,
)
def test_help_shows_an_example(command: tuple[str, ...]) -> None:
    done = good(*command, "--help")
    assert "Example" in done.stdout
    assert f"fluidgate {' '.join(command)}" in " ".join(done.stdout.split())


def test_version() -> None:
    assert good("--version").stdout.strip() == f"fluidgate {fluidgate.__version__}"


def test_plan_prints_numbers_and_words() -> None:
    done = good("plan", *SMALL)
    assert "stability boundary" in done.stdout
    assert "Sustainable" in done.stdout or "Overload" in done.stdout
    assert "drawn from p512-d20" in done.stderr  # remarks stay out of the result


def test_plan_json_agrees_with_the_library(tmp_path: Path) -> None:
    done = good("plan", *SMALL, "--format", "json", "--output-dir", str(tmp_path))
    printed = json.loads(done.stdout)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert {key: written[key] for key in printed} == printed
    assert written["command"].startswith("fluidgate plan --preset p512-d20")
    workload = fluidgate.generate("p512-d20", n=80, rate=5, seed=0)
    plan = fluidgate.plan(workload, fluidgate.get_hardware("llama-2-7b", "a100-80gb"), rate=5)
    assert printed["stability"]["boundary_rate"] == pytest.approx(plan.stability.boundary_rate, rel=1e-12)
    assert printed["stability"]["rate"] == pytest.approx(5, rel=1e-12)  # a draw's own rate is another
    said = " ".join(good("plan", *SMALL, "--all").stdout.split())
    assert all(sentence in said for sentence in printed["verdict"] + printed["thresholds_verdict"])
    saved = json.loads(good("plan", *SMALL, "--format", "json", "--save", "p.json", cwd=tmp_path).stdout)
    assert saved["policy_saved"].startswith("fluid")


def test_plan_says_who_is_served_in_time_where_clients_give_up() -> None:
    said = " ".join(good("plan", *SMALL, "--client-timeout", "60").stdout.split())
    assert "completed in time" in said
    assert "with a timeout of 60 s stock admission completes about" in said
    printed = json.loads(good("plan", *SMALL, "--ttft-timeout", "exp:2", "--format", "json").stdout)
    assert printed["deadlines"]["ttft_timeout"] == "exp:2"
    assert printed["verdict"][-1] in said.replace("a timeout of 60 s", "a TTFT timeout of exp:2")
    plain = json.loads(good("plan", *SMALL, "--format", "json").stdout)
    assert plain == {key: value for key, value in printed.items() if key != "deadlines"} | {
        "verdict": printed["verdict"][:-1]
    }


def test_every_draw_of_a_preset_comes_at_the_given_rate() -> None:
    draws = WorkloadOptions(preset="azure-conv-2023", rate=7.0, requests=60).draws(2)
    assert [draw.rate for draw in draws] == pytest.approx([7.0, 7.0], rel=1e-12)
    assert {draw.name for draw in draws} == {"azure-conv-2023 at 7/s"}
    assert len(WorkloadOptions(rate=7.0, requests=1).load()) == 1  # one request has no rate to give it


def test_simulate_repeats_and_files(tmp_path: Path) -> None:
    done = good("simulate", *SMALL, "--repeats", "2", "--format", "json", "--output-dir", str(tmp_path))
    summaries = json.loads(done.stdout)
    assert len(summaries) == 2
    assert [s["completed"] for s in summaries] == [80, 80]
    assert summaries[0]["mean_ttft_ms"] != summaries[1]["mean_ttft_ms"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["repeats"] == summaries
    lines = (tmp_path / "requests.csv").read_text().splitlines()
    about = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    assert {key: json.loads(text) for key, text in about.items()} == {
        key: value for key, value in summary.items() if key != "repeats"
    }
    assert {"fluidgate", "command", "seed", "hardware", "workload"} <= about.keys()
    assert len([line for line in lines if not line.startswith("#")]) == 81
    again = json.loads(good("simulate", *SMALL, "--repeats", "2", "--format", "json").stdout)
    assert again == summaries  # same seed, same bits


def test_simulate_writes_a_trace_for_perfetto(tmp_path: Path) -> None:
    plain = good("simulate", *SMALL, "--format", "json").stdout
    assert good("simulate", *SMALL, "--format", "json", "--perfetto", "t.json", cwd=tmp_path).stdout == plain
    trace = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert trace["otherData"]["policy"] == "fluid"
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X", "C"}


def test_objectives_are_met_or_missed_by_how_much(tmp_path: Path) -> None:
    bounds = ("--slo", "p99:ttft:60000", "mean:e2el:1", "goodput:0.5", "--goodput", "ttft:1")
    shown = good("simulate", *SMALL, "--repeats", "2", *bounds, "--output-dir", str(tmp_path)).stdout
    assert re.search(r"p99 TTFT of at most 60 s: .+, met by \d", shown)
    assert re.search(r"mean E2E latency of at most 1 ms: .+, missed by \d", shown)
    assert "goodput of at least 50%: 0%, missed by 100%" in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [entry["met"] for entry in summary["objectives"]] == [True, False, False]
    alone = json.loads(good("simulate", *SMALL, "--repeats", "2", *bounds, "--format", "json").stdout)
    assert [[entry["met"] for entry in repeat["objectives"]] for repeat in alone] == [[True, False, False]] * 2
    means = [[entry["mean"] for entry in repeat["objectives"]] for repeat in alone]
    assert summary["objectives"][0]["mean"] == pytest.approx((means[0][0] + means[1][0]) / 2)
    compared = json.loads(good("compare", *SMALL, "--policy", "greedy", *bounds, "--format", "json").stdout)
    assert [entry["met"] for entry in compared["scenarios"][0]["cells"][0]["objectives"]] == [True, False, False]


def test_goodput_is_taken_as_vllm_bench_takes_it() -> None:
    strict = json.loads(good("simulate", *SMALL, "--goodput", "ttft:1", "tpot:50", "--format", "json").stdout)
    loose = json.loads(good("simulate", *SMALL, "--goodput", "ttft:60000", "--format", "json").stdout)
    assert strict[0]["request_goodput"] == 0
    assert loose[0]["goodput_share"] == 1


def test_compare_table_json_and_report(tmp_path: Path) -> None:
    arguments = (
        "compare",
        "--preset",
        "p512-d20",
        "--requests",
        "80",
        "--repeats",
        "2",
        "--load",
        "0.5",
        "--load",
        "1.2",
    )
    policies = ("--policy", "greedy", "--policy", "concurrency-cap:cap=3")
    tables = ("--csv", str(tmp_path / "runs.csv"), "--parquet", str(tmp_path / "runs.parquet"))
    done = good(*arguments, *policies, "--output-dir", str(tmp_path), *tables)
    assert "concurrency-cap:cap=3" in done.stdout
    assert {"runs.csv", "runs.parquet"} <= {path.name for path in tmp_path.iterdir()}
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert [scenario["load"] for scenario in result["scenarios"]] == [0.5, 1.2]
    capped = result["scenarios"][1]["cells"][1]
    assert capped["parameters"] == {"cap": 3.0}
    assert capped["metrics"]["mean_ttft_ms"]["difference"]["mean"] > 0  # three seats keep requests waiting
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "concurrency-cap:cap=3" in report
    assert "have no timelines" not in report
    assert "vllm serve llama-2-7b --scheduler-cls" in report
    assert "vllm serve llama-2-7b<" in report, "greedy is stock vLLM, whose own limits were planned for"


def test_compare_writes_html_and_figures_where_it_is_told(tmp_path: Path) -> None:
    files = ("--html", "page.html", "--figures", "drawn")
    policies = ("--policy", "shortest-first", "--repeats", "1")
    done = good("compare", *SMALL, *policies, *files, cwd=tmp_path)
    drawn = sorted(path.suffix for path in (tmp_path / "drawn").iterdir())
    assert f"wrote {len(drawn)} figures to drawn" in done.stderr
    assert set(drawn) == {".svg"}
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No line for vLLM: policy shortest-first orders the queue" in page
    assert "fluidgate compare --preset p512-d20" in page


def test_trace_round_trip(tmp_path: Path) -> None:
    good("trace", "generate", "a.jsonl", "--preset", "three-types", "--requests", "50", "--seed", "4", cwd=tmp_path)
    good("trace", "convert", "a.jsonl", "b.csv.gz", "--rate-scale", "2", cwd=tmp_path)
    facts = [
        json.loads(good("trace", "info", name, "--format", "json", cwd=tmp_path).stdout)
        for name in ("a.jsonl", "b.csv.gz")
    ]
    assert facts[0]["requests"] == facts[1]["requests"] == 50
    assert facts[0]["duration_s"] == pytest.approx(2 * facts[1]["duration_s"])
    shown = good("trace", "info", "a.jsonl", cwd=tmp_path)
    assert "rate" in shown.stdout
    assert facts[0]["name"] in shown.stdout
    assert facts[0]["note"] in " ".join(shown.stderr.split())
    assert "50 requests" in facts[0]["note"]


def test_jitter_spreads_batches_of_equal_timestamps(tmp_path: Path) -> None:
    rows = [
        {"timestamp": at, "input_length": 4, "output_length": 2, "hash_ids": []} for at in (0, 0, 0, 3000, 3000, 3000)
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, spread = (
        json.loads(good("trace", "info", "m.jsonl", "--format", "json", *more, cwd=tmp_path).stdout)
        for more in ((), ("--jitter-seed", "1"))
    )
    assert plain["duration_s"] == 3.0
    assert spread["duration_s"] > 3.0


def test_a_real_trace(shared_dir: Path) -> None:
    trace = shared_dir / "traces" / "AzureLLMInferenceTrace_conv.csv"
    done = good(
        "compare",
        "--trace",
        str(trace),
        "--model",
        "llama-2-7b",
        "--gpu",
        "a100-80gb",
        "--rate-scale",
        "2",
        "--requests",
        "1500",
        "--repeats",
        "2",
        "--policy",
        "greedy",
        "--policy",
        "watermark",
    )
    assert "19,366 requests kept" in done.stderr
    assert "Overload" in done.stdout


BAD = [
    (("experiment", "gate", "--part", "priors", "--figures", "f"), "--figures draws part curves: add --part curves"),
    (("experiment", "paper", "--part", "theory", "--figures", "f"), "--figures draws part latency and scaling"),
    (("simulate", "--slo", "goodput:0.5"), "goodput:0.5 needs --goodput"),
    (("frontier", "--slo", "ttft:2000"), "write STATISTIC:LATENCY:MILLISECONDS"),
    (("plan", "--trace", "missing.csv"), "missing.csv"),
    (("plan", "--trace", "broken.csv"), "broken.csv:3"),
    (("plan", "--trace", "empty.csv"), "empty"),
    (("plan", "--model", "llama-9"), "unknown model 'llama-9'"),
    (("plan", "--gpu", "a1000"), "give its data sheet"),
    (("plan", "--gpu", "mine", "--gpu-memory-gib", "48"), "add --gpu-bandwidth and --gpu-tflops"),
    (("plan", "--num-gpu-blocks", "100", "--kv-cache-tokens", "1600"), "the KV cache is given twice"),
    (("plan", "--hardware", "nowhere.json", "--link-gbps", "16"), "--hardware states the machine"),
    (("plan", "--preset", "nothing"), "unknown preset 'nothing'"),
    (("plan", "--rate", "-1"), "rate"),
    (("plan", "--client-timeout", "soon"), "--client-timeout 'soon': write seconds above 0"),
    (("plan", "--rate", "nan"), "rate"),
    (("plan", "--rate-scale", "0"), "rate scale 0"),
    (("plan", "--hardware", "nowhere.json"), "nowhere.json"),
    (("simulate", *SMALL, "--policy", "greeedy"), "did you mean greedy?"),
    (("simulate", *SMALL, "--policy", "wait:speed=3"), "'speed=3' is not key=value"),
    (("compare", *SMALL, "--frontier"), "--frontier adds stable rates of one engine to the report: give --html"),
    (("simulate", *SMALL, "--policy", "concurrency-cap:cap=0"), "cap = 0.0 must be at least 1"),
    (("simulate", *SMALL, "--mode", "v2"), "engine mode 'v2'"),
    (("simulate", *SMALL, "--scheduler-preset", "vidur"), "scheduler preset vidur has no mode vllm; use mode sarathi"),
    (("simulate", *SMALL, "--mode", "sarathi", "--scheduler-preset", "sim"), "unknown scheduler preset 'sim'"),
    (("simulate", *SMALL, "--decodes-need-spare-block"), "mode vllm has no decodes_need_spare_block"),
    (("simulate", *SMALL, "--watermark", "1.5"), "watermark = 1.5"),
    (("simulate", *SMALL, "--max-num-seqs", "0"), "max_num_seqs = 0"),
    (("simulate", *SMALL, "--num-gpu-blocks", "8"), "can never fit"),
    (("simulate", *SMALL, "--goodput", "speed:3"), "speed"),
    (("compare", *SMALL[:-2], "--load", "-1"), "load -1"),
    (("compare", *SMALL, "--policy", "greedy", "--policy", "greedy"), "named twice"),
    (("trace", "info", "broken.csv"), "broken.csv:3"),
    (("trace", "info", "good.csv", "--jitter-seed", "1"), "has no option 'jitter_seed'"),
    (("trace", "convert", "good.csv", "out.xls"), ".jsonl (Mooncake) or .csv (Vidur)"),
    (("trace", "convert", "good.csv", "out.csv", "--start", "99"), "holds no request"),
    (("trace", "generate", "out.csv", "--requests", "5", "--duration", "5"), "not both"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    header = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    (folder / "good.csv").write_text(header + "0.0,5,5\n1.0,6,6\n")
    (folder / "broken.csv").write_text(header + "0.0,5,5\n1.0,nan,6\n")
    (folder / "empty.csv").write_text("")
    return folder


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], words: str, folder: Path) -> None:
    done = fluidgate_run(*arguments, cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert "Traceback" not in done.stderr


def test_a_wrong_option_is_refused() -> None:
    done = fluidgate_run("plan", "--no-such-option")
    assert done.returncode == 2
    assert "no-such-option" in done.stderr.lower()


def test_replicas_behind_a_router(tmp_path: Path) -> None:
    fleet = ("--replicas", "3", "--router", "least-kv")
    done = good("simulate", *SMALL, *fleet, "--format", "json", "--output-dir", str(tmp_path))
    (summary,) = json.loads(done.stdout)
    assert (summary["replicas"], summary["router"], summary["completed"]) == (3, "least-kv", 80)
    assert 1 <= summary["imbalance"] <= 3
    columns = (tmp_path / "requests.csv").read_text()
    assert "replica" in columns
    assert "3 replicas behind least-kv" in good("simulate", *SMALL, *fleet).stdout
    compared = json.loads(
        good("compare", *SMALL, *fleet, "--policy", "greedy", "--repeats", "1", "--format", "json").stdout
    )
    assert (compared["replicas"], compared["router"]) == (3, "least-kv")


@pytest.mark.parametrize(
    ("fleet", "words"),
    [
        (("--replicas", "0"), "error: replicas = 0 must be a whole number, at least 1\n"),
        (("--router", "fastest"), "error: unknown router 'fastest'. Known: round-robin, least-loaded, least-kv"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(fleet: tuple[str, ...], words: str) -> None:
    done = fluidgate_run("simulate", *SMALL, *fleet)
    assert done.returncode == 1
    assert done.stderr.startswith(words)


def test_the_memory_share_of_the_options_is_the_librarys() -> None:
    from fluidgate.cli.calibrate import MemoryOptions
    from fluidgate.cli.options import HardwareOptions
    from fluidgate.hardware.gpus import DEFAULT_MEMORY_UTILIZATION

    options = (HardwareOptions(), MemoryOptions())
    assert {given.gpu_memory_utilization for given in options} == {DEFAULT_MEMORY_UTILIZATION}


def test_a_refused_request_has_its_row(tmp_path: Path) -> None:
    run = ("simulate", "--preset", "azure-conv-2023", "--requests", "300", "--rate", "1", "--policy", "greedy")
    good(*run, "--output-dir", str(tmp_path))
    (summary,) = json.loads((tmp_path / "summary.json").read_text())["repeats"]
    lines = (tmp_path / "requests.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    refused = [row for row in rows if int(row["prompt_tokens"]) + int(row["output_tokens"]) > 4096]
    assert 0 < len(refused) == summary["refused"]
    assert len(rows) == summary["offered"] == summary["completed"] + summary["refused"] == 300
    assert [row["refused"] for row in rows].count("True") == len(refused)
    assert all(row["refused"] == "True" and row["first_token_s"] == "nan" for row in refused)
    arrivals = [float(row["arrival_s"]) for row in rows]
    assert arrivals == sorted(arrivals)


def test_clients_that_give_up_are_counted_and_only_then(tmp_path: Path) -> None:
    overload = ("simulate", "--preset", "p512-d20", "--requests", "80", "--rate", "60", "--policy", "greedy")
    patient = json.loads(good(*overload, "--format", "json").stdout)[0]
    assert not {"aborted", "success_share", "wasted_share", "wasted_tokens"} & patient.keys()
    assert "aborted" not in good(*overload).stdout
    timeouts = ("--client-timeout", "2", "--ttft-timeout", "lognormal:1:0.5")
    done = good(*overload, *timeouts, "--output-dir", str(tmp_path))
    assert "Requests aborted by their clients" in done.stdout
    (summary,) = json.loads((tmp_path / "summary.json").read_text())["repeats"]
    assert summary["aborted"] > 5
    assert summary["completed"] + summary["aborted"] == summary["offered"] == 80
    assert summary["success_share"] == summary["completed"] / 80
    assert 0 < summary["wasted_share"] < 1
    lines = (line for line in (tmp_path / "requests.csv").read_text().splitlines() if not line.startswith("#"))
    rows = list(csv.DictReader(lines))
    gone = [row for row in rows if row["aborted"] == "True"]
    assert len(gone) == summary["aborted"]
    assert all(float(row["gave_up_s"]) <= float(row["left_s"]) for row in gone)
    assert sum(int(row["spent_tokens"]) for row in gone) == summary["wasted_tokens"]
    e2el_ms = [
        1e3 * (float(row["last_token_s"]) - float(row["arrival_s"])) for row in rows if row["finished"] == "True"
    ]
    assert max(e2el_ms) <= 2000


def test_compare_shows_who_gives_up(tmp_path: Path) -> None:
    command = ("compare", "--preset", "p512-d20", "--requests", "80", "--repeats", "2", "--load", "1.5")
    policies = ("--policy", "greedy", "--policy", "sglang")
    done = good(*command, *policies, "--client-timeout", "exp:1", "--output-dir", str(tmp_path))
    assert "served" in done.stdout
    assert "waste" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    cell = json.loads((tmp_path / "comparison.json").read_text())["scenarios"][0]["cells"][0]
    assert cell["metrics"]["success_share"]["mean"] < 1
    assert "Requests aborted by their clients" in (tmp_path / "report.html").read_text(encoding="utf-8")
    plain = good(*command, *policies, "--format", "json")
    assert "aborted" not in json.loads(plain.stdout)["scenarios"][0]["cells"][0]["metrics"]


@pytest.mark.parametrize("command", ["simulate", "compare", "emulate", "frontier"])
def test_a_bad_timeout_is_one_sentence(command: str) -> None:
    done = fluidgate_run(command, "--preset", "p512-d20", "--requests", "80", "--client-timeout", "soon")
    assert done.returncode != 0
    assert "--client-timeout 'soon': write seconds above 0, exp:MEAN or lognormal:MEDIAN:SIGMA" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_loop_as_vllm_bench_makes_it(tmp_path: Path) -> None:
    options = ["--request-rate", "inf", "--max-concurrency", "4", "--policy", "greedy"]
    good("simulate", "--preset", "p512-d20", "--requests", "40", *options, "--output-dir", str(tmp_path))
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept["workload"]["name"] == "p512-d20, 4 in flight"
    lines = (tmp_path / "requests.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    sent = [float(row["arrival_s"]) for row in rows]
    ends = sorted(float(row["last_token_s"]) for row in rows)
    assert sent[:4] == [0.0] * 4
    assert sent[4:] == pytest.approx(ends[:36])


def test_sessions_go_through_a_file(tmp_path: Path) -> None:
    trace = str(tmp_path / "chat.jsonl")
    good("trace", "generate", trace, "--preset", "lmsys", "--requests", "60", "--rate", "5", "--turns", "3")
    done = good("simulate", "--trace", trace, "--burstiness", "0.5", "--rate", "4", "--policy", "greedy")
    assert "later turns, sent when the reply before has come: " in done.stderr
    refused = fluidgate_run("trace", "convert", trace, str(tmp_path / "chat.csv"))
    assert refused.returncode != 0
    assert "no place for sessions" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("simulate", "--rate", "inf", "--burstiness", "0.5"), "shapes arrivals at a finite rate"),
        (("simulate", "--burstiness", "0"), "burstiness = 0.0 must be a number above 0"),
        (("simulate", "--concurrency", "0"), "--concurrency"),
        (("simulate", "--turns", "3", "--think-time", "-1"), "think_time_s = -1.0 must be between 0"),
        (("compare", "--concurrency", "8", "--load", "0.9"), "leave loads out"),
        (("frontier", "--turns", "3"), "turns wait for replies"),
    ],
)
def test_loops_that_make_no_sense_are_refused(arguments: tuple[str, ...], words: str) -> None:
    done = fluidgate_run(*arguments, "--preset", "p512-d20", "--requests", "100")
    assert done.returncode != 0
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_own_logs_are_read_by_every_command_that_takes_a_trace(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text("when\tn_in\tn_out\n0\t30\t4\n500\t40\t5\n2000\t50\t6\n")
    options = ["--trace", "log.tsv", "--columns", "time=when,prompt=n_in,output=n_out"]
    asked = fluidgate_run("simulate", *options, cwd=tmp_path)
    assert asked.returncode == 1
    assert "may be s, ms, us or ns: give time_unit (--time-unit)" in asked.stderr
    done = good("simulate", *options, "--time-unit", "ms", "--format", "json", cwd=tmp_path)
    assert json.loads(done.stdout)[0]["completed"] == 3
    assert "columns time = when (ms, as told), prompt = n_in, output = n_out" in done.stderr


def test_a_trace_comes_from_standard_input_with_a_rate_where_it_has_no_times() -> None:
    done = subprocess.run(
        [FLUIDGATE, "plan", "--trace", "-", "--rate", "2", "--format", "json"],
        input="isl,osl\n" + "300,40\n" * 50,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "stdin: 50 requests kept of 50 rows" in done.stderr
    assert "arrivals drawn from Poisson(rate=2.0)" in done.stderr
