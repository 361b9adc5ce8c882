"""Runs made of the rooms below: one simulation, policies compared, and many jobs over processes or Ray."""

from fluidgate.experiments.comparison import DEFAULT_POLICIES, Cell, Comparison, Scenario, compare, repeated
from fluidgate.experiments.export import comparison_provenance, provenance, rows, write_csv, write_parquet, write_table
from fluidgate.experiments.jobs import run_jobs
from fluidgate.experiments.simulation import plan_for, simulate
from fluidgate.experiments.stable_rate import FRONTIER_POLICIES, Frontier, StableRate, frontier

__all__ = [
    "DEFAULT_POLICIES",
    "FRONTIER_POLICIES",
    "Cell",
    "Comparison",
    "Frontier",
    "Scenario",
    "StableRate",
    "compare",
    "comparison_provenance",
    "frontier",
    "plan_for",
    "provenance",
    "repeated",
    "rows",
    "run_jobs",
    "simulate",
    "write_csv",
    "write_parquet",
    "write_table",
]
