"""Bad logs of gateways and bad tables: what is in the file, where it is refused, and what the sentence says to do."""

import json


def _lines(*records):
    return "\n".join(map(json.dumps, records)) + "\n"


OPENAI_GOOD = {"created": 1764000000, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
OTEL_GOOD = {
    "startTimeUnixNano": "1764000000000000000",
    "gen_ai.usage.input_tokens": 3,
    "gen_ai.usage.output_tokens": 4,
}
BAILIAN_GOOD = {"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.1, "input_length": 52, "output_length": 4}
LITELLM_GOOD = (
    "call_type,startTime,prompt_tokens,completion_tokens,status\nacompletion,2025-11-24 16:00:00,3,4,success\n"
)
LANGFUSE_GOOD = (
    'traceId,type,startTime,usageDetails\na,GENERATION,2025-11-24T16:00:00Z,"{""input"": 3, ""output"": 4}"\n'
)
TABLE_GOOD = "ts,prompt_len,completion_len\n1764000000.5,3,4\n"


def _openai(**changes):
    return _lines(OPENAI_GOOD, OPENAI_GOOD | changes)


def _used(**usage):
    return _openai(usage=OPENAI_GOOD["usage"] | usage)


def _otel(**changes):
    return _lines(OTEL_GOOD, OTEL_GOOD | {key.replace("__", "."): value for key, value in changes.items()})


def _bailian(**changes):
    return _lines(BAILIAN_GOOD, BAILIAN_GOOD | changes)


def _fuse(usage, start="2025-11-24T16:00:00Z", kind="GENERATION"):
    return LANGFUSE_GOOD + f'a,{kind},{start},"{json.dumps(usage)}"\n'.replace('{"', '{""').replace(
        '": ', '"": '
    ).replace(', "', ', ""')


OPENAI = {
    "no output": (_used(completion_tokens=0), 2, "failed='drop'"),
    "no usage": (_openai(usage=None), 2, "failed='drop'"),
    "an error": (_openai(error={"message": "slow down"}), 2, "slow down"),
    "an error of text": (_openai(error="slow down"), 2, "slow down"),
    "a status": (_openai(status_code=503), 2, "status 503"),
    "half a token": (_used(prompt_tokens=3.5), 2, "correct or remove"),
    "negative": (_used(prompt_tokens=-3), 2, "correct or remove"),
    "true": (_used(prompt_tokens=True), 2, "correct or remove"),
    "a list": (_used(completion_tokens=[4]), 2, "failed='drop'"),
    "too many": (_used(completion_tokens=1e12), 2, "correct it"),
    "no prompt": (_used(prompt_tokens=None), 2, "correct or remove"),
    "a time of text": (_openai(created="soon"), 2, "correct or remove"),
    "no time": (_openai(created=None), 2, "correct or remove"),
    "milliseconds": (_openai(created=1764000000000), 2, "give one unit"),
    "cut off": (_openai()[:-9], 2, "one JSON object"),
    "a list of answers' numbers": ("[1, 2]", "row 1", "one object per request"),
}
LITELLM = {
    "a failure": (LITELLM_GOOD + "acompletion,2025-11-24 16:00:00,3,4,failure\n", 3, "failed='drop'"),
    "no output": (LITELLM_GOOD + "acompletion,2025-11-24 16:00:00,3,0,success\n", 3, "failed='drop'"),
    "no prompt": (LITELLM_GOOD + "acompletion,2025-11-24 16:00:00,,4,success\n", 3, "correct or remove"),
    "negative": (LITELLM_GOOD + "acompletion,2025-11-24 16:00:00,-3,4,success\n", 3, "correct or remove"),
    "half a token": (LITELLM_GOOD + "acompletion,2025-11-24 16:00:00,3.5,4,success\n", 3, "correct or remove"),
    "letters": (LITELLM_GOOD + "acompletion,2025-11-24 16:00:00,three,4,success\n", 3, "correct or remove"),
    "no time": (LITELLM_GOOD + "acompletion,,3,4,success\n", 3, "correct or remove"),
    "a date alone": (LITELLM_GOOD + "acompletion,2025-11-24,3,4,success\n", 3, "give both"),
    "a zone among none": (LITELLM_GOOD + "acompletion,2025-11-24 16:00:00Z,3,4,success\n", 3, "all or none"),
    "too few fields": (LITELLM_GOOD + "acompletion,2025-11-24\n", 3, "correct or remove"),
    "embeddings alone": (LITELLM_GOOD.replace("acompletion", "aembedding"), "nothing but calls", "give a log"),
    "header alone": (LITELLM_GOOD.split("\n")[0], 1, "give a log"),
}
OTEL = {
    "no output": (_otel(gen_ai__usage__output_tokens=0), 2, "failed='drop'"),
    "no prompt": (_otel(gen_ai__usage__input_tokens=None), 2, "correct or remove"),
    "an error": (_otel(status={"code": 2}), 2, "failed='drop'"),
    "an error before any token": (
        _lines(OTEL_GOOD, {"startTimeUnixNano": "5", "gen_ai.operation.name": "chat", "status": {"code": "ERROR"}}),
        2,
        "failed='drop'",
    ),
    "negative": (_otel(gen_ai__usage__input_tokens=-1), 2, "correct or remove"),
    "half a token": (_otel(gen_ai__usage__input_tokens=1.5), 2, "correct or remove"),
    "text": (_otel(gen_ai__usage__input_tokens="many"), 2, "correct or remove"),
    "no time": (_otel(startTimeUnixNano=None), 2, "correct or remove"),
    "a time of text": (_otel(startTimeUnixNano="soon"), 2, "correct or remove"),
    "seconds among ns": (_otel(startTimeUnixNano=1764000000), 2, "give one unit"),
    "no span of a model": (_lines({"name": "GET", "attributes": {}}), "no span", "export the spans"),
    "spans that are no list": ('{"resourceSpans": [{"scopeSpans": [{"spans": 5}]}]}', 1, "as OTLP's JSON"),
    "cut off": (_otel()[:-9], 2, "one JSON object"),
}
LANGFUSE = {
    "no output": (_fuse({"input": 3, "output": 0}), 3, "failed='drop'"),
    "no usage": (_fuse({}), 3, "failed='drop'"),
    "usage cut off": (LANGFUSE_GOOD + 'a,GENERATION,2025-11-24T16:00:00Z,"{""inp"\n', 3, "failed='drop'"),
    "no prompt": (_fuse({"output": 4}), 3, "correct or remove"),
    "negative": (_fuse({"input": -3, "output": 4}), 3, "correct or remove"),
    "half a token": (_fuse({"input": 3.5, "output": 4}), 3, "correct or remove"),
    "too many": (_fuse({"input": 3e12, "output": 4}), 3, "correct it"),
    "no time": (_fuse({"input": 3, "output": 4}, start=""), 3, "correct or remove"),
    "a date alone": (_fuse({"input": 3, "output": 4}, start="2025-11-24"), 3, "give both"),
    "a time of text": (_fuse({"input": 3, "output": 4}, start="soon"), 3, "correct or remove"),
    "no generation": (LANGFUSE_GOOD.replace("GENERATION", "SPAN"), "nothing but observations", "give a log"),
    "too few fields": (LANGFUSE_GOOD + "a,GENERATION\n", 3, "correct or remove"),
}
BAILIAN = {
    "no output": (_bailian(output_length=0), 2, "correct or remove"),
    "half a token": (_bailian(input_length=3.5), 2, "correct or remove"),
    "text": (_bailian(input_length="52"), 2, "correct or remove"),
    "no time": (_bailian(timestamp=None), 2, "correct or remove"),
    "a time of text": (_bailian(timestamp="61"), 2, "correct or remove"),
    "milliseconds since 1970": (
        _lines(*[BAILIAN_GOOD | {"timestamp": 1764000000000 + i} for i in (0, 1)]),
        "as the format has it, and in ms since 1970",
        "give time_unit",
    ),
    "a time of 1e17": (_bailian(timestamp=1e17), 2, "give seconds"),
    "too many blocks": (_bailian(hash_ids=[1, 2, 3, 4, 5]), 2, "block_tokens"),
    "ids of text": (_bailian(hash_ids=["a"]), 2, "correct or remove"),
    "ids that are no list": (_bailian(hash_ids=5), 2, "leave it out"),
    "sizes of two kinds": (_bailian(block_tokens=64), 2, "one size"),
    "cut off": (_bailian()[:-9], 2, "one JSON object"),
}
TABLE = {
    "no output": (TABLE_GOOD + "1764000001,3,\n", 3, "failed='drop'"),
    "no prompt": (TABLE_GOOD + "1764000001,,4\n", 3, "correct or remove"),
    "zero prompt": (TABLE_GOOD + "1764000001,0,4\n", 3, "correct or remove"),
    "negative": (TABLE_GOOD + "1764000001,-3,4\n", 3, "correct or remove"),
    "half a token": (TABLE_GOOD + "1764000001,3.5,4\n", 3, "correct or remove"),
    "letters": (TABLE_GOOD + "1764000001,three,4\n", 3, "correct or remove"),
    "no time": (TABLE_GOOD + ",3,4\n", 3, "correct or remove"),
    "a time of text": (TABLE_GOOD + "soon,3,4\n", 3, "correct or remove"),
    "milliseconds among seconds": (TABLE_GOOD + "1764000001000,3,4\n", 3, "give one unit"),
    "too few fields": (TABLE_GOOD + "1764000001,3\n", 3, "correct or remove"),
    "blank line inside": (TABLE_GOOD + "\n1764000001,3,4\n", 3, "remove it"),
    "no header": ("1764000001,3,4\n1764000001,3,4", 1, "put one above"),
    "unknown columns": ("a,b,c\n1,2,3\n", "has columns a, b, c", "time=a,prompt=b,output=c"),
    "times from zero": ("ts,isl,osl\n0,3,4\n5,3,4\n", "may be s, ms, us or ns", "give time_unit"),
}
BAD = {
    "bailian": BAILIAN,
    "langfuse": LANGFUSE,
    "litellm": LITELLM,
    "openai": OPENAI,
    "otel": OTEL,
    "table": TABLE,
}
GOOD = {
    "bailian": _bailian(),
    "langfuse": LANGFUSE_GOOD,
    "litellm": LITELLM_GOOD,
    "openai": _openai(),
    "otel": _otel(),
    "table": TABLE_GOOD,
}
