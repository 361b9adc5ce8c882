"""`fluidgate experiment paper`: the studies of arXiv 2504.11320 and the limit cycle of arXiv 2606.15555, run again."""

from fluidgate.studies.paper.page import paper_page
from fluidgate.studies.paper.study import PARTS, PaperResult, Scale, run_paper

__all__ = ["PARTS", "PaperResult", "Scale", "paper_page", "run_paper"]
