"""An application of Ray Serve: `python ray_app.py PLAN HTTP_PORT METRICS_PORT [MODEL]`.

An ingress over HTTP before two engines that `FluidRouter` sends requests to: vLLM's with a model, a stand-in without.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import RequestRouterConfig
from starlette.responses import StreamingResponse

PLAN, HTTP_PORT, METRICS_PORT, *MODEL = sys.argv[1:] if len(sys.argv) > 1 else ["", "0", "0"]
ROUTED = RequestRouterConfig(
    request_router_class="fluidgate.adapters.ray_serve.FluidRouter",
    request_router_kwargs={"plan": PLAN},
    request_routing_stats_period_s=0.5,
)
OPTIONS: dict[str, Any] = {"max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0}}
HEALTH = {"health_check_period_s": 1.0, "graceful_shutdown_timeout_s": 1.0}


class StandIn:
    """Says one token every 10 ms, and counts what vLLM would hold meanwhile."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.count = 0

    async def generate(self, prompt: list[int], tokens: int) -> AsyncIterator[int]:
        """So many tokens."""
        self.count += 1
        own = self.count
        try:
            for token in range(tokens):
                self.held[own] = len(prompt) + token
                await asyncio.sleep(0.01)
                yield token
        finally:
            self.held.pop(own, None)

    def stats(self) -> dict[str, Any]:
        """Of its gauges."""
        blocks = sum(-(-tokens // 32) for tokens in self.held.values())
        share = min(1.0, blocks / 48)
        return {"kv": share, "num_waiting_reqs": 0, "num_running_reqs": len(self.held), "kv_cache_size": 49 * 32}


class Vllm:
    """vLLM's engine on this machine's CPU."""

    def __init__(self, model: str) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.loggers import StatLoggerBase

        gauges = self.gauges = {"kv": 0.0, "num_waiting_reqs": 0, "num_running_reqs": 0, "num_preempted": 0}

        class Gauges(StatLoggerBase):
            def __init__(self, vllm_config, engine_index=0): ...

            def log_engine_initialized(self): ...

            def record(self, scheduler_stats, iteration_stats, *_, **__):
                if scheduler_stats is not None:
                    gauges["kv"] = scheduler_stats.kv_cache_usage
                    gauges["num_waiting_reqs"] = scheduler_stats.num_waiting_reqs
                    gauges["num_running_reqs"] = scheduler_stats.num_running_reqs
                if iteration_stats is not None:
                    gauges["num_preempted"] += iteration_stats.num_preempted_reqs

        limits = {"block_size": 32, "num_gpu_blocks_override": 49, "max_num_seqs": 32}
        limits |= {"max_num_batched_tokens": 512, "max_model_len": 512}
        args = AsyncEngineArgs(model, load_format="dummy", enforce_eager=True, skip_tokenizer_init=True, **limits)
        self.engine = AsyncLLM.from_engine_args(args, stat_loggers=[Gauges])
        self.count = 0

    async def generate(self, prompt: list[int], tokens: int) -> AsyncIterator[int]:
        """So many tokens."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.count += 1
        params = SamplingParams(
            max_tokens=tokens, ignore_eos=True, temperature=0, detokenize=False, output_kind=RequestOutputKind.DELTA
        )
        async for output in self.engine.generate({"prompt_token_ids": prompt}, params, str(self.count)):
            for token in output.outputs[0].token_ids:
                yield token

    def stats(self) -> dict[str, Any]:
        """Of its gauges."""
        return {**self.gauges, "kv_cache_size": 49 * 32}


@serve.deployment(num_replicas=2, request_router_config=ROUTED, **OPTIONS, **HEALTH)
class Engine:
    """One of the engines."""

    def __init__(self, model: str | None) -> None:
        self.engine = Vllm(model) if model else StandIn()

    def record_routing_stats(self) -> dict[str, Any]:
        """What Ray Serve tells the router now and then."""
        return {**self.engine.stats(), "pid": os.getpid()}

    async def generate(self, request: dict[str, Any]) -> AsyncIterator[str]:
        """A line a token: which process it is of."""
        async for _ in self.engine.generate(request["prompt"], request["tokens"]):
            yield f"{os.getpid()}\n"


api = FastAPI()


@serve.deployment(**OPTIONS, **HEALTH)
@serve.ingress(api)
class Ingress:
    """HTTP before the engines."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine.options(stream=True)

    @api.post("/generate")
    async def generate(self, request: dict[str, Any]) -> StreamingResponse:
        """A stream of lines."""
        stream = self.engine.generate.remote(request)
        first = await anext(stream)

        async def lines() -> AsyncIterator[str]:
            yield first
            async for line in stream:
                yield line

        return StreamingResponse(lines())

    @api.get("/books")
    async def books(self) -> dict[str, Any]:
        """What the gate of this process says."""
        from fluidgate.adapters.entrance import entrances

        books = await entrances()["default/Engine"].books()
        replicas = {one.name: one.in_flight for one in books.state.replicas if one.takes}
        held = {"in_flight": books.in_flight, "waiting": books.state.waiting}
        return {"pid": os.getpid(), "ledger": asdict(books.ledger), "replicas": replicas, **held}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _metrics_export_port=int(METRICS_PORT))
    serve.start(http_options={"port": int(HTTP_PORT), "host": "127.0.0.1"})
    serve.run(Ingress.bind(Engine.bind(*MODEL or [None])), blocking=True)
