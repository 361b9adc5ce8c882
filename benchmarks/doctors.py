"""What `fluidgate doctor` and vllm-doctor find on the same pages, as the table of docs/doctor.md.

    python benchmarks/doctors.py                        # fluidgate's column alone
    python benchmarks/doctors.py --rival vllm-doctor    # both; pip install vllm-doctor==0.6.0 elsewhere

vllm-doctor reads an address, so each page is served on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.doctor.pages import page

from fluidgate.doctor import Diagnosis, Severity, diagnose, diagnose_fleet, read_servers

ERRORS = 'vllm:request_success_total{engine="0",model_name="m",finished_reason="error"} 25'
STALE = {"num_gpu_blocks": 3200, "enable_prefix_caching": "False"}
PAGES = {
    "full cache, 20 wait, 30 evictions": page(kv_use=0.97, waiting=20, running=60, preemptions=30),
    "evictions, room at the moment": page(running=9, waiting=77, kv_use=0.854, preemptions=106),
    "20 wait beside a cache that is 40% full": page(kv_use=0.4, waiting=20),
    "two pods, caches 52% and 43% full": page(replica="a", running=30, kv_use=0.52)
    + page(replica="b", running=20, kv_use=0.43),
    "two pods, one with a queue, one idle": page(replica="a", running=100, waiting=100, kv_use=0.97)
    + page(replica="b", running=20),
    "25 requests ended in an error": page(extra=[ERRORS]),
    "70 clients gave up": page(first_s=(0.2,) * 200, unfinished=(7000, 900)),
    "first tokens queue 9 s": page(queue_s=(9.0,) * 100, prefill_s=(1.0,) * 100, first_s=(10.0,) * 100),
    "tokens every 300 ms": page(gaps_s=(0.3,) * 500),
    "100 gaps of 0.9 s": page(gaps_s=(0.02,) * 4900 + (0.9,) * 100),
    "10% of prompts from the prefix cache": page(prefix=(1000, 100)),
    "block size of another model": page(
        running=250, kv_use=0.19, finished=900, prompts=(1000,) * 900, outputs=(200,) * 900, config=STALE
    ),
    "full cache, names of vLLM 0.8": page(kv_use=0.97, waiting=20, preemptions=40)
    .replace("kv_cache_usage_perc", "gpu_cache_usage_perc")
    .replace("inter_token_latency", "time_per_output_token"),
}


def ours(text: str) -> list[str]:
    """Findings that ask to act, to watch, or to ask once more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.txt"
        path.write_text(text)
        servers, _ = read_servers([str(path)])
    found: Diagnosis | None = diagnose(servers[0]) if len(servers) == 1 else diagnose_fleet(servers).together
    assert found is not None
    return [finding.name for finding in found.findings if finding.severity in (Severity.ACT, Severity.WATCH)]


def rivals(text: str, program: str) -> list[str]:
    """The titles of vllm-doctor's findings."""
    with served(text) as url, tempfile.TemporaryDirectory() as home:
        words = [program, "diagnose", url, "--output", "json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"HOME": home})
    checks = json.loads(done.stdout)["checks"]
    return [check["finding"]["title"].lower() for check in checks if check["finding"] is not None]


@contextmanager
def served(text: str) -> Iterator[str]:
    """The address of a page, while it is served."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Only the table is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", help="the program vllm-doctor")
    rival = parser.parse_args().rival
    print("| page | `fluidgate doctor` |" + " vllm-doctor |" * bool(rival))
    print("|---|---|" + "---|" * bool(rival))
    for what, text in PAGES.items():
        columns = [", ".join(f"`{name}`" for name in ours(text)) or "nothing to change"]
        if rival:
            columns.append(", ".join(rivals(text, rival)) or "nothing")
        print(f"| {' | '.join([what, *columns])} |", flush=True)


if __name__ == "__main__":
    main()
