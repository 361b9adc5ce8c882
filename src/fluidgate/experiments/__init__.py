"""Runs made of the rooms below: one simulation, policies compared, and many jobs over processes or Ray."""

from fluidgate.experiments.comparison import DEFAULT_POLICIES, Cell, Comparison, Scenario, compare, repeated
from fluidgate.experiments.export import comparison_provenance, provenance, rows, write_csv, write_parquet, write_table
from fluidgate.experiments.jobs import run_jobs
from fluidgate.experiments.simulation import plan_for, simulate

__all__ = [
    "DEFAULT_POLICIES",
    "Cell",
    "Comparison",
    "Scenario",
    "compare",
    "comparison_provenance",
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
