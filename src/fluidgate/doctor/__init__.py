"""What a running vLLM's metrics or log say: does KV memory bind, what does it cost, and what to change."""

from fluidgate.doctor.binding import Binding, Limit
from fluidgate.doctor.changes import Alternatives, Change, Group
from fluidgate.doctor.diagnosis import Diagnosis, diagnose
from fluidgate.doctor.facts import Facts, GateFacts
from fluidgate.doctor.finding import Finding, Severity
from fluidgate.doctor.fleet import FleetDiagnosis, Replica, diagnose_fleet
from fluidgate.doctor.logged import facts_of_log
from fluidgate.doctor.read import read_facts, read_servers
from fluidgate.doctor.scraped import facts_of
from fluidgate.doctor.watch import Look, Watch

__all__ = [
    "Alternatives",
    "Binding",
    "Change",
    "Diagnosis",
    "Facts",
    "Finding",
    "FleetDiagnosis",
    "GateFacts",
    "Group",
    "Limit",
    "Look",
    "Replica",
    "Severity",
    "Watch",
    "diagnose",
    "diagnose_fleet",
    "facts_of",
    "facts_of_log",
    "read_facts",
    "read_servers",
]
