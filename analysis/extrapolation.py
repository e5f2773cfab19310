"""Validation by extrapolation: fit the smaller scales, foretell the larger ones; naive baselines beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis.fitted import Fit
from analysis.fitting import fit
from analysis.laws import Law
from analysis.table import TableError, done_rows, numeric_column

if TYPE_CHECKING:
    import polars as pl


def leave_largest_out(
    table: pl.DataFrame,
    *,
    x: str | Sequence[str],
    y: str,
    law: str | Law = "power_floor",
    ahead: Literal["next", "all"] = "next",
    most: int = 12,
    resamples: int = 500,
    **options: Any,
) -> pl.DataFrame:
    """Foretell each x from all smaller ones, as far down as the law can still be fitted.

    Args:
        table, x, y, law, options: as for `analysis.fit` (transform, cluster, loss, trials, ...). Of several axes the first is
            cut. "auto" chooses anew at each cut, from the smaller scales alone.
        ahead: "next" foretells the next larger x alone; "all" every larger one: the error against the factor.
        most: of more different x than this, that many are cut at and foretold: evenly spread in log x, the largest among them.

    Returns:
        One row for each cut and x foretold, the largest cut first: `fitted_to`, `held_x`, `factor` (of these two), `points`
        fitted, `observed` (mean), then the relative errors of means: `error` of the law, `error_last_value` (the mean at the
        largest x fitted), `error_log_line` (least squares of y on the logs of the axes); `within` (runs inside the 95 %
        prediction interval) `of` how many, `law`, and its parameters: how a floor drifts as points are added is read down
        its column.

    Raises:
        TableError: as `fit`; or there is no x that can be left out.

    Example:
        >>> import analysis, polars
        >>> x = [1e2, 1e3, 1e4, 1e5, 1e6]
        >>> table = polars.DataFrame({"x": x, "y": [5 * t**-0.2 for t in x]})
        >>> left = analysis.leave_largest_out(table, x="x", y="y", law="power", resamples=0)
        >>> left["held_x"].to_list(), round(abs(left["error"][0]), 6)
        ([1000000.0, 100000.0], 0.0)
    """
    import polars as pl

    if ahead not in ("next", "all"):
        raise TableError(f"no ahead {ahead!r}; give next or all")
    names = [x] if isinstance(x, str) else list(x)
    done, _ = done_rows(table)
    scales = _spread(np.unique(numeric_column(done, names[0])), most)
    rows: list[dict[str, Any]] = []
    for k in range(len(scales) - 1, 1, -1):
        smaller = done.filter(pl.col(names[0]) < scales[k])  # between two cuts rows may lie that are fitted, too
        try:
            made = fit(smaller, x=names, y=y, law=law, resamples=resamples, **options)
        except TableError as error:
            if rows:
                break
            raise TableError(f"leave-largest-out, {names[0]} under {scales[k]:g}: {error}") from error
        for held in scales[k:] if ahead == "all" else scales[k : k + 1]:
            at = done.filter(pl.col(names[0]) == held)
            rows.append(_foretold(made, at, names, law == "auto"))
    if not rows:
        raise TableError(f"leave-largest-out needs at least three different {names[0]!r}, there are {len(scales)}")
    return pl.DataFrame(rows, infer_schema_length=None)


def _spread(scales: np.ndarray, most: int) -> np.ndarray:
    """At most so many of ascending scales: those nearest to an even grid in their logs, the ends kept."""
    if len(scales) <= most or scales[0] <= 0:  # what is not above 0 the fit refuses, and says why
        return scales
    logs = np.log(scales)
    grid = np.linspace(logs[0], logs[-1], max(most, 3))
    return np.asarray(scales[np.unique(np.abs(logs[:, None] - grid).argmin(axis=0))])


def _foretold(made: Fit, at: pl.DataFrame, names: list[str], chosen: bool) -> dict[str, Any]:
    axes = np.stack([numeric_column(at, name) for name in names])
    measured = numeric_column(at, made.y)
    seen = 1 - measured if made.transform == "error" else measured
    mean, low, high = made.predict(axes if len(names) > 1 else axes[0], interval=made.level)
    fitted_to = float(made.points.x[0].max())
    last = made.points.y[made.points.x[0] == fitted_to]
    held = float(axes[0, 0])
    return {
        "fitted_to": fitted_to,
        "held_x": held,
        "factor": held / fitted_to,
        "points": made.n,
        "observed": float(seen.mean()),
        "error": float(mean.mean() / seen.mean() - 1),
        "error_last_value": float(last.mean() / seen.mean() - 1),
        "error_log_line": float(_log_line(made, axes).mean() / seen.mean() - 1),
        "within": int(np.sum((low <= seen) & (seen <= high))) if len(made.draws) else None,
        "of": len(seen),
        "law": made.law,
        **({} if chosen else made.params),
    }


def _log_line(made: Fit, axes: np.ndarray) -> np.ndarray:
    """The least squares line in the logs of the axes through the fitted points, at axes (d, n): (n,)."""
    ones = np.ones((1, made.points.x.shape[1]))
    design = np.concatenate([ones, np.log(made.points.x)]).T
    solved = np.linalg.lstsq(design, made.points.y, rcond=None)[0]
    return np.asarray(np.concatenate([np.ones((1, axes.shape[1])), np.log(axes)]).T @ solved)
