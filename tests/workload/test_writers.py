"""What is written reads back the same."""

import gzip
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.workload import Workload, generate, read_trace, write_mooncake, write_vidur


@st.composite
def workloads(draw, prefixes):
    n = draw(st.integers(1, 12))
    gaps = draw(st.lists(st.floats(0, 1e4, allow_subnormal=False), min_size=n - 1, max_size=n - 1))
    lengths = st.lists(st.integers(1, 5000), min_size=n, max_size=n)
    prompt = draw(lengths)
    names = sorted(
        draw(st.sets(st.text("ab,\"' é", min_size=1).filter(str.strip).map(str.strip), min_size=1, max_size=3))
    )
    kinds = draw(st.lists(st.integers(0, len(names) - 1), min_size=n, max_size=n))
    # Names that no request has are not in a file.
    used = sorted(set(kinds))
    size = draw(st.sampled_from([16, 512])) if prefixes else 0
    blocks = [draw(st.lists(st.integers(0, 2**62), max_size=min(4, -(-p // size)))) if size else [] for p in prompt]
    return Workload(
        arrival_s=np.concatenate(([0.0], np.cumsum(gaps))),
        prompt_tokens=prompt,
        output_tokens=draw(lengths),
        class_id=[used.index(k) for k in kinds],
        class_names=tuple(names[k] for k in used),
        prefix_ids=np.array(list(itertools.chain(*blocks)), np.int64),
        prefix_offsets=np.concatenate(([0], np.cumsum(list(map(len, blocks))))),
        prefix_block_tokens=size if any(blocks) else 0,
    )


def assert_same_requests(a, b):
    for column in ("prompt_tokens", "output_tokens", "class_id", "prefix_ids", "prefix_offsets"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column), err_msg=column)
    assert a.prefix_block_tokens == b.prefix_block_tokens
    # One class has no name in a file.
    if len(a.class_names) > 1:
        assert a.class_names == b.class_names


@settings(max_examples=80, deadline=None)
@given(workload=workloads(prefixes=False), zipped=st.booleans())
def test_vidur_keeps_every_bit(tmp_path_factory, workload, zipped):
    path = tmp_path_factory.mktemp("vidur") / ("w.csv.gz" if zipped else "w.csv")
    write_vidur(workload, path)
    back, _ = read_trace(path)
    assert_same_requests(workload, back)
    np.testing.assert_array_equal(back.arrival_s, workload.arrival_s)


@settings(max_examples=80, deadline=None)
@given(workload=workloads(prefixes=True), zipped=st.booleans())
def test_mooncake_keeps_prefixes_and_times_to_the_last_bit(tmp_path_factory, workload, zipped):
    path = tmp_path_factory.mktemp("mooncake") / ("w.jsonl.gz" if zipped else "w.jsonl")
    write_mooncake(workload, path)
    back, _ = read_trace(path)
    assert_same_requests(workload, back)
    np.testing.assert_array_max_ulp(back.arrival_s, workload.arrival_s, maxulp=1)


def test_the_conversation_trace_survives_conversion(shared_dir, tmp_path):
    trace, _ = read_trace(shared_dir / "traces" / "conversation_trace.jsonl")
    write_mooncake(trace, tmp_path / "again.jsonl")
    assert read_trace(tmp_path / "again.jsonl")[0].digest == trace.digest


def test_same_workload_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_vidur(generate("lmsys", n=50), tmp_path / f"{name}.csv.gz")
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).startswith(b'"arrived_at"')


@pytest.mark.parametrize("write", [write_vidur, write_mooncake])
def test_a_place_that_cannot_be_written_is_named(tmp_path, write):
    with pytest.raises(InputError, match=r"cannot be written .*choose another path"):
        write(generate("lmsys", n=2), tmp_path / "absent" / "w")
