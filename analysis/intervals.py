"""Uncertainty of a fit: resampled parameters (draws), the noise of one run, and the quantiles taken from both.

The design of the runs (which x, how many seeds) is kept and only their deviations are resampled: drawing rows with
replacement would drop the largest x from a third of the resamples, which is the point that fixes the floor.
Each draw also draws its residual variance from the scaled inverse chi-square that the data leave it (df / chi2_df).
For a linear law the percentiles are then exactly Student's t intervals, so few runs get the width that they must have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.laws import Law
from analysis.solver import Problem, solve
from analysis.table import TableError

FEW_CLUSTERS = 10
FEWEST_DRAWS = 40  # the 2.5 % tails of fewer draws hold none
DRAW_TOLERANCE = 1e-8  # of the objective: leaves parameters off by under 1 % of their standard deviation
NOISE_REPEATS = 4  # normal scores per draw when the noise of a new run is added


def check_draws(count: int, seed: int, name: str = "resamples") -> None:
    """TableError unless there are enough draws for a 95 % interval, or none, and the seed is one."""
    if count != 0 and count < FEWEST_DRAWS:
        raise TableError(f"{name} is {count}: give 0 for no interval, or at least {FEWEST_DRAWS}")
    if seed < 0:
        raise TableError(f"seed must be 0 or above, not {seed}")


@dataclass(frozen=True)
class Draws:
    """Resampled parameters in the problem's units, shape (draws, p), and the noise factor of each draw (draws,)."""

    params: np.ndarray
    noise_factor: np.ndarray
    method: str
    failed: int


def replicate_spread(axes: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[float, int]:
    """Pooled standard deviation, at weight 1, of rows that share their x, and its degrees of freedom; (nan, 0) without any.

    `values` (n,) must already be in the residual space (logs for laws with log residuals); `weights` (n,) in proportion to
    1 / variance.
    """
    _, group = np.unique(axes, axis=1, return_inverse=True)
    group = group.reshape(-1)
    counts = np.bincount(group)
    means = np.bincount(group, weights * values) / np.bincount(group, weights)
    freedom = int(np.sum(counts - 1))
    if freedom == 0:
        return float("nan"), 0
    return float(np.sqrt(np.sum(weights * (values - means[group]) ** 2) / freedom)), freedom


def leverages(jacobian: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
    """Diagonal of the hat matrix of a Jacobian (n, p): shape (n,), kept under 1; with clusters, that of the whole cluster
    (the largest eigenvalue of its block) for each of its rows."""
    if jacobian.shape[1] == 0:
        return np.zeros(jacobian.shape[0])
    q, _ = np.linalg.qr(jacobian)
    if clusters is None:
        return np.clip(np.sum(q * q, axis=1), 0.0, 0.95)
    whole = np.array([np.linalg.norm(q[clusters == k], ord=2) ** 2 for k in range(clusters.max() + 1)])
    return np.clip(whole[clusters], 0.0, 0.95)


def _alike(axes: np.ndarray, clusters: np.ndarray) -> bool:
    """Whether clusters are of one size and each lies at one x: they can then stand in for each other."""
    sizes = np.bincount(clusters)
    _, at = np.unique(axes, axis=1, return_inverse=True)
    places = len(np.unique(np.stack([clusters, at.reshape(-1)]), axis=1).T)
    return bool(np.all(sizes == sizes[0]) and places == len(sizes))


def _adjust_means(deviations: np.ndarray, jacobian: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Deviations (n,) with the mean of each cluster, from which alone the fit takes degrees of freedom, grown back."""
    means = (np.bincount(clusters, deviations) / np.bincount(clusters))[clusters]
    return deviations - means + means / np.sqrt(1.0 - leverages(jacobian, clusters))


def resample(
    problem: Problem,
    params: np.ndarray,
    clusters: np.ndarray,
    count: int,
    seed: int,
    *,
    cases: bool = False,
    at_least: float = 1.0,
) -> Draws | None:
    """Refit `count` resamples around the fitted natural parameters (p,). None where no interval can be given.

    clusters: int labels (n,) from 0. No interval: no more clusters than free parameters. cases: draw whole clusters with
    replacement instead of their deviations. at_least: least factor on the deviations, where more noise is known than is
    seen (1 else); the noise factors of the draws are relative to it.
    """
    rng = np.random.default_rng(seed)
    free = len(problem.free)
    sizes = np.bincount(clusters)
    groups, n = len(sizes), len(clusters)
    if count == 0 or groups <= max(free, 1):
        return None
    if cases:
        return _cases(problem, params, clusters, groups, count, rng)
    inner = problem.inner(params[None])
    root = np.sqrt(problem.weights)  # deviations are drawn at weight 1 and scaled to the row that gets them
    with np.errstate(all="ignore"):
        deviations = -problem.residuals(inner, problem.y[None])[0] * root
        jacobian = problem.jacobian(inner)[0] * root[:, None]
    singles = bool(np.all(sizes == 1))
    alike = not singles and _alike(problem.axes, clusters)  # then a cluster is one run, measured several times
    if alike:
        freedom = groups - free
        adjusted = _adjust_means(deviations, jacobian, clusters)
    else:
        freedom = n - free if singles else groups - 1
        adjusted = deviations / np.sqrt(1.0 - leverages(jacobian, None if singles else clusters))
    if groups < FEW_CLUSTERS:  # one less: with 8 runs a curved law's band else covers .915 (measured), not .95
        freedom = max(freedom - 1, 1)
    factor = np.sqrt(freedom / rng.chisquare(freedom, count))
    if at_least > 1:  # the rows show no more than their trials' noise, which is known
        factor = np.full(count, at_least)
    if groups < FEW_CLUSTERS:
        noise = _parametric(deviations, clusters, free, count, rng, alike)
        method = f"parametric bootstrap, residual sd inflated by sqrt(n/(n-p)), t-calibrated ({freedom} df)"
    elif alike:
        members = np.argsort(clusters, kind="stable").reshape(groups, -1)
        blocks = adjusted[members]
        noise = np.empty((count, n))
        noise[:, members] = (blocks - blocks.mean())[rng.integers(0, groups, (count, groups))]
        method = f"cluster bootstrap (residuals of whole clusters, leverage-adjusted, t-calibrated, {freedom} df)"
    elif singles:
        noise = (adjusted - adjusted.mean())[rng.integers(0, n, (count, n))]
        method = f"cluster bootstrap (residuals of whole runs, leverage-adjusted, t-calibrated, {freedom} df)"
    else:
        noise = adjusted * rng.choice([-1.0, 1.0], (count, groups))[:, clusters]
        method = f"wild cluster bootstrap (signs by run, leverage-adjusted, t-calibrated, {freedom} df)"
    fitted = problem.law.values(problem.axes, params)
    y = shift(problem.law, fitted, factor[:, None] * noise / root)
    usable = np.all(np.isfinite(y) & ((y > 0) | (problem.law.residuals == "linear")), axis=1)
    again = replace(problem, y=y[usable])
    drawn, value = solve(again, np.broadcast_to(params, (int(usable.sum()), len(params))), tolerance=DRAW_TOLERANCE)
    found = np.isfinite(value) & np.all(np.isfinite(drawn), axis=1)
    return Draws(drawn[found], factor[usable][found] / at_least, method, count - int(found.sum()))


def _cases(
    problem: Problem, params: np.ndarray, clusters: np.ndarray, groups: int, count: int, rng: np.random.Generator
) -> Draws:
    """Whole clusters with replacement, as weights. Those with no more different clusters than parameters are redrawn."""
    taken = rng.multinomial(groups, np.full(groups, 1.0 / groups), count)
    for _ in range(100):
        poor = np.sum(taken > 0, axis=1) <= len(problem.free)
        if not poor.any():
            break
        taken[poor] = rng.multinomial(groups, np.full(groups, 1.0 / groups), int(poor.sum()))
    again = replace(problem, weights=problem.weights * taken[:, clusters])
    drawn, value = solve(again, np.broadcast_to(params, (count, len(params))), tolerance=DRAW_TOLERANCE)
    found = np.isfinite(value) & np.all(np.isfinite(drawn), axis=1)
    method = f"cluster bootstrap (whole runs with replacement, percentiles, {groups} clusters)"
    return Draws(drawn[found], np.ones(int(found.sum())), method, count - int(found.sum()))


def _parametric(
    deviations: np.ndarray, clusters: np.ndarray, free: int, count: int, rng: np.random.Generator, alike: bool
) -> np.ndarray:
    """Normal noise (count, n): one part common to a cluster, one per row, from a one-way analysis of variance.

    alike: each cluster lies at one x, so that the fit takes its degrees of freedom from the means of the clusters.
    """
    n = len(deviations)
    sizes = np.bincount(clusters)
    inflate = n / max(n - free, 1)
    if np.all(sizes == 1):
        return np.sqrt(inflate * np.mean(deviations**2)) * rng.normal(size=(count, n))
    means = np.bincount(clusters, deviations) / sizes
    within = np.sum((deviations - means[clusters]) ** 2) / max(n - len(sizes), 1)
    lost = free if alike else 1
    between = max(np.sum(sizes * means**2) / max(len(sizes) - lost, 1) - within, 0.0) / sizes.mean()
    shared = np.sqrt(between) * rng.normal(size=(count, len(sizes)))[:, clusters]
    return shared + np.sqrt(within if alike else inflate * within) * rng.normal(size=(count, n))


def shift(law: Law, fitted: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Move values by a deviation in the law's residual space; infinite where a wild draw takes them beyond floats."""
    with np.errstate(over="ignore"):
        return fitted * np.exp(deviation) if law.residuals == "log" else fitted + deviation


def normal_scores(count: int, seed: int) -> np.ndarray:
    """`count` stratified standard normal values in random order: the noise of new runs, the same for each x."""
    from statistics import NormalDist

    inverse = NormalDist().inv_cdf
    scores = np.array([inverse((k + 0.5) / count) for k in range(count)])
    return np.random.default_rng(seed).permutation(scores)


def central(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of the central `level` of draws (draws, ...), along the first axis.

    The rank is level (draws + 1), so that one more draw falls inside with just that probability; NumPy's own is 0.5 % short
    with 400 draws.
    """
    tail = (1.0 - level) / 2.0
    with np.errstate(invalid="ignore"):  # NaN between infinite draws
        low, high = np.quantile(values, [tail, 1.0 - tail], axis=0, method="weibull")
    return low, high
