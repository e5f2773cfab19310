"""`extrapolate`: one automatic forecast of a curve, for when nobody wants to choose a law.

No single law foretells all curves: power_floor, fitted to a whole curve that leaves chance in a bend, turns too early; m4
and broken_power fit the bend and on few points take it for more than it is. Their errors are of opposite sign, so
an average of them beats each. What each is worth is asked of the curve itself: all members are fitted to its smaller x
and judged on its largest ones. Nothing beyond the points given is read.

The rule was chosen on half of the curves of a public benchmark and frozen: `benchmarks/vision_curves.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis.laws import LAWS, Law
from analysis.solver import Objective, Problem, solve
from analysis.table import TableError, done_rows, name_rows, numeric_column, require_columns

if TYPE_CHECKING:
    import polars as pl

MEMBERS = (("m4", 1.0), ("broken_power", 1.0), ("power_floor", 1.0), ("power_floor", 0.5))  # law, share of points
STARTS = 6  # of a law's starts, those that lie nearest to the points: on such curves all lead to the same optimum
JUDGED_FROM = 0.5  # of the largest x: members are judged on the points beyond it
LEAST_POINTS = 8  # fewer are left below it, or taken of the largest: then by count
JUDGED_SHARE = 0.3  # ... of the points, those at the largest x
EXACT = 1e-3  # validation errors under this are alike
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Member:
    """A law in the average: fitted to the `share` of points with the largest x; `error`: RMSLE on the judged points."""

    law: Law
    share: float
    points: int
    params: dict[str, float]
    error: float
    weight: float


@dataclass(frozen=True)
class Forecast:
    """The geometric mean of laws, weighted by 1 / validation error. Made by `extrapolate`."""

    members: tuple[Member, ...]
    x: str
    y: str
    transform: str
    n: int
    judged: int
    largest: float

    def predict(self, x: Any) -> np.ndarray:
        """The forecast at x, of any shape; of 1 - y where transform is "error". It has no interval: see `fit` for one.

        Raises:
            TableError: x is not finite and above 0.
        """
        values = np.asarray(x, float)
        if not np.all(np.isfinite(values) & (values > 0)):
            raise TableError("predict: x must be finite and above 0")
        total = np.zeros(values.size)
        for member in self.members:
            fitted = member.law.values(values.reshape(1, -1), np.array(list(member.params.values())))
            total += member.weight * np.log(fitted)
        return np.exp(total).reshape(values.shape)

    def table(self) -> pl.DataFrame:
        """One row a member: `law`, `share`, `points`, `error` (RMSLE on the judged points), `weight`."""
        import polars as pl

        return pl.DataFrame([
            {"law": m.law.name, "share": m.share, "points": m.points, "error": m.error, "weight": m.weight}
            for m in self.members
        ])  # fmt: skip


def extrapolate(
    table: pl.DataFrame, *, x: str, y: str, transform: Literal["identity", "error"] = "identity"
) -> Forecast:
    """Foretell a curve beyond its largest x by an average of laws, with no choice to make.

    The members are m4, broken_power and power_floor on all points, and power_floor on the half with the largest x;
    each by least squares of log residuals. Each is also fitted to the points with x up to half of the largest (or to the
    first 70 %, if those are under 8) and judged by the RMSLE of the rest; the forecast is the geometric mean,
    weighted by 1 / that error. A member that has no more points than parameters there is left out.

    Args:
        table: one row a measurement; rows whose `status` (if there is such a column) is not "done" are left out.
        x: the column of the axis, above 0.
        y: the measured column, above 0 after the transform.
        transform: "error" takes 1 - y (for metrics with the ceiling 1).

    Raises:
        TableError: a column is missing, not finite or not above 0, or the points are too few for any member.

    Example:
        >>> import analysis, polars
        >>> seen = [1e4 * 2**k for k in range(12)]
        >>> curve = polars.DataFrame({"seen": seen, "error": [0.2 + 40 * t**-0.4 for t in seen]})
        >>> float(analysis.extrapolate(curve, x="seen", y="error").predict(1e9))
        0.21...
    """
    if transform not in ("identity", "error"):
        raise TableError(f"no transform {transform!r}; transforms: identity, error")
    axis, values = _read(table, x, y, transform)
    whole = np.ones(len(axis), bool)
    early = _early(axis)
    if early.sum() < 2 or early.all():
        raise TableError(f"extrapolate: {len(axis)} points in {x!r} leave none to judge a law on")
    found = []
    for law in dict(MEMBERS):
        shares = [share for name, share in MEMBERS if name == law]
        parts = [(whole & _largest(axis, whole, share), early & _largest(axis, early, share)) for share in shares]
        usable = [(share, *pair) for share, pair in zip(shares, parts, strict=True) if _enough(LAWS[law], axis, pair)]
        if usable:
            found += _fit_member(LAWS[law], axis, values, usable, ~early)
    found = [member for member in found if np.isfinite(member[-1])]
    if not found:
        raise TableError(f"extrapolate: {len(axis)} points are too few for any of {', '.join(dict(MEMBERS))}")
    worth = np.array([1 / max(member[-1], EXACT) for member in found])
    members = tuple(
        Member(*member, weight=float(weight)) for member, weight in zip(found, worth / worth.sum(), strict=True)
    )
    return Forecast(members, x, y, transform, len(axis), int((~early).sum()), float(axis.max()))


def _read(table: pl.DataFrame, x: str, y: str, transform: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y after the transform, in order of x."""
    require_columns(table, [x, y])
    done, _ = done_rows(table)
    if done.height == 0:
        raise TableError("the table has no row with a finished measurement")
    axis, measured = numeric_column(done, x), numeric_column(done, y)
    values = 1.0 - measured if transform == "error" else measured
    for name, column in ((x, axis), (f"1 - {y}" if transform == "error" else y, values)):
        if np.any(column <= 0):
            raise TableError(f"{name!r} must be above 0, it is not in {name_rows(done, np.flatnonzero(column <= 0))}")
    order = np.lexsort((values, axis))
    return axis[order], values[order]


def _early(axis: np.ndarray) -> np.ndarray:
    """The points that members are fitted to when they are judged on the others."""
    early = axis <= JUDGED_FROM * axis.max()
    if early.sum() < LEAST_POINTS:
        early = axis < axis[int((1 - JUDGED_SHARE) * len(axis))]
    return early


def _largest(axis: np.ndarray, among: np.ndarray, share: float) -> np.ndarray:
    """The given share of points with the largest x among some, but at least LEAST_POINTS of them."""
    inside = axis[among]
    first = max(min(int((1 - share) * len(inside)), len(inside) - LEAST_POINTS), 0)
    return axis >= inside[first]


def _enough(law: Law, axis: np.ndarray, parts: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(len(np.unique(axis[part])) > len(law.params) for part in parts)


def _fit_member(
    law: Law, axis: np.ndarray, y: np.ndarray, parts: list[tuple[float, np.ndarray, np.ndarray]], judged: np.ndarray
) -> list[tuple[Law, float, int, dict[str, float], float]]:
    """Fit a law to several parts of the points, and to what is early in each, all in one batch."""
    x_scale, y_scale = np.exp(np.mean(np.log(axis))), float(np.exp(np.mean(np.log(y))))
    u, v = axis / x_scale, y / y_scale
    masks = [mask for _, late, early in parts for mask in (late, early)]
    starts = [_nearest(law, u[mask], v[mask]) for mask in masks]
    weights = np.concatenate([np.tile(mask.astype(float), (len(s), 1)) for mask, s in zip(masks, starts, strict=True)])
    problem = Problem(law, u[None], v, weights, Objective(), {})
    solved, objective = solve(problem, np.concatenate(starts), tolerance=TOLERANCE)
    ends = np.cumsum([0, *map(len, starts)])
    best = [low + int(np.argmin(objective[low:high])) for low, high in pairwise(ends)]
    rows = []
    for k, (share, mask, _) in enumerate(parts):
        final, before = solved[best[2 * k]], solved[best[2 * k + 1]]
        with np.errstate(all="ignore"):
            misses = np.log(law.values(u[None, judged], before)) - np.log(v[judged])
        natural = final if law.rescale is None else law.rescale(final.copy(), np.array([x_scale]), y_scale)
        lost = not np.isfinite(objective[[best[2 * k], best[2 * k + 1]]]).all()
        error = float("nan") if lost else float(np.sqrt(np.mean(misses**2)))
        rows.append((law, share, int(mask.sum()), dict(zip(law.names, map(float, natural), strict=True)), error))
    return rows


def _nearest(law: Law, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The starts of a law that lie nearest to the points."""
    starts = law.starts(x, y)
    with np.errstate(all="ignore"):
        misses = np.log(law.values(x[None], starts)) - np.log(y)
        total = np.nan_to_num(np.sum(misses**2, axis=1), nan=np.inf)
    return starts[np.argsort(total, kind="stable")[:STARTS]]
