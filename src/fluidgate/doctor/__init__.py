"""What a running vLLM's metrics or log say: does KV memory bind, what does it cost, and what to change."""

from fluidgate.doctor.diagnosis import Diagnosis, diagnose
from fluidgate.doctor.facts import Facts, GateFacts
from fluidgate.doctor.finding import Change, Finding, Severity
from fluidgate.doctor.logged import facts_of_log
from fluidgate.doctor.read import read_facts
from fluidgate.doctor.scraped import facts_of

__all__ = [
    "Change",
    "Diagnosis",
    "Facts",
    "Finding",
    "GateFacts",
    "Severity",
    "diagnose",
    "facts_of",
    "facts_of_log",
    "read_facts",
]
