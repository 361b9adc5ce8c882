"""A comparison for people: the recommendation, tables for the terminal, one self-contained HTML page."""

from fluidgate.report.details import facts_table, summary_table
from fluidgate.report.frontier import frontier_table
from fluidgate.report.page import write_report
from fluidgate.report.perfetto import write_perfetto
from fluidgate.report.recommend import Recommendation, recommend
from fluidgate.report.tables import comparison_table, plan_table

__all__ = [
    "Recommendation",
    "comparison_table",
    "facts_table",
    "frontier_table",
    "plan_table",
    "recommend",
    "summary_table",
    "write_perfetto",
    "write_report",
]
