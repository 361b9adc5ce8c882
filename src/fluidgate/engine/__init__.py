"""The compiled simulator: paged KV blocks, batch formation, the step loop, per-request records."""

from fluidgate.engine.config import EngineConfig
from fluidgate.engine.fleet import run_fleet
from fluidgate.engine.modes import MODES, BatchFormation, Mode
from fluidgate.engine.records import FleetRecords, RunRecords, StepRecords
from fluidgate.engine.routing import ROUTERS, Fleet
from fluidgate.engine.run import Record, run

__all__ = [
    "MODES",
    "ROUTERS",
    "BatchFormation",
    "EngineConfig",
    "Fleet",
    "FleetRecords",
    "Mode",
    "Record",
    "RunRecords",
    "StepRecords",
    "run",
    "run_fleet",
]
