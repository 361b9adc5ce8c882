"""Generated runs of vLLM's scheduler, step by step, as JSON: for comparing two trees of vLLM's sources.

    PYTHONPATH=SOURCES python -m tests.contrib.drive stock|seams|point RUNS

`stock` is vLLM's own scheduler, synchronous and asynchronous, by arrival and by priority; `seams` is `GateScheduler`,
and `point` the consumer in `contrib/vllm-admission-point`, both under policies that hold, name, pause and shed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import vllm

from fluidgate.policies import Fluid, Greedy, Policy
from fluidgate.serving.labels import Classes

from ..serving.live import MAX_STEPS, Live, new_live
from ..serving.test_live_blocked import Blocked, Connector, Grammar
from ..serving.test_live_books import POLICIES
from ..serving.test_live_shedding import SHEDDING

LABELLED = Fluid(0.1, (0.5, 0.5), (20.0, 20.0), (4.0, 9.0, 2.0, 30.0))
GATED: list[Policy] = [*POLICIES, *SHEDDING, LABELLED]
CONSUMER = "gate_admission.GateAdmission"


def stock(random: Random) -> Callable[..., Any]:
    """Makes vLLM's own scheduler."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    from fluidgate.serving.metrics import gate_metrics

    kind, order = random.choice([Scheduler, AsyncScheduler]), random.choice(["fcfs", "priority"])

    def made(vllm_config: Any, **rest: Any) -> Any:
        vllm_config.scheduler_config.policy = order
        scheduler = kind(vllm_config=vllm_config, **rest)
        scheduler.gate_metrics = gate_metrics()  # which `Live` reads
        return scheduler

    return made


def point(vllm_config: Any, **rest: Any) -> Any:
    """vLLM's own scheduler with the consumer as its admission policy."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    vllm_config.scheduler_config.admission_policy = CONSUMER
    scheduler = AsyncScheduler(vllm_config=vllm_config, **rest)
    scheduler.gate_metrics = scheduler.admission_policy.gate_metrics
    scheduler.gatekeeper = scheduler.admission_policy.gatekeeper
    note_answers(scheduler.admission_policy)
    return scheduler


def note_answers(policy: Any) -> None:
    """Count, in `policy.answers`, what it answers with."""
    asked, policy.answers = policy.next_step, Counter()

    def next_step() -> Any:
        answer = asked()
        policy.answers.update(
            {
                "none": answer.limit == 0,
                "some": bool(answer.limit),
                "named": answer.only is not None,
                "paused": bool(answer.paused),
                "shed": bool(answer.shed),
            }
        )
        return answer

    policy.next_step = next_step


def one_run(way: str, number: int) -> dict[str, Any]:
    """What every step of a generated run did; the same numbers give the same requests while the steps are the same."""
    random = Random(number)
    policy = GATED[number % len(GATED)] if way != "stock" else Greedy()
    kind = {"stock": stock(random), "seams": None, "point": point}[way]
    blocking = random.random() < 0.5  # else policies give numbers rather than names, and prefixes may be cached
    with pytest.MonkeyPatch.context() as patch:
        live = new_live(
            patch,
            policy,
            blocks=random.choice([8, 12, 30]),
            seats=random.choice([4, 6]),
            caching=not blocking and random.random() < 0.5,
            depth=random.choice([1, 2]),
            kind=kind,
            classes=Classes(("a", "b")) if policy.num_classes == 2 else Classes(),
        )
        if way == "point":
            patch.setattr(sys.modules["gate_admission"], "time", live.clock)
        steps = [*served(live, random, blocking)]
    keeper = getattr(live.scheduler, "gatekeeper", None)
    return {
        "policy": str(policy),
        "adapters": live.scheduler.lora_config is not None,
        "steps": steps,
        "totals": vars(keeper.gate.totals) if keeper else {},
        "rebuilds": live.rebuilds(),
        "answers": getattr(getattr(live.scheduler, "admission_policy", None), "answers", {}),
    }


def served(live: Live, random: Random, blocking: bool) -> Any:
    """Arrivals of every kind, clients that go away, operators that pause and reset, until nothing is left."""
    scheduler, most = live.scheduler, random.randint(10, 30)
    add = live.add
    live.add = lambda *args, **options: add(*args, priority=random.randint(0, 2), **options)  # type: ignore[method-assign]
    blocked = Blocked(live, random)
    if not blocking:
        scheduler.lora_config = scheduler.connector = None
        blocked.add = lambda: live.add(random.choice([1, 15, 16, 40, 60]), random.randint(1, 40), extra=label(random))  # type: ignore[method-assign]
    for _ in range(MAX_STEPS):
        if live.num_seen < most and random.random() < 0.5:
            for _ in range(random.choice([1, 1, 4])):
                blocked.add()
        meddle(live, random)
        yield step(live, blocked)
        if live.num_seen >= most and not live.unfinished:
            return
    raise AssertionError(f"{len(live.unfinished)} requests never finished")


def label(random: Random) -> dict[str, Any]:
    """A class, and sometimes a client's patience in seconds."""
    patience = {"fluidgate_timeout": 0.3} if random.random() < 0.3 else {}
    return {"fluidgate_class": random.choice(["a", "b"]), **patience}


def meddle(live: Live, random: Random) -> None:
    """What clients and operators do between steps."""
    from vllm.v1.core.sched.interface import PauseState

    for name, request in list(live.unfinished.items()):
        over = request.resumable and request.num_output_tokens >= request.max_tokens
        if over or random.random() < 0.002:
            live.abort(name)
    if random.random() < 0.01 and not live.scheduler.kv_holding_waiting:  # vLLM refuses while KV is loaded
        live.scheduler.reset_prefix_cache(reset_running_requests=True)
    paused = random.random() < 0.05
    live.scheduler._pause_state = PauseState.PAUSED_NEW if paused else PauseState.UNPAUSED


def step(live: Live, blocked: Blocked) -> dict[str, Any]:
    """One iteration, and what clients were told."""
    scheduler = live.scheduler
    for name, (awaits, steps) in list(blocked.compiling.items()):
        if steps == 0:
            awaits.grammar = ValueError("no such grammar") if blocked.random.random() < 0.1 else Grammar()
            del blocked.compiling[name]
        else:
            blocked.compiling[name] = (awaits, steps - 1)
    live.form()
    output = live.in_flight[-1][0]
    did = {
        "tokens": list(output.num_scheduled_tokens.items()),
        "new": [new.req_id for new in output.scheduled_new_reqs],
        "resumed": sorted(output.scheduled_cached_reqs.resumed_req_ids),
        "preempted": sorted(output.preempted_req_ids),
        "finished": sorted(output.finished_req_ids),
        "free": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
        "running": [request.request_id for request in scheduler.running],
        "waiting": [request.request_id for request in scheduler.waiting],
        "holding": [request.request_id for request in scheduler.kv_holding_waiting],
        "deferred": sorted(request.request_id for request in scheduler.deferred_waiting),
        "bound": scheduler.prefill_capacity_bound,
    }
    return did | {"told": received(live, blocked)}


def received(live: Live, blocked: Blocked) -> list[tuple[str, str]]:
    """The oldest batch comes back; who was told that they have ended, and how."""
    scheduler, told = live.scheduler, []
    update = scheduler.update_from_output

    def noted(*args: Any) -> Any:
        outputs = update(*args)
        ended = [one for client in outputs.values() for one in client.outputs if one.finish_reason is not None]
        told.extend((one.request_id, str(one.finish_reason)) for one in ended)
        return outputs

    scheduler.update_from_output = noted
    try:
        live.receive(blocked.transfers)
    finally:
        del scheduler.update_from_output
    for name, _ in told:  # those that were shed
        live.unfinished.pop(name, None)
    return sorted(told)


class OneAtATime:
    """An admission policy that lets one request enter in a step."""

    def next_step(self) -> Any:
        """A limit of one."""
        from vllm.v1.core.sched.admission import Admission

        return Admission(limit=1)

    def __getattr__(self, _: str) -> Any:
        return lambda *_: None


def most_that_left_the_queue(runs: int) -> int:
    """In any step under `OneAtATime`, with requests whose KV is loaded in the background: they enter as well."""
    most = 0
    for number in range(runs):
        random = Random(number)
        with pytest.MonkeyPatch.context() as patch:
            live = new_live(patch, Greedy(), seats=6, kind=point)
            live.scheduler.admission_policy = OneAtATime()
            blocked = Blocked(live, random)
            live.scheduler.connector = Connector({}, {})
            for _ in range(12):
                blocked.add()
            for _ in range(12):
                before = {*live.scheduler.waiting}
                step(live, blocked)
                entered = [one for one in before.difference(live.scheduler.waiting) if not one.is_finished()]
                most = max(most, len(entered))
    return most


def configured() -> str | None:
    """What arrives in the scheduler's configuration of `--admission-policy`."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from fluidgate.serving.vllm_core import TINY_LLAMA

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(TINY_LLAMA), encoding="utf-8")
        flags = ["--model", folder, "--admission-policy", CONSUMER, "--skip-tokenizer-init", "--dtype", "float32"]
        given = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(flags)
        config = EngineArgs.from_cli_args(given).create_engine_config()
    name: str | None = config.scheduler_config.admission_policy
    return name


def main() -> None:
    """Write the runs, and where vLLM was found, to standard output."""
    way, runs = sys.argv[1], int(sys.argv[2])
    made = [one_run(way, number) for number in range(runs)]
    folder = str(Path(vllm.__file__).parents[1])
    only_here = {"flag": configured(), "most": most_that_left_the_queue(20)} if way == "point" else {}
    json.dump({"vllm": vllm.__version__, "folder": folder, "runs": made, **only_here}, sys.stdout)


if __name__ == "__main__":
    main()
