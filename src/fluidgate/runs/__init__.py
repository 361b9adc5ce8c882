"""Runs made of the rooms below: one simulation, policies compared, and many jobs over processes or Ray."""

from fluidgate.runs.comparison import DEFAULT_POLICIES, Cell, Comparison, Scenario, compare, repeated
from fluidgate.runs.export import rows, write_csv, write_parquet, write_table
from fluidgate.runs.frontier import FRONTIER_POLICIES, Frontier, StableRate, frontier
from fluidgate.runs.jobs import Runner
from fluidgate.runs.one_pool import one_pool, pool_of_run
from fluidgate.runs.prices import Prices, parse_prices
from fluidgate.runs.provenance import provenance
from fluidgate.runs.requests_fit import calibrate_requests
from fluidgate.runs.side_by_side import side_by_side
from fluidgate.runs.simulation import plan_for, policy_for, simulate, timings_of

__all__ = [
    "DEFAULT_POLICIES",
    "FRONTIER_POLICIES",
    "Cell",
    "Comparison",
    "Frontier",
    "Prices",
    "Runner",
    "Scenario",
    "StableRate",
    "calibrate_requests",
    "compare",
    "frontier",
    "one_pool",
    "parse_prices",
    "plan_for",
    "policy_for",
    "pool_of_run",
    "provenance",
    "repeated",
    "rows",
    "side_by_side",
    "simulate",
    "timings_of",
    "write_csv",
    "write_parquet",
    "write_table",
]
