"""LiteLLM's real proxy in an environment of its own, with the gate before servers, and what its clients see."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fluidgate

from .server import HANGS_S, Server

if TYPE_CHECKING:
    import httpx

KEY = {"Authorization": "Bearer sk-7d0f8c2be94a4d21a6c3"}
MODULE = """
from prometheus_client import Gauge
from fluidgate.adapters.litellm import FluidGate

gate = FluidGate({plan!r}, models="tiny")
Gauge("test_came", "As the ledger says.").set_function(lambda: gate.entrance.ledger.came)
"""
_LINE = re.compile(r'(?m)^(fluidgate_gate_\w+|test_came)(?:\{gate="tiny"(?:,(?:outcome|replica)="([^"]*)")?\})? (\S+)')


@dataclass(frozen=True)
class Books:
    """One look at the proxy's page of metrics."""

    came: int
    waiting: int
    retried: int
    outcomes: Mapping[str, int]
    in_flight: Mapping[str, int]

    def check(self) -> Books:
        """Every request that came is somewhere, once."""
        assert self.came == self.waiting + sum(self.in_flight.values()) + sum(self.outcomes.values()), self
        return self

    @property
    def open(self) -> int:
        """Requests that have not ended."""
        return self.waiting + sum(self.in_flight.values())


@dataclass
class Told:
    """What a client has got: a whole answer, an error, or neither yet."""

    body: Mapping[str, Any]
    path: str = "/v1/completions"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    answer: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    lost: bool = False
    ended: bool = False

    @property
    def served(self) -> bool:
        """Whether all of the answer came."""
        whole = ('"finish_reason":"length"', '"finish_reason": "length"', "response.incomplete", "message_stop")
        whole += ("response.completed", '"status":"incomplete"', '"stop_reason":"max_tokens"', '"status":"completed"')
        return (
            self.status == 200
            and not self.lost
            and '"error": {' not in self.text
            and any(w in self.text for w in whole)
        )


@dataclass(frozen=True)
class Proxy:
    """A proxy that answers."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(HANGS_S)


@contextmanager
def proxied(python: str, folder: Path, servers: Sequence[Server], plan: Path, port: int) -> Iterator[Proxy]:
    """A proxy whose model group `tiny` are these servers, stopped for sure at the end."""
    model = f"hosted_vllm/{servers[0].model}"
    deployments = [
        {"model_name": "tiny", "litellm_params": {"model": model, "api_base": f"{one.url}/v1", "api_key": "none"}}
        for one in servers
    ]
    config = {
        "model_list": deployments,
        "litellm_settings": {"callbacks": ["fluidgate_gate.gate", "prometheus"]},
        "router_settings": {"disable_cooldowns": True},
        "general_settings": {"cancel_on_disconnect": True, "master_key": KEY["Authorization"].split()[1]},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (folder / "fluidgate_gate.py").write_text(MODULE.format(plan=str(plan)))
    command = [python, "-m", "litellm.proxy.proxy_cli", "--config", str(folder / "config.yaml"), "--host", "127.0.0.1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LITELLM", "PROMETHEUS"))}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": str(Path(fluidgate.__file__).parents[1])}
    log = folder / f"proxy-{time.monotonic_ns()}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--telemetry", "False"],
            env=environment,
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    proxy = Proxy(port, process, log)
    try:
        _wait_until_up(proxy)
        yield proxy
    finally:
        with suppress(ProcessLookupError):
            proxy.kill()


def _wait_until_up(proxy: Proxy) -> None:
    import httpx

    end_s = time.monotonic() + HANGS_S
    while time.monotonic() < end_s and proxy.process.poll() is None:
        try:
            if httpx.get(f"{proxy.url}/health/liveliness", timeout=5.0).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"the proxy did not start:\n{proxy.log.read_text(errors='replace')[-4000:]}")


async def look(client: httpx.AsyncClient) -> Books:
    """The books as the proxy's metrics show them, which add up."""
    page = (await client.get("/metrics/", headers=KEY, follow_redirects=True)).text
    values: dict[str, dict[str, int]] = {}
    for name, label, value in _LINE.findall(page):
        if "peak" not in name:
            values.setdefault(name, {})[label] = int(float(value))
    assert "test_came" in values, page[-2000:]
    return Books(
        values["test_came"][""],
        values["fluidgate_gate_waiting"][""],
        values["fluidgate_gate_retried_total"][""],
        values["fluidgate_gate_requests_total"],
        values.get("fluidgate_gate_in_flight", {}),
    ).check()


async def looks(client: httpx.AsyncClient) -> AsyncIterator[Books]:
    """Look again and again; every look adds up."""
    end_s = time.monotonic() + HANGS_S
    while time.monotonic() < end_s:
        yield await look(client)
        await asyncio.sleep(0.05)
    raise TimeoutError("what the test waits for did not happen")


async def ask(client: httpx.AsyncClient, told: Told, most_characters: int | None = None) -> Told:
    """Send a request and note what comes; `most_characters`: the client goes away after as many."""
    import httpx

    try:
        async with client.stream("POST", told.path, json=dict(told.body), headers={**KEY, **told.headers}) as answer:
            told.status, told.answer = answer.status_code, dict(answer.headers)
            async for part in answer.aiter_text():
                told.text += part
                if most_characters is not None and len(told.text) > most_characters:
                    break
    except httpx.HTTPError:
        told.lost = True
    told.ended = True
    return told
