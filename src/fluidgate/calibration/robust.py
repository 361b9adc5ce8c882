"""Non-negative regression on relative errors, robust to a tenth of wild steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluidgate.arrays import FloatArray

HUBER = 1.345
BISQUARE = 4.685
"""Tuning constants that keep 95% efficiency under normal errors, in standard deviations."""
MAX_ROUNDS = 100
MIN_SCALE = 1e-9


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of the k coefficients besides the steps: mean and standard deviation, shape (k,); inf: nothing."""

    mean: FloatArray
    deviation: FloatArray


@dataclass(frozen=True, eq=False)
class RobustFit:
    """A fit of k coefficients to n steps.

    Attributes:
        coefficients: shape (k,), at or above 0.
        covariance: sandwich covariance, shape (k, k). It ignores the bound at 0, so it is too wide there, never too
            narrow, and says nothing of coefficients that the steps do not determine.
        weights: of the steps, shape (n,), in [0, 1]; 0 is an outlier.
        scale: standard deviation of the relative error, outliers apart.
    """

    coefficients: FloatArray
    covariance: FloatArray
    weights: FloatArray
    scale: float


def fit_robust(regressors: FloatArray, measured: FloatArray, prior: Prior | None = None) -> RobustFit:
    """Coefficients b ≥ 0 with measured ≈ regressors·b, by iteratively reweighted least squares.

    Residuals are measured/fitted − 1: divided by the measured value, a step that is tenfold too short would count a
    hundredfold. Huber's weights find the neighbourhood and the scale; Tukey's bisquare starts there, because Huber's
    bounded weight still lets one-sided outliers (steps that were held up) drag the fit (Maronna, Martin, Yohai,
    Robust Statistics, §5.5).

    Args:
        regressors: shape (n, k).
        measured: shape (n,), above 0.
        prior: counts as one more measurement per coefficient that it knows.
    """
    n, k = regressors.shape
    prior = prior or Prior(np.zeros(k), np.full(k, np.inf))
    start = _least_squares(regressors / measured[:, None], np.ones(n), prior, 0.0)
    fitted = _fitted(regressors, start, measured)
    coefficients, fitted, scale = _reweighted(regressors, measured, fitted, prior, None)
    coefficients, fitted, scale = _reweighted(regressors, measured, fitted, prior, scale)
    standardised = (measured / fitted - 1.0) / scale
    covariance = _sandwich(regressors / fitted[:, None], standardised, prior, scale)
    return RobustFit(coefficients, covariance, _bisquare(standardised), scale)


def _reweighted(
    regressors: FloatArray, measured: FloatArray, fitted: FloatArray, prior: Prior, scale: float | None
) -> tuple[FloatArray, FloatArray, float]:
    """Repeat until the fitted values settle: Huber's weights with their own scale, or bisquare with the given one."""
    for _ in range(MAX_ROUNDS):
        residual = measured / fitted - 1.0
        width = _scale(residual) if scale is None else scale
        weight = _huber(residual / width) if scale is None else _bisquare(residual / width)
        root = np.sqrt(weight)
        rows = regressors * (root / fitted)[:, None]
        coefficients = _least_squares(rows, root * measured / fitted, prior, width)
        last, fitted = fitted, _fitted(regressors, coefficients, measured)
        if np.all(np.abs(fitted - last) <= 1e-10 * last):
            break
    return coefficients, fitted, width


def _fitted(regressors: FloatArray, coefficients: FloatArray, measured: FloatArray) -> FloatArray:
    """Above 0, though only a term that a step lacks may have a coefficient: residuals are divided by it."""
    return np.maximum(regressors @ coefficients, MIN_SCALE * measured)


def _least_squares(rows: FloatArray, target: FloatArray, prior: Prior, scale: float) -> FloatArray:
    """Non-negative least squares with the prior as further rows, whose errors have the steps' scale."""
    from scipy.optimize import nnls

    strength = scale / prior.deviation
    rows = np.vstack([rows, np.diag(strength)])
    size = np.linalg.norm(rows, axis=0)
    size = np.where(size > 0, size, 1.0)
    solution: FloatArray = nnls(rows / size, np.concatenate([target, strength * prior.mean]))[0] / size
    return solution


def _sandwich(rows: FloatArray, standardised: FloatArray, prior: Prior, scale: float) -> FloatArray:
    """scale²·A⁻¹BA⁻¹ with A = Σψ'zzᵀ, B = Σψ²zzᵀ over rows z, and the prior's precision in both."""
    n, k = rows.shape
    size = np.linalg.norm(np.vstack([rows, np.diag(scale / prior.deviation)]), axis=0)
    size = np.where(size > 0, size, 1.0)
    z = rows / size
    inside = np.abs(standardised) < BISQUARE
    square = np.where(inside, (standardised / BISQUARE) ** 2, 1.0)
    psi = standardised * (1.0 - square) ** 2
    slope = (1.0 - square) * (1.0 - 5.0 * square)
    precision = np.diag((scale / (prior.deviation * size)) ** 2)
    bread = np.linalg.pinv((z * slope[:, None]).T @ z + precision, rcond=1e-12, hermitian=True)
    meat = (z * (psi**2)[:, None]).T @ z * (n / max(n - k, 1)) + precision
    covariance: FloatArray = scale**2 * (bread @ meat @ bread) / np.outer(size, size)
    return covariance


def _scale(residual: FloatArray) -> float:
    """The median absolute residual as a standard deviation of normal errors."""
    return max(1.4826 * float(np.median(np.abs(residual))), MIN_SCALE)


def _huber(standardised: FloatArray) -> FloatArray:
    return HUBER / np.maximum(np.abs(standardised), HUBER)


def _bisquare(standardised: FloatArray) -> FloatArray:
    weight: FloatArray = np.maximum(1.0 - (standardised / BISQUARE) ** 2, 0.0) ** 2
    return weight
