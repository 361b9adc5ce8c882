"""Finding a step time: from measured steps, from a running server, or from measured operators."""

from fluidgate.calibration.aiconfigurator import QueriedHardware, ServerLimits, Spread, query_aiconfigurator
from fluidgate.calibration.points import StepPoints
from fluidgate.calibration.requests.report import RequestsReport
from fluidgate.calibration.steps import CalibrationReport, calibrate_steps
from fluidgate.calibration.steps_file import StepFile, read_steps, write_steps
from fluidgate.calibration.vidur import calibrate_vidur

__all__ = [
    "CalibrationReport",
    "QueriedHardware",
    "RequestsReport",
    "ServerLimits",
    "Spread",
    "StepFile",
    "StepPoints",
    "calibrate_steps",
    "calibrate_vidur",
    "query_aiconfigurator",
    "read_steps",
    "write_steps",
]
