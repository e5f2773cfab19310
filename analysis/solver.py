"""Batched Levenberg-Marquardt in NumPy: starts and bootstrap resamples are solved together, as one batch.

Every member of the batch has its own parameters, and its own y and weights where they are given per member. Positive
parameters move in logs, bounded ones stop at their bound (the gradient that pushes outwards is cut, so that the others
go on moving). Robust losses are handled by reweighting; a step is accepted only if the true objective falls.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analysis.laws import Law

Loss = Literal["squares", "huber", "lad"]
COMPLEX_STEP = 1e-30
CHUNK_VALUES = 40_000  # residuals that one thread works on at once: its arrays then stay in the cache
LAD_DELTAS = (
    1e-2,
    1e-3,
    1e-4,
    1e-5,
    1e-6,
)  # of the residuals' size: Huber's delta on the way to least absolute deviations


@dataclass(frozen=True)
class Objective:
    """What is minimised: sum over rows of weight * rho(residual).

    rho(r) = r^2 / 2 for "squares", Huber's with `delta` for "huber", |r| for "lad".
    """

    loss: Loss = "squares"
    delta: float | None = None

    def rho(self, r: np.ndarray) -> np.ndarray:
        if self.loss == "lad":
            return np.abs(r)
        if self.loss == "squares" or self.delta is None:
            return 0.5 * r * r
        a = np.abs(r)
        inside = np.minimum(a, self.delta)
        return inside * (a - 0.5 * inside)

    def curvature(self, r: np.ndarray) -> np.ndarray:
        """Weight of a row in the reweighted least squares problem."""
        if self.loss == "squares" or self.delta is None:
            return np.ones_like(r)
        return self.delta / np.maximum(np.abs(r), self.delta)


@dataclass(frozen=True)
class Problem:
    """A law on data: axes (d, n) and y (n,) or (batch, n), weights alike; pinned parameters hold their value."""

    law: Law
    axes: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    objective: Objective
    pins: Mapping[str, float]

    @property
    def free(self) -> list[int]:
        return [k for k, param in enumerate(self.law.params) if param.name not in self.pins]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high of the free parameters in the solver's space, shape (free,) each."""
        lows, highs = [], []
        for k in self.free:
            param = self.law.params[k]
            if param.domain == "positive":
                lows.append(np.log(param.low) if param.low > 0 else -700.0)
                highs.append(min(np.log(param.high), 700.0))
            else:
                lows.append(max(param.low, 0.0) if param.domain == "nonnegative" else param.low)
                highs.append(param.high)
        return np.array(lows), np.array(highs)

    def inner(self, natural: np.ndarray) -> np.ndarray:
        """Natural (..., p) to the solver's free parameters (..., free), inside their bounds."""
        low, high = self.bounds()
        columns = []
        for k in self.free:
            value = natural[..., k]
            positive = self.law.params[k].domain == "positive"
            columns.append(np.log(np.maximum(value, 1e-300)) if positive else value)
        return np.clip(np.stack(columns, axis=-1), low, high)

    def natural(self, inner: np.ndarray) -> np.ndarray:
        """The solver's free parameters (..., free) to natural (..., p), pins filled in."""
        full = np.empty((*inner.shape[:-1], len(self.law.params)), inner.dtype)
        for k, param in enumerate(self.law.params):
            if param.name in self.pins:
                full[..., k] = self.pins[param.name]
        for column, k in enumerate(self.free):
            value = inner[..., column]
            full[..., k] = np.exp(value) if self.law.params[k].domain == "positive" else value
        return full

    def residuals(self, inner: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Fitted minus observed in the law's residual space: (batch, n)."""
        return self.misses(self.law.values(self.axes, self.natural(inner)), self.target(y))

    def target(self, y: np.ndarray) -> np.ndarray:
        """y in the residual space."""
        return np.log(y) if self.law.residuals == "log" else y

    def misses(self, fitted: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Residuals of fitted values against targets in the residual space."""
        return (np.log(fitted) if self.law.residuals == "log" else fitted) - target

    def jacobian(self, inner: np.ndarray, fitted: np.ndarray | None = None) -> np.ndarray:
        """Derivatives of the residuals by the free parameters: (batch, n, free), laid out (batch, free, n)."""
        natural = self.natural(inner)
        if fitted is None:
            fitted = self.law.values(self.axes, natural)
        if self.law.gradient is None:
            columns = self._complex_step(inner)
        else:
            parts = self.law.gradient(*self.axes, *(natural[..., k, None] for k in range(natural.shape[-1])))
            columns = []
            for k in self.free:
                chain = natural[..., k, None] if self.law.params[k].domain == "positive" else 1.0
                columns.append(parts[k] * chain)
        rows = np.empty((fitted.shape[0], len(columns), fitted.shape[1]))
        for k, column in enumerate(columns):
            rows[:, k] = column
        if self.law.residuals == "log":
            rows /= fitted[:, None, :]
        return np.swapaxes(rows, 1, 2)

    def _complex_step(self, inner: np.ndarray) -> list[np.ndarray]:
        columns = []
        for column in range(inner.shape[-1]):
            nudged = inner.astype(complex)
            nudged[..., column] += 1j * COMPLEX_STEP
            columns.append(self.law.values(self.axes, self.natural(nudged)).imag / COMPLEX_STEP)
        return columns

    def value(self, inner: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Objective per member of the batch; infinite where the law is not finite."""
        return self.total(self.residuals(inner, y), weights)

    def total(self, residuals: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted sum of rho over rows, per member; infinite where it is not finite."""
        total = np.einsum("bn,bn->b", weights, self.objective.rho(residuals))
        return np.where(np.isfinite(total), total, np.inf)


def solve(
    problem: Problem, starts: np.ndarray, *, iterations: int = 400, tolerance: float = 1e-13
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise from starts (batch, p), natural parameters; y and weights are (n,) or (batch, n).

    Members are split over the processor's cores in chunks; a member's answer does not depend on the others.

    Returns natural parameters (batch, p) and objectives (batch,); the latter are infinite where nothing was found.
    """
    theta = problem.inner(np.asarray(starts, float))
    batch, n = theta.shape[0], problem.axes.shape[1]
    y = np.broadcast_to(problem.y, (batch, n))
    weights = np.broadcast_to(problem.weights, (batch, n))
    size = max(1, CHUNK_VALUES // n)

    def part(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(start, start + size)
        with np.errstate(all="ignore"):
            if problem.objective.loss == "lad":
                return _least_absolute(problem, theta[rows], y[rows], weights[rows], iterations, tolerance)
            return _descend(problem, theta[rows], y[rows], weights[rows], iterations, tolerance)

    firsts = range(0, batch, size)
    if len(firsts) <= 1:
        found = [part(0)]
    else:
        with ThreadPoolExecutor(min(len(firsts), len(os.sched_getaffinity(0)))) as pool:
            found = list(pool.map(part, firsts))
    inner, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    with np.errstate(all="ignore"):
        return problem.natural(inner), values


def _least_absolute(
    problem: Problem, theta: np.ndarray, y: np.ndarray, weights: np.ndarray, iterations: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Least absolute deviations as the end of a series of Huber fits, each from where the last one ended."""
    squares = replace(problem, objective=Objective())
    theta, _ = _descend(squares, theta, y, weights, iterations, tolerance)
    size = np.nanmedian(np.abs(problem.residuals(theta, y))) or 1e-12
    for delta in LAD_DELTAS:
        huber = replace(problem, objective=Objective("huber", float(delta * size)))
        theta, _ = _descend(huber, theta, y, weights, iterations, tolerance)
    return theta, problem.value(theta, y, weights)


def _descend(
    problem: Problem, theta: np.ndarray, y: np.ndarray, weights: np.ndarray, iterations: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt for a chunk: theta (batch, free), y and weights (batch, n)."""
    low, high = problem.bounds()
    target = problem.target(y)
    theta = theta.copy()
    fitted = problem.law.values(problem.axes, problem.natural(theta))
    residuals = problem.misses(fitted, target)
    best = problem.total(residuals, weights)
    if theta.shape[1] == 0:  # every parameter is pinned
        return theta, best
    # The members still moving, kept packed; what has settled is written back to `theta` and `best`.
    live = np.flatnonzero(np.isfinite(best))
    at, value = theta[live], best[live]
    fitted, residuals, target, weights = fitted[live], residuals[live], target[live], weights[live]
    damping, growth = np.full(len(live), 1e-3), np.full(len(live), 2.0)
    for _ in range(iterations):
        if not len(live):
            break
        proposal = np.clip(at + _step(problem, at, fitted, residuals, weights, damping, low, high), low, high)
        new_fitted = problem.law.values(problem.axes, problem.natural(proposal))
        new_residuals = problem.misses(new_fitted, target)
        new_value = problem.total(new_residuals, weights)
        better = new_value < value
        gain = value - new_value
        moved = np.max(np.abs(proposal - at) / (1e-8 + np.abs(at)), axis=1)
        at[better], value[better] = proposal[better], new_value[better]
        fitted[better], residuals[better] = new_fitted[better], new_residuals[better]
        damping = np.where(better, np.maximum(damping / 5.0, 1e-12), damping * growth)
        growth = np.where(better, 2.0, growth * 2.0)
        # A step that gains nothing measurable, or a damping so high that no step can: this member is done.
        settled = better & (gain <= tolerance * (value + 1e-300)) | (moved < 1e-13) | (damping >= 1e10)
        if settled.any():
            theta[live], best[live] = at, value
            keep = ~settled
            live, at, value, damping, growth = live[keep], at[keep], value[keep], damping[keep], growth[keep]
            fitted, residuals, target, weights = fitted[keep], residuals[keep], target[keep], weights[keep]
    theta[live], best[live] = at, value
    return theta, best


def _step(
    problem: Problem,
    theta: np.ndarray,
    fitted: np.ndarray,
    residuals: np.ndarray,
    weights: np.ndarray,
    damping: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    rows = np.swapaxes(problem.jacobian(theta, fitted), 1, 2)  # (batch, free, n), contiguous
    weighted = rows * (weights * problem.objective.curvature(residuals))[:, None, :]
    hessian = weighted @ np.swapaxes(rows, 1, 2)
    gradient = (weighted @ residuals[:, :, None])[..., 0]
    stuck = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    gradient = np.where(stuck, 0.0, gradient)
    p = theta.shape[1]
    diagonal = np.einsum("bpp->bp", hessian)
    scale = np.where(stuck, 1.0, diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300)
    hessian = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, hessian)
    # Solve in the scaled space: unit diagonal plus damping is never singular in floating point.
    root = np.sqrt(scale)
    matrix = hessian / (root[:, :, None] * root[:, None, :]) + (damping[:, None] + stuck)[:, :, None] * np.eye(p)
    matrix = np.where(np.isfinite(matrix), matrix, np.eye(p))
    return -np.nan_to_num(np.linalg.solve(matrix, (gradient / root)[..., None])[..., 0] / root)
