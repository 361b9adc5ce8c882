"""Own logs, file by file: each shape, what is taken for what, and what is asked for."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import fluidgate as fg
from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.policies import Greedy
from fluidgate.workload import parse_columns, read_trace
from fluidgate.workload.formats import _files

LOGS = Path(__file__).with_name("own_logs")
ARRIVAL_S, PROMPT, OUTPUT = [0.0, 0.75, 2.5], [374, 396, 20], [44, 109, 7]
SECONDS = [0.0, 1.0, 3.0]
"""Of the same requests, as OpenAI's answers have them: in whole seconds."""

SHAPES = {
    "seconds.csv": ("table", {}, ARRIVAL_S, "time = ts (s, since 1970), prompt = prompt_len, output = completion_len"),
    "iso.csv": ("table", {}, ARRIVAL_S, "time = timestamp (dates)"),
    "milliseconds.tsv": ("table", {}, ARRIVAL_S, "time = time_ms (ms, by its name)"),
    "excel.csv": ("table", {}, ARRIVAL_S, "time = Start Time (dates), prompt = Prompt Tokens"),
    "gateway.jsonl": ("table", {}, ARRIVAL_S, "time = start_unix_us (us, by its name), prompt = usage.prompt_tokens"),
    "log.parquet": ("table", {}, ARRIVAL_S, "time = created_at (dates)"),
    "openai.jsonl": ("openai", {}, SECONDS, "time = created (s, as the format has it), prompt = usage.prompt_tokens"),
    "openai_batch.jsonl": ("openai", {"failed": "drop"}, SECONDS, "prompt = response.body.usage.prompt_tokens"),
    "litellm.json": ("litellm", {}, ARRIVAL_S, "1 calls that generate no text left out"),
    "litellm.csv": ("litellm", {}, ARRIVAL_S, "time = startTime (dates)"),
    "otlp.jsonl": ("otel", {}, ARRIVAL_S, "1 spans of other kinds left out"),
    "spans.jsonl": ("otel", {}, ARRIVAL_S, "prompt = gen_ai.usage.input_tokens"),
    "langfuse.json": ("langfuse", {}, ARRIVAL_S, "1 observations that are no generations left out"),
    "langfuse.csv": ("langfuse", {}, ARRIVAL_S, "prompt = usage with input"),
    "guidellm_trace.jsonl": ("mooncake", {"time_unit": "s"}, ARRIVAL_S, "times in s, as told"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_read_and_says_how(name):
    form, options, arrival_s, said = SHAPES[name]
    workload, note = read_trace(LOGS / name, **options)
    assert workload.arrival_s.tolist() == pytest.approx(arrival_s, abs=1e-6)
    assert (workload.prompt_tokens.tolist(), workload.output_tokens.tolist()) == (PROMPT, OUTPUT)
    assert said in note
    assert note.endswith(f"(format {form})")


def test_every_file_here_is_tried():
    others = {"bailian.jsonl", "sessions.jsonl", "sharegpt.json"}
    assert {path.name for path in LOGS.iterdir()} == SHAPES.keys() | others


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_can_be_planned_and_run(name):
    """The way to the end: a plan, and a run in which every request is served."""
    workload, _ = read_trace(LOGS / name, **SHAPES[name][1])
    hardware = fg.get_hardware("llama-2-7b", "a100-80gb")
    assert fg.plan(workload, hardware).verdict
    records = run(workload, hardware, Greedy(), EngineConfig())
    assert records.finished.all()


def test_bailian_counts_seconds_and_blocks_of_16_tokens():
    workload, note = read_trace(LOGS / "bailian.jsonl")
    assert workload.arrival_s.tolist() == pytest.approx(ARRIVAL_S)
    assert workload.class_names == ("search", "text")
    assert workload.prefix_block_tokens == 16
    assert "times in s, as the format has it; 1 later turns, sent at their own times" in note
    first, second, third = np.split(workload.prefix_ids, workload.prefix_offsets[1:-1])
    assert first.tolist() == second[:3].tolist()
    assert not set(third) & set(second)  # block 2 has the same content there, after another block


def test_sessions_wait_for_the_reply():
    workload, note = read_trace(LOGS / "sessions.jsonl")
    assert workload.after.tolist() == [-1, 0, -1]
    assert workload.delay_s.tolist() == [0, 0.75, 0]
    assert "times in ms, as the format has it" in note


def test_sharegpt_takes_the_first_two_turns_whoever_speaks():
    workload, note = read_trace(LOGS / "sharegpt.json")
    assert workload.prompt_tokens.tolist() == [3, 3, 4]
    assert workload.output_tokens.tolist() == [5, 1, 2]
    assert "3 requests kept of 4 rows; 1 conversations of fewer than two turns left out" in note
    assert "failed" not in note
    coarse, note = read_trace(LOGS / "sharegpt.json", characters_per_token=2)
    assert coarse.prompt_tokens.tolist() == [6, 6, 3]
    assert "tokens approximated as 2 characters each" in note
    with pytest.raises(InputError, match="characters_per_token = 0 must be between"):
        read_trace(LOGS / "sharegpt.json", characters_per_token=0)


def test_a_failed_request_of_a_batch_stops_the_reading_unless_dropped():
    with pytest.raises(InputError, match=r"openai_batch.jsonl:4: failed \(status 429\).*failed='drop'"):
        read_trace(LOGS / "openai_batch.jsonl")
    _, note = read_trace(LOGS / "openai_batch.jsonl", failed="drop")
    assert "3 requests kept of 4 rows" in note
    assert "1 failed requests dropped" in note


def test_labels_patience_and_sessions_by_columns(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("who,chat,ts_s,isl,osl,wait\nb,x,0,3,4,\na,y,1,3,4,2.5\nb,x,3,3,4,inf\nb,,3,3,4,9\n")
    columns = parse_columns("class=who,session=chat,timeout=wait")
    workload, _ = read_trace(path, columns=columns)
    assert workload.class_names == ("a", "b")
    assert workload.class_id.tolist() == [1, 0, 1, 1]
    assert workload.timeout_s.tolist() == [np.inf, 2.5, np.inf, 9]
    assert workload.after.tolist() == [-1, -1, 0, -1]


def test_a_table_in_memory_reads_as_the_file_does():
    table = pa.table({"ts": [1764000001.25, 1764000000.5], "n_in": [3, 4], "n_out": [5, 6], "tenant": ["b", "a"]})
    columns = {"prompt": "n_in", "output": "n_out"}
    workload = fg.Workload.from_table(table, columns, name="mine")
    assert (workload.name, workload.class_names) == ("mine", ("a", "b"))
    assert workload.arrival_s.tolist() == [0, 0.75]
    assert workload.prompt_tokens.tolist() == [4, 3]
    assert workload.class_id.tolist() == [0, 1]
    arrays = {
        name: column.to_numpy(zero_copy_only=False) for name, column in zip(table.column_names, table, strict=True)
    }
    assert fg.Workload.from_table(arrays, columns).digest == workload.digest

    class OnlyArrow:
        def __arrow_c_stream__(self, requested_schema=None):
            return table.__arrow_c_stream__(requested_schema)

    assert fg.Workload.from_table(OnlyArrow(), columns).digest == workload.digest


def test_a_pandas_table(monkeypatch):
    pandas = pytest.importorskip("pandas")
    when = pandas.to_datetime(["2025-11-24 16:00:01.25", "2025-11-24 16:00:00.5"])
    frame = pandas.DataFrame({"when": when, "prompt_tokens": [3.0, 4.0], "completion_tokens": [5, None]})
    with pytest.raises(InputError, match="table: row 2: completion_tokens says no output"):
        fg.Workload.from_table(frame, {"time": "when"})
    workload = fg.Workload.from_table(frame.fillna(6), {"time": "when"})
    assert workload.arrival_s.tolist() == [0, 0.75]


@pytest.mark.parametrize("bad", [3, [1, 2], {"a": [1, 2], "b": [1]}])
def test_what_is_no_table_is_refused(bad):
    with pytest.raises(InputError, match="table: not a table"):
        fg.Workload.from_table(bad)


def test_standard_input_is_read_once_and_served_twice(monkeypatch):
    class Stdin:
        buffer = io.BytesIO((LOGS / "seconds.csv").read_bytes())

    _files._piped.cache_clear()
    monkeypatch.setattr("sys.stdin", Stdin)
    first, second = read_trace("-"), read_trace("-")
    _files._piped.cache_clear()
    assert first[0].digest == second[0].digest == read_trace(LOGS / "seconds.csv")[0].digest
    assert first[0].name == "stdin"


def test_a_log_that_is_not_understood_says_what_would_do(tmp_path):
    path = tmp_path / "my log.csv"
    path.write_text("when,n_ctx,n_gen,user\n1764000000.5,374,44,a\n1764000001.25,396,109,b\n")
    with pytest.raises(InputError) as error:
        read_trace(path)
    message = str(error.value)
    assert "has columns when, n_ctx, n_gen, user; needed are time, prompt and output" in message
    command = message.rpartition("--columns ")[2]
    assert f"fluidgate trace info '{path}'" in message
    workload, _ = read_trace(path, columns=parse_columns(command))
    assert workload.prompt_tokens.tolist() == [374, 396]
    with pytest.raises(InputError, match=r"Say which they are: columns=\{'time': 'a', 'prompt': 'b'\}"):
        fg.Workload.from_table({"a": [1], "b": [2], "osl": [3]})


def test_lengths_alone_arrive_at_once_and_a_time_is_not_left_out_by_a_slip(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("isl,osl\n3,4\n5,6\n")
    assert "no arrival times in the file" in read_trace(path)[1]
    path.write_text("isl,osl,moment\n3,4,1764000000\n5,6,1764000001\n")
    with pytest.raises(InputError, match="time cannot be told"):
        read_trace(path)
    assert read_trace(path, columns={"time": "none"})[0].duration_s == 0


def test_columns_that_fit_as_well_are_asked_for(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"a": {"timestamp": 1}, "b": {"timestamp": 2}, "isl": 1, "osl": 1}))
    with pytest.raises(InputError, match=r"a.timestamp and b.timestamp could all be the time.*--columns time=a.timest"):
        read_trace(path)


@pytest.mark.parametrize("text", ["time", "time=", "=ts", "time=a,time=b", "when=ts", "", "time=a,,"])
def test_a_mapping_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="columns"):
        parse_columns(text)


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no column 'ts2' \(time\); it has ts, prompt_len, completion_len"):
        read_trace(LOGS / "seconds.csv", columns={"time": "ts2"})
    with pytest.raises(InputError, match="time_unit = 'h' is not known; use one of s, ms, us, ns"):
        read_trace(LOGS / "seconds.csv", time_unit="h")
    with pytest.raises(InputError, match="holds dates, which have no unit"):
        read_trace(LOGS / "iso.csv", time_unit="s")
    with pytest.raises(InputError, match="every request needs its output tokens"):
        read_trace(LOGS / "seconds.csv", columns={"output": "none"})


def test_columns_make_a_table_of_a_file_that_another_format_would_take(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("num_prefill_tokens,real_prompt,num_decode_tokens,arrived_at_s\n1,2,3,0\n1,2,3,4\n")
    workload, note = read_trace(path, columns={"prompt": "real_prompt"})
    assert workload.prompt_tokens.tolist() == [2, 2]
    assert "format table" in note


CASES = [
    ("01-bailian-trace-in-seconds/bailian.jsonl", {}, 0.718, 2.786, [521, 400, 900]),
    ("01-bailian-trace-in-seconds/bailian_hash.jsonl", {}, 0.718, 2.786, [521, 400, 900]),
    ("01-bailian-trace-in-seconds/bailian_mended.jsonl", {}, 0.718, 2.786, [521, 400, 900]),
    ("24-bench-result-without-start-times/bench_old.json", {}, None, None, [10, 20, 30]),
    ("26-bench-append-result/bench_append.json", {"run": 2}, 2.0, 0.5, [10, 20]),
    ("27-guidellm-and-aiperf-results/guidellm_out.json", {}, 2.0, 0.5, [512, 256]),
    ("27-guidellm-and-aiperf-results/aiperf_export.jsonl", {}, 2.0, 0.5, [512, 256]),
    ("28-sharegpt-as-published/sharegpt.json", {"failed": "drop"}, np.inf, 0, [3, 3, 6, 3]),
    ("29-sharegpt-chinese/sharegpt_zh.json", {}, np.inf, 0, [21]),
    ("32-session-trace-with-delay/aiperf_session.jsonl", {}, None, 1.5, [300, 500]),
    ("32-session-trace-with-delay/dynamo64.jsonl", {"block_tokens": 64}, None, 0.9, [640, 1280]),
]


@pytest.mark.parametrize(("file", "options", "rate", "duration_s", "prompt"), CASES)
def test_reported_files_give_their_right_values(shared_dir, file, options, rate, duration_s, prompt):
    workload, _ = read_trace(shared_dir / "cases" / file, **options)
    assert workload.prompt_tokens.tolist() == prompt
    assert rate is None or workload.rate == pytest.approx(rate, rel=1e-3)
    assert duration_s is None or workload.duration_s == pytest.approx(duration_s)
