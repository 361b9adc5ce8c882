"""fluidgate decides when LLM requests may enter the GPU, so that the KV cache stays full without overflowing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from fluidgate.engine import EngineConfig as EngineConfig
    from fluidgate.engine import Fleet as Fleet
    from fluidgate.engine import FleetRecords as FleetRecords
    from fluidgate.engine import RunRecords as RunRecords
    from fluidgate.errors import FluidgateError as FluidgateError
    from fluidgate.errors import InputError as InputError
    from fluidgate.errors import Stalled as Stalled
    from fluidgate.fluid import FluidPlan as FluidPlan
    from fluidgate.fluid import RequestMix as RequestMix
    from fluidgate.fluid import plan as plan
    from fluidgate.hardware import Hardware as Hardware
    from fluidgate.hardware import StepTime as StepTime
    from fluidgate.hardware import get_hardware as get_hardware
    from fluidgate.metrics import Slo as Slo
    from fluidgate.metrics import Summary as Summary
    from fluidgate.metrics.summarize import summarize as summarize
    from fluidgate.policies import Policy as Policy
    from fluidgate.policies import policy as policy
    from fluidgate.report import write_report as write_report
    from fluidgate.runs import Comparison as Comparison
    from fluidgate.runs import Runner as Runner
    from fluidgate.runs import compare as compare
    from fluidgate.runs import simulate as simulate
    from fluidgate.runs.size import Sizing as Sizing
    from fluidgate.runs.size import machines_of as machines_of
    from fluidgate.runs.size import size as size
    from fluidgate.workload import Workload as Workload
    from fluidgate.workload import generate as generate
    from fluidgate.workload import read_trace as read_trace

# Imported on first use: `import fluidgate` alone loads none of numpy, numba and scipy.
_HOME = {
    "EngineConfig": "engine",
    "Fleet": "engine",
    "FleetRecords": "engine",
    "RunRecords": "engine",
    "FluidgateError": "errors",
    "InputError": "errors",
    "Stalled": "errors",
    "Comparison": "runs",
    "Runner": "runs",
    "Sizing": "runs.size",
    "compare": "runs",
    "machines_of": "runs.size",
    "simulate": "runs",
    "size": "runs.size",
    "FluidPlan": "fluid",
    "RequestMix": "fluid",
    "plan": "fluid",
    "Hardware": "hardware",
    "StepTime": "hardware",
    "get_hardware": "hardware",
    "Slo": "metrics",
    "Summary": "metrics",
    "summarize": "metrics",
    "Policy": "policies",
    "policy": "policies",
    "write_report": "report",
    "Workload": "workload",
    "generate": "workload",
    "read_trace": "workload",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("fluidgate.version").version()
    if name in _HOME:
        return getattr(importlib.import_module(f"fluidgate.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fluidgate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
