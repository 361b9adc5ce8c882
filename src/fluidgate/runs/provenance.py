"""What every result file says of where it comes from."""

from __future__ import annotations

from typing import Any

from fluidgate.hardware import Hardware
from fluidgate.jsonfile import plain
from fluidgate.version import version
from fluidgate.workload import Workload


def provenance(
    workload: Workload, hardware: Hardware, *, seed: int, command: str | None = None, **settings: Any
) -> dict[str, Any]:
    """Version, command, seed, hardware, and the workload by its hash; then `settings`."""
    described = {"name": workload.name, "digest": workload.digest, "requests": len(workload)}
    return provenance_of(described, hardware, seed, command, settings)


def provenance_of(
    workload: dict[str, Any], hardware: Hardware, seed: int, command: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """The same of a workload that is described already."""
    return {
        "fluidgate": version(),
        "command": command,
        "seed": seed,
        "hardware": plain(hardware, finite=True),
        "workload": workload,
        **settings,
    }
