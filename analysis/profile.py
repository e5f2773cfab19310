"""Profile likelihood: how far a parameter can go before the best fit of the others becomes implausible.

Beside the bootstrap it is the second opinion: it follows a curved, one-sided valley to where it ends, where percentiles
of refits stop at the last refit. Both are offered, so that a user can see whether they agree (Raue et al. 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.fitted import Fit
from analysis.fitting import problem_of
from analysis.solver import Problem, solve
from analysis.table import TableError

WIDEST = 1e6  # a positive parameter is followed this many times beyond its estimate, then its end is taken as open
HALVINGS = 22
KNOWN = ("trials", "what was told")  # sources of noise that is known, not estimated from the residuals


def profile_intervals(
    fit: Fit, level: float = 0.95, params: Sequence[str] | None = None
) -> dict[str, tuple[float, float]]:
    """Profile-likelihood interval of each free parameter: {"alpha": (low, high), ...}.

    A value stays inside while the sum of squares, minimised over all other parameters, is under S (1 + F / df), with F the
    `level` quantile of F(1, df), df = clusters - free parameters: exact for laws linear in their parameters. Where the
    trials' noise, or what was told, exceeds what the residuals show, it takes the place of S / df, and chi-square that of
    F. An end that is not reached (a floor whose interval reaches 0; an exponent at its bound) is the bound, or infinity.

    Raises:
        TableError: the fit is robust (its objective is no likelihood), or has no degrees of freedom left.

    Example:
        >>> import analysis, polars
        >>> x = [10.0**k for k in range(2, 10)]
        >>> table = polars.DataFrame({"x": x, "y": [(0.5 + 9 * t**-0.3) * (1.01 if k % 2 else 0.99) for k, t in enumerate(x)]})
        >>> fit = analysis.fit(table, x="x", y="y", law="power_floor", resamples=0)
        >>> low, high = analysis.profile_intervals(fit)["E"]
        >>> low < 0.5 < high
        True
    """
    if fit.objective["loss"] != "squares":
        raise TableError(f"profile likelihood needs the loss squares; this fit minimises {fit.objective['loss']}")
    from scipy.special import chdtri, fdtri

    problem, best = problem_of(fit)
    freedom = fit.clusters - len(problem.free)
    if freedom < 1:
        raise TableError(f"profile likelihood: {fit.clusters} clusters leave no degree of freedom")
    least = float(problem.value(problem.inner(best[None]), problem.y[None], problem.weights[None])[0])
    limit = least * (1 + float(fdtri(1, freedom, level)) / freedom)
    if fit.noise["source"] in KNOWN:
        limit = least + 0.5 * fit.noise["sd"] ** 2 * float(chdtri(1, 1 - level))
    names = params or [name for name in fit.params if name not in fit.options["pin"]]
    unknown = [name for name in names if name not in fit.params or name in fit.options["pin"]]
    if unknown:
        raise TableError(f"{fit.law} has no free parameter {unknown[0]!r}; free: {', '.join(fit.params)}")
    return {name: (_end(problem, best, name, limit, -1), _end(problem, best, name, limit, +1)) for name in names}


def _end(problem: Problem, best: np.ndarray, name: str, limit: float, side: int) -> float:
    """Where the profile crosses the limit on one side, by steps that double and then halve."""
    k = problem.law.names.index(name)
    param = problem.law.params[k]
    positive = param.domain == "positive"
    low = {"positive": max(param.low, 0.0), "nonnegative": max(param.low, 0.0)}.get(param.domain, param.low)
    centre = float(best[k])
    start = best

    def place(step: float) -> float:
        """The value `step` away: in logs for positive parameters."""
        size = 1.0 if positive else max(abs(centre), 1e-3 * abs(float(best.max())), 1e-12)
        moved = centre * np.exp(side * step) if positive else centre + side * step * size
        return float(np.clip(moved, low, param.high))

    def fits(value: float) -> bool:
        nonlocal start
        held = replace(problem, pins={**problem.pins, name: value})
        starts = np.stack([start, best])
        starts[:, k] = value
        found, values = solve(held, starts, tolerance=1e-11)
        inside = bool(values.min() <= limit)
        if inside:
            start = found[int(np.argmin(values))]
        return inside

    inside, outside = 0.0, 0.0
    step = 1e-3
    while outside == 0.0:
        value = place(step)
        if fits(value):
            if value in (low, param.high):
                return value
            inside = step
        else:
            outside = step
        if step > np.log(WIDEST):
            return value if outside else (np.inf if side > 0 else low)
        step *= 2.0
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if fits(place(middle)):
            inside = middle
        else:
            outside = middle
    return place(inside)
