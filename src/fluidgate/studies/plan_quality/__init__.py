"""`fluidgate experiment plan-quality`: the predicted stability boundary against the simulated one."""

from fluidgate.studies.plan_quality.page import quality_page
from fluidgate.studies.plan_quality.study import plan_quality

__all__ = ["plan_quality", "quality_page"]
