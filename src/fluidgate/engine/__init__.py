"""The compiled simulator: paged KV blocks, batch formation, the step loop, per-request records."""

from fluidgate.engine.config import EngineConfig, Mode
from fluidgate.engine.records import RunRecords, StepRecords
from fluidgate.engine.run import Record, run

__all__ = ["EngineConfig", "Mode", "Record", "RunRecords", "StepRecords", "run"]
