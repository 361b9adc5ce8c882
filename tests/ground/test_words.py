"""What reaches a terminal or a page: messages on one line, names without control characters, numbers within bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidgate.bounds import check_whole
from fluidgate.errors import LONGEST, InputError, JobFailed
from fluidgate.hardware import Hardware, StepTime
from fluidgate.jsonfile import DuplicateKey, decode
from fluidgate.report.html import tag
from fluidgate.words import escaped, has_control, shown
from fluidgate.workload import Workload

NASTY = "\x1b[31mred\x1b[0m\x07\x9b31m\u202e\u2028\ud800"


@given(st.text() | st.text(max_size=3).map(lambda text: text * 3000))
def test_any_message_is_one_line_that_can_be_printed(text: str) -> None:
    message = str(InputError(f"{text}{NASTY}\nnext"))
    assert "\n" not in message
    assert escaped(message) == message
    assert len(message) <= LONGEST
    message.encode()  # no half of a character


def test_a_message_keeps_its_words() -> None:
    assert str(InputError("é 日本 ≤ 5\tms")) == "é 日本 ≤ 5\tms"
    assert str(JobFailed("a\x1b[31m b\nc")) == "a\\x1b[31m b c"
    assert str(InputError(str(InputError("a\x1bb")))) == "a\\x1bb"  # said again, it stays as it is


@pytest.mark.parametrize(
    "name", [NASTY, "two\nlines", "a\ttab", "\x7f", "\x85", "\x00", "a\ufeffmark", "no\u200bwidth", "soft\xadhyphen"]
)
def test_names_with_control_characters_are_refused(name: str) -> None:
    assert has_control(name)
    with pytest.raises(InputError, match=r"hardware name .* holds a control character; take it out"):
        Hardware(name, StepTime(c0=1.0), 10)
    with pytest.raises(InputError, match="hardware source"):
        Hardware("mine", StepTime(c0=1.0), 10, source=name)
    one = np.ones(1)
    with pytest.raises(InputError, match="workload name"):
        Workload(one, one, one, name=name)
    with pytest.raises(InputError, match="class name"):
        Workload(one, one, one, class_names=(name,))


def test_other_names_are_taken() -> None:
    for name in ("", "é", "日本語", "a b", "non-breaking\u00a0space", "👍🏽", "👩\u200d💻", "<script>", "[/bold]"):
        assert Hardware(name, StepTime(c0=1.0), 10).name == name


def test_a_page_holds_no_control_character() -> None:
    assert tag("p", "a\x1b[31mb", title="\x07") == '<p title="\\x07">a\\x1b[31mb</p>'


@pytest.mark.parametrize("value", [0, -1, 2**31, 10**400, 10**5000, 1.5, float("nan"), float("inf")], ids=shown)
def test_whole_numbers_out_of_bounds(value: float) -> None:
    with pytest.raises(InputError, match=r"^blocks = .{1,60} must be (a whole number|at most)") as refusal:
        check_whole("blocks", value)
    assert len(str(refusal.value)) < 120
    check_whole("blocks", 2**31 - 1)
    check_whole("blocks", 1.0)


def test_long_values_are_quoted_in_part() -> None:
    assert shown("short") == "'short'"
    assert shown(10**40) == "100000000000… (41 digits)"
    assert shown("x" * 5000) == f"'{'x' * 39}… (5002 characters)"


def test_a_key_twice_is_refused_wherever_it_is() -> None:
    assert decode('{"a": 1, "b": {"a": 2}}') == {"a": 1, "b": {"a": 2}}
    with pytest.raises(DuplicateKey, match="'c' is given twice in one object; keep one"):
        decode('{"a": 1, "b": [{"c": 2, "c": 2}]}')
    many = ", ".join(f'"{i}": 0' for i in range(100_000))
    with pytest.raises(DuplicateKey, match="'99999'"):
        decode(f'{{{many}, "99999": 0}}')
