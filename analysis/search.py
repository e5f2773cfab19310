"""The optimum of laws under a budget and bounds: sequential quadratic programming in the logs of the axes (Kraft 1988)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from analysis.costs import CostFunction, price
from analysis.worth import Worth

STEP = 1e-4  # of log x in central differences: exact to 1e-9 for powers


@dataclass(frozen=True)
class Search:
    """The problem in u = log(x / scale): maximise worth within bounds (axes, 2) at a cost of at most `budget`."""

    worth: Worth
    cost: CostFunction
    fixed: Mapping[str, float]
    budget: float
    scale: np.ndarray
    bounds: np.ndarray

    def loss(self, u: np.ndarray, params: Sequence[np.ndarray], slope: float) -> np.ndarray:
        """What is minimised, at u (axes, n): shape (n,)."""
        total = self.worth.total(np.exp(u) * self.scale[:, None], params, slope)
        return -self.worth.sign * np.asarray(total)

    def room(self, u: np.ndarray) -> float:
        """Log of budget over cost at u (axes,): at least 0 where it can be paid."""
        point = {**self.fixed, **dict(zip(self.worth.axes, (np.exp(u) * self.scale).tolist(), strict=True))}
        return float(np.log(self.budget / price(self.cost, point)))

    def around(self, u: np.ndarray) -> np.ndarray:
        """u a step up and a step down each axis: (axes, 2 axes)."""
        steps = STEP * np.eye(len(u))
        return u[:, None] + np.concatenate([steps, -steps], axis=1)

    def solve(
        self, start: np.ndarray, params: Sequence[np.ndarray], slope: float, tolerance: float = 1e-10
    ) -> tuple[np.ndarray, float]:
        """The optimum from one start, and its loss: infinite where the search ends beyond the budget.

        tolerance: of the loss, as a share of what all axes change it by near the start; log x is off by about its root.
        """
        from scipy.optimize import minimize

        d = len(start)
        near = np.stack([start - 1.0, start, start + 1.0], axis=1)
        spread = float(np.ptp(self.loss(near, params, slope)))
        unit = spread if np.isfinite(spread) and spread > 0 else 1.0

        def slopes(values: np.ndarray) -> np.ndarray:
            return (values[:d] - values[d:]) / (2 * STEP)

        found = minimize(
            lambda u: float(self.loss(u[:, None], params, slope)[0]) / unit,
            start,
            jac=lambda u: slopes(self.loss(self.around(u), params, slope)) / unit,
            bounds=self.bounds,
            constraints={
                "type": "ineq",
                "fun": self.room,
                "jac": lambda u: slopes(np.array([self.room(one) for one in self.around(u).T])),
            },
            method="SLSQP",
            options={"maxiter": 300, "ftol": tolerance},
        )
        u = np.clip(found.x, *self.bounds.T)
        if not np.isfinite(u).all() or self.room(u) < -1e-7:
            return u, np.inf
        return u, float(self.loss(u[:, None], params, slope)[0])

    def starts(self) -> list[np.ndarray]:
        """Corners and middle of the fitted ranges, moved along the diagonal until they cost the budget."""
        low, high = (np.log(end / self.scale) for end in (self.worth.low, self.worth.high))
        places = [np.array(corner) for corner in product(*zip(low, high, strict=True))]
        return [self._paid(u) for u in ((low + high) / 2, *places)]

    def _paid(self, u: np.ndarray) -> np.ndarray:
        span = float(np.max(self.bounds[:, 1] - self.bounds[:, 0])) + float(np.ptp(u))
        low, high = -span, span
        for _ in range(60):
            middle = 0.5 * (low + high)
            paid = self.room(np.clip(u + middle, *self.bounds.T)) >= 0
            low, high = (middle, high) if paid else (low, middle)
        return np.clip(u + low, *self.bounds.T)
