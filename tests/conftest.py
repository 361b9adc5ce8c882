"""Fixtures that every room may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fluidgate.fluid import FluidPlan, plan
from fluidgate.policies import registry
from fluidgate.testing import small_hardware, small_workloads

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real data beside the repository, which is never committed."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def small_plan() -> FluidPlan:
    """Of the kit's overload on its small machine."""
    (overload,) = (workload for workload in small_workloads() if workload.name == "overload")
    return plan(overload, small_hardware())


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Policies that a test registers are gone after it."""
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


# A busy machine must not fail a property; the seed is fixed, so that a run can be repeated.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
