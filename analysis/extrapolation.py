"""Validation by extrapolation: leave out the largest x, predict it, move down, repeat; naive baselines beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from analysis.fitting import fit
from analysis.laws import Law, get_law
from analysis.solver import Loss
from analysis.table import TableError, done_rows, numeric_column

if TYPE_CHECKING:
    import polars as pl


def leave_largest_out(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    law: str | Law = "power_floor",
    transform: Literal["identity", "error"] = "identity",
    cluster: str | None = None,
    loss: Loss = "squares",
    delta: float | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> pl.DataFrame:
    """Predict each x from all smaller ones, as far down as the law still has more points than parameters.

    Returns one row for each x left out, largest first: `held_x`, `factor` (held x over the largest x fitted), `points`
    fitted, `observed` (mean), then the relative errors `error` of the law, `error_last_value` and `error_log_line`,
    `within` (runs inside the 95 % prediction interval) `of` how many, and the law's parameters: how its floor drifts
    as points are added is read down that column.

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

    form = get_law(law)
    done, _ = done_rows(table)
    scales = np.unique(numeric_column(done, x))
    rows = []
    for held_x in scales[::-1]:
        part = done.filter(pl.col(x) <= held_x)
        smaller = part.filter(pl.col(x) < held_x)
        if smaller.height <= len(form.params) or smaller[x].n_unique() < max(2, len(form.params)):
            break
        made = fit(
            part, x=x, y=y, law=form, transform=transform, cluster=cluster, loss=loss, delta=delta,
            holdout="largest", resamples=resamples, seed=seed,
        )  # fmt: skip
        line = fit(smaller, x=x, y=y, law="log_line", transform=transform, resamples=0)
        observed = float(made.points.y[made.points.held].mean())
        last = made.points.y[made.points.x[0] == smaller[x].max()].mean()
        held = made.holdout or {}
        rows.append({
            "held_x": float(held_x), "factor": held["factor"], "points": made.n, "observed": observed,
            "error": float(made.predict(held_x)) / observed - 1, "error_last_value": float(last) / observed - 1,
            "error_log_line": float(line.predict(held_x)) / observed - 1,
            "within": held["within"], "of": held["of"], **made.params,
        })  # fmt: skip
    if not rows:
        raise TableError(f"leave-largest-out: {form.name} needs more points below the largest {x!r} than there are")
    return pl.DataFrame(rows)
