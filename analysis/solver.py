"""Batched Levenberg-Marquardt in NumPy: starts and bootstrap resamples are solved together, as one batch.

Every member of the batch has its own parameters, and its own y and weights where they are given per member. Positive
parameters move in logs, bounded ones stop at their bound (the gradient that pushes outwards is cut, so that the others
go on moving). Robust losses are handled by reweighting; a step is accepted only if the true objective falls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.laws import Law

Loss = Literal["squares", "huber"]
COMPLEX_STEP = 1e-30


@dataclass(frozen=True)
class Objective:
    """What is minimised: sum over rows of weight * rho(residual), rho(r) = r^2 / 2, or Huber's with `delta`."""

    loss: Loss = "squares"
    delta: float | None = None

    def rho(self, r: np.ndarray) -> np.ndarray:
        if self.loss == "squares" or self.delta is None:
            return 0.5 * r * r
        a = np.abs(r)
        return np.where(a <= self.delta, 0.5 * a * a, self.delta * (a - 0.5 * self.delta))

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
        fitted = self.law.values(self.axes, self.natural(inner))
        if self.law.residuals == "log":
            return np.log(fitted) - np.log(y)
        return fitted - y

    def jacobian(self, inner: np.ndarray) -> np.ndarray:
        """Derivatives of the residuals by the free parameters: (batch, n, free)."""
        natural = self.natural(inner)
        fitted = self.law.values(self.axes, natural)
        if self.law.gradient is None:
            columns = self._complex_step(inner)
        else:
            parts = self.law.gradient(*self.axes, *(natural[..., k, None] for k in range(natural.shape[-1])))
            columns = []
            for k in self.free:
                chain = natural[..., k, None] if self.law.params[k].domain == "positive" else 1.0
                columns.append(parts[k] * chain)
        stacked = np.stack([np.broadcast_to(column, fitted.shape) for column in columns], axis=-1)
        return stacked / fitted[..., None] if self.law.residuals == "log" else stacked

    def _complex_step(self, inner: np.ndarray) -> list[np.ndarray]:
        columns = []
        for column in range(inner.shape[-1]):
            nudged = inner.astype(complex)
            nudged[..., column] += 1j * COMPLEX_STEP
            columns.append(self.law.values(self.axes, self.natural(nudged)).imag / COMPLEX_STEP)
        return columns

    def value(self, inner: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Objective per member of the batch; infinite where the law is not finite."""
        total = np.sum(weights * self.objective.rho(self.residuals(inner, y)), axis=-1)
        return np.where(np.isfinite(total), total, np.inf)


def solve(
    problem: Problem, starts: np.ndarray, *, iterations: int = 200, tolerance: float = 1e-13
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise from starts (batch, p), natural parameters; y and weights are (n,) or (batch, n).

    Returns natural parameters (batch, p) and objectives (batch,); the latter are infinite where nothing was found.
    """
    theta = problem.inner(np.asarray(starts, float))
    batch, n = theta.shape[0], problem.axes.shape[1]
    y = np.broadcast_to(problem.y, (batch, n))
    weights = np.broadcast_to(problem.weights, (batch, n))
    low, high = problem.bounds()
    with np.errstate(all="ignore"):
        best = problem.value(theta, y, weights)
        if theta.shape[1] == 0:  # every parameter is pinned
            return problem.natural(theta), best
        damping = np.full(batch, 1e-3)
        growth = np.full(batch, 2.0)
        live = np.flatnonzero(np.isfinite(best))
        for _ in range(iterations):
            if not len(live):
                break
            step = _step(problem, theta[live], y[live], weights[live], damping[live], low, high)
            proposal = np.clip(theta[live] + step, low, high)
            value = problem.value(proposal, y[live], weights[live])
            better = value < best[live]
            gain = best[live] - value
            moved = np.max(np.abs(proposal - theta[live]) / (1e-8 + np.abs(theta[live])), axis=1)
            won, lost = live[better], live[~better]
            theta[won], best[won] = proposal[better], value[better]
            damping[won] = np.maximum(damping[won] / 5.0, 1e-12)
            growth[won] = 2.0
            damping[lost] *= growth[lost]
            growth[lost] *= 2.0
            # A step that gains nothing measurable, or a damping so high that no step can: this member is done.
            settled = better & (gain <= tolerance * (best[live] + 1e-300)) | (moved < 1e-13)
            live = live[~settled & (damping[live] < 1e10)]
        return problem.natural(theta), best


def _step(
    problem: Problem,
    theta: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    damping: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    residuals = problem.residuals(theta, y)
    jacobian = problem.jacobian(theta)
    weighted = jacobian * (weights * problem.objective.curvature(residuals))[..., None]
    hessian = np.swapaxes(weighted, -1, -2) @ jacobian
    gradient = np.einsum("bnp,bn->bp", weighted, residuals)
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
