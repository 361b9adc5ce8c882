"""Malformed files: an InputError names the file, the line and the mend; nothing else comes out."""

import gzip
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.workload import FORMATS, read_trace
from fluidgate.workload.formats import _files

from . import bad_logs

A = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
B = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Chat\n"
V = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,34,510\n"
M = '{"timestamp": 0, "input_length": 700, "output_length": 500, "hash_ids": [0, 1]}\n'

AZURE = {
    "month 13": (A + "2023-13-16 18:15:47,3,4", 3, "correct or remove"),
    "words for a time": (A + "yesterday,3,4", 3, "YYYY-MM-DD"),
    "an offset among none": (A + "2023-11-16 18:15:47+00:00,3,4", 3, "YYYY-MM-DD"),
    "no time": (A + ",3,4", 3, "correct or remove"),
    "too few fields": (A + "2023-11-16 18:15:47,3", 3, "correct or remove"),
    "too many fields": (A + "2023-11-16 18:15:47,3,4,5", 3, "correct or remove"),
    "blank line inside": (A + "\n2023-11-16 18:15:47,3,4", 3, "correct or remove"),
    "letters": (A + "2023-11-16 18:15:47,three,4", 3, "correct or remove"),
    "empty count": (A + "2023-11-16 18:15:47,,4", 3, "correct or remove"),
    "zero prompt": (A + "2023-11-16 18:15:47,0,4", 3, "correct or remove"),
    "negative output": (A + "2023-11-16 18:15:47,3,-4", 3, "correct or remove"),
    "half a token": (A + "2023-11-16 18:15:47,3.5,4", 3, "correct or remove"),
    "NaN": (A + "2023-11-16 18:15:47,nan,4", 3, "correct or remove"),
    "beyond any context": (A + "2023-11-16 18:15:47,3,99999999999", 3, "correct"),
    "a year before nanoseconds": (A + "1677-09-22 00:00:00,3,4", 3, "between the years 1970 and 2199"),
    "a year beyond nanoseconds": (A + "2262-04-11 00:00:00,3,4", 3, "between the years 1970 and 2199"),
    "a missing column": ("TIMESTAMP,ContextTokens\n2023-11-16 18:15:47,3", 1, "name the columns"),
    "a column twice": (A.replace("TIMESTAMP", "TIMESTAMP,TIMESTAMP"), 1, "keep one"),
    "header only": (A.split("\n")[0], 1, "give a trace"),
    "empty file": ("", 1, "give a trace"),
    "Latin-1": (A.encode() + "2023-11-16 18:15:47,3,é".encode("latin-1"), 3, "save the file as UTF-8"),
}
BURSTGPT = {
    "failed request": (B + "6,GPT-4,4,0,4,Chat", 3, "failed='drop'"),
    "zero prompt": (B + "6,GPT-4,0,4,4,Chat", 3, "correct or remove"),
    "no model": (B + "6,,3,4,7,Chat", 3, "name it or remove"),
    "time in words": (B + "soon,GPT-4,3,4,7,Chat", 3, "correct or remove"),
    "infinite time": (B + "inf,GPT-4,3,4,7,Chat", 3, "correct or remove"),
    "NaN time": (B + "nan,GPT-4,3,4,7,Chat", 3, "correct or remove"),
    "no time": (B + ",GPT-4,3,4,7,Chat", 3, "correct or remove"),
    "negative prompt": (B + "6,GPT-4,-3,4,7,Chat", 3, "correct or remove"),
    "negative output": (B + "6,GPT-4,3,-4,7,Chat", 3, "correct or remove"),
    "letters": (B + "6,GPT-4,3,four,7,Chat", 3, "correct or remove"),
    "cut off": (B + "6,GPT-4,3", 3, "correct or remove"),
    "an escape code in a name": (B + "6,\x1b[31mGPT-4,3,4,7,Chat", 3, "take it out"),
    "a time of 1e10": (B + "10000000000,GPT-4,3,4,7,Chat", 3, "give seconds"),
    "extra comma": (B + "6,GPT-4,1,087,230,1317,Chat", 3, "correct or remove"),
    "line break in quotes": (B + '6,"GPT\n4",3,4,7,Chat', 3, "correct or remove"),
    "missing column": (B.replace("Model,", "").replace("ChatGPT,", ""), 1, "name the columns"),
}
VIDUR = {
    "no prompt": (V + "1.0,,3", 3, "correct or remove"),
    "zero output": (V + "1.0,3,0", 3, "correct or remove"),
    "negative prompt": (V + "1.0,-3,4", 3, "correct or remove"),
    "infinite prompt": (V + "1.0,inf,4", 3, "correct or remove"),
    "NaN time": (V + "NaN,3,4", 3, "correct or remove"),
    "no time": (V + ",3,4", 3, "correct or remove"),
    "a span that no step can move": (V + "1e18,3,4\n1e18,3,4", 3, "give seconds"),
    "a date for a time": (V + "2023-11-16,3,4", 3, "correct or remove"),
    "hexadecimal": (V + "1.0,0x10,4", 3, "correct or remove"),
    "thousands": (V + '1.0,"1,000",4', 3, "correct or remove"),
    "too few fields": (V + "1.0,3", 3, "correct or remove"),
    "a cell of only spaces": (V + "1.0,  ,4", 3, "correct or remove"),
    "an unnamed class": ("num_prefill_tokens,num_decode_tokens,class\n3,4,a\n3,4,", 3, "name it or remove"),
    "missing column": ("arrived_at,num_prefill_tokens\n1,2", 1, "name the columns"),
    "no rows": (V.split("\n")[0] + "\n\n\n", 1, "give a trace"),
}
MOONCAKE = {
    "cut off": (M + '{"timestamp": 1, "input_length": 7', 2, "one JSON object"),
    "a list": (M + "[1, 2, 3]", 2, "one JSON object"),
    "two on a line": (M + M.strip() + "," + M.strip(), 2, "one JSON object"),
    "blank line inside": (M + "\n" + M, 2, "one JSON object"),
    "a torn pair that two on one line make up for": (
        M + '{"timestamp": 1, "input_length": 7\n"output_length": 3}\n' + M.strip() + ", " + M.strip(),
        2,
        "one JSON object",
    ),
    "a key twice": (M + M.replace('"output_length"', '"input_length": 7, "output_length"'), 2, "keep one"),
    "a time of 1e14 ms": (M + M.replace('"timestamp": 0', '"timestamp": 1e14'), 2, "give milliseconds"),
    "an escape code in a class": (M.replace("{", '{"class": "\\u001b[31m", '), 1, "take it out"),
    "no output": (M + '{"timestamp": 1, "input_length": 7}', 2, "add it or remove"),
    "text for a number": (
        M + '{"timestamp": 1, "input_length": "7", "output_length": 3}',
        2,
        "correct or remove",
    ),
    "true": (M + '{"timestamp": 1, "input_length": true, "output_length": 3}', 2, "correct or remove"),
    "null": (M + '{"timestamp": null, "input_length": 7, "output_length": 3}', 2, "correct or remove"),
    "NaN": (M + '{"timestamp": NaN, "input_length": 7, "output_length": 3}', 2, "correct or remove"),
    "endless number": (
        M + '{"timestamp": 1%s, "input_length": 7, "output_length": 3}' % ("0" * 400),
        2,
        "correct",
    ),
    "thousands of digits": (M + '{"timestamp": 1%s}' % ("0" * 5000), 2, "one JSON object"),
    "lists too deep": (M + "[" * 100_000, 2, "one JSON object"),
    "half a token": (M + '{"timestamp": 1, "input_length": 7.5, "output_length": 3}', 2, "correct or remove"),
    "zero prompt": (M + '{"timestamp": 1, "input_length": 0, "output_length": 3}', 2, "correct or remove"),
    "huge prompt": (M + '{"timestamp": 1, "input_length": 1e12, "output_length": 3}', 2, "correct the line"),
    "ids not a list": (M + M.replace("[0, 1]", "5"), 2, "leave it out"),
    "ids of text": (M + M.replace("[0, 1]", '[0, "1"]'), 2, "correct or remove"),
    "more blocks than prompt": (M + M.replace("[0, 1]", "[0, 1, 2]"), 2, "block_tokens"),
    "ids beyond 64 bits": (M + M.replace("[0, 1]", "[0, 99999999999999999999]"), 2, "renumber"),
    "mixed block sizes": (M + M.replace("{", '{"block_tokens": 16, '), 2, "one size"),
    "block size 0": (M.replace("{", '{"block_tokens": 0, '), 1, "correct it"),
    "half classed": (M.replace("{", '{"class": "a", ') + M, 2, "name all or none"),
}


def _conversation(**changes):
    turns = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    return {"conversations": turns} | changes


def _second(**changes):
    return json.dumps([_conversation(), _conversation(**changes)])


SHAREGPT = {
    "broken JSON": ('[\n{"conversations": [}\n]', 2, "write the file again"),
    "lists too deep": ("[" * 100_000, "too deep", "write the file again"),
    "an empty list": ("[]", 1, "give the ShareGPT JSON"),
    "a key twice": ('[{"conversations": [], "conversations": []}]', "'conversations' is given twice", "keep one"),
    "no conversations": ('[{"id": 5}]', "conversation 0", "correct or remove"),
    "conversations of text": (_second(conversations="hello"), "conversation 1", "correct or remove"),
    "an item of text": (json.dumps([_conversation(), "hello"]), "conversation 1", "correct or remove"),
    "a turn of text": (_second(conversations=["hello", "hi"]), "conversation 1", "correct or remove"),
    "a turn without value": (
        _second(conversations=[{"from": "human"}]),
        "conversation 1",
        "correct or remove",
    ),
    "a number for value": (
        _second(conversations=[{"from": "human", "value": 5}]),
        "conversation 1",
        "correct",
    ),
    "an empty answer": (
        _second(conversations=[{"from": "human", "value": "x"}, {"from": "gpt", "value": "  "}]),
        "conversation 1",
        "failed='drop'",
    ),
    "only turns of one": ('[{"conversations": [{"value": "x"}]}]', "fewer than two turns", "as published"),
    "a number of no token": (_second(conversations=[{"value": ""}, {"value": "x"}]), "conversation 1", "failed='drop'"),
}
RESULT = {"input_lens": [10, 20], "output_lens": [5, 6], "start_times": [1.0, 2.0], "errors": ["", ""]}


def _result(**changes):
    return json.dumps({k: v for k, v in (RESULT | changes).items() if v is not None})


VLLM = {
    "broken JSON": ('{"input_lens":\n [1, 2', 2, "write the file again"),
    "two results in a file, none chosen": (_result() + "\n" + _result(), "holds 2 runs", "--run 1 to --run 2"),
    "a second result that is cut off": (_result() + "\n" + _result()[:-9], 2, "as one JSON object"),
    "a list": (_result() + "\n[1]", 2, "one JSON object"),
    "a key twice": (_result()[:-1] + ', "input_lens": [1, 2]}', "'input_lens' is given twice", "keep one"),
    "a start beyond any clock": (_result(start_times=[1.0, 1e17]), "request 1", "correct it"),
    "no details saved": ('{"num_prompts": 3, "request_throughput": 1.0}', "input_lens", "--save-detailed"),
    "a rate below all": (_result(start_times=None, request_rate=-1), "request_rate", "correct it"),
    "a burstiness of text": (_result(request_rate=2.0, burstiness="1"), "burstiness", "correct it"),
    "half a request in flight": (_result(max_concurrency=0.5), "max_concurrency", "correct it"),
    "gaps that are no list": (_result(itls=[[0.1], 0.1]), "request 1", "correct it"),
    "a negative gap": (_result(itls=[[0.1], [-0.1]]), "request 1", "correct it"),
    "no output lengths": (_result(output_lens=None), "output_lens", "--save-detailed"),
    "an empty run": (_result(input_lens=[]), "input_lens", "run the benchmark again"),
    "lengths differ": (_result(output_lens=[5]), "output_lens has 1", "run the benchmark again"),
    "errors differ": (_result(errors=[""]), "errors has 1", "run the benchmark again"),
    "a failed request": (_result(errors=["", "boom"]), "request 1", "failed='drop'"),
    "no output and no error": (_result(output_lens=[5, 0]), "request 1", "failed='drop'"),
    "a null": (_result(start_times=[1.0, None]), "request 1", "correct it"),
    "NaN": (_result(start_times=[1.0, float("nan")]), "request 1", "correct it"),
    "text": (_result(input_lens=[10, "20"]), "request 1", "correct it"),
    "negative": (_result(input_lens=[10, -20]), "request 1", "correct or remove"),
    "half a token": (_result(output_lens=[5, 6.5]), "request 1", "correct or remove"),
    "errors not a list": (_result(errors=3), "errors is not a list", "run the benchmark again"),
    "an endless number": (_result().replace("20", "2" * 5000), "too long", "write the file again"),
    "not a list": (_result(input_lens=3), "input_lens", "run the benchmark again"),
}


def _guidellm(*, first=None, **changes):
    requests = [
        {"request_start_time": 100.0 + i, "request_end_time": 103.0 + i, "prompt_tokens": 10, "output_tokens": 5}
        for i in range(2)
    ]
    requests[1] |= changes
    requests[1] = {key: value for key, value in requests[1].items() if value is not None}
    return json.dumps({"benchmarks": [*(first or []), {"requests": {"successful": requests}}]})


GUIDELLM = {
    "broken JSON": ('{"benchmarks":\n [1, 2', 2, "write the file again"),
    "a list": ("[]", 1, "guidellm"),
    "no benchmarks": ('{"benchmarks": []}', "'benchmarks'", "run the benchmark again"),
    "benchmarks of text": ('{"benchmarks": ["a"]}', "'benchmarks'", "must be a list of objects"),
    "no requests": ('{"benchmarks": [{"requests": {"successful": []}}]}', "'successful'", "run the benchmark again"),
    "requests of a number": ('{"benchmarks": [{"requests": 3}]}', "'requests'", "must be an object"),
    "no prompt": (_guidellm(prompt_tokens=None), "successful[1]", "is missing"),
    "no start": (_guidellm(request_start_time=None), "successful[1]", "is missing"),
    "half a token": (_guidellm(output_tokens=5.5), "request 1", "correct or remove"),
    "text": (_guidellm(output_tokens="5"), "successful[1]", "must be a number"),
    "a time beyond any clock": (_guidellm(request_start_time=1e17), "successful[1]", "must be at most"),
    "NaN": (_guidellm(request_start_time=float("nan")), "successful[1]", "must be finite"),
    "two benchmarks, none chosen": (
        _guidellm(first=[{"requests": {"successful": [{"start_time": 1, "prompt_tokens": 1, "output_tokens": 1}]}}]),
        "holds 2 runs",
        "--run 1 to --run 2",
    ),
    "an incomplete request": (
        _guidellm().replace("]}}", '], "incomplete": [{"prompt_tokens": 10, "start_time": 5}]}}'),
        "unserved request 2",
        "failed='drop'",
    ),
}


def _aiperf(metadata=None, **metrics):
    about = {"request_start_ns": 1764000000500000000, "request_end_ns": 1764000003500000000} | (metadata or {})
    values = {"input_sequence_length": 10, "output_sequence_length": 5} | metrics
    units = {"time_to_first_token": "ms", "inter_chunk_latency": "ms"}
    return (
        json.dumps(
            {
                "metadata": {key: value for key, value in about.items() if value is not None},
                "metrics": {
                    key: {"value": value, "unit": units.get(key, "tokens")}
                    for key, value in values.items()
                    if value is not None
                },
            }
        )
        + "\n"
    )


AIPERF = {
    "cut off": (_aiperf() + _aiperf()[:40], 2, "one JSON object"),
    "a list": (_aiperf() + "[1]", 2, "one JSON object"),
    "a key twice": (_aiperf() + _aiperf().replace('"metrics"', '"metadata"'), 2, "keep one"),
    "no metadata": (_aiperf() + '{"metrics": {}}', 2, "'metadata' is missing"),
    "no start": (_aiperf() + _aiperf({"request_start_ns": None}), 2, "'request_start_ns' is missing"),
    "a start of half a nanosecond": (_aiperf() + _aiperf({"request_start_ns": 0.5}), 2, "a whole number"),
    "a start beyond any clock": (_aiperf() + _aiperf({"request_start_ns": 10**20}), 2, "and at most"),
    "no metrics": (_aiperf() + '{"metadata": {"request_start_ns": 5}}', 2, "'metrics' is missing"),
    "no prompt": (_aiperf() + _aiperf(input_sequence_length=None), 2, "'input_sequence_length' is missing"),
    "half a token": (_aiperf() + _aiperf(output_sequence_length=5.5), 2, "correct or remove"),
    "text": (_aiperf() + _aiperf(output_sequence_length="5"), 2, "must be a number"),
    "an unknown unit": (_aiperf() + _aiperf(time_to_first_token=3).replace('"ms"', '"h"'), 2, "'unit'"),
    "gaps of text": (_aiperf() + _aiperf(inter_chunk_latency=["a"]), 2, "must be a list of numbers"),
    "a cancelled request": (_aiperf() + _aiperf({"was_cancelled": True}), 2, "failed='drop'"),
    "an error": (
        _aiperf() + _aiperf().replace('{"metadata"', '{"error": {"type": "Timeout"}, "metadata"'),
        2,
        "Timeout",
    ),
}
BAD = {
    "aiperf": AIPERF,
    "azure": AZURE,
    "burstgpt": BURSTGPT,
    "guidellm": GUIDELLM,
    "mooncake": MOONCAKE,
    "sharegpt": SHAREGPT,
    "vidur": VIDUR,
    "vllm-bench": VLLM,
    **bad_logs.BAD,
}
GOOD = {
    "aiperf": _aiperf(),
    "azure": A,
    "burstgpt": B,
    "guidellm": _guidellm(),
    "mooncake": M * 2,
    "sharegpt": _second(),
    "vidur": V,
    "vllm-bench": _result(),
    **bad_logs.GOOD,
}


def test_every_format_has_ten_bad_files():
    assert BAD.keys() == GOOD.keys() == FORMATS.keys()
    assert min(map(len, BAD.values())) >= 10


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, cases in BAD.items() for what in cases])
def test_bad_files_are_refused_with_place_and_mend(tmp_path, name, what):
    content, place, mend = BAD[name][what]
    path = tmp_path / "trace.dat"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_trace(path, name)
    message = str(error.value)
    assert message.startswith(f"{path}:{place}: " if isinstance(place, int) else f"{path}: ")
    assert str(place) in message
    assert mend in re.split("[;:]", message, maxsplit=1)[1]


@pytest.mark.parametrize("name", ["azure", "burstgpt", "vidur", "mooncake"])
@pytest.mark.parametrize("line", [2, 3, 400, 999, 1001])
def test_the_bad_line_is_found_among_many(tmp_path, name, line):
    """The search by bisection lands on the first bad line, also when more follow."""
    header, row, bad = {
        "azure": (A.split("\n")[0], "2023-11-16 18:15:46,3,4", "2023-11-16 18:15:46,3,four"),
        "burstgpt": (B.split("\n")[0], "6,GPT-4,3,4,7,Chat", "late,GPT-4,3,4,7,Chat"),
        "vidur": (V.split("\n")[0], "1,3,4", "1,three,4"),
        "mooncake": (M.strip(), M.strip(), "{"),
    }[name]
    lines = [header] + [row] * 1000
    lines[line - 1] = lines[-1] = bad
    path = tmp_path / "trace.dat"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"trace\.dat:{line}: "):
        read_trace(path, name)


@pytest.mark.parametrize("name", ["burstgpt", "sharegpt", "vllm-bench"])
def test_a_trace_of_only_failures_is_refused(tmp_path, name):
    content = {
        "burstgpt": B.replace(",18,", ",0,"),
        "sharegpt": '[{"conversations": [{"value": ""}, {"value": ""}]}]',
        "vllm-bench": _result(errors=["a", "b"]),
    }[name]
    path = tmp_path / "trace.dat"
    path.write_text(content)
    with pytest.raises(InputError, match="every request failed; give a trace"):
        read_trace(path, name, failed="drop")


def test_unknown_content_is_told_what_to_be(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(
        InputError, match=r"notes.txt:1: 'dear diary' is no header of a table, and no JSON; give a table"
    ):
        read_trace(path)


def test_unknown_format_option_and_choice_are_named(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(B)
    with pytest.raises(InputError, match="unknown trace format 'csv'"):
        read_trace(path, "csv")
    with pytest.raises(InputError, match="burstgpt has no option 'jitter_seed'; it knows failed"):
        read_trace(path, jitter_seed=1)
    with pytest.raises(InputError, match="failed = 'skip' is not known; use one of 'stop', 'drop'"):
        read_trace(path, failed="skip")


@pytest.mark.parametrize("seed", [-1, 1.5, "one"])
def test_a_jitter_seed_must_be_a_whole_number(tmp_path, seed):
    path = tmp_path / "trace.jsonl"
    path.write_text(M + M.replace('"timestamp": 0', '"timestamp": 9'))
    with pytest.raises(InputError, match="must be a whole number"):
        read_trace(path, jitter_seed=seed)


def test_jitter_needs_two_timestamps(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(M + M)
    with pytest.raises(InputError, match="leave jitter out"):
        read_trace(path, jitter_seed=1)


@pytest.mark.parametrize("count", [-1, 2.5, None, 10**30])
def test_a_token_counter_must_count(tmp_path, count):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps([_conversation()]))
    with pytest.raises(InputError, match=r"count_tokens gave .*must give a whole number"):
        read_trace(path, count_tokens=lambda text: count)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="there is no such file; check the path"):
        read_trace(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(tmp_path)
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    with pytest.raises(InputError, match=r"empty.csv:1: the file is empty"):
        read_trace(empty)


@pytest.mark.parametrize("damage", [lambda z: z[:-12], lambda z: z[:20] + bytes(8) + z[28:], lambda z: z[:9]])
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(damage(gzip.compress((V + "1,2,3\n" * 50).encode())))
    with pytest.raises(InputError, match=r"gzip data is damaged .*fetch the file again"):
        read_trace(path, "vidur")


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress((V + "1,2,3\n" * 4_000_000).encode()))
    with pytest.raises(InputError, match="unpacks to more than 100 times its size, which no trace does; fetch"):
        read_trace(path, "vidur")
    monkeypatch.setattr(_files, "MAX_BYTES", 1000)
    for content in (gzip.compress((V + "1,2,3\n" * 999).encode()), (V + "1,2,3\n" * 999).encode()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"holds more than .* GiB; give a part of the trace"):
            read_trace(path, "vidur")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_mangled_file_gives_a_workload_or_an_input_error(tmp_path, name, data):
    text = GOOD[name]
    at = data.draw(st.integers(0, len(text)))
    until = data.draw(st.integers(at, min(len(text), at + 12)))
    path = tmp_path / "trace.dat"
    path.write_bytes((text[:at] + data.draw(st.text(max_size=6)) + text[until:]).encode("utf-8", "surrogatepass"))
    try:
        workload, said = read_trace(path, name)
    except InputError as error:
        workload, said = None, str(error)
    assert str(path) in said if workload is None else "requests kept of" in said
