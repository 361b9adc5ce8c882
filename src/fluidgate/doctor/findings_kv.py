"""Finding about the size of the KV cache: whether what is stated fits what runs."""

from __future__ import annotations

from fluidgate.doctor.changes import Change
from fluidgate.doctor.finding import Case, Finding, Severity
from fluidgate.words import number, percent

STATE_IT = Change(
    "run doctor again with `--kv-cache-tokens N`", "the 'GPU KV cache size' that the server's log prints at the start"
)
CORRECT_IT = Change("correct the size of the KV cache that was given", "the server's log prints it at the start")
SEVERAL_GROUPS = (
    "The server keeps its KV in several groups of layers. The size of the cache is that of requests of the longest "
    "length: shorter ones hold more per token."
)


def kv_size(case: Case) -> Finding | None:
    """A stated size under which the requests that run would hold what they cannot."""
    held, facts = case.contradiction, case.facts
    if held is None:
        return None
    prompt, each = facts.histogram("request_prompt_tokens"), held.stated / held.running
    numbers = {
        "kv_tokens": held.stated / held.kv_use / facts.engines,
        "running": held.running,
        "kv_use": held.kv_use,
        "stated_tokens_each": each,
        "least_tokens_each": held.least / held.running,
    }
    whose = "itself" if facts.kv_source == "the page" else "the page"
    says = (
        f"{facts.kv_source[0].upper()}{facts.kv_source[1:]} contradicts {whose}: {number(held.running)} requests run "
        f"with {percent(held.kv_use)} of a KV cache of {number(numbers['kv_tokens'])} tokens in use, which is "
        f"{number(each)} tokens each, "
    )
    if each < numbers["least_tokens_each"]:
        assert prompt is not None
        says += (
            f"while prompts alone have {number(prompt.mean)} on average{_not_shared(case)}: that is at least "
            f"{number(numbers['least_tokens_each'])} each. The cache is larger than stated"
        )
    else:
        numbers["most_tokens_each"] = held.most / held.running
        says += (
            f"while those that finished are so short that {number(numbers['most_tokens_each'])} is the most. The cache "
            "is smaller than stated"
        )
    says += ", so nothing is derived from its size."
    change = STATE_IT if facts.kv_source == "the page" else CORRECT_IT
    return Finding("kv-size", Severity.WATCH, says, 0.0, numbers, (change,))


def _not_shared(case: Case) -> str:
    if case.facts.prefix_caching is False:
        return " and the prefix cache is off"
    return f", of which the prefix cache spares {percent(case.facts.prefix_hits / case.facts.prefix_queries)}"
