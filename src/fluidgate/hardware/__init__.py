"""A model on a GPU: step time and KV capacity."""

from fluidgate.hardware.aiconfigurator import QueriedHardware, ServerLimits, query_aiconfigurator
from fluidgate.hardware.calibrate import CalibrationReport, calibrate_steps
from fluidgate.hardware.calibration import Calibration
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.hardware.estimate import estimate_step_time
from fluidgate.hardware.files import read_hardware, write_hardware
from fluidgate.hardware.fit import FitReport, fit_step_time
from fluidgate.hardware.gpus import Gpu, find_gpu, gpu_names, kv_blocks
from fluidgate.hardware.grids import LatencyGrid, StepPoints, fit_grid, read_grids
from fluidgate.hardware.model_config import ModelShape, find_model, model_names, read_model_config
from fluidgate.hardware.profiles import Profile, find_profile, load_profile, profile_names
from fluidgate.hardware.select import estimate_hardware, get_hardware
from fluidgate.hardware.step_grid import StepGrid
from fluidgate.hardware.steps_file import StepFile, read_steps, write_steps

__all__ = [
    "Calibration",
    "CalibrationReport",
    "FitReport",
    "Gpu",
    "Hardware",
    "LatencyGrid",
    "ModelShape",
    "Profile",
    "QueriedHardware",
    "ServerLimits",
    "StepFile",
    "StepGrid",
    "StepPoints",
    "StepTime",
    "calibrate_steps",
    "estimate_hardware",
    "estimate_step_time",
    "find_gpu",
    "find_model",
    "find_profile",
    "fit_grid",
    "fit_step_time",
    "get_hardware",
    "gpu_names",
    "kv_blocks",
    "load_profile",
    "model_names",
    "profile_names",
    "query_aiconfigurator",
    "read_grids",
    "read_hardware",
    "read_model_config",
    "read_steps",
    "write_hardware",
    "write_steps",
]
