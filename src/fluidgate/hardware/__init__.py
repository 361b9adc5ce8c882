"""A model on a GPU: step time and KV capacity."""

from fluidgate.hardware.calibration import Calibration
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.hardware.estimate import estimate_step_time
from fluidgate.hardware.files import read_hardware, write_hardware
from fluidgate.hardware.fit import FitReport, fit_step_time
from fluidgate.hardware.gpus import Gpu, find_gpu, gpu_names, kv_blocks, read_gpu
from fluidgate.hardware.kv_groups import kv_law
from fluidgate.hardware.kv_law import KvDtype, KvGroup, KvLaw
from fluidgate.hardware.kv_layers import KvLayer, KvLayers, read_kv_layers
from fluidgate.hardware.lookup import Serving, estimate_hardware, get_hardware, stated_blocks
from fluidgate.hardware.model_config import ModelShape, find_model, model_names, read_model_config
from fluidgate.hardware.profiles import Profile, find_profile, load_profile, profile_names
from fluidgate.hardware.quantization import Scheme
from fluidgate.hardware.server_defaults import LimitsInForce, ServerDefaults, server_defaults
from fluidgate.hardware.step_grid import StepGrid

__all__ = [
    "Calibration",
    "FitReport",
    "Gpu",
    "Hardware",
    "KvDtype",
    "KvGroup",
    "KvLaw",
    "KvLayer",
    "KvLayers",
    "LimitsInForce",
    "ModelShape",
    "Profile",
    "Scheme",
    "ServerDefaults",
    "Serving",
    "StepGrid",
    "StepTime",
    "estimate_hardware",
    "estimate_step_time",
    "find_gpu",
    "find_model",
    "find_profile",
    "fit_step_time",
    "get_hardware",
    "gpu_names",
    "kv_blocks",
    "kv_law",
    "load_profile",
    "model_names",
    "profile_names",
    "read_gpu",
    "read_hardware",
    "read_kv_layers",
    "read_model_config",
    "server_defaults",
    "stated_blocks",
    "write_hardware",
]
