"""The compiled simulator: paged KV blocks, batch formation, the step loop, per-request records."""

from fluidgate.engine.behind_gate import run_behind_gate
from fluidgate.engine.config import EngineConfig
from fluidgate.engine.elastic import Elastic, ElasticRecords, Life, Rule, Seen, run_elastic
from fluidgate.engine.fleet import run_fleet
from fluidgate.engine.group_layout import not_modelled
from fluidgate.engine.modes import MODES, BatchFormation, Mode
from fluidgate.engine.outside import Change, GateRecords, Outside
from fluidgate.engine.records import FleetRecords, RunRecords, StepRecords
from fluidgate.engine.routing import ROUTERS, Fleet
from fluidgate.engine.run import Record, run

__all__ = [
    "MODES",
    "ROUTERS",
    "BatchFormation",
    "Change",
    "Elastic",
    "ElasticRecords",
    "EngineConfig",
    "Fleet",
    "FleetRecords",
    "GateRecords",
    "Life",
    "Mode",
    "Outside",
    "Record",
    "Rule",
    "RunRecords",
    "Seen",
    "StepRecords",
    "not_modelled",
    "run",
    "run_behind_gate",
    "run_elastic",
    "run_fleet",
]
