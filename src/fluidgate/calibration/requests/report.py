"""`RequestsReport`: a step time fitted to measured loads, its intervals, and its errors on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fluidgate.calibration.requests.load import Load
from fluidgate.calibration.requests.posterior import OVERHEAD_SIGMA_S, PRIOR_SIGMA, Posterior
from fluidgate.hardware.calibration import COEFFICIENTS, Calibration
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.words import listed, percent

LATENCIES = ("TTFT", "TPOT", "E2E")
UNDETERMINED = 0.7
"""A standard deviation of more than this share of the prior's: the loads said little."""
NEGLIGIBLE = 0.01
"""A coefficient that takes less than this share of the time matters to no load like these."""
NORMAL_95 = 1.96
FURTHER_LOADS = {
    "c0": "one request at a time (--max-concurrency 1)",
    "c_tok": "a rate near saturation, or prompts of 1,000 tokens and more",
    "c_kv": "outputs of 1,000 tokens and more at a rate near saturation, so that the KV cache fills",
    "c_attn": "prompts of 4,000 tokens and more",
    "c_seq": "short prompts at a rate near saturation, so that 100 and more decode at a time",
}


@dataclass(frozen=True)
class LoadErrors:
    """Mean latencies of one load.

    Attributes:
        name: the run.
        requests: how many were compared.
        decoding: how many requests decoded at a time, on average over requests.
        measured_s, simulated_s: mean TTFT, TPOT and E2E latency, in the order of `LATENCIES`.
        held_out_s: the same, from a fit that has not seen these requests; None if there was none.
        held_out: which requests the held-out errors are of, in words.
    """

    name: str
    requests: int
    decoding: float
    measured_s: tuple[float, ...]
    simulated_s: tuple[float, ...]
    held_out_s: tuple[float, ...] | None = None
    held_out: str = ""
    held_out_measured_s: tuple[float, ...] = ()

    @property
    def errors(self) -> tuple[float, ...]:
        """Simulated ÷ measured − 1."""
        return _relative(self.simulated_s, self.measured_s)

    @property
    def held_out_errors(self) -> tuple[float, ...] | None:
        """The same from the fit that has not seen them."""
        return None if self.held_out_s is None else _relative(self.held_out_s, self.held_out_measured_s)


@dataclass(frozen=True, eq=False)
class RequestsReport:
    """What was fitted, and how well.

    Attributes:
        posterior: the step time and its uncertainty.
        machine: the estimate, whose step time is the prior.
        loads: errors on each of them.
        calibration: as `Hardware` carries it.
        shares: about which share of the loads' time each coefficient takes.
    """

    posterior: Posterior
    machine: Hardware
    loads: tuple[LoadErrors, ...]
    calibration: Calibration
    shares: tuple[float, ...]

    @property
    def half_widths(self) -> dict[str, float]:
        """Half of each coefficient's 95% interval, seconds; 0 for one that was not fitted."""
        return dict(zip(COEFFICIENTS, (width or 0.0 for width in self.calibration.plus_minus), strict=True))

    @property
    def undetermined(self) -> tuple[str, ...]:
        """Coefficients whose value is mostly the estimate's."""
        sigma = dict(zip(self.posterior.fitted, self.posterior.sigma.tolist(), strict=False))
        return tuple(name for name in self.posterior.fitted if sigma[name] > UNDETERMINED * PRIOR_SIGMA)

    @property
    def overhead_half_width_s(self) -> float:
        """Half of the overhead's 95% interval."""
        return NORMAL_95 * float(self.posterior.sigma[-1])

    @property
    def overhead_s(self) -> float | None:
        """Seconds of a request outside the engine; None where every load queues, so that nothing shows them."""
        known = self.posterior.sigma[-1] <= UNDETERMINED * OVERHEAD_SIGMA_S
        return self.posterior.overhead_s if known else None

    @property
    def relative_error(self) -> float:
        """Mean absolute error of the mean TPOTs, held out where there are such."""
        tpot = LATENCIES.index("TPOT")
        return float(np.mean([abs((load.held_out_errors or load.errors)[tpot]) for load in self.loads]))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the loads do not determine and which further load would, in sentences without a full stop."""
        return tuple(self._remarks())

    def _remarks(self) -> Iterator[str]:
        for name in self.undetermined:
            share = self.shares[COEFFICIENTS.index(name)]
            small = f", of whose time it takes {percent(share)}," if share < NEGLIGIBLE else ""
            yield (
                f"{name} is mostly the estimate's: the loads{small} do not determine it; a load that would: "
                f"{FURTHER_LOADS[name]}"
            )
        if self.overhead_s is None:
            yield (
                "What HTTP and the tokeniser add is not known, since requests queue in every load; a load that would "
                f"show it: {FURTHER_LOADS['c0']}"
            )
        if len(self.loads) == 1:
            yield "One load does not show how the step time holds at another: add a result at a sixth of its rate"

    @property
    def estimate(self) -> StepTime:
        """The prior."""
        return self.machine.step_time

    def hardware(self, name: str, source: str) -> Hardware:
        """The machine with this step time and overhead."""
        return replace(
            self.machine,
            name=name,
            step_time=self.posterior.step_time,
            grid=None,
            source=source + (f"; {listed(self.undetermined)} mostly the estimate's" if self.undetermined else ""),
            relative_error=self.relative_error,
            calibration=self.calibration,
            overhead_s=self.overhead_s or 0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON-ready values."""
        return {
            "step_time": asdict(self.posterior.step_time),
            "estimate": asdict(self.estimate),
            "overhead_s": self.overhead_s,
            "overhead_plus_minus_s": self.overhead_half_width_s,
            "calibration": asdict(self.calibration),
            "undetermined": list(self.undetermined),
            "spread": dict(zip(("TPOT", "TTFT"), self.posterior.spreads, strict=True)),
            "loads": [
                asdict(load) | {"errors": load.errors, "held_out_errors": load.held_out_errors} for load in self.loads
            ],
            "remarks": list(self.remarks),
        }


def calibration_of(
    posterior: Posterior, steps: int, tokens: tuple[float, float], kv_tokens: tuple[float, float]
) -> Calibration:
    """The uncertainty of a fit in coefficients, not logarithms, over the steps of the simulated loads."""
    count, fitted = len(COEFFICIENTS), [COEFFICIENTS.index(name) for name in posterior.fitted]
    correlation = np.eye(count)
    correlation[np.ix_(fitted, fitted)] = posterior.correlation[:-1, :-1]
    widths = np.zeros(count)
    widths[fitted] = posterior.sigma[:-1]
    widths *= NORMAL_95 * np.array([getattr(posterior.step_time, name) for name in COEFFICIENTS])
    return Calibration(
        steps=steps,
        plus_minus=tuple(widths.tolist()),
        correlation=tuple(tuple(row) for row in correlation.tolist()),
        misfit=posterior.spreads[0],
        tokens=tokens,
        kv_tokens=kv_tokens,
    )


def mean_latencies_s(load: Load, latencies_s: dict[str, Any], overhead_s: float = 0.0) -> tuple[float, ...]:
    """Mean TTFT, TPOT and E2E latency of the compared requests; the overhead is part of the first and the last."""
    return tuple(
        float(np.nanmean(latencies_s[name][load.compared])) + (0.0 if name == "TPOT" else overhead_s)
        for name in LATENCIES
    )


def _relative(simulated: tuple[float, ...], measured: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(own / other - 1.0 for own, other in zip(simulated, measured, strict=True))
