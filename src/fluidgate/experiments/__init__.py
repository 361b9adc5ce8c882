"""Runs made of the rooms below: one simulation, and policies compared."""

from fluidgate.experiments.comparison import DEFAULT_POLICIES, Cell, Comparison, Scenario, compare, repeated
from fluidgate.experiments.simulation import plan_for, simulate

__all__ = ["DEFAULT_POLICIES", "Cell", "Comparison", "Scenario", "compare", "plan_for", "repeated", "simulate"]
