"""Results for people: a recommendation, tables for the terminal, one self-contained HTML page, and its figures."""

from fluidgate.report.calibration import calibration_figure, calibration_table, grid_figure, grid_table
from fluidgate.report.figures import write_figures
from fluidgate.report.page import write_report
from fluidgate.report.perfetto import write_perfetto
from fluidgate.report.recommend import Recommendation, recommend
from fluidgate.report.requests_table import loads_table, requests_table
from fluidgate.report.sections import Deployment, ServeLine, how_to_serve
from fluidgate.report.svg import standalone
from fluidgate.report.tables import comparison_table, facts_table, frontier_table, plan_table, summary_table
from fluidgate.report.words import outside_engine

__all__ = [
    "Deployment",
    "Recommendation",
    "ServeLine",
    "calibration_figure",
    "calibration_table",
    "comparison_table",
    "facts_table",
    "frontier_table",
    "grid_figure",
    "grid_table",
    "how_to_serve",
    "loads_table",
    "outside_engine",
    "plan_table",
    "recommend",
    "requests_table",
    "standalone",
    "summary_table",
    "write_figures",
    "write_perfetto",
    "write_report",
]
