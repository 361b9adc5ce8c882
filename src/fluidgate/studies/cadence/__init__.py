"""`fluidgate experiment cadence`: the planned `prefill_schedule_interval` against every other one."""

from fluidgate.studies.cadence.page import cadence_page
from fluidgate.studies.cadence.study import MACHINES, run_cadence

__all__ = ["MACHINES", "cadence_page", "run_cadence"]
