"""`write_report`: a comparison as one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from string import Template

from fluidgate.errors import InputError
from fluidgate.output import write_text
from fluidgate.report.body import contents, sections
from fluidgate.report.deployment import Deployment
from fluidgate.report.html import asset, join
from fluidgate.runs import Comparison, Frontier
from fluidgate.version import version


def write_report(
    comparison: Comparison,
    path: str | os.PathLike[str],
    command: str | None = None,
    deployments: Sequence[Deployment] = (),
    frontier: Frontier | None = None,
) -> Path:
    """Write the page, which needs nothing but itself: no request to anywhere, and all of it readable without scripts.

    Args:
        path: the file; its folder must exist.
        command: the command line that made the comparison, for the last section.
        deployments: what to set in vLLM, one per load; without, the page says how to find out.
        frontier: the policies' largest stable rates on the same workload and machine, to show beside the rest.

    Returns:
        The path written.

    Raises:
        InputError: nothing to report, or the file cannot be written.
    """
    if not comparison.cells:
        raise InputError("the comparison is empty, so there is nothing to report; compare at least one policy")
    target = Path(path)
    write_text(target, render(comparison, command, deployments, frontier))
    return target


def render(
    comparison: Comparison,
    command: str | None = None,
    deployments: Sequence[Deployment] = (),
    frontier: Frontier | None = None,
) -> str:
    """The page as text."""

    title = f"{comparison.workload_name} on {comparison.hardware.name}"
    policies = len({cell.policy for cell in comparison.cells})
    subtitle = (
        f"Which requests may enter the GPU, and when: {policies} admission policies "
        f"at {len(comparison.scenarios)} loads, {comparison.requests:,} requests, {comparison.repeats} paired repeats."
    )
    return Template(asset("page.html")).substitute(
        title=join([title]),
        subtitle=join([subtitle]),
        style=asset("page.css") + asset("chart.css"),
        version=version(),
        contents=contents(),
        sections="\n".join(sections(comparison, version(), command, deployments, frontier)),
        script=asset("page.js"),
    )
