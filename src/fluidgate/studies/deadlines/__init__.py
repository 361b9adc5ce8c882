"""`fluidgate experiment deadlines`: what admission completes before clients give up."""

from fluidgate.studies.deadlines.figures import write_figures
from fluidgate.studies.deadlines.page import deadlines_page
from fluidgate.studies.deadlines.study import PARTS, DeadlinesResult, run_deadlines

__all__ = ["PARTS", "DeadlinesResult", "deadlines_page", "run_deadlines", "write_figures"]
