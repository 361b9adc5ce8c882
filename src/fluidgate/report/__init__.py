"""Results for people: a recommendation, tables for the terminal, one self-contained HTML page, and its figures."""

from fluidgate.report.calibration import calibration_figure, calibration_table, queried_figure, queried_table
from fluidgate.report.comparison_table import comparison_table
from fluidgate.report.contradictions import contradictions
from fluidgate.report.criteria import Criterion, Difference
from fluidgate.report.figures import write_figures
from fluidgate.report.page import write_report
from fluidgate.report.perfetto import write_perfetto
from fluidgate.report.recommend import Recommendation, recommend
from fluidgate.report.requests_table import loads_table, requests_table
from fluidgate.report.serving_lines import Deployment, ServeLine, how_to_serve
from fluidgate.report.size_page import write_size_report
from fluidgate.report.size_table import size_sentences, size_table, size_title
from fluidgate.report.standing import Equal, Near, Undecided, Worse
from fluidgate.report.svg import standalone
from fluidgate.report.tables import facts_table, frontier_table, plan_table, summary_table
from fluidgate.report.whatif_figures import write_whatif_figures, write_whatif_page
from fluidgate.report.whatif_table import whatif_table
from fluidgate.report.words import load_title, outside_engine

__all__ = [
    "Criterion",
    "Deployment",
    "Difference",
    "Equal",
    "Near",
    "Recommendation",
    "ServeLine",
    "Undecided",
    "Worse",
    "calibration_figure",
    "calibration_table",
    "comparison_table",
    "contradictions",
    "facts_table",
    "frontier_table",
    "how_to_serve",
    "load_title",
    "loads_table",
    "outside_engine",
    "plan_table",
    "queried_figure",
    "queried_table",
    "recommend",
    "requests_table",
    "size_sentences",
    "size_table",
    "size_title",
    "standalone",
    "summary_table",
    "whatif_table",
    "write_figures",
    "write_perfetto",
    "write_report",
    "write_size_report",
    "write_whatif_figures",
    "write_whatif_page",
]
