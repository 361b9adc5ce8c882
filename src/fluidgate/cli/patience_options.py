"""Options that say when clients give up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from fluidgate.cli.groups import option

if TYPE_CHECKING:
    from fluidgate.workload import Patience, Synthetic

_HOW_LONG = "seconds, exp:MEAN or lognormal:MEDIAN:SIGMA."


@dataclass(frozen=True)
class PatienceOptions:
    """When clients give up; `fluidgate.workload.Patience`."""

    client_timeout: Annotated[
        str | None,
        option(
            "Workload",
            "--client-timeout",
            help=f"Clients give up unless their last token has come in time: {_HOW_LONG}",
        ),
    ] = None
    ttft_timeout: Annotated[
        str | None,
        option(
            "Workload", "--ttft-timeout", help=f"Clients give up unless their first token has come in time: {_HOW_LONG}"
        ),
    ] = None

    def load(self) -> Patience:
        """How long clients wait, in place of what a trace says."""
        from fluidgate.workload import Patience, parse_timeout

        texts = {"--client-timeout": self.client_timeout, "--ttft-timeout": self.ttft_timeout}
        return Patience(*(parse_timeout(option, text) for option, text in texts.items()))

    def given(self) -> Patience | None:
        """How long clients wait, None if no option says so."""
        return None if self.client_timeout is None and self.ttft_timeout is None else self.load()

    def of_preset(self, spec: Synthetic) -> Synthetic:
        """The preset with clients of this patience."""
        return replace(spec, patience=self.load())
