"""The version that is installed."""

from __future__ import annotations

from functools import cache


@cache
def version() -> str:
    """As the package's metadata state it; "0+unknown" for sources that were never installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("fluidgate")
    except PackageNotFoundError:
        return "0+unknown"
