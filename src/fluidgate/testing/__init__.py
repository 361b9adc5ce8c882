"""The conformance kit: laws that every run obeys, whatever the policy. A user's own policy passes the same ones::

    @pytest.mark.parametrize("check", policy_checks(MyPolicy(cap=4)), ids=str)
    def test_my_policy(check):
        check()

gives one test for each law; `check_policy(MyPolicy(cap=4))` asserts them all at once and needs no pytest. A broken law
raises `AssertionError` with one sentence that names the law, the policy and the case.
"""

from fluidgate.testing.cases import small_configs, small_hardware, small_workloads
from fluidgate.testing.check import CALLS_WITHOUT_A_FINISH as CALLS_WITHOUT_A_FINISH
from fluidgate.testing.check import PolicyCheck, check_policy, policy_checks
from fluidgate.testing.laws import ROUNDING as ROUNDING
from fluidgate.testing.laws import check_records, check_same

__all__ = [
    "PolicyCheck",
    "check_policy",
    "check_records",
    "check_same",
    "policy_checks",
    "small_configs",
    "small_hardware",
    "small_workloads",
]
