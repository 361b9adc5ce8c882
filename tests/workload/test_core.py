"""`Workload`: validation, scaling, slicing, classes."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.workload import Workload


def make(**changes):
    fields = {
        "arrival_s": [1.0, 2.0, 4.0, 4.0],
        "prompt_tokens": [10, 20, 30, 40],
        "output_tokens": [1, 100, 101, 300],
        "prefix_ids": [1, 2, 1, 3, 4],
        "prefix_offsets": [0, 2, 4, 4, 5],
        "prefix_block_tokens": 16,
    }
    return Workload(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"arrival_s": []}, "workload is empty"),
        ({"arrival_s": [1, 2, 4]}, "give one per request"),
        ({"arrival_s": [1, 2, 4, 3]}, "request 3: arrival_s = 3.0 is before .*sort by arrival"),
        ({"arrival_s": [-1, 2, 4, 4]}, "request 0: arrival_s = -1.0 is negative"),
        ({"arrival_s": [1, 2, np.nan, 4]}, "request 2: arrival_s = nan is not a finite"),
        ({"arrival_s": [1, 2, 4, np.inf]}, "request 3: arrival_s = inf is not a finite"),
        ({"arrival_s": [[1, 2, 4, 4]]}, "one-dimensional|one per request"),
        ({"prompt_tokens": [10, 0, 30, 40]}, "request 1: prompt_tokens = 0 must be at least 1"),
        ({"output_tokens": [1, 2, 3, -4]}, "request 3: output_tokens = -4 must be at least 1"),
        ({"output_tokens": [1, 2, 3, 4.5]}, "output_tokens must hold whole numbers"),
        ({"output_tokens": [1, 2, 3, np.nan]}, "output_tokens must hold whole numbers"),
        ({"prompt_tokens": ["a", "b", "c", "d"]}, "prompt_tokens must hold numbers"),
        ({"class_id": [0, 0, 1, 0]}, "class_id = 1 is not one of the 1 classes"),
        ({"class_id": [0, 0]}, "class_id has 2 values"),
        ({"prefix_offsets": [0, 2, 4, 5]}, "prefix_offsets must have 5 values"),
        ({"prefix_offsets": [1, 2, 4, 4, 5]}, "prefix_offsets must have 5 values from 0"),
        ({"prefix_offsets": [0, 2, 4, 4, 6]}, "to len"),
        ({"prefix_offsets": [0, 4, 2, 4, 5]}, "prefix_offsets fall at request 1"),
        ({"prefix_block_tokens": 0}, "need prefix_block_tokens"),
    ],
)
def test_bad_columns_are_refused(changes, why):
    with pytest.raises(InputError, match=why):
        make(**changes)


def test_the_workload_keeps_its_own_copy():
    prompt = np.array([10, 20, 30, 40])
    workload = make(prompt_tokens=prompt)
    prompt[0] = 99
    assert workload.prompt_tokens[0] == 10


def test_rate_and_duration():
    assert make().rate == pytest.approx(3 / 3)
    assert make().duration_s == 4
    assert make(arrival_s=[2, 2, 2, 2]).rate == np.inf


def test_scaling_changes_times_alone():
    fast = make().scaled(2.0)
    assert fast.arrival_s.tolist() == [0.5, 1, 2, 2]
    assert fast.rate == pytest.approx(2 * make().rate)
    assert fast.prompt_tokens.tolist() == make().prompt_tokens.tolist()
    assert fast.prefix_ids.tolist() == make().prefix_ids.tolist()


@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf])
def test_scaling_needs_a_positive_number(scale):
    with pytest.raises(InputError, match="must be a finite number above 0"):
        make().scaled(scale)


@given(st.sets(st.integers(0, 3), min_size=1))
def test_taking_rows_takes_their_prefixes(rows):
    workload = make()
    part = workload.take(np.array(list(rows)))
    kept = sorted(rows)
    assert part.prompt_tokens.tolist() == [10 * (r + 1) for r in kept]
    assert part.arrival_s[0] == 0
    blocks = [[1, 2], [1, 3], [], [4]]
    for i, r in enumerate(kept):
        assert part.prefix_ids[part.prefix_offsets[i] : part.prefix_offsets[i + 1]].tolist() == blocks[r]


def test_between_is_half_open():
    assert make().between(1.0, 4.0).prompt_tokens.tolist() == [10, 20]
    assert make().between(4.0, 5.0).prompt_tokens.tolist() == [30, 40]
    with pytest.raises(InputError, match="holds no request; widen it"):
        make().between(2.5, 3.0)


def test_classes_by_output_length():
    classed = make().classed_by_length([100, 200])
    assert classed.class_names == ("d≤100", "d101-200", "d>200")
    assert classed.class_id.tolist() == [0, 0, 1, 2]


def test_classes_by_both_lengths():
    classed = make().classed_by_length([100], [20])
    assert [classed.class_names[k] for k in classed.class_id] == [
        "p≤20 d≤100",
        "p≤20 d≤100",
        "p>20 d>100",
        "p>20 d>100",
    ]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6, unique=True).map(sorted))
def test_the_class_name_tells_the_length(edges):
    classed = make().classed_by_length(edges)
    for output, kind in zip(classed.output_tokens, classed.class_id, strict=True):
        low = 0 if kind == 0 else edges[kind - 1]
        high = edges[kind] if kind < len(edges) else np.inf
        assert low < output <= high
    assert len(classed.class_names) == len(edges) + 1


@pytest.mark.parametrize("edges", [[5, 5], [9, 3], [0, 3]])
def test_edges_must_rise(edges):
    with pytest.raises(InputError, match="must rise"):
        make().classed_by_length(edges)


def test_the_digest_sees_every_column():
    base = make().digest
    assert base == make().digest
    for changes in (
        {"arrival_s": [1, 2, 4, 5]},
        {"prompt_tokens": [11, 20, 30, 40]},
        {"output_tokens": [2, 100, 101, 300]},
        {"class_id": [0, 0, 0, 1], "class_names": ("a", "b")},
        {"prefix_ids": [1, 2, 1, 3, 5]},
        {"prefix_offsets": [0, 1, 4, 4, 5]},
    ):
        assert make(**changes).digest != base


def test_importing_the_room_loads_nothing_heavy():
    code = "import sys, fluidgate.workload; print({'pyarrow', 'scipy', 'numba'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
