"""Every mode equals an independent reference scheduler (`naive.py`) on generated workloads, step for step."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.engine import MODES, RunRecords, run
from fluidgate.policies import Greedy
from fluidgate.workload import Workload

from .generators import Case, cases, examples, other_configs, vllm_configs
from .naive import Scheduler, Step
from .rare_paths import rare_paths, require_reached
from .sessions import conversations

EACH, ALL = 200, 1200


def engine_steps(records: RunRecords) -> list[Step]:
    """The engine's run in the reference's words."""
    steps = records.steps
    assert steps is not None
    batches = np.split(steps.batch, np.cumsum(steps.scheduled)[:-1])
    victims = np.split(steps.victims, np.cumsum(steps.preempted)[:-1])
    return [
        Step(start_s, end_s, [(row, tokens) for row, tokens in batch.tolist()], lost.tolist(), free)
        for start_s, end_s, batch, lost, free in zip(
            steps.start_s.tolist(), steps.end_s.tolist(), batches, victims, steps.free_blocks.tolist(), strict=True
        )
    ]


def check(case: Case, workload: Workload | None = None) -> RunRecords:
    """The engine's run, equal to the reference's in every step and every record that the reference keeps."""
    workload = workload or case.workload
    records = run(workload, case.hardware, Greedy(), case.engine, record="decisions")
    naive = Scheduler(workload, case.hardware, case.engine)
    naive.run()
    for k, (engine, reference) in enumerate(zip(engine_steps(records), naive.steps, strict=False)):
        assert engine == reference, f"step {k}"
    assert len(records.steps) == len(naive.steps)
    for request in naive.requests:
        row = request.row
        times = request.token_s
        assert records.first_scheduled_s[row] == request.first_scheduled_s
        assert (records.first_token_s[row], records.last_token_s[row]) == (times[0], times[-1])
        assert records.longest_gap_s[row] == max(np.diff(times), default=0.0)
        assert records.generated_tokens[row] == request.generated == len(times)
        assert records.preemptions[row] == request.preemptions
        assert records.recomputed_tokens[row] == request.recomputed
        assert records.cached_tokens[row] == request.cached
    assert records.computed_tokens == sum(tokens for step in naive.steps for _, tokens in step.batch)
    assert records.end_s == naive.now_s
    return records


def restarting(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"preemption": "restart"}


def offloading(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"preemption": "offload"}


def arriving(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"prompts_arrive_computed": True}


def cutting_lone_prefills(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"cut_lone_prefill": True}


def spacing_prefills(configs: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(configs, st.sampled_from([2, 3, 8, 50])).map(
        lambda drawn: drawn[0] | {"prefill_schedule_interval": drawn[1]}
    )


CONFIGS: dict[str, Callable[[bool], st.SearchStrategy[dict[str, Any]]]] = {
    "vllm": vllm_configs,
    "vllm, lone prefills cut": lambda crowded: vllm_configs(crowded).map(cutting_lone_prefills),
    "vllm, prefills spaced": lambda crowded: spacing_prefills(vllm_configs(crowded)),
    "vllm, restart": lambda crowded: vllm_configs(crowded).map(restarting),
    "vllm, offload": lambda crowded: vllm_configs(crowded).map(offloading),
    "vllm, prompts arrive": lambda crowded: vllm_configs(crowded).map(arriving),
    "vllm, prompts arrive, restart": lambda crowded: vllm_configs(crowded).map(arriving).map(restarting),
    "vllm, prompts arrive, offload": lambda crowded: vllm_configs(crowded).map(arriving).map(offloading),
    "sarathi": lambda crowded: other_configs("sarathi", crowded),
    "sarathi, prompts arrive": lambda crowded: other_configs("sarathi", crowded).map(arriving),
    "prefill-first": lambda crowded: other_configs("prefill-first", crowded),
    "prefill-first, prompts arrive": lambda crowded: other_configs("prefill-first", crowded).map(arriving),
}

ALWAYS = {"preemptions": 250, "cache full": 800, "seats taken": 80, "prefix hits": 20, "arrival as a step ends": 60}
IN_CHUNKS = {"chunks of a prompt": 1500, "token budget used up": 1500}

REACHES = {
    "vllm": IN_CHUNKS | {"hits on own old blocks": 30},
    "vllm, lone prefills cut": IN_CHUNKS | {"lone prompt cut": 30},
    "vllm, prefills spaced": IN_CHUNKS | {"hits on own old blocks": 30},
    "vllm, restart": IN_CHUNKS,
    "vllm, offload": IN_CHUNKS | {"hits on own old blocks": 30},
    "vllm, prompts arrive": {"prompts computed again": 30, "hits on own old blocks": 30},
    "vllm, prompts arrive, restart": {},
    "vllm, prompts arrive, offload": {},
    "sarathi": IN_CHUNKS | {"hits on own old blocks": 30},
    "sarathi, prompts arrive": {"prompts computed again": 30},
    "prefill-first": {"hits on own old blocks": 30},
    "prefill-first, prompts arrive": {"prompts computed again": 30},
}


def test_every_mode_has_its_cases() -> None:
    assert {name.partition(",")[0] for name in CONFIGS} == set(MODES)
    assert set(REACHES) == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_step_is_the_references(name: str) -> None:
    reached: Counter[str] = Counter()
    kinds = [
        cases(crowded=crowded, shared=shared, configs=CONFIGS[name](crowded))
        for crowded in (False, True)
        for shared in (False, True)
    ]

    @examples(EACH, of=ALL)
    @given(st.one_of(kinds))
    def every_case(case: Case) -> None:
        reached.update(rare_paths(check(case)))

    every_case()
    require_reached(reached, ALWAYS | REACHES[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_turns_find_replies_in_every_mode(name: str) -> None:
    """Turns at the earliest times that they could have find the replies that are there by then."""
    found: Counter[str] = Counter()

    @examples(40, of=240)
    @given(conversations(CONFIGS[name](False)))
    def every_case(drawn: tuple[Case, Workload]) -> None:
        case, workload = drawn
        records = check(case, workload.as_open_loop())
        before = np.where(workload.after >= 0, workload.prompt_tokens[workload.after], np.iinfo(np.int64).max)
        found["reply found"] += int((records.cached_tokens > before).any())

    every_case()
    require_reached(found, {"reply found": 2})
