"""A step time from measured steps, with its error: `calibrate_steps`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fluidgate.arrays import FloatArray
from fluidgate.calibration.points import StepPoints
from fluidgate.calibration.robust import Prior, RobustFit, fit_robust
from fluidgate.errors import InputError
from fluidgate.hardware.calibration import COEFFICIENTS, Calibration
from fluidgate.hardware.core import Hardware, StepTime
from fluidgate.hardware.fit import SHORTEST, undetermined

MIN_STEPS = 20
FOLDS = 5
SHEET_ERROR = {"c0": 0.5, "c_tok": 0.5, "c_kv": 0.5, "c_attn": 0.5, "c_seq": 1.0}
"""Relative half-width (95%) of an estimated coefficient (`estimate_step_time`): most of those from data sheets lie
within it, and c_seq is a round number."""
NEGLIGIBLE = 0.01
"""A coefficient whose interval holds 0 matters if it may be more than this share of some step's time."""
REGIONS_PER_AXIS = 4
MIN_IN_REGION = 5


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """A calibrated step time and how well it describes the n steps.

    Attributes:
        step_time, calibration: the result, as `Hardware` carries it.
        points: the steps.
        fitted_s: their fitted durations, shape (n,), seconds.
        outlier: steps that the fit leaves out, shape (n,).
        held_out_error: `|predicted/measured − 1|` of each step, outliers included, predicted by a fit to four fifths of
            the steps without it, shape (n,).
        noise: standard deviation of the relative error, outliers apart.
        remarks: what the user should know about the coefficients, in sentences.
    """

    step_time: StepTime
    calibration: Calibration
    points: StepPoints
    fitted_s: FloatArray
    outlier: np.ndarray[tuple[int], np.dtype[np.bool_]]
    held_out_error: FloatArray
    noise: float
    remarks: tuple[str, ...]

    @property
    def relative_error(self) -> float:
        """Mean error of held-out steps, outliers apart."""
        return float(self.held_out_error[~self.outlier].mean())

    def hardware(self, name: str, num_gpu_blocks: int, block_size: int, source: str) -> Hardware:
        """The machine with this step time, and this much KV memory."""
        return Hardware(
            name=name,
            step_time=self.step_time,
            num_gpu_blocks=num_gpu_blocks,
            block_size=block_size,
            source="; ".join((source, *self.remarks)),
            relative_error=self.relative_error,
            calibration=self.calibration,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the steps, as JSON-ready values."""
        return {
            "step_time": asdict(self.step_time),
            "calibration": asdict(self.calibration),
            "held_out_error": {
                "mean_without_outliers": self.relative_error,
                "median": float(np.median(self.held_out_error)),
                "p95": float(np.quantile(self.held_out_error, 0.95)),
            },
            "noise": self.noise,
            "steps": len(self.outlier),
            "outliers": int(self.outlier.sum()),
            "remarks": list(self.remarks),
        }


def calibrate_steps(
    points: StepPoints, *, has_pairs: bool = True, has_sequences: bool = True, sheet: StepTime | None = None
) -> CalibrationReport:
    """Fit the coefficients robustly, with intervals, and find those that the steps do not determine.

    A coefficient is not determined if others can stand in for it exactly, or if its 95% interval holds 0 and it may
    still cost more than 1% of some step. It is then taken from `sheet`, ±50% (c_seq ±100%), as one more measurement.

    Args:
        points: measured steps.
        has_pairs: whether `points` say how many attention pairs a step had; if not, c_attn is 0 by definition.
        has_sequences: whether `points` say how many requests a step had; if not, c_seq is 0 by definition.
        sheet: an estimate from data sheets.

    Raises:
        InputError: fewer than 20 steps, or steps that show no fixed time.
    """
    n = len(points.duration_s)
    if n < MIN_STEPS:
        raise InputError(f"{n} steps are too few to calibrate with an error; measure at least {MIN_STEPS}, better 200")
    columns = [np.ones(n), points.tokens, points.kv_tokens, points.attention_pairs, points.sequences]
    known = [k for k, has in enumerate((True, True, True, has_pairs, has_sequences)) if has]
    used = np.column_stack([columns[k] for k in known])
    alone = fit_robust(used, points.duration_s)
    exact = _exact(used, points.duration_s, known)
    weak = [k for j, k in enumerate(known) if k not in exact and _is_weak(alone, used, j)]
    borrowed = [k for k in exact + weak if sheet is not None and getattr(sheet, COEFFICIENTS[k]) > 0]
    prior = _prior(sheet, known, borrowed) if sheet is not None and borrowed else None
    fit = fit_robust(used, points.duration_s, prior) if prior is not None else alone
    coefficients = np.zeros(len(COEFFICIENTS))
    coefficients[known] = fit.coefficients
    if not coefficients[SHORTEST].any():
        raise InputError("the steps show no time per step, token or sequence; add steps with few KV tokens")
    unknown = [k for k in exact if k not in borrowed]
    return CalibrationReport(
        step_time=StepTime(*(float(value) for value in coefficients)),
        calibration=_calibration(fit, used, points, known, unknown),
        points=points,
        fitted_s=used @ fit.coefficients,
        outlier=fit.weights == 0,
        held_out_error=_held_out(used, points.duration_s, prior),
        noise=fit.scale,
        remarks=tuple(_remarks(exact, weak, borrowed, known)),
    )


def _exact(used: FloatArray, duration_s: FloatArray, known: list[int]) -> list[int]:
    relative = used / duration_s[:, None]
    size = np.linalg.norm(relative, axis=0)
    names = undetermined(relative / np.where(size > 0, size, 1.0), [COEFFICIENTS[k] for k in known])
    return [COEFFICIENTS.index(name) for name in names]


def _is_weak(fit: RobustFit, used: FloatArray, column: int) -> bool:
    half_width = _half_widths(fit)[column]
    reach = half_width * used[:, column] / np.maximum(used @ fit.coefficients, 1e-300)
    return bool(fit.coefficients[column] <= half_width and reach.max() > NEGLIGIBLE)


def _half_widths(fit: RobustFit) -> FloatArray:
    from scipy.special import stdtrit

    freedom = max(np.count_nonzero(fit.weights) - len(fit.coefficients), 1)
    widths: FloatArray = stdtrit(freedom, 0.975) * np.sqrt(np.maximum(np.diag(fit.covariance), 0.0))
    return widths


def _prior(sheet: StepTime, known: list[int], borrowed: list[int]) -> Prior:
    mean = np.array([getattr(sheet, COEFFICIENTS[k]) for k in known])
    error = np.array([SHEET_ERROR[COEFFICIENTS[k]] if k in borrowed else np.inf for k in known])
    return Prior(mean, error / 1.96 * mean)


def _calibration(
    fit: RobustFit, used: FloatArray, points: StepPoints, known: list[int], unknown: list[int]
) -> Calibration:
    deviation = np.sqrt(np.maximum(np.diag(fit.covariance), 0.0))
    size = np.outer(deviation, deviation)
    correlation = np.eye(len(COEFFICIENTS))
    correlation[np.ix_(known, known)] = np.divide(fit.covariance, size, out=np.eye(len(known)), where=size > 0)
    widths = np.zeros(len(COEFFICIENTS))
    widths[known] = _half_widths(fit)
    return Calibration(
        steps=len(used),
        plus_minus=tuple(None if k in unknown else width for k, width in enumerate(widths.tolist())),
        correlation=tuple(tuple(float(value) for value in row) for row in correlation),
        misfit=_misfit(used, points, fit),
        tokens=(float(points.tokens.min()), float(points.tokens.max())),
        kv_tokens=(float(points.kv_tokens.min()), float(points.kv_tokens.max())),
    )


def _misfit(used: FloatArray, points: StepPoints, fit: RobustFit) -> float:
    """Standard deviation between regions of the steps' mean relative errors, beyond what noise within them explains.

    The method of moments of a one-way random-effects model; regions are quantiles of tokens × quantiles of KV.
    """
    residual = points.duration_s / (used @ fit.coefficients) - 1.0
    region = REGIONS_PER_AXIS * _quantile_bin(points.tokens) + _quantile_bin(points.kv_tokens)
    kept = fit.weights > 0
    excess, total = 0.0, 0
    for r in np.unique(region[kept]):
        in_region = residual[kept & (region == r)]
        if len(in_region) >= MIN_IN_REGION:
            excess += len(in_region) * (float(in_region.mean()) ** 2 - float(in_region.var(ddof=1)) / len(in_region))
            total += len(in_region)
    return float(np.sqrt(max(excess, 0.0) / total)) if total else 0.0


def _quantile_bin(values: FloatArray) -> FloatArray:
    edges = np.quantile(values, np.arange(1, REGIONS_PER_AXIS) / REGIONS_PER_AXIS)
    bins: FloatArray = np.searchsorted(edges, values, side="right").astype(np.float64)
    return bins


def _held_out(regressors: FloatArray, duration_s: FloatArray, prior: Prior | None) -> FloatArray:
    fold = np.random.default_rng(0).permutation(len(duration_s)) % FOLDS
    error = np.empty(len(duration_s))
    for k in range(FOLDS):
        fit = fit_robust(regressors[fold != k], duration_s[fold != k], prior)
        out = fold == k
        error[out] = np.abs(regressors[out] @ fit.coefficients / duration_s[out] - 1.0)
    return error


def _remarks(exact: list[int], weak: list[int], borrowed: list[int], known: list[int]) -> Iterator[str]:
    for k in sorted(exact + weak):
        name = COEFFICIENTS[k]
        why = f"{_VARY[name]} on their own" if k in exact else "its 95% interval holds 0"
        if k in borrowed:
            whose = "the estimate's" if name == "c_seq" else "the data sheet's"
            what = f"its value is {whose}, ±{SHEET_ERROR[name]:.0%}"
        elif k in exact:
            what = "its value means nothing by itself"
        else:
            what = "its value is the fit's, with an error as large as itself"
        advice = "" if k in borrowed else "; measure steps that vary it, or name model and GPU for a data sheet's"
        yield f"{name} is not determined: {why}; {what}{advice}"
    for k, why in _ABSENT.items():
        if k not in known:
            yield f"{COEFFICIENTS[k]} is 0: the file has no {why}"


_VARY = {
    "c0": "tokens, KV tokens, pairs and sequences do not vary",
    "c_tok": "the tokens do not vary",
    "c_kv": "the KV tokens do not vary",
    "c_attn": "the attention pairs do not vary",
    "c_seq": "the sequences do not vary",
}
_ABSENT = {
    COEFFICIENTS.index("c_attn"): "attention pairs, so a token costs the same in long and short prompts",
    COEFFICIENTS.index("c_seq"): "sequences, so what a request costs counts with its tokens",
}
