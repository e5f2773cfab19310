"""Where a budget goes: the tokens, model size, negatives and length at which fitted laws promise most for their cost.

The optimum of the laws under a budget is found numerically, for any laws and any cost: sequential quadratic programming
in the logs of the axes (SLSQP, Kraft 1988) from several starts. For the law of Hoffmann et al. (2022) and C = 6 N D it
equals their closed form (approach 3, equation 4). The same optimum under resampled laws gives its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from analysis.costs import CostFunction, price
from analysis.fitted import Fit
from analysis.rates import Rate
from analysis.saved import Saved
from analysis.search import Search
from analysis.table import TableError
from analysis.worth import Better, Worth, check_level, ends, place, weigh

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

REACH = 1e6  # without bounds an axis may leave its fitted range by this factor
AT_BOUND = 1e-6  # in log x
IDLE = 0.99  # a smaller share of the budget than this is reported as not worth spending


@dataclass(frozen=True, eq=False)
class Allocation(Saved):
    """The best set-up for a budget. Made by `allocate` or `Allocation.load`.

    rows: per axis `axis, x, low, high` (the optimum and its interval), `at` (where it stands now, NaN if not told),
    `fitted_low, fitted_high` (the range that its law was fitted on), `extrapolation` (times beyond it, 1 within it),
    `bound` ("lower" or "upper" where the optimum lies on a bound, else ""). `value`, `value_interval`: the target there, for
    a joint law (NaN for separate laws, which only tell differences). `gain`, `gain_interval`: its change from `at`. `spent`:
    the cost there; `parts`: by part, where the cost tells.
    """

    FORMAT: ClassVar[str] = "analysis.allocation/1"

    target: str
    better: str
    budget: float
    spent: float
    rows: tuple[dict[str, Any], ...]
    value: float
    value_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    parts: dict[str, float]
    warnings: tuple[str, ...]
    method: str
    data_hashes: dict[str, str]
    level: float

    @property
    def values(self) -> dict[str, float]:
        """{"tokens": 3e8, ...}: the optimum by axis."""
        return {row["axis"]: row["x"] for row in self.rows}

    def table(self) -> pl.DataFrame:
        """The rows as a table."""
        import polars as pl

        return pl.DataFrame(list(self.rows))

    def figure(self, title: str | None = None) -> Figure:
        """Each axis: the range that its law was fitted on, where it stands, where it should stand."""
        from analysis.compute_figures import allocation_figure

        return allocation_figure(self, title)

    def summary(self) -> str:
        """The allocation as text."""
        from analysis.words import allocation_summary

        return allocation_summary(self)


def allocate(
    laws: Fit | Mapping[str, Fit],
    *,
    cost: CostFunction,
    budget: float | None = None,
    at: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    rate: Rate | None = None,
    better: Better | None = None,
    level: float = 0.95,
    draws: int = 200,
    seed: int = 0,
) -> Allocation:
    """The best set-up that a budget buys.

    Args:
        laws: a joint fit over several axes (named as its columns), or one-axis fits by axis: {"tokens": fit, ...}.
        cost: what a set-up costs: an `analysis.Cost` (FLOPs), or a function of {axis: x} that gives any unit above 0.
        budget: in the unit of the cost; without it, what the set-up `at` costs, to be spent better.
        at: where the set-up stands now, in the units of the laws; names beyond the axes are handed to the cost. An
            `analysis.Cost` knows it itself. Separate laws need it, a joint law only without a budget.
        bounds: {axis: (low, high)}; equal ends hold an axis. Without bounds an axis may leave its fitted range far.
        rate: where some laws predict `rate.of`, what that is worth in `rate.into`; laws of `rate.into` count as they are.
        better: "higher" or "lower" target; seen from the laws if not given, errors fitted with transform="error" and
            the target of a rate are to rise.
        draws: resamples of the laws and the rate for which the optimum is found again; 0 for none.

    Returns:
        An Allocation. Values are real numbers: round negatives and lengths yourself.

    Raises:
        TableError: laws and rate do not fit together, a bound, a budget or `at` is not what it must be, or the cheapest
            set-up within the bounds costs more than the budget.

    Example:
        >>> import analysis, numpy as np, polars
        >>> N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
        >>> loss = 1.8 + 480 * N**-0.35 + 2000 * D**-0.37
        >>> table = polars.DataFrame({"N": N, "D": D, "loss": loss})
        >>> law = analysis.fit(table, x=["N", "D"], y="loss", law="chinchilla", resamples=0)
        >>> best = analysis.allocate(law, cost=lambda v: 6 * v["N"] * v["D"], budget=1e21)
        >>> {name: f"{x:.3g}" for name, x in best.values.items()}
        {'N': '3.14e+09', 'D': '5.3e+10'}
    """
    worth = weigh(laws, rate, better)
    check_level(level)
    now = place(worth, at, cost)
    if now is None and (budget is None or len(worth.parts) > 1):
        raise TableError("say where the set-up stands now: at={axis: x, ...}")
    fixed = {name: value for name, value in (now or {}).items() if name not in worth.axes}
    search = _search(worth, cost, fixed, _budget(budget, cost, now), bounds)
    point = _best(search)
    optima = _redrawn(search, point, draws, seed)
    return _allocation(search, point, optima, now, level, seed)


def _budget(budget: float | None, cost: CostFunction, now: dict[str, float] | None) -> float:
    value = price(cost, now or {}) if budget is None else float(budget)
    if not (np.isfinite(value) and value > 0):
        raise TableError(f"budget must be finite and above 0, not {budget}")
    return value


def _search(
    worth: Worth, cost: CostFunction, fixed: Mapping[str, float], budget: float,
    bounds: Mapping[str, tuple[float, float]] | None,
) -> Search:  # fmt: skip
    limits = np.stack([worth.low / REACH, worth.high * REACH], axis=1)
    for name, (low, high) in (bounds or {}).items():
        if name not in worth.axes:
            raise TableError(f"bounds: no axis {name!r}; axes: {', '.join(worth.axes)}")
        if not 0 < low <= high < np.inf:
            raise TableError(f"bounds of {name}: give 0 < low <= high, not {low} and {high}")
        limits[worth.axes.index(name)] = low, high
    scale = np.sqrt(worth.low * worth.high)
    search = Search(worth, cost, fixed, budget, scale, np.log(limits / scale[:, None]))
    if search.room(search.bounds[:, 0]) < -1e-9:
        least = budget / np.exp(search.room(search.bounds[:, 0]))
        raise TableError(
            f"the cheapest set-up within the bounds costs {least:.4g}, more than the budget of {budget:.4g}"
        )
    return search


def _best(search: Search) -> np.ndarray:
    """The best of all starts, u (axes,)."""
    worth = search.worth
    found = [search.solve(start, worth.best, worth.slope) for start in search.starts()]
    u, value = min(found, key=lambda one: one[1])
    if not np.isfinite(value):
        raise TableError(f"no start led to an optimum of {', '.join(worth.axes)} within the budget")
    again, after = search.solve(u, worth.best, worth.slope, tolerance=1e-16)
    return again if after <= value else u


def _redrawn(search: Search, point: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The optimum under each draw of the laws and the rate, from the optimum of the best fit: (draws, axes), NaN without."""
    params, slopes = search.worth.draws(draws, seed)
    if not draws or not all(np.isfinite(part).all() for part in [*params, slopes]):
        return np.full((1, len(point)), np.nan)
    if search.worth.rate is not None and all(part.through_rate for part in search.worth.parts):
        slopes = np.full(draws, search.worth.slope)  # scales everything alike: it cannot move the optimum
    found = [search.solve(point, [part[k] for part in params], float(slopes[k])) for k in range(draws)]
    return np.array([u for u, value in found if np.isfinite(value)])


def _allocation(
    search: Search, point: np.ndarray, optima: np.ndarray, now: dict[str, float] | None, level: float, seed: int
) -> Allocation:
    worth = search.worth
    x = np.exp(point) * search.scale
    rows = []
    for k, name in enumerate(worth.axes):
        low, high = ends(np.exp(optima[:, k]) * search.scale[k], level)
        at_low, at_high = np.abs(point[k] - search.bounds[k]) < AT_BOUND
        rows.append({
            "axis": name, "x": float(x[k]), "low": low, "high": high, "at": (now or {}).get(name, float("nan")),
            "fitted_low": float(worth.low[k]), "fitted_high": float(worth.high[k]),
            "extrapolation": worth.extrapolation(k, x[k]),
            "bound": "fixed" if at_low and at_high else "lower" if at_low else "upper" if at_high else "",
        })  # fmt: skip
    values, drawn = _values(worth, x, now, seed)
    nothing = float("nan"), (float("nan"), float("nan"))
    joint = len(worth.parts) == 1 and worth.rate is None
    value, value_interval = (float(values[0]), ends(drawn[:, 0], level)) if joint else nothing
    change, changes = values[0] - values[-1], drawn[:, 0] - drawn[:, -1]
    gain, gain_interval = (float(change), ends(changes, level)) if now is not None else nothing
    spent = search.budget / float(np.exp(search.room(point)))
    parts = getattr(search.cost, "parts", None)
    points = x[:, None]
    return Allocation(
        target=worth.target,
        better="higher" if worth.sign > 0 else "lower",
        budget=search.budget,
        spent=spent,
        rows=tuple(rows),
        value=value,
        value_interval=value_interval,
        gain=gain,
        gain_interval=gain_interval,
        parts={} if parts is None else parts({**search.fixed, **dict(zip(worth.axes, x.tolist(), strict=True))}),
        warnings=(*_about(rows, spent / search.budget), *worth.warnings(points)),
        method=f"SLSQP in log x; interval: the optimum under {np.isfinite(optima[:, 0]).sum()} joint draws of laws and rate",
        data_hashes=worth.hashes(),
        level=level,
    )


def _values(worth: Worth, x: np.ndarray, now: dict[str, float] | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The target at x and, where known, now: (points,) of the best fit and (draws, points)."""
    columns = [x] if now is None else [x, np.array([now[name] for name in worth.axes])]
    points = np.stack(columns, axis=1)
    params, slopes = worth.draws(2000, seed + 1)
    return worth.total(points, worth.best, worth.slope), worth.total(points, params, slopes)


def _about(rows: Sequence[Mapping[str, Any]], share: float) -> list[str]:
    found = []
    for row in rows:
        if row["bound"] in ("lower", "upper"):
            found.append(f"the optimum of {row['axis']} lies on its {row['bound']} bound {row['x']:.4g}")
        if row["extrapolation"] > 1:
            found.append(f"{row['axis']} = {row['x']:.4g} lies {row['extrapolation']:.3g} x beyond its fitted range")
    if share < IDLE:
        found.append(f"only {share:.0%} of the budget is worth spending within the bounds")
    return found
