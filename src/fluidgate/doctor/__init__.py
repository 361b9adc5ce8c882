"""What a running vLLM's metrics or log say: does KV memory bind, what does it cost, and what to change."""

from fluidgate.doctor.diagnosis import Diagnosis, diagnose
from fluidgate.doctor.facts import Facts, GateFacts, Moment
from fluidgate.doctor.finding import Change, Finding, Severity
from fluidgate.doctor.histogram import Histogram
from fluidgate.doctor.log import facts_of_log
from fluidgate.doctor.read import fetch, read_facts
from fluidgate.doctor.scrape import Scrape, facts_of

__all__ = [
    "Change",
    "Diagnosis",
    "Facts",
    "Finding",
    "GateFacts",
    "Histogram",
    "Moment",
    "Scrape",
    "Severity",
    "diagnose",
    "facts_of",
    "facts_of_log",
    "fetch",
    "read_facts",
]
