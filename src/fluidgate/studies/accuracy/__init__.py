"""`fluidgate experiment accuracy`: every measured server at hand against every kind of step time."""

from fluidgate.studies.accuracy.page import accuracy_page
from fluidgate.studies.accuracy.study import PARTS, run_accuracy

__all__ = ["PARTS", "accuracy_page", "run_accuracy"]
