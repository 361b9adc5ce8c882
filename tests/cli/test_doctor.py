"""`fluidgate doctor` as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ..doctor.pages import page as page_of
from ..vllm_metrics.hostile import hostile, page, sends
from .calls import FLUIDGATE

DATA = Path(__file__).parents[1] / "doctor" / "data"
EARLIER, LATER, LOG, GATE = (DATA / f"{name}.txt" for name in ("busy_earlier", "busy_later", "vllm_log", "gate"))


def doctor(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [FLUIDGATE, "doctor", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | environment)


def good(*arguments: object) -> str:
    done = doctor(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_size_of_the_cache_can_be_given(tmp_path: Path) -> None:
    """3,199 blocks are published with the block size of another engine."""
    stale = tmp_path / "stale.txt"
    prompts, outputs, config = (1000,) * 900, (200,) * 900, {"num_gpu_blocks": 3200, "enable_prefix_caching": "False"}
    stale.write_text(page_of(running=250, kv_use=0.19, finished=900, prompts=prompts, outputs=outputs, config=config))
    assert "The page contradicts itself" in good(stale)
    given = good(stale, "--kv-cache-tokens", 3199 * 528)
    assert "memory allows about" in " ".join(given.split())
    assert "KV cache of an engine: 1,689,072 tokens" in given
    twice = doctor(stale, "--kv-cache-tokens", 10_000, "--num-gpu-blocks", 9, "--block-size", 16)
    assert twice.returncode == 1
    assert "the KV cache is given twice" in twice.stderr
    for options in (("--tp", 2), ("--hardware", "nowhere.json", "--tp", 2)):
        assert "--tp" in doctor(stale, *options).stderr


def test_the_log_of_another_engine_is_named(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("[2026-01-02 03:04:05 TP0] Decode batch. #running-req: 4, #token: 900, token usage: 0.91\n")
    done = doctor(log)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("is SGLang's log; fluidgate reads vLLM's")


@contextmanager
def served(*pages: tuple[int, str]) -> Iterator[str]:
    """A server that answers each request with the next page, and with the last one from then on; yields its address."""
    left = list(pages)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            status, text = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Tests are quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_scrape_is_told_in_words() -> None:
    out = good(LATER)
    assert "KV memory binds" in out
    assert "109 preemptions, 0.973 per finished request" in out
    assert "What to change, in order of benefit" in out
    assert "GateScheduler" in out


def test_two_scrapes_with_hardware_and_limits_as_json() -> None:
    hardware = [
        "--model",
        "llama-2-7b",
        "--gpu",
        "a100-80gb",
        "--max-num-seqs",
        "32",
        "--max-num-batched-tokens",
        "512",
    ]
    told = json.loads(good(EARLIER, "--second", LATER, "--wait-s", "6", *hardware, "--format", "json"))
    findings = {finding["name"]: finding for finding in told["findings"]}
    assert told["source"].endswith("6 s apart")
    assert findings["preemptions"]["numbers"]["preemptions"] == 41
    assert findings["load"]["numbers"]["boundary_rate"] > 0
    assert "not given" not in findings["load"]["says"]
    assert [change["what"] for change in told["changes"]]


def test_a_log_says_what_it_can_and_what_it_cannot() -> None:
    out = good(LOG)
    assert "KV memory binds" in out
    assert "Cannot tell preemptions" in out


def test_a_page_with_the_gate() -> None:
    assert "it waits for memory, as planned" in " ".join(good(GATE).split())


def test_a_server_is_scraped_over_the_time_that_is_given() -> None:
    with served((200, EARLIER.read_text()), (200, LATER.read_text())) as url:
        told = json.loads(good(url, "--wait-s", "0.5", "--format", "json"))
    (finding,) = [finding for finding in told["findings"] if finding["name"] == "preemptions"]
    assert finding["numbers"]["preemptions"] == 41
    apart = re.fullmatch(re.escape(url) + r"/metrics, two scrapes (\S+) s apart", told["source"])
    assert apart is not None
    assert float(apart[1]) >= 0.5


def test_a_server_is_looked_at_in_between() -> None:
    with served((200, EARLIER.read_text()), (200, LATER.read_text())) as url:
        assert "of 3 moments with work" in " ".join(good(url, "--wait-s", "2").split())


@pytest.mark.parametrize("path", ["/", "/metrics", "/metrics/"])
def test_an_address_may_name_the_page(path: str) -> None:
    with served((200, LATER.read_text())) as url:
        assert "KV memory binds" in good(url + path)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((404, "Not Found"), "the server answers HTTP 404"),
        ((200, "<html>hello</html>"), "is not a page of metrics but HTML"),
        ((200, "sglang:num_running_reqs 1\n"), "the metrics are SGLang's"),
    ],
)
def test_servers_that_are_not_vllm_are_named(answer: tuple[int, str], sentence: str) -> None:
    with served(answer) as url:
        done = doctor(url)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_restart_between_two_scrapes_is_noticed() -> None:
    with served((200, LATER.read_text()), (200, EARLIER.read_text())) as url:
        done = doctor(url, "--wait-s", "0.2")
    assert done.returncode == 1
    assert "the server was started again in between" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["http://127.0.0.1:1"], "no answer"),
        (["ftp://somewhere"], "is not an address of a server"),
        (["http://[::1"], "is not an address"),
        (["no-such-file.txt"], "cannot be read (No such file or directory)"),
        (["localhost:1"], "http://localhost:1/metrics: no answer"),
        ([LATER, "--wait-s", "5"], "--wait-s needs a server's address"),
        ([EARLIER, "--second", LATER, "--wait-s", "-1"], "must be above 0"),
        ([EARLIER, "--second", LATER, "--wait-s", "nan"], "must be above 0"),
        (["http://127.0.0.1:1", "--second", LATER], "goes with a first one in a file"),
        ([LATER, "--second", EARLIER], "went backwards"),
        ([LATER, "--second", LOG], "is not a line of Prometheus metrics"),
        ([LATER, "--model", "llama-2-7b"], "--model and --gpu go together"),
        ([LATER, "--num-gpu-blocks", "100"], "--num-gpu-blocks and --block-size go together"),
        (
            [LATER, "--model", "llama-2-7b", "--gpu", "a100", "--num-gpu-blocks", "136992", "--block-size", "16"],
            "136,992 KV blocks of 16 tokens take 1,070 GiB",
        ),
        ([LATER, "--num-gpu-blocks", "1", "--block-size", "16"], "holds nothing"),
        ([__file__], "is not a line of Prometheus metrics"),
        (["/dev/null"], "is empty"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[object], sentence: str) -> None:
    done = doctor(*arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_what_lets_us_in_is_sent_and_never_shown() -> None:
    text = page(LATER.read_bytes())
    for begin, arguments, environment, sent in (
        ("alice:s3cr3t@", [], {}, "Basic YWxpY2U6czNjcjN0"),
        ("", ["--api-key", "s3cr3t"], {}, "Bearer s3cr3t"),
        ("", [], {"OPENAI_API_KEY": "s3cr3t"}, "Bearer s3cr3t"),
    ):
        with hostile(sends(text)) as server:
            url = f"http://{begin}{server.place}"
            done = doctor(url, "--wait-s", "0.1", "--format", "json", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        assert server.authorizations() == [sent, sent, sent], "the page twice, and the version"
        assert json.loads(done.stdout)["source"].startswith(f"http://{server.place}/metrics")
        for secret in ("s3cr3t", "alice", "YWxpY2U6czNjcjN0"):
            assert secret not in done.stdout + done.stderr


def test_a_hostile_server_is_one_sentence() -> None:
    with hostile(sends(b"-ERR unknown command\r\n")) as server:
        done = doctor(f"http://alice:s3cr3t@{server.place}")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: http://{server.place}/metrics: what answers there does not speak HTTP; is it vLLM's port?\n"
    )
