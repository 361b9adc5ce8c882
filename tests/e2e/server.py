"""`served`: vLLM's server on this machine's CPU, over HTTP, with or without fluidgate's scheduler."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

GATE = "fluidgate.serving.scheduler.GateScheduler"
BLOCK_SIZE, NUM_BLOCKS, SEATS, TOKEN_BUDGET, MODEL_LEN = 32, 49, 32, 512, 512
"""A KV cache of 48 blocks that hold something, of which 32 requests of the tests would need three times as many."""

VLLM = Path(__file__).with_name("vllm_cli.py")
"""The `vllm` command: `python VLLM serve …`."""
HANGS_S, _STOP_S = 1800.0, 15.0
"""What takes half an hour hangs: a start takes half a minute on an idle machine, the longest benchmark less."""
_LIMITS = {
    "--block-size": BLOCK_SIZE,
    "--num-gpu-blocks-override": NUM_BLOCKS,
    "--max-num-seqs": SEATS,
    "--max-num-batched-tokens": TOKEN_BUDGET,
    "--max-model-len": MODEL_LEN,
}


@dataclass(frozen=True)
class Server:
    """A server that answers; `group`: its processes."""

    model: str
    port: int
    log: Path
    group: int = 0

    def kill(self) -> None:
        """End its processes at once, as a crash of the machine would."""
        os.killpg(self.group, signal.SIGKILL)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def request(self, path: str, body: bytes | None = None, timeout_s: float = HANGS_S) -> tuple[int, str]:
        """Status and text of an answer, errors included."""
        headers = {"Content-Type": "application/json"}
        try:
            query = urllib.request.Request(self.url + path, body, headers)
            with urllib.request.urlopen(query, timeout=timeout_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def complete(self, **parameters: Any) -> tuple[int, dict[str, Any]]:
        """A greedy completion: status and answer."""
        values = {"model": self.model, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **parameters}
        status, text = self.request("/v1/completions", json.dumps(values).encode())
        return status, json.loads(text)

    def outputs(self, prompts: Sequence[list[int]], output_tokens: Sequence[int]) -> list[list[int]]:
        """Token ids of completions that are asked for all at once."""

        def one(prompt: list[int], tokens: int) -> list[int]:
            status, answer = self.complete(prompt=prompt, max_tokens=tokens)
            assert status == 200, answer
            return list(answer["choices"][0]["token_ids"])

        with ThreadPoolExecutor(len(prompts)) as clients:
            return list(clients.map(one, prompts, output_tokens))

    def metrics(self) -> dict[str, float]:
        """Every metric's value, summed over its labels."""
        sums: dict[str, float] = {}
        for line in self.request("/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, value = line.split("{")[0].split(" ")[0], float(line.rsplit(" ", 1)[1])
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def bench(self, *arguments: str) -> dict[str, Any]:
        """Results of `vllm bench serve` with random prompts and streamed, greedy answers."""
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(VLLM), "bench", "serve", *self.bench_arguments, *arguments]
            kept = ["--save-result", "--result-dir", folder, "--result-filename", "result.json", "--disable-tqdm"]
            run = subprocess.run([*command, *kept], env=_environment(), capture_output=True, text=True, timeout=HANGS_S)
            assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
            return dict(json.loads(Path(folder, "result.json").read_text(encoding="utf-8")))

    @property
    def bench_arguments(self) -> list[str]:
        """What every benchmark has in common."""
        where = ["--backend", "openai", "--host", "127.0.0.1", "--port", str(self.port), "--model", self.model]
        return [*where, "--dataset-name", "random", "--ignore-eos", "--temperature", "0"]


@contextmanager
def served(
    model: Path,
    scheduler: str | None = None,
    *,
    plan: Path | None = None,
    flags: Sequence[str] = (),
    port: int | None = None,
) -> Iterator[Server]:
    """A server with the small KV cache of these tests, stopped for sure at the end.

    Args:
        model: folder of a model, whose weights are made up.
        scheduler: class for `--scheduler-cls`; None: stock vLLM.
        plan: plan file for fluidgate's scheduler; None: it learns.
        flags: more arguments of `vllm serve`.
        port: where it listens; None: where nothing does.
    """
    with tempfile.TemporaryDirectory() as folder:
        metrics, log = Path(folder, "metrics"), Path(folder, "server.log")
        metrics.mkdir()
        server = Server(str(model), port or free_port(), log)
        limits = [word for flag, value in _LIMITS.items() for word in (flag, str(value))]
        command = [sys.executable, str(VLLM), "serve", str(model), "--host", "127.0.0.1", "--port", str(server.port)]
        command += ["--load-format", "dummy", "--enforce-eager", *limits, *flags]
        command += ["--scheduler-cls", scheduler] if scheduler else []
        environment = _environment() | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}
        environment |= {"FLUIDGATE_PLAN": str(plan)} if plan else {}
        with log.open("w") as out:
            process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait_until_up(server, process)
            yield replace(server, group=process.pid)
        finally:
            _stop(process)


def _environment() -> dict[str, str]:
    ours = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    ours["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = "600"  # after 5 s a connection may close just as a client uses it again
    return {name: value for name, value in os.environ.items() if name != "FLUIDGATE_PLAN"} | ours


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(server: Server, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + HANGS_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            if server.request("/health", timeout_s=5.0)[0] == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{server.log.read_text(errors='replace')[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its engine process: they are a process group of their own."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    process.wait(HANGS_S)
