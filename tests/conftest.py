"""Fixtures that every room may use."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import screenshots as shots
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright."""
    lacking = shots.missing()
    if lacking:
        pytest.skip(lacking)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = shots.launch(driver)
        yield running
        running.close()


@pytest.fixture(params=shots.VIEWS)
def fits_screen(browser: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """In each view: a page is as wide as the screen and dark only if asked to be, and nothing goes wrong.

    Its picture is left for people to look at, under a name.
    """
    view = request.param

    def check(address: str, name: str, settled: str = "body") -> None:
        shots.FOLDER.mkdir(parents=True, exist_ok=True)
        picture = shots.FOLDER / f"{name}-{view}.png"
        measures = shots.photograph(browser, address, shots.VIEWS[view], picture, settled)
        print(f"screenshot: {picture}")
        assert measures.overflow == 0
        assert measures.troubles == ()
        assert (measures.brightness < 0.2) == (view == "dark")

    return check


# A busy machine must not fail a property; the seed is fixed, so that a run can be repeated.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
