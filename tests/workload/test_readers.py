"""Every reader on a good file."""

import gzip
import json

import numpy as np
import pytest

from fluidgate.errors import InputError
from fluidgate.workload import FORMATS, Poisson, detect_format, read_trace

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01+00:00,2399,6
2024-05-11 00:00:00.009930+00:00,76,15
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,Conversation log
118,ChatGPT,417,276,693,API log
"""
BURSTGPT_3 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5.5,,,ChatGPT,472,18,490,API log
6.25,17,3.1,GPT-4,10,23,33,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 700, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 513, "output_length": 490, "hash_ids": [0, 7]}
{"timestamp": 3000, "input_length": 12, "output_length": 3, "hash_ids": []}
{"timestamp": 3000, "input_length": 512, "output_length": 794, "hash_ids": [9]}
"""
VIDUR = """arrived_at,num_prefill_tokens,num_decode_tokens,client
0.0,34,510,22
0.25,1161,327,22
"""
LENGTHS = "num_prefill_tokens,num_decode_tokens\n74,918\n290,905\n"
SHAREGPT = json.dumps(
    [
        {
            "id": "a",
            "conversations": [{"from": "human", "value": "x" * 9}, {"from": "gpt", "value": "y" * 8}],
        },
        {
            "conversations": [
                {"from": "human", "value": "two words"},
                {"from": "gpt", "value": "one two three"},
            ]
        },
    ]
)
VLLM = {
    "date": "20260101-000000",
    "num_prompts": 3,
    "input_lens": [10, 20, 30],
    "output_lens": [5, 6, 7],
    "ttfts": [0.1, 0.1, 0.1],
    "itls": [[0.1], [0.1], [0.1]],
    "start_times": [1000.5, 1001.0, 1002.0],
    "errors": ["", "", ""],
}
GUIDELLM = {
    "metadata": {"guidellm_version": "0.5.0"},
    "benchmarks": [
        {
            "requests": {
                "successful": [
                    {"request_start_time": 100.5, "request_end_time": 104, "prompt_tokens": 256, "output_tokens": 64},
                    {"request_start_time": 100.0, "request_end_time": 103, "prompt_tokens": 512, "output_tokens": 128},
                ]
            }
        }
    ],
}
AIPERF = "\n".join(
    json.dumps(
        {
            "metadata": {"request_start_ns": start_ns, "request_end_ns": start_ns + 3 * 10**9, "was_cancelled": False},
            "metrics": {
                "input_sequence_length": {"value": prompt, "unit": "tokens"},
                "output_sequence_length": {"value": output, "unit": "tokens"},
            },
        }
    )
    for start_ns, prompt, output in ((1764000000 * 10**9, 512, 128), (17640000005 * 10**8, 256, 64))
)
BAILIAN = """{"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.1, "input_length": 521, "output_length": 132}
{"chat_id": 2, "parent_chat_id": 1, "timestamp": 62.5, "input_length": 32, "output_length": 80, "hash_ids": [4, 7]}
"""
OPENAI = """{"object": "chat.completion", "created": 1764000000, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
{"object": "chat.completion", "created": 1764000002, "usage": {"prompt_tokens": 5, "completion_tokens": 6}}
"""
LITELLM = """call_type,startTime,prompt_tokens,completion_tokens,status
acompletion,2025-11-24 16:00:00.5,3,4,success
acompletion,2025-11-24 16:00:02.5,5,6,success
"""
OTEL = """{"start_time": "2025-11-24T16:00:00Z", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4}
{"start_time": "2025-11-24T16:00:02Z", "attributes": {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 6}}
"""
LANGFUSE = """traceId,type,startTime,usageDetails
a,GENERATION,2025-11-24T16:00:00Z,"{""input"": 3, ""output"": 4}"
a,GENERATION,2025-11-24T16:00:02Z,"{""input"": 5, ""output"": 6}"
"""
TABLE = "ts,prompt_len,completion_len\n1764000000.5,3,4\n1764000002.5,5,6\n"
GOOD = {
    "aiperf": AIPERF,
    "azure": AZURE_2023,
    "bailian": BAILIAN,
    "burstgpt": BURSTGPT,
    "guidellm": json.dumps(GUIDELLM),
    "mooncake": MOONCAKE,
    "sharegpt": SHAREGPT,
    "vidur": VIDUR,
    "vllm-bench": json.dumps(VLLM),
    "langfuse": LANGFUSE,
    "otel": OTEL,
    "litellm": LITELLM,
    "openai": OPENAI,
    "table": TABLE,
}


@pytest.fixture
def save(tmp_path):
    """Write text to a file and give its path."""

    def write(text, name="trace.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_every_format_has_a_good_file():
    assert GOOD.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", GOOD)
def test_the_format_is_told_from_the_content(save, name):
    assert detect_format(save(GOOD[name])) == name


@pytest.mark.parametrize("name", GOOD)
def test_gzip_byte_order_mark_and_windows_line_ends_change_nothing(save, name):
    plain, _ = read_trace(save(GOOD[name]))
    crlf = GOOD[name].replace("\n", "\r\n").encode("utf-8-sig")
    for variant in (gzip.compress(GOOD[name].encode()), crlf, gzip.compress(crlf), GOOD[name].rstrip()):
        assert read_trace(save(variant, "other.bin"))[0].digest == plain.digest


@pytest.mark.parametrize("name", GOOD)
def test_the_note_counts_what_was_kept(save, name):
    workload, note = read_trace(save(GOOD[name]))
    assert f"{len(workload)} requests kept of {len(workload)} rows" in note
    assert f"format {name}" in note


def test_azure_2023_keeps_seven_digits(save):
    workload, _ = read_trace(save(AZURE_2023))
    assert workload.arrival_s.tolist() == [0.0, 4.314579]
    assert workload.prompt_tokens.tolist() == [374, 396]
    assert workload.output_tokens.tolist() == [44, 109]


def test_azure_2024_with_offsets_and_missing_fraction(save):
    workload, _ = read_trace(save(AZURE_2024))
    assert workload.arrival_s.tolist() == [0.0, 0.99007, 86400.0]


def test_burstgpt_models_are_classes(save):
    workload, _ = read_trace(save(BURSTGPT))
    assert workload.arrival_s.tolist() == [0, 40, 113]
    assert workload.class_names == ("ChatGPT", "GPT-4")
    assert workload.class_id.tolist() == [0, 1, 0]


def test_burstgpt_release_3_with_empty_sessions(save):
    workload, _ = read_trace(save(BURSTGPT_3))
    assert workload.arrival_s.tolist() == [0, 0.75]
    assert workload.prompt_tokens.tolist() == [472, 10]


def test_burstgpt_failures_are_dropped_only_when_asked_and_counted(save):
    path = save(BURSTGPT.replace("45,", "44,Other,300,0,300,API log\n45,") + "121,GPT-4,0,0,0,API log\n")
    with pytest.raises(InputError, match=r"trace.txt:3: Response tokens = 0.*2 such.*failed='drop'"):
        read_trace(path)
    workload, note = read_trace(path, failed="drop")
    assert len(workload) == 3
    assert "3 requests kept of 5 rows; 2 failed requests dropped" in note
    assert workload.prompt_tokens.tolist() == [472, 1087, 417]
    assert workload.class_names == ("ChatGPT", "GPT-4")
    assert workload.class_id.tolist() == [0, 1, 0]


def test_mooncake_prefix_blocks_follow_their_request(save):
    workload, _ = read_trace(save(MOONCAKE))
    assert workload.arrival_s.tolist() == [0, 0, 3, 3]
    assert workload.prefix_ids.tolist() == [0, 1, 0, 7, 9]
    assert workload.prefix_offsets.tolist() == [0, 2, 4, 4, 5]
    assert workload.prefix_block_tokens == 512


def test_mooncake_prefix_blocks_follow_their_request_through_sorting(save):
    path = save("\n".join(reversed(MOONCAKE.strip().split("\n"))))
    workload, note = read_trace(path)
    assert "sorted by arrival (1 came before the row ahead)" in note
    assert workload.prompt_tokens.tolist() == [513, 700, 512, 12]
    assert workload.prefix_ids.tolist() == [0, 7, 0, 1, 9]
    assert workload.prefix_offsets.tolist() == [0, 2, 4, 5, 5]


def test_mooncake_without_hash_ids_has_no_prefix(save):
    workload, _ = read_trace(save('{"timestamp": 1.5, "input_length": 3, "output_length": 4}'))
    assert workload.prefix_block_tokens == 0
    assert len(workload.prefix_ids) == 0


def test_mooncake_jitter_spreads_a_batch_over_the_gap_and_keeps_order(save):
    row = {"output_length": 1, "hash_ids": []}
    rows = [row | {"timestamp": t, "input_length": i + 1} for t in (0, 3000, 7000) for i in range(400)]
    rows.append(row | {"timestamp": 20000, "input_length": 9})
    path = save("\n".join(map(json.dumps, rows)))
    workload, note = read_trace(path, jitter_seed=3)
    assert workload.prompt_tokens.tolist() == [*range(1, 401)] * 3 + [9]
    # The first request defines time 0, so shift back by the last one, which is alone and does not move.
    t = workload.arrival_s - workload.arrival_s[-1] + 20
    for start, end, part in ((0, 3, t[:400]), (3, 7, t[400:800]), (7, 20, t[800:1200])):
        assert start <= part.min() < part.max() < end
        # Uniform: 400 draws average to the middle within four standard errors.
        assert abs(part.mean() - (start + end) / 2) < 4 * (end - start) / np.sqrt(12 * 400)
    assert "1,200 requests spread" in note
    assert read_trace(path, jitter_seed=3)[0].digest == workload.digest
    assert read_trace(path, jitter_seed=4)[0].digest != workload.digest


def test_vidur_names_the_columns_it_does_not_use(save):
    workload, note = read_trace(save(VIDUR))
    assert workload.arrival_s.tolist() == [0, 0.25]
    assert "columns not used: client" in note


def test_lengths_alone_arrive_at_once_or_as_told(save):
    path = save(LENGTHS)
    workload, note = read_trace(path)
    assert workload.arrival_s.tolist() == [0, 0]
    assert "all arrive at 0" in note
    drawn, note = read_trace(path, arrivals=Poisson(2.0), seed=5)
    assert 0 < drawn.arrival_s[0] < drawn.arrival_s[1]
    assert "Poisson(rate=2.0) with seed 5" in note


def test_spaces_and_quotes_around_values_are_harmless(save):
    workload, _ = read_trace(save('arrived_at, num_prefill_tokens ,"num_decode_tokens"\n0, 34 ,"510"\n1,5,6.0\n'))
    assert workload.prompt_tokens.tolist() == [34, 5]
    assert workload.output_tokens.tolist() == [510, 6]


def test_unsorted_arrivals_are_sorted_stably_and_said(save):
    path = save("arrived_at,num_prefill_tokens,num_decode_tokens\n5,1,1\n2,2,2\n5,3,3\n2,4,4\n")
    workload, note = read_trace(path)
    assert workload.prompt_tokens.tolist() == [2, 4, 1, 3]
    assert workload.arrival_s.tolist() == [0, 0, 3, 3]
    assert "sorted by arrival (2 came before" in note


def test_sharegpt_lengths_by_four_characters_are_announced(save):
    workload, note = read_trace(save(SHAREGPT))
    assert workload.prompt_tokens.tolist() == [3, 3]
    assert workload.output_tokens.tolist() == [2, 4]
    assert "approximated as 4 characters" in note


def test_sharegpt_lengths_by_a_counter(save):
    workload, note = read_trace(save(SHAREGPT), count_tokens=lambda text: len(text.split()))
    assert workload.prompt_tokens.tolist() == [1, 2]
    assert workload.output_tokens.tolist() == [1, 3]
    assert "approximated" not in note


def test_sharegpt_conversations_without_two_turns_are_left_out_and_empty_ones_dropped_only_when_asked(save):
    items = [
        *json.loads(SHAREGPT),
        {"conversations": [{"from": "gpt", "value": "hi"}]},
        {"conversations": []},
        {"conversations": [{"from": "gpt", "value": "hi"}, {"from": "human", "value": " "}]},
    ]
    path = save(json.dumps(items))
    with pytest.raises(InputError, match=r"conversation 4: .*no token, one of 1 such.*failed='drop'"):
        read_trace(path)
    workload, note = read_trace(path, failed="drop")
    assert len(workload) == 2
    assert "2 requests kept of 5 rows; 2 conversations of fewer than two turns left out; 1 failed requests" in note


def test_vllm_bench_shifts_the_clock(save):
    workload, _ = read_trace(save(json.dumps(VLLM)))
    assert workload.arrival_s.tolist() == [0, 0.5, 1.5]
    assert workload.output_tokens.tolist() == [5, 6, 7]


def test_vllm_bench_failures_are_dropped_only_when_asked(save):
    path = save(json.dumps(VLLM | {"errors": ["", "Timeout", ""], "output_lens": [5, 0, 7]}))
    with pytest.raises(InputError, match=r"request 1: failed \(Timeout\).*failed='drop'"):
        read_trace(path)
    workload, note = read_trace(path, failed="drop")
    assert workload.arrival_s.tolist() == [0, 1.5]
    assert "1 failed requests dropped" in note


@pytest.mark.parametrize(
    ("file", "rows", "rate", "options"),
    [
        ("AzureLLMInferenceTrace_conv.csv", 19_366, 5.53, {}),
        ("AzureLLMInferenceTrace_code.csv", 8_819, 2.57, {}),
        ("conversation_trace.jsonl", 12_031, 3.40, {"jitter_seed": 0}),
        ("servegen_r1_1h.csv.gz", 43_477, 12.08, {}),
        ("sharegpt_8k_lengths.csv.gz", 30_731, np.inf, {}),
        ("vllm_measured_RTX4090_Llama-3.1-8B.csv.gz", 300, 10.27, {}),
    ],
)
def test_real_traces_are_read_whole(shared_dir, file, rows, rate, options):
    workload, note = read_trace(shared_dir / "traces" / file, **options)
    assert len(workload) == rows
    assert f"{rows:,} requests kept of {rows:,} rows" in note
    assert workload.rate == pytest.approx(rate, rel=2e-3)


def test_azure_conversation_has_its_published_lengths(shared_dir):
    workload, _ = read_trace(shared_dir / "traces" / "AzureLLMInferenceTrace_conv.csv")
    assert workload.prompt_tokens.mean() == pytest.approx(1155, abs=1)
    assert workload.output_tokens.mean() == pytest.approx(211, abs=1)
    assert np.quantile(workload.prompt_tokens, 0.99) == pytest.approx(4142, abs=1)
    assert np.quantile(workload.output_tokens, 0.99) == pytest.approx(601, abs=1)
