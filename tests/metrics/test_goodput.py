"""The SLO and its `NAME:MILLISECONDS` form."""

import math

import pytest

from fluidgate.errors import InputError
from fluidgate.metrics import Slo, parse_goodput


def test_names_of_vllm_bench():
    assert parse_goodput(["ttft:2000", "tpot:50.5", "e2el:1e4"]) == Slo(2000.0, 50.5, 10_000.0)
    assert parse_goodput(["tpot:50"]) == Slo(tpot_ms=50.0)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["ttft2000"], "'ttft2000': write NAME:MILLISECONDS"),
        (["itl:50"], "'itl' is not one of ttft, tpot, e2el"),
        ([":50"], "'' is not one of ttft, tpot, e2el"),
        (["ttft:fast"], "'fast' is not a number"),
        (["ttft:"], "'' is not a number"),
        (["ttft:1", "ttft:2"], "ttft is given twice"),
        (["ttft:0"], "ttft_ms = 0.0 must be a finite number of milliseconds above 0"),
        (["ttft:nan"], "ttft_ms = nan must be"),
        (["e2el:-5"], "e2el_ms = -5.0 must be"),
        ([], "set at least one of ttft_ms, tpot_ms, e2el_ms"),
    ],
)
def test_what_cannot_be_used_is_refused(items, message):
    with pytest.raises(InputError) as error:
        parse_goodput(items)
    assert message in str(error.value)


def test_slo_checks_itself():
    with pytest.raises(InputError, match="tpot_ms = inf"):
        Slo(tpot_ms=math.inf)
