"""Prometheus' text format: what its description allows, and nothing else."""

from __future__ import annotations

from math import inf, isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.errors import InputError
from fluidgate.vllm_metrics.exposition import parse

from ..doctor.pages import refusal

NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,10}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,6}", fullmatch=True),
    st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"))),
    max_size=4,
)
VALUES = st.floats(allow_nan=False)


def written(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@given(NAMES, LABELS, VALUES)
def test_what_is_written_is_read_back(name: str, labels: dict[str, str], value: float) -> None:
    told = ",".join(f'{key}="{written(text)}"' for key, text in labels.items())
    shown = {inf: "+Inf", -inf: "-Inf"}.get(value, repr(value))
    (sample,) = parse(f"{name}{{{told}}} {shown}", "page")
    assert (sample.name, sample.labels, sample.value, sample.line) == (name, labels, value, 1)


@given(st.text())
def test_any_text_is_read_or_refused_with_a_sentence(text: str) -> None:
    refused = refusal(lambda: parse(text, "page"))
    assert refused is None or refused.startswith("page, line ")


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ("up 1", {}, 1.0),
        ("up{} 1.5e3", {}, 1500.0),
        ("up 1 1700000000000", {}, 1.0),
        ('up{a="x,y}",} -2', {"a": "x,y}"}, -2.0),
        (r'up{a="line\nend",b="\"\\"} .5', {"a": "line\nend", "b": '"\\'}, 0.5),
    ],
)
def test_forms_of_a_line(line: str, labels: dict[str, str], value: float) -> None:
    (sample,) = parse(f"# HELP up whether it is up\n\n{line}\n", "page")
    assert (sample.labels, sample.value, sample.line) == (labels, value, 3)


def test_nan_is_a_value() -> None:
    assert isnan(parse("up NaN", "page")[0].value)


@pytest.mark.parametrize(
    "line",
    [
        "up",
        "up one",
        "up 1_000",
        "up 0x10",
        "1up 1",
        'up{a="x} 1',
        "up{a=x} 1",
        'up{a="x" b="y"} 1',
        'up{a="x",a="y"} 1',
        "up 1 2 3",
        "up nan",
    ],
)
def test_other_lines_are_refused_by_number(line: str) -> None:
    with pytest.raises(InputError, match="page, line 2: "):
        parse(f"good 1\n{line}\n", "page")


SIZE = 2_000_000


@pytest.mark.parametrize(
    "line",
    [
        "foo" + " " * SIZE + "x y z",
        "f" * SIZE + "-",
        "foo " + "1" * SIZE + "x",
        "foo ." + "1" * SIZE + "x",
        "foo 1." + "1" * SIZE + "x",
        "foo 1e" + "1" * SIZE + "x",
        "foo 1 " + "1" * SIZE + "x",
        "foo 1" + " " * SIZE + "x",
        "foo " + "x " * (SIZE // 2),
        "foo{" + " " * SIZE + "x",
        "foo{" + "} " * (SIZE // 2) + "x y",
        "foo{" + "}" * SIZE,
        "foo{" + "{" * SIZE + "} 1",
        "foo{" + "a" * SIZE + "} 1",
        "foo{a" + " " * SIZE + "b} 1",
        'foo{a="' + "x" * SIZE,
        'foo{a="' + "\\" * SIZE,
        'foo{a="' + '\\"' * (SIZE // 2) + "} 1",
        'foo{a="x"' + " " * SIZE + "y} 1",
        'foo{a="x"' + "," * SIZE + "} 1",
        "foo{" + ",".join(f'a{k}="x"' for k in range(SIZE // 10)) + ',a0="y"} 1',
    ],
    ids=lambda line: f"{line[:8]!r} and so on",
)
def test_no_line_takes_longer_than_its_length_allows(line: str) -> None:
    """A grammar that tries again from each place would be at one of these lines for hours."""
    with pytest.raises(InputError, match="page, line 1: "):
        parse(line, "page")


def test_a_long_line_is_read() -> None:
    count = SIZE // 10
    labels = ",".join(f'a{k}="\\n"' for k in range(count))
    (sample,) = parse(f"foo{{{labels}}}{' ' * SIZE}1", "page")
    assert (len(sample.labels), sample.value) == (count, 1.0)
