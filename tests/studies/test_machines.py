"""The machines of the studies: the profiles as fitted, on which requests of any length are served."""

from fluidgate.hardware import ServerDefaults, load_profile
from fluidgate.studies.gate.cases import case
from fluidgate.studies.paper.settings import FOUR_TERM, machine
from fluidgate.studies.plan_quality.study import PAIRS, Pair

A100 = load_profile("llama-2-7b", "a100-80gb")


def test_the_papers_machine_holds_137_000_tokens() -> None:
    assert A100.kv_capacity_tokens == 136_992
    assert (
        case("r1-reasoning").hardware
        == machine(FOUR_TERM)
        == Pair("lmsys", "llama-2-7b", "a100-80gb").hardware()
        == A100
    )


def test_no_study_refuses_a_request() -> None:
    assert {pair.hardware().server for pair in PAIRS} == {ServerDefaults()}
    wide = Pair("azure-conv-2023", "llama-3.1-70b", "a100-80gb", tp=4).hardware()
    assert wide == load_profile("llama-3.1-70b", "a100-80gb", "tp4")
