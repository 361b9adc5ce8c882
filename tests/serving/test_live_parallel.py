"""The gate beside what vLLM does with several engines, several stages, and a second memory for KV."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import pytest

from fluidgate.policies import ConcurrencyCap, Fluid, Greedy, NestedWait, Policy, Wait

from .live import MAX_STEPS, Live, needs_vllm, new_live

pytestmark = needs_vllm

PAUSING = NestedWait(0.02, True, (2.0, 6.0), (10.0,))


def metric(name: str, engine: str) -> float:
    """The value of a metric, summed over its other labels."""
    from prometheus_client import REGISTRY

    samples = (sample for family in REGISTRY.collect() for sample in family.samples)
    return sum(s.value for s in samples if s.name == name and s.labels["engine"] == engine)


def test_engines_have_metrics_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from fluidgate.serving import vllm_core

    base = vllm_core._base_config()
    for rank, count in ((3, 5), (4, 8)):
        config = copy.copy(base)
        config.parallel_config = copy.copy(base.parallel_config)
        config.parallel_config.data_parallel_rank = rank
        monkeypatch.setattr(vllm_core, "_base_config", lambda config=config: config)
        live = new_live(monkeypatch, ConcurrencyCap(1.0))
        for _ in range(count):
            live.add(10, 10)
        live.form()
    assert (metric("fluidgate_held_requests", "3"), metric("fluidgate_held_requests", "4")) == (4, 7)
    assert (metric("fluidgate_admissions_total", "3"), metric("fluidgate_admissions_total", "4")) == (1, 1)


def test_a_pause_never_ends_one_that_vllm_has_set() -> None:
    from types import SimpleNamespace

    from fluidgate.serving import seams

    stage, free = SimpleNamespace(next_decode_eligible_step=14), SimpleNamespace(next_decode_eligible_step=3)
    seams.pause(SimpleNamespace(current_step=10), [stage, free])
    assert (stage.next_decode_eligible_step, free.next_decode_eligible_step) == (14, 12)


@pytest.mark.parametrize("policy", [Greedy(), ConcurrencyCap(3.0), Fluid(), PAUSING], ids=lambda policy: policy.name)
@pytest.mark.parametrize("stages", [2, 4])
def test_pipeline_stages(policy: Policy, stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(stages)
    live = new_live(monkeypatch, policy, blocks=30, depth=stages)
    live.scheduler.pp_size = live.scheduler.decode_stagger = stages
    live.scheduler.use_v2_model_runner = True
    last_decode: dict[str, int] = {}
    for _ in range(MAX_STEPS):
        if live.num_seen < 60 and random.random() < 0.4:
            live.add(random.randint(1, 100), random.randint(1, 40))
        if live.unfinished and random.random() < 0.02:
            live.abort(random.choice(list(live.unfinished)))
        if live.scheduler.has_requests():
            for name in live.form():
                request = live.scheduler.requests[name]
                if not request.is_prefill_chunk and not request.num_preemptions:
                    step = live.scheduler.current_step
                    assert step - last_decode.get(name, -stages) >= stages, "decoded before its stage was free"
                    last_decode[name] = step
            live.assert_books_are_vllms()
        if live.in_flight:
            live.receive()
        if live.num_seen >= 60 and not live.unfinished:
            break
    assert not live.unfinished


class Workers:
    """Carry out vLLM's own offloading, a few batches later each."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.under_way: dict[int, tuple[int, str | None]] = {}  # job: (batches to go, request that is loaded)
        self.loads = 0

    def __call__(self, output: Any) -> Any:
        from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import OffloadingWorkerMetadata
        from vllm.v1.outputs import KVConnectorOutput

        asked = output.kv_connector_metadata
        for job, what in asked.load_jobs.items():
            self.under_way[job] = (self.random.randint(0, 3), what.req_id)
            self.loads += 1
        for job in asked.store_jobs:
            self.under_way[job] = (self.random.randint(0, 3), None)
        flushed = asked.jobs_to_flush or set()
        done = {job: name for job, (batches, name) in self.under_way.items() if batches == 0 or job in flushed}
        self.under_way = {
            job: (batches - 1, name) for job, (batches, name) in self.under_way.items() if job not in done
        }
        return KVConnectorOutput(
            finished_recving={name for name in done.values() if name is not None},
            kv_connector_worker_meta=OffloadingWorkerMetadata(dict.fromkeys(done, 1)),
        )


def offloading(monkeypatch: pytest.MonkeyPatch, policy: Policy, blocks: int) -> Live:
    """A scheduler with `--kv-offloading-size`."""
    from vllm.config import KVTransferConfig

    from fluidgate.serving import vllm_core

    config = copy.copy(vllm_core._base_config())
    size = {"cpu_bytes_to_use": 1 << 24}
    config.kv_transfer_config = KVTransferConfig(
        kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config=size
    )
    monkeypatch.setattr(vllm_core, "_base_config", lambda: config)
    return new_live(monkeypatch, policy, blocks=blocks, caching=True)


@pytest.mark.parametrize(
    "policy",
    [Greedy(), ConcurrencyCap(3.0), Fluid(), Wait(0.02, False, (0.4, 0.4), (20.0,))],
    ids=lambda policy: policy.name,
)
def test_native_offloading(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    from fluidgate.serving.seams import HERE

    if not HERE.native_offload:
        pytest.skip("the gate runs with native offloading from vLLM 0.31 on")
    random = Random(1)
    live, workers = offloading(monkeypatch, policy, blocks=16), Workers(random)
    prompts = [list(range(k * 1000, k * 1000 + 64)) for k in range(8)]
    for _ in range(MAX_STEPS):
        if live.num_seen < 100 and random.random() < 0.3:
            live.add(64, random.randint(1, 40), content=random.choice(prompts))
        if live.unfinished and random.random() < 0.02:
            live.abort(random.choice(list(live.unfinished)))
        if live.scheduler.has_requests():
            live.form()
            live.assert_books_are_vllms()
        if live.in_flight:
            live.receive(workers)
        if live.num_seen >= 100 and not live.unfinished:
            break
    assert not live.unfinished
    assert len(live.finished) + len(live.aborted) == live.num_seen
    assert workers.loads > 10
