"""Which law? Candidates compared by what they foretell and by AICc, never by R2 alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.fitting import fit
from analysis.laws import LAWS
from analysis.table import TableError, done_rows, numeric_column

if TYPE_CHECKING:
    import polars as pl

CANDIDATES = ("log_line", "power", "power_floor", "bounded_power", "m4", "peaked_power", "broken_power")
SPARE = 2  # a law is in the running only with this many more different x than parameters
FORETOLD = 3  # of the largest scales, each predicted from all smaller ones
WITHIN = 3.0  # times the noise: extrapolated means err by about twice the noise of what they foretell
SAME_AICC = 2.0  # differences below mean nothing (Burnham & Anderson 2002, section 2.6)


def compare_laws(
    table: pl.DataFrame, *, x: str, y: str, laws: Sequence[str] = CANDIDATES, **options: Any
) -> pl.DataFrame:
    """Fit each law and foretell the largest scales from the smaller ones.

    Args:
        table, x, y, options: as for `analysis.fit` (transform, cluster, loss, delta, weights, trials, seed).
        laws: names of laws on one axis.

    Returns:
        One row a law, best first: `law`, `parameters`, `extrapolation` (root mean square relative error over up to three
        rolling leave-largest-out predictions; null with too few points), `aicc` (of residuals in y, so that laws fitted in
        logs and not can be compared), `residual_sd`, `noise` (relative, of a held-out mean), `verdict`. In the running
        are the laws with at least two more different x than parameters whose extrapolation error exceeds the least by no
        more than three times the noise of what they foretell; of these the one with the least AICc is chosen, and within
        2 of it the first in the order of `laws`, simple ones first.

    Raises:
        TableError: as `fit`; or no law could be fitted.

    Example:
        >>> import analysis, polars
        >>> x = [10.0**k for k in range(2, 11)]
        >>> table = polars.DataFrame({"x": x, "y": [0.5 + 9 * t**-0.3 for t in x]})
        >>> analysis.compare_laws(table, x="x", y="y", laws=["log_line", "power", "power_floor"])["law"][0]
        'power_floor'
    """
    import polars as pl

    done, _ = done_rows(table)
    rows, faults = [], []
    for name in laws:
        if LAWS[name].axes != 1 if name in LAWS else False:
            raise TableError(f"{name} has {LAWS[name].axes} axes: only laws on one axis can be compared on {x!r}")
        try:
            rows.append(_judge(done, x, y, name, options))
        except TableError as error:
            faults.append(f"{name}: {error}")
    if not rows:
        raise TableError(f"no law could be fitted: {faults[0]}")
    scales = len(np.unique(numeric_column(done, x)))
    running = [row for row in rows if scales >= row["parameters"] + SPARE] or rows[:1]
    known = [row for row in running if row["extrapolation"] is not None]
    if known:
        best = min(known, key=lambda row: row["extrapolation"])
        running = [row for row in known if row["extrapolation"] <= best["extrapolation"] + WITHIN * best["noise"]]
    least = min(row["aicc"] for row in running)
    chosen = next(row for row in running if row["aicc"] <= least + SAME_AICC)
    for row in rows:
        row["verdict"] = "chosen" if row is chosen else "in the running" if row in running else ""
    ranks = {"chosen": 0, "in the running": 1, "": 2}
    far = float("inf")
    rows.sort(key=lambda row: (ranks[row["verdict"]], far if row["extrapolation"] is None else row["extrapolation"]))
    return pl.DataFrame(rows, infer_schema_length=None)


def _judge(table: pl.DataFrame, x: str, y: str, law: str, options: dict[str, Any]) -> dict[str, Any]:
    import polars as pl

    made = fit(table, x=x, y=y, law=law, **{**options, "resamples": 0})
    free = len(made.params) - len(made.options["pin"])
    misses, sizes = [], []
    for held in np.unique(numeric_column(table, x))[::-1][:FORETOLD]:
        smaller, at = table.filter(pl.col(x) < held), table.filter(pl.col(x) == held)
        try:
            before = fit(smaller, x=x, y=y, law=law, **{**options, "resamples": 0})
        except TableError:  # no more points than parameters, or one x only
            break
        seen = numeric_column(at, y)
        observed = float(np.mean(1 - seen if made.transform == "error" else seen))
        misses.append(float(before.predict(held)) / observed - 1)
        sizes.append(len(seen))
    relative = (made.points.y - made.predict(made.points.x[0])) / made.points.y
    spread = float(np.sqrt(np.sum(relative**2) / max(made.n - free, 1)))
    return {
        "law": law,
        "parameters": free,
        "extrapolation": float(np.sqrt(np.mean(np.square(misses)))) if misses else None,
        "aicc": aicc(made.points.y, made.predict(made.points.x[0]), free),
        "residual_sd": float(np.std(made.points.y - made.predict(made.points.x[0]))),
        "noise": spread / np.sqrt(np.mean(sizes)) if sizes else None,
        "verdict": "",
    }


def aicc(y: np.ndarray, fitted: np.ndarray, free: int) -> float:
    """Akaike's criterion for least squares with the small-sample term; the variance counts as a parameter.

    Infinite where n <= free + 2: so few points cannot tell laws apart (Burnham & Anderson 2002, section 2.4).
    """
    n, k = len(y), free + 1
    if n <= k + 1:
        return float("inf")
    squares = max(float(np.sum((y - fitted) ** 2)), 1e-300)
    return float(n * np.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))
