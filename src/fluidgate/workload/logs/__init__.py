"""Own logs: named columns of any table as the arrival times and lengths of requests."""

from fluidgate.workload.logs.columns import Column, Log, table_log, table_of
from fluidgate.workload.logs.names import parse_columns
from fluidgate.workload.logs.requests import Layout, Requests, in_order, read_requests
from fluidgate.workload.logs.served import arrival_order, check_choice, drop_failed
from fluidgate.workload.logs.times import PER_S, certain_unit, check_unit

__all__ = [
    "PER_S",
    "Column",
    "Layout",
    "Log",
    "Requests",
    "arrival_order",
    "certain_unit",
    "check_choice",
    "check_unit",
    "drop_failed",
    "in_order",
    "parse_columns",
    "read_requests",
    "table_log",
    "table_of",
]
