"""Tables of own logs: what is drawn comes back, however it is written; what cannot be right is one sentence."""

import csv
import datetime
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.feather as pf
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.workload import read_trace
from fluidgate.workload.formats import _containers
from fluidgate.workload.logs.names import unit_in
from fluidgate.workload.logs.times import EPOCH_S, PER_S

BEGIN_S = st.integers(EPOCH_S[0], EPOCH_S[1] - 10**7)
NAMES = {
    "time": ("ts", "timestamp", "created_at", "Start Time", "arrived_at", "request.start_time"),
    "prompt": ("prompt_len", "promptTokens", "usage.input_tokens", "Context Tokens", "isl"),
    "output": ("completion_len", "completionTokens", "usage.output_tokens", "Generated Tokens", "osl"),
}
QUIET = [HealthCheck.function_scoped_fixture]


@st.composite
def tables(draw):
    """Requests as whole microseconds since 1970 and tokens; names of their columns, and their order."""
    begin_us = draw(BEGIN_S) * 10**6
    count = draw(st.integers(2, 6))
    gaps = st.lists(st.integers(0, 10**10), min_size=count, max_size=count)
    rows = [(begin_us + gap, draw(st.integers(1, 2**31 - 1)), draw(st.integers(1, 2**31 - 1))) for gap in draw(gaps)]
    names = [draw(st.sampled_from(NAMES[what])) for what in ("time", "prompt", "output")]
    order = draw(st.permutations(range(4)))  # the fourth is a column that is not used
    return rows, names, order


def as_number(us, unit):
    """Microseconds in another unit, as text, to the last digit."""
    if unit == "ns":
        return f"{us}000"
    digits = {"us": 0, "ms": 3, "s": 6}[unit]
    return f"{us // 10**digits}.{us % 10**digits:0{digits}d}" if digits else str(us)


def as_date(us, zone):
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=us)
    if zone.startswith("+"):
        moment += datetime.timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return moment.isoformat(" " if zone in ("", " UTC") else "T", timespec="microseconds") + zone


def checked(path, rows, **options):
    """The workload in the file, which has these requests."""
    workload, _ = read_trace(path, "table", **options)
    in_order = sorted(rows, key=lambda row: row[0])
    assert workload.prompt_tokens.tolist() == [row[1] for row in in_order]
    assert workload.output_tokens.tolist() == [row[2] for row in in_order]
    wanted = [(row[0] - in_order[0][0]) / 1e6 for row in in_order]
    # A second since 1970 is kept to a quarter of a microsecond by a float.
    assert workload.arrival_s.tolist() == pytest.approx(wanted, abs=1e-6)
    return workload


@settings(max_examples=120, deadline=None, suppress_health_check=QUIET)
@given(
    table=tables(),
    separator=st.sampled_from(",;\t|"),
    unit=st.sampled_from([*PER_S, "", " UTC", "Z", "+02:00", "+05:30"]),
    quoted=st.booleans(),
    crlf=st.booleans(),
    bom=st.booleans(),
    other=st.sampled_from(["x", "", "1.5", "a; b, c", "two\nlines"]),
)
def test_csv_in_any_dress(tmp_path, table, separator, unit, quoted, crlf, bom, other):
    rows, names, order = table
    header = [*names, "note"]
    written = [
        [as_number(us, unit) if unit in PER_S else as_date(us, unit), str(prompt), str(output), other]
        for us, prompt, output in rows
    ]
    out = io.StringIO()
    writer = csv.writer(
        out,
        delimiter=separator,
        quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL,
        lineterminator="\r\n" if crlf else "\n",
    )
    writer.writerows([row[i] for i in order] for row in [header, *written])
    path = tmp_path / "log.txt"
    path.write_bytes(out.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    checked(path, rows)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(
    table=tables(),
    unit=st.sampled_from([*PER_S, "Z"]),
    kind=st.sampled_from(["lines", "list", "wrapped", "indented"]),
    as_text=st.booleans(),
)
def test_json_in_any_dress(tmp_path, table, unit, kind, as_text):
    rows, names, order = table
    records = []
    for us, prompt, output in rows:
        time = as_date(us, unit) if unit == "Z" else as_number(us, unit)
        pairs = [
            (names[0], time if unit == "Z" or as_text else json.loads(time)),
            (names[1], str(prompt) if as_text else prompt),
            (names[2], output),
            ("note", None),
        ]
        record = {}
        for name, value in (pairs[i] for i in order):
            *outer, inner = name.split(".")
            place = record.setdefault(outer[0], {}) if outer else record
            place[inner] = value
        records.append(record)
    text = {
        "lines": lambda: "\n".join(map(json.dumps, records)),
        "list": lambda: json.dumps(records),
        "wrapped": lambda: json.dumps({"data": records, "meta": {"page": 1}}),
        "indented": lambda: json.dumps(records, indent=2),
    }[kind]()
    path = tmp_path / "log.json"
    path.write_text(text)
    checked(path, rows)


@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(table=tables(), kind=st.sampled_from(["us", "ns", "zoned", "int", "dictionary", "decimal"]))
def test_parquet_of_any_type(tmp_path, table, kind):
    rows, names, _ = table
    us = [row[0] for row in rows]
    times = {
        "us": lambda: pa.array(us, pa.timestamp("us")),
        "ns": lambda: pa.array([1000 * t for t in us], pa.timestamp("ns")),
        "zoned": lambda: pa.array(us, pa.timestamp("us", "Europe/Berlin")),
        "int": lambda: pa.array([1000 * t for t in us]),
        "dictionary": lambda: pa.array([as_date(t, "Z") for t in us]).dictionary_encode(),
        "decimal": lambda: pa.array([as_number(t, "s") for t in us]).cast(pa.decimal128(20, 6)),
    }[kind]()
    columns = [times, pa.array([row[1] for row in rows]), pa.array([float(row[2]) for row in rows])]
    path = tmp_path / "log"
    pq.write_table(pa.table(columns, names=names), path)
    checked(path, rows)


def test_parquet_with_structs_reads_the_columns_it_needs(tmp_path):
    usage = [{"prompt_tokens": 3, "completion_tokens": 4, "text": "x"}, {"prompt_tokens": 5, "completion_tokens": 6}]
    for name, write in (("log.parquet", pq.write_table), ("log.arrow", pf.write_feather)):
        write(pa.table({"ts_s": [4.0, 0.0], "usage": usage, "prompt_text": ["a", "b"]}), tmp_path / name)
        workload, note = read_trace(tmp_path / name)
        assert workload.prompt_tokens.tolist() == [5, 3]
        assert "prompt = usage.prompt_tokens" in note


def test_a_table_of_too_many_rows_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "log.parquet"
    path.write_bytes(_parquet({"ts_s": [1.0, 2.0], "isl": [3, 4], "osl": [5, 6]}))
    monkeypatch.setattr(_containers, "MAX_REQUESTS", 1)
    with pytest.raises(InputError, match=r"holds 2 rows of 0.0 GiB; give a part of the log"):
        read_trace(path)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(
    ticks=st.lists(st.integers(0, 10**9), min_size=2, max_size=6, unique=True),
    unit=st.sampled_from(list(PER_S)),
    named=st.booleans(),
)
def test_times_from_zero_are_asked_for_unless_told(tmp_path, ticks, unit, named):
    """The factor of 1,000 is never guessed."""
    path = tmp_path / "log.csv"
    column = f"elapsed_time_{unit}" if named else "elapsed_time"
    path.write_text(f"{column},isl,osl\n" + "".join(f"{tick},3,4\n" for tick in ticks))
    given = {"columns": {"time": column}}
    if not named:
        with pytest.raises(InputError, match=r"may be s, ms, us or ns: give time_unit .--time-unit.; requests per"):
            read_trace(path, **given)
        given["time_unit"] = unit
    workload, note = read_trace(path, **given)
    wanted = (np.sort(ticks) - min(ticks)) / PER_S[unit]
    assert workload.arrival_s.tolist() == pytest.approx(wanted.tolist())
    assert (f"({unit}, by its name)" if named else f"({unit}, as told)") in note


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(missing=st.sets(st.integers(0, 5), max_size=5), how=st.sampled_from(["", "null", "NaN", "0", "None", r"\N"]))
def test_rows_without_output_are_failed_requests(tmp_path, missing, how):
    path = tmp_path / "log.csv"
    rows = [f"{i},{10 + i},{how if i in missing else 20 + i}" for i in range(6)]
    path.write_text("ts_s,isl,osl\n" + "\n".join(rows))
    if missing:
        with pytest.raises(InputError, match=rf"log.csv:{min(missing) + 2}: osl says no output, one of {len(missing)}"):
            read_trace(path)
    workload, _ = read_trace(path, failed="drop")
    assert workload.prompt_tokens.tolist() == [10 + i for i in range(6) if i not in missing]


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        *(("timestamp_ms", "ms"), ("startTimeUnixNano", "ns"), ("Time (s)", "s"), ("ts[us]", "us"), ("time.ns", "ns")),
        *(("arrival_s", "s"), ("timeMs", "ms"), ("epochMillis", "ms"), ("start_µs", "us"), ("start_seconds", "s")),
        *(("ts", None), ("timestamps", None), ("times", None), ("s", None), ("status", None), ("created", None)),
    ],
)
def test_units_in_names(name, unit):
    assert unit_in(name) == unit


def _parquet(columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="none")
    return out.getvalue()


def _damaged_parquet():
    data = bytearray(_parquet({"ts_s": [1.0, 2.0], "isl": [3, 4], "osl": [5, 6]}))
    data[4:40] = bytes(36)
    return bytes(data)


HEAD = "ts_s,prompt_tokens,output_tokens\n0,3,4\n"
HOSTILE = {
    "no file": ("", "the file is empty"),
    "blank lines": ("\n\n \n", "the file is empty"),
    "a header alone": ("ts_s,isl,osl\n", "a header and no rows"),
    "no header": ("1764000000,2,3\n1764000001,5,6\n", "values where a header should be"),
    "words": ("dear diary\nall is well", "is no header of a table"),
    "one column": ("tokens\n3\n", "is no header of a table"),
    "a short row": (HEAD + "1,2\n", r":3: 2 fields where the header has 3"),
    "a long row": (HEAD + "1,2,3,4\n", r":3: 4 fields where the header has 3"),
    "a blank row": (HEAD + "\n1,2,3\n", ":3: a blank line; remove it"),
    "a column twice": ("ts_s,isl,osl,isl\n1,2,3,4\n", "column 'isl' appears 2 times"),
    "NaN for a prompt": (HEAD + "1,nan,4\n", r":3: prompt_tokens = None must be at least 1 token"),
    "negative tokens": (HEAD + "1,-3,4\n", r":3: prompt_tokens = '-3' is negative"),
    "half a token": (HEAD + "1,3.5,4\n", r":3: prompt_tokens = '3.5' is not a whole number of tokens"),
    "thousands": (HEAD + '1,"1,024",4\n', r":3: prompt_tokens = '1,024' is not a number of tokens"),
    "beyond any context": (HEAD + "1,99999999999,4\n", r":3: prompt_tokens = .* is too large for a token count"),
    "beyond any float": (HEAD + "1,1e400,4\n", r":3: prompt_tokens = '1e400' is not a number of tokens"),
    "a time of 1e300": (HEAD + "1e300,3,4\n", r":3: ts_s = '1e300' is more than 272 years"),
    "an endless time": (HEAD + "inf,3,4\n", r":3: ts_s = 'inf' is not a time"),
    "no time": (HEAD + ",3,4\n", r":3: ts_s = None is no time"),
    "a word for a time": (HEAD + "soon,3,4\n", r":3: ts_s = 'soon' is not a time"),
    "two units": (
        "ts,isl,osl\n1764000000,3,4\n1764000001000,3,4\n",
        r":3: ts = '1764000001000' is in ms since 1970, and times before it are in s",
    ),
    "a name against its values": (
        "ts_ms,isl,osl\n1764000000,3,4\n1764000001,3,4\n",
        "are in ms, by its name, and in s since 1970, by their size: give time_unit",
    ),
    "zones and none": (
        "ts,isl,osl\n2025-11-24 16:00:00,3,4\n2025-11-24 16:00:00Z,3,4\n2025-11-24 16:00:00,3,4\n",
        r":3: ts = '2025-11-24 16:00:00Z' has a UTC offset and others have none",
    ),
    "a date alone": ("ts,isl,osl\n2025-11-24,3,4\n", r":2: ts = '2025-11-24' is a date without a time"),
    "month 13": ("ts,isl,osl\n2025-13-24 16:00:00,3,4\n", r":2: ts = .* is not a date and time like YYYY"),
    "another order": ("ts,isl,osl\n24.11.2025 16:00,3,4\n", r":2: ts = .* not a date and time like YYYY"),
    "the year 1600": ("ts,isl,osl\n1600-01-01 00:00:00,3,4\n", r":2: .* not between the years 1970 and 2199"),
    "Latin-1": (b"ts_s,isl,osl\n1,3,4\n" + "é,1,2".encode("latin-1"), r":3: byte 0xe9 is not UTF-8"),
    "UTF-16": (HEAD.encode("utf-16"), "is not UTF-8"),
    "cut JSON": ('{"ts_s": 1, "isl": 3, "osl": 4}\n{"ts_s": 1, "is', r":2: .* is not valid JSON"),
    "true": ('{"ts_s": 1, "isl": true, "osl": 4}', r":1: isl = True is not a number of tokens"),
    "a list of numbers": ("[1, 2]", "row 1: is not a JSON object"),
    "an empty list": ("[]", "an empty list"),
    "a key twice": ('{"ts_s": 1, "isl": 3, "isl": 4, "osl": 4}', "'isl' is given twice"),
    "deep lists": ("[" * 100_000, "too deep"),
    "a cut Parquet file": (b"PAR1" + bytes(40), "a damaged Parquet file"),
    "a damaged Parquet file": (_damaged_parquet(), "a damaged Parquet file"),
    "a Parquet file without rows": (_parquet({"ts_s": pa.array([], pa.float64())}), "a table without rows"),
    "a cut Arrow file": (b"ARROW1" + bytes(40), "a damaged Arrow file"),
    "an escape code in a class": ("ts_s,isl,osl,class\n1,2,3,\x1b[31m\n", r":2: class = .* control character"),
    "an unnamed class": ("ts_s,isl,osl,class\n1,2,3,a\n1,2,3,\n", r":3: class = None is empty; name it"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_input_is_one_sentence(tmp_path, what):
    content, said = HOSTILE[what]
    path = tmp_path / "log.dat"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=said) as error:
        read_trace(path, "table")
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("format", ["otel", "openai"])
@pytest.mark.parametrize("content", ["5", "null", '"text"', "[5]", "[[1]]"])
def test_json_that_holds_no_objects_is_one_sentence(tmp_path, format, content):
    path = tmp_path / "log.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"log\.json: (holds a single value|row 1: is not)"):
        read_trace(path, format)


@pytest.mark.parametrize(
    "content",
    [
        "ts_s,isl,osl\n5,3,4\n1,3,4\n",  # times that go backwards
        "ts_s,isl,osl\n5,3.0,4e0\n1,3,4.0\n",  # whole numbers as floats
        "ts_s,isl,osl\n-3,3,4\n-7,3,4\n",  # a clock that begins later
        "﻿ts_s , isl,osl\r\n5, 3 ,4\r\n1,3,4\r\n",  # a byte-order mark, blanks, line ends of Windows
        "ts,isl,osl\n2025-11-24T16:00:04Z,3,4\n2025-11-24T18:00:00.000000000+02:00,3,4\n",  # several zones
        'ts,isl,osl\n"2025-11-24 16:00:04,000",3,4\n"2025-11-24 16:00:00,000",3,4\n',  # as Python logs
        "ts,isl,osl\n2025-11-24 16:00:04+00,3,4\n2025-11-24 16:00:00+00,3,4\n",  # as PostgreSQL writes
    ],
)
def test_what_only_looks_hostile_is_read_right(tmp_path, content):
    path = tmp_path / "log.csv"
    path.write_text(content, newline="")
    workload, _ = read_trace(path)
    assert workload.arrival_s.tolist() == [0, 4]
    assert workload.prompt_tokens.tolist() == [3, 3]


def test_a_prompt_of_megabytes_is_only_another_column(tmp_path):
    path = tmp_path / "log.csv"
    long = "word\n" * 600_000
    path.write_text(f'ts_s,text,isl,osl\n0,"{long}",3,4\n4,"{long}",5,6\n')
    workload, _ = read_trace(path)
    assert workload.prompt_tokens.tolist() == [3, 5]
