"""`fluidgate experiment scaling`: a fleet scaled from the boundary, by thresholds, and not at all."""

from fluidgate.studies.scaling.figures import write_figures
from fluidgate.studies.scaling.page import scaling_page
from fluidgate.studies.scaling.study import MACHINES, ScalingResult, run_scaling

__all__ = ["MACHINES", "ScalingResult", "run_scaling", "scaling_page", "write_figures"]
