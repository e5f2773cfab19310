"""IsoFLOP analysis: the best size at each compute budget, and the power law that the best sizes follow.

Two ways to a budget's optimum: the vertex of a parabola in log x (Hoffmann et al. 2022, approach 2), or the least value
of Akima's interpolation of log y on log x (Porian et al. 2024, whose weights and noise draws are followed here). A
parabola is biased where the valley is lopsided, and an optimum at an end of its grid is no optimum: both are flagged.
`optimum_exponent` gives the same exponent from a parametric law, to check one against the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from analysis.fitted import Fit
from analysis.intervals import central, check_draws
from analysis.saved import Saved
from analysis.table import TableError, done_rows, fingerprint, name_rows, numeric_column

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

Method = Literal["parabola", "interpolation"]
POINTS = {"parabola": 4, "interpolation": 3}  # the least number of x at a budget
PER_STEP = 25  # places between two x at which the interpolation is looked at
FINEST = 1 / 3  # of the distance between two x: no optimum is taken to be known better
TOLD = 0.95  # the least share of noise draws with a slope
KEPT = 0.5  # the least share of noise draws with an optimum inside the grid
NOTHING = 1e-6  # in log x: optima this close to their power law do not scatter
SUSPICIOUS = 0.05  # p-value under which a test becomes a warning


@dataclass(frozen=True, eq=False)
class IsoFlop(Saved):
    """Optima by budget and their power law x* = coefficient * budget^exponent. Made by `isoflop`.

    rows, by budget: `budget, points, x, low, high` (the optimum and its interval, from noise in y alone), `y` (the value
    there), `log_sd` (of log x, as weighted), `edge`: "" | "end" (the lowest point stands at an end of the grid) |
    "outside" (no optimum inside the grid; takes no part in the power law). Intervals are NaN without noise. `points`, by
    budget: `budget, x, y`, what a figure draws.
    """

    FORMAT: ClassVar[str] = "analysis.isoflop/1"

    x: str
    y: str
    budget: str
    method: str
    exponent: float
    interval: tuple[float, float]
    coefficient: float
    noise: float
    rows: tuple[dict[str, Any], ...]
    points: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    data_hash: str
    options: dict[str, Any]
    level: float

    def optimum(self, budget: float | np.ndarray) -> np.ndarray:
        """The best x at a budget, by the power law; the shape of `budget`."""
        return np.asarray(self.coefficient * np.asarray(budget, float) ** self.exponent)

    def table(self) -> pl.DataFrame:
        """The rows as a table."""
        import polars as pl

        return pl.DataFrame(list(self.rows))

    def figure(self, title: str | None = None) -> Figure:
        """The valleys with their optima, and the optima over the budgets with the power law."""
        from analysis.compute_figures import isoflop_figure

        return isoflop_figure(self, title)

    def summary(self) -> str:
        """The power law, how it was made, and what speaks against it, as text."""
        low, high = self.interval
        head = f"best {self.x} = {self.coefficient:.4g} {self.budget}^{self.exponent:.4f} [{low:.4f}, {high:.4f}]"
        used = sum(row["edge"] != "outside" for row in self.rows)
        how = f"  {self.method}, {used} of {len(self.rows)} budgets, noise of {self.y}: sd {self.noise:.3g}"
        return "\n".join([head, how, *(f"  warning: {warning}" for warning in self.warnings)])


def isoflop(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    budget: str,
    method: Method = "parabola",
    noise: float | str | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> IsoFlop:
    """The best x at each budget, and how it grows with the budget.

    Args:
        table: one row a run; of several runs with the same budget and x the lowest y counts.
        x: the column of sizes (or tokens), above 0; y: the loss, above 0; budget: the compute, equal to the last digit
            within a budget.
        method: "parabola" or "interpolation".
        noise: the standard deviation of y when a run is repeated with another seed, in units of y: a number or a column.
            Without it a parabola takes that of its own residuals, pooled over the budgets; an interpolation, which goes
            through every point, then gives no interval.
        draws: noise draws behind the intervals.

    Returns:
        An IsoFlop. Its interval holds what seeds leave open, not a wrong choice of method; see its warnings.

    Raises:
        TableError: a column is missing or not above 0, or fewer than three budgets have their optimum inside the grid.

    Example:
        >>> import analysis, numpy as np, polars
        >>> from analysis.isoflop import isoflop
        >>> C, N = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e18, 1e21, 4), np.geomspace(1e7, 1e11, 25)))
        >>> loss = 2 + 0.02 * np.log(N / (0.1 * C**0.5)) ** 2
        >>> table = polars.DataFrame({"C": C, "N": N, "loss": loss})
        >>> round(isoflop(table, x="N", y="loss", budget="C").exponent, 6)
        0.5
    """
    found = _each(table, x, y, budget, method, noise, draws, level, seed)
    valleys, few, measured, rows, drawn = found.valleys, found.few, found.measured, found.rows, found.drawn
    inside = np.array([row["edge"] != "outside" for row in rows])
    if inside.sum() < 3:
        raise TableError(f"{inside.sum()} of {len(rows)} budgets have their optimum inside the grid: three are needed")
    u = np.log([row["budget"] for row in rows])[inside]
    log_sd = np.array([row["log_sd"] for row in rows])[inside]
    stars = np.stack([one for one, keep in zip(drawn, inside, strict=True) if keep], axis=1)
    best_inside = np.log([row["x"] for row in rows])[inside]
    slope, intercept = _lines(u, best_inside[None], log_sd)
    interval, warnings = (np.nan, np.nan), [*few, *_about(rows)]
    if measured is not None and draws:
        slopes = _lines(u, stars, log_sd)[0]
        told = slopes[np.isfinite(slopes)]  # a draw that leaves one valley alone inside the grid has no slope
        if len(told) >= TOLD * len(slopes):
            low, high = central(told, level)
            interval = float(low), float(high)
        warnings += _scatter(best_inside - intercept - slope * u, stars)
    if method == "parabola":
        warnings += _lopsided(valleys)
    return IsoFlop(
        x=x, y=y, budget=budget, method=method, exponent=float(slope[0]), interval=interval,
        coefficient=float(np.exp(intercept[0])), noise=float("nan") if measured is None else measured,
        rows=tuple(rows), points=tuple(valley.drawn for valley in valleys), warnings=tuple(warnings),
        data_hash=fingerprint(**{name: np.concatenate([valley.drawn[name] for valley in valleys]) for name in ("x", "y")}),
        options={"noise": noise, "draws": draws, "seed": seed}, level=level,
    )  # fmt: skip


def valley_optima(table: pl.DataFrame, *, x: str, y: str, budget: str, **options: Any) -> tuple[dict[str, Any], ...]:
    """The best x of each budget by itself: the rows of `isoflop`, for however few budgets, without a power law.

    options: `method`, `noise`, `draws`, `level`, `seed`, as of `isoflop`.

    Raises:
        TableError: as `isoflop`, but for too few budgets.
    """
    return tuple(_each(table, x, y, budget, **options).rows)


@dataclass(frozen=True)
class _Found:
    """What the budgets give each by itself; `drawn`: optima under noise, in log x, by budget."""

    valleys: list[_Valley]
    few: list[str]
    measured: float | None
    rows: list[dict[str, Any]]
    drawn: list[np.ndarray]


def _each(
    table: pl.DataFrame, x: str, y: str, budget: str, method: Method = "parabola", noise: float | str | None = None,
    draws: int = 1000, level: float = 0.95, seed: int = 0,
) -> _Found:  # fmt: skip
    check_draws(draws, seed, "draws")
    if method not in POINTS:
        raise TableError(f"no method {method!r}; methods: {', '.join(POINTS)}")
    valleys, few = _valleys(table, x, y, budget, noise, POINTS[method])
    sds, measured = _noise(valleys, method, noise)
    rng = np.random.default_rng(seed)
    solve = _vertices if method == "parabola" else _interpolated
    rows, drawn = [], []
    for valley, sd in zip(valleys, sds, strict=True):
        best, value = solve(valley.u, valley.y[None])
        count = draws if np.any(sd > 0) else 0
        noisy = valley.y + sd * rng.normal(size=(count, len(sd)))
        stars = solve(valley.u, np.maximum(noisy, 1e-12 * valley.y))[0]
        rows.append(_row(valley, best[0], value[0], stars, level))
        drawn.append(stars if count else np.full(draws, best[0]))
    return _Found(valleys, few, measured, rows, drawn)


def optimum_exponent(fit: Fit, level: float = 0.95) -> tuple[float, float, float]:
    """The exponent a of N* ~ C^a that a fitted `chinchilla` law implies at C ~ N D: beta / (alpha + beta).

    Returns (value, low, high): Hoffmann et al. (2022), equation 4; NaN ends without draws.
    """
    if fit.law != "chinchilla":
        raise TableError(f"an exponent of the optimum follows from the law chinchilla, not from {fit.law}")
    alpha, beta = fit.form.names.index("alpha"), fit.form.names.index("beta")
    value = fit.params["beta"] / (fit.params["alpha"] + fit.params["beta"])
    if not len(fit.draws):
        return value, float("nan"), float("nan")
    low, high = central(fit.draws[:, beta] / (fit.draws[:, alpha] + fit.draws[:, beta]), level)
    return value, float(low), float(high)


@dataclass(frozen=True)
class _Valley:
    """One budget: u = log x, ascending (k,); y (k,); the sd of each y (k,), NaN where it is not known."""

    budget: float
    u: np.ndarray
    y: np.ndarray
    sd: np.ndarray

    @property
    def drawn(self) -> dict[str, Any]:
        return {"budget": self.budget, "x": tuple(np.exp(self.u).tolist()), "y": tuple(self.y.tolist())}


def _valleys(
    table: pl.DataFrame, x: str, y: str, budget: str, noise: float | str | None, least: int
) -> tuple[list[_Valley], list[str]]:
    """By budget, ascending; and a warning where budgets had to be left out."""
    done, _ = done_rows(table)
    columns = {name: numeric_column(done, name) for name in (x, y, budget)}
    for name, values in columns.items():
        if np.any(values <= 0):
            raise TableError(
                f"column {name!r} must be above 0, it is not in {name_rows(done, np.flatnonzero(values <= 0))}"
            )
    sd = (
        numeric_column(done, noise)
        if isinstance(noise, str)
        else np.full(done.height, np.nan if noise is None else noise)
    )
    if np.any(sd < 0):
        raise TableError("noise is a standard deviation: it cannot be below 0")
    out, few = [], []
    for value in np.unique(columns[budget]):
        at = np.flatnonzero(columns[budget] == value)
        at = at[np.lexsort((columns[y][at], columns[x][at]))]
        sizes, first = np.unique(columns[x][at], return_index=True)  # of each x the lowest y
        if len(sizes) < least:
            few.append(f"{value:.3g}")
            continue
        out.append(_Valley(float(value), np.log(sizes), columns[y][at[first]], sd[at[first]]))
    if not out:
        raise TableError(f"no {budget} has {least} different {x}: the runs of a budget must share its exact value")
    return out, [f"budget {', '.join(few)}: fewer than {least} different {x}, left out"] if few else []


def _noise(valleys: list[_Valley], method: Method, given: float | str | None) -> tuple[list[np.ndarray], float | None]:
    """The sd of each point, by budget, and its root mean square; (zeros, None) where nothing is known."""
    if given is not None:
        return [v.sd for v in valleys], float(np.sqrt(np.mean(np.concatenate([v.sd for v in valleys]) ** 2)))
    if method == "interpolation":
        return [np.zeros_like(v.u) for v in valleys], None
    left, freedom = _leftover(valleys, 2)
    pooled = float(np.sqrt(left / freedom))
    return [np.full_like(v.u, pooled) for v in valleys], pooled


def _leftover(valleys: list[_Valley], degree: int) -> tuple[float, int]:
    """Sum of squares that polynomials in log x leave, over all budgets, and its degrees of freedom."""
    left = 0.0
    for v in valleys:
        design = np.vander(v.u - v.u.mean(), degree + 1)
        left += float(np.sum((v.y - design @ np.linalg.lstsq(design, v.y, rcond=None)[0]) ** 2))
    return left, sum(len(v.u) - degree - 1 for v in valleys)


def _vertices(u: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertex (batch,) in log x of the parabola through y (batch, k), NaN outside the grid, and the value there."""
    middle = u.mean()
    c2, c1, c0 = np.linalg.pinv(np.vander(u - middle, 3)) @ y.T
    with np.errstate(all="ignore"):
        at = middle - c1 / (2 * c2)
        inside = (c2 > 0) & (at > u[0]) & (at < u[-1])
        return np.where(inside, at, np.nan), c0 - c1**2 / (4 * c2)


def _interpolated(u: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where Akima's interpolation of log y (batch, k) is least, in log x (batch,), NaN at an end, and the value there."""
    from scipy.interpolate import Akima1DInterpolator

    grid = np.linspace(u[0], u[-1], PER_STEP * (len(u) - 1))
    if not len(y):
        return np.empty(0), np.empty(0)
    values = Akima1DInterpolator(u, np.log(y).T)(grid)
    best = values.argmin(axis=0)
    inside = (best > 0) & (best < len(grid) - 1)
    return np.where(inside, grid[best], np.nan), np.exp(values.min(axis=0))


def _row(valley: _Valley, best: float, value: float, stars: np.ndarray, level: float) -> dict[str, Any]:
    found = stars[np.isfinite(stars)]
    share = len(found) / len(stars) if len(stars) else 1.0
    lowest = int(np.argmin(valley.y))
    edge = "end" if lowest in (0, len(valley.u) - 1) else ""
    if not np.isfinite(best) or share < KEPT:
        edge = "outside"
    low, high = central(found, level) if len(found) > 1 else (np.nan, np.nan)
    finest = FINEST * (valley.u[-1] - valley.u[0]) / (len(valley.u) - 1)
    spread = float(np.std(found)) if len(found) > 1 else 0.0
    return {
        "budget": valley.budget, "points": len(valley.u), "x": float(np.exp(best)), "low": float(np.exp(low)),
        "high": float(np.exp(high)), "y": float(value), "log_sd": float(max(spread, finest) / max(share, KEPT)), "edge": edge,
    }  # fmt: skip


def _lines(u: np.ndarray, v: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares of v (batch, k) on u (k,): slope and intercept (batch,). NaN in v take no part."""
    weights = np.where(np.isfinite(v), 1 / sd**2, 0.0)
    v = np.where(np.isfinite(v), v, 0.0)
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_u, mean_v = weights @ u / total, np.sum(weights * v, axis=1) / total
        centred = u - mean_u[:, None]
        slope = np.sum(weights * centred * (v - mean_v[:, None]), axis=1) / np.sum(weights * centred**2, axis=1)
    return slope, mean_v - slope * mean_u


def _about(rows: list[dict[str, Any]]) -> list[str]:
    faults = {"outside": "no optimum inside the grid, left out", "end": "the lowest point is at an end of the grid"}
    found = []
    for kind, text in faults.items():
        at = [f"{row['budget']:.3g}" for row in rows if row["edge"] == kind]
        if at:
            found.append(f"budget {', '.join(at)}: {text}; widen the grid there")
    return found


def _scatter(residuals: np.ndarray, stars: np.ndarray) -> list[str]:
    """Whether optima leave the power law further than their noise takes them: then the interval is too narrow."""
    from scipy.stats import chi2

    sd = np.nanstd(stars, axis=0)
    if len(residuals) < 3 or not np.all(sd > 0) or np.abs(residuals).max() < NOTHING:
        return []
    if chi2.sf(np.sum((residuals / sd) ** 2), len(residuals) - 2) > SUSPICIOUS:
        return []
    return ["the optima scatter about their power law by more than the noise explains: the interval is too narrow"]


def _lopsided(valleys: list[_Valley]) -> list[str]:
    """An F-test of a cubic term at every budget: a parabola's vertex is biased in a lopsided valley."""
    from scipy.stats import f

    wide = [v for v in valleys if len(v.u) >= 6]
    if not wide:
        return []
    (square, _), (cubic, freedom) = _leftover(wide, 2), _leftover(wide, 3)
    if cubic <= 1e-20 * sum(float(np.sum(v.y**2)) for v in wide):  # nothing left to compare with: points without noise
        lopsided = square > 1e-12 * sum(float(np.sum(v.y**2)) for v in wide)
    else:
        lopsided = f.sf((square - cubic) / len(wide) / (cubic / freedom), len(wide), freedom) < SUSPICIOUS
    if not lopsided:
        return []
    return [
        "the valleys are lopsided, so that a parabola is biased: compare method='interpolation' and a parametric law"
    ]
