"""What all tests against vLLM's own code share."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture(scope="session", autouse=True)
def models_are_inspected_here() -> None:
    """vLLM starts a process for each new kind of model to see what it can do, which imports all of vLLM again."""
    if importlib.util.find_spec("vllm") is None:
        return
    from vllm.model_executor.models import registry

    if hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda inspect: inspect()
