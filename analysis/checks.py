"""What speaks against a fit (its warnings), how its held-out points fell, and the record of how it was made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.fitted import Fit
from analysis.intervals import FEW_CLUSTERS, Draws
from analysis.table import ROW

if TYPE_CHECKING:
    import polars as pl

LOW_SHARE = 0.2  # of starts at the best optimum
SMALL_FLOOR = 0.2  # of the fitted value at the largest x: under it a floor cannot be told from a slower power law
FEW_DECADES = 3.0
ILL_CONDITIONED = 1e4


def complete(fit: Fit, table: pl.DataFrame, drawn: Draws | None, dropped: list[str], reason: str | None = None) -> Fit:
    """The fit with its held-out comparison, warnings and checklist filled in; `reason`: why this law, if not asked for."""
    fit = replace(fit, holdout=_holdout(fit), diagnostics={**fit.diagnostics, "no_interval": _without_interval(fit)})
    warnings = [*_about_numbers(fit, drawn), *about_runs(table)]
    method = "none" if drawn is None else drawn.method
    checklist = _checklist(fit, table, method, dropped)
    if reason:
        checklist["form_reason"] = reason
    return replace(fit, warnings=tuple(warnings), checklist=checklist)


def _holdout(fit: Fit) -> dict[str, Any] | None:
    held = fit.points.held
    if not held.any():
        return None
    x, observed = fit.points.x[:, held], fit.points.y[held]
    mean, low, high = fit.predict(x if len(fit.x) > 1 else x[0], interval=fit.level)
    within = (low <= observed) & (observed <= high)
    names = [name for name, out in zip(fit.points.cluster, held, strict=True) if out]
    known = bool(len(fit.draws))
    return {
        "kind": "largest",
        "x": float(x[0].max()),
        "factor": float(x[0].max() / fit.points.x[0, ~held].max()),
        "level": fit.level,
        "of": int(held.sum()),
        "within": int(within.sum()) if known else None,
        "all_within": bool(within.all()) if known else None,
        "relative_error": float(np.mean(mean) / np.mean(observed) - 1.0),
        "rows": [
            {
                "cluster": names[k],
                "x": x[:, k].tolist(),
                "observed": float(observed[k]),
                "predicted": float(mean[k]),
                "low": float(low[k]) if known else None,
                "high": float(high[k]) if known else None,
                "within": bool(within[k]) if known else None,
            }
            for k in range(len(observed))
        ],
    }


def _about_numbers(fit: Fit, drawn: Draws | None) -> list[str]:
    found: list[str] = []
    floor = fit.form.floor
    if floor and floor not in fit.options["pin"]:
        reasons = _unidentified(fit, floor)
        if reasons:
            lost = f" (no interval for {', '.join(names)})" if (names := fit.diagnostics["no_interval"]) else ""
            found.append(
                f"the floor {floor} is not identified: {'; '.join(reasons)}; do not extrapolate on its strength{lost}"
            )
    if fit.options["resamples"] and drawn is None:
        found.append(f"no interval: {fit.clusters} clusters are not enough for {len(fit.params)} parameters")
    elif fit.clusters < FEW_CLUSTERS:
        method = drawn.method if drawn else "no resampling asked for"
        found.append(f"few clusters: {fit.clusters} (under {FEW_CLUSTERS}); {method}")
    share = fit.objective["share_at_optimum"]
    if share < LOW_SHARE:
        found.append(
            f"only {share:.0%} of {fit.objective['starts']} starts reached the best optimum: it may not be the best"
        )
    condition = fit.diagnostics["condition"]
    if condition is None or condition > ILL_CONDITIONED:
        found.append("the parameters cannot be told apart on these points (condition number above 1e4)")
    at_bound = _at_bound(fit)
    if at_bound:
        found.append(f"{', '.join(at_bound)} stopped at the bound of its range")
    if drawn is not None and drawn.failed > 0.05 * fit.options["resamples"]:
        found.append(f"{drawn.failed} of {fit.options['resamples']} resamples could not be fitted")
    if _flat(fit):
        found.append(f"the curve is flat: the slope of {fit.y_label} in log {fit.x[0]} has an interval that includes 0")
    held = fit.holdout
    if held and held["within"] is not None and not held["all_within"]:
        found.append(
            f"held out: only {held['within']} of {held['of']} runs at the largest x lie in the prediction interval"
        )
    return found


def _without_interval(fit: Fit) -> list[str]:
    """The parameters whose interval would not hold: all free ones where the floor may as well be none.

    Measured on planted tables without a floor (`benchmarks/coverage.py --only "no floor"`): amplitude and exponent were
    covered in 89-93 % of trials. A small floor or a short range does no such harm (95-98 %) and is warned of.
    """
    floor = fit.form.floor
    if not floor or floor in fit.options["pin"] or not _no_floor(fit, floor):
        return []
    return [name for name in fit.params if name not in fit.options["pin"]]


def _unidentified(fit: Fit, floor: str) -> list[str]:
    used, smallest = fit.points.x[0, fit.points.used], float(fit.points.y[fit.points.used].min())
    reasons = _no_floor(fit, floor)
    if fit.params[floor] < SMALL_FLOOR * smallest:
        reasons.append(f"it is under {SMALL_FLOOR:.0%} of the smallest value")
    decades = float(np.log10(used.max() / used.min()))
    if decades < FEW_DECADES - 1e-9:
        reasons.append(f"{fit.x[0]} spans {decades:.1f} decades, under {FEW_DECADES:g}")
    return reasons


def _no_floor(fit: Fit, floor: str) -> list[str]:
    """Whether the points allow that there is no floor at all."""
    smallest = float(fit.points.y[fit.points.used].min())
    if fit.params[floor] <= 1e-9 * smallest:
        return ["it is 0"]
    if len(fit.draws) and fit.quantiles()[floor][0] <= 1e-3 * smallest:
        return ["its interval reaches 0"]
    return []


def _at_bound(fit: Fit) -> list[str]:
    names = []
    for param in fit.form.params:
        value = fit.params[param.name]
        ends = [end for end in (param.low, param.high) if np.isfinite(end) and end != 0]
        if param.name not in fit.options["pin"] and any(np.isclose(value, end, rtol=1e-6) for end in ends):
            names.append(param.name)
    return names


def _flat(fit: Fit) -> bool:
    """Whether the straight-line slope in log x has a t interval (95 %) that includes 0: asked of one-axis laws.

    A y that is the same everywhere is flat under any law, and exactly so: its slope is rounding.
    """
    values = fit.points.y[fit.points.used]
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return True
    if len(fit.x) != 1:
        return False
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    used = fit.points.used
    u, y = np.log(fit.points.x[0, used]), fit.points.y[used]
    if len(y) < 3:
        return False
    u = u - u.mean()
    slope = u @ y / (u @ u)
    rest = y - y.mean() - slope * u
    error = np.sqrt(rest @ rest / (len(y) - 2) / (u @ u))
    return bool(abs(slope) <= stdtrit(len(y) - 2, 0.975) * error)


def about_runs(table: pl.DataFrame) -> list[str]:
    """Warnings that the other columns of a results table give: tuning, repeats, mixed environments, simulation."""
    found: list[str] = []
    if copies := _copies(table):
        found.append(
            f"duplicated rows: {copies} of {table.height} repeat another in every column; taken for runs of their own they "
            "make intervals too narrow: drop them, or add the column that tells runs apart (seed, run)"
        )
    if "lr_at_edge" in table.columns and (at_edge := _truths(table, "lr_at_edge")):
        found.append(f"learning rate not bracketed: its optimum lies at the edge of the lr axis in {at_edge} rows")
    if "passes" in table.columns and table["passes"].dtype.is_numeric():
        over = int((table["passes"].fill_null(0) > 1).sum())
        if over:
            found.append(f"repeated data: passes > 1 in {over} of {table.height} rows")
    if "device" in table.columns and table["device"].n_unique() > 1:
        found.append(f"mixed environments: {table['device'].n_unique()} different values of 'device'")
    if "versions" in table.columns and (mixed := _mixed_packages(table["versions"].drop_nulls().to_list())):
        found.append(f"mixed environments: more than one version of {', '.join(mixed)}")
    if "simulated" in table.columns and (simulated := _truths(table, "simulated")):
        found.append(f"simulated data in {simulated} of {table.height} rows")
    return found


def _copies(table: pl.DataFrame) -> int:
    """Rows that another row before them equals in every column."""
    columns = [name for name in table.columns if name != ROW]
    return table.height - table.select(columns).unique().height


def _mixed_packages(versions: list[Any]) -> list[str]:
    """Packages that occur in more than one version in texts like "jax 0.10.2, numpy 2.4.6|2.5.0".

    A row lists what its process had loaded, so a package that one row lacks is no difference.
    """
    met: dict[str, set[str]] = {}
    for text in versions:
        for entry in str(text).split(", "):
            package, _, found = entry.partition(" ")
            met.setdefault(package, set()).update(found.split("|"))
    return sorted(package for package, found in met.items() if len(found) > 1)


def _truths(table: pl.DataFrame, name: str) -> int:
    return sum(value in (True, 1, "true", "True") for value in table[name].to_list())


def _spread(table: pl.DataFrame, name: str) -> str | None:
    """`1e+06 to 3e+07 (6 values)` for a numeric column that is there."""
    if name not in table.columns or not table[name].dtype.is_numeric():
        return None
    values = table[name].drop_nulls()
    if not len(values):
        return None
    count = values.n_unique()
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    return f"{low:.6g} (all)" if count == 1 else f"{low:.6g} to {high:.6g} ({count} values)"


def _checklist(fit: Fit, table: pl.DataFrame, method: str, dropped: list[str]) -> dict[str, Any]:
    """The (Mis)Fitting checklist (Li et al. 2025); None says that the table does not tell."""
    options, objective = fit.options, fit.objective
    holdout = "none" if fit.holdout is None else f"largest x held out, {fit.holdout['factor']:.3g} x beyond the fit"
    counts = {name: _spread(table, name) for name in ("params", "tokens", "unique_tokens", "passes", "FLOPs", "flops")}
    return {
        "form": f"{fit.form.name}: {fit.form.formula}",
        "form_reason": fit.form.about,
        "fitted": f"{fit.y_label} on {', '.join(fit.x)}",
        "pinned": options["pin"] or "nothing",
        "points": fit.n,
        "points_dropped": ", ".join(dropped) or "none",
        "clusters": fit.clusters,
        "cluster": options["cluster"] or "each row its own",
        "replicates": fit.noise["replicate_df"],
        "decades": fit.diagnostics["decades"],
        "counts": {name: text for name, text in counts.items() if text},
        "tuning": _tuning(table),
        "checkpoints": "one per run" if fit.clusters == len(set(fit.points.cluster)) == len(fit.points.y)
        else "several rows per cluster",
        "objective": _objective_words(objective),
        "optimiser": f"{objective['optimiser']}, tolerance {objective['tolerance']:g}, {objective['starts']} starts",
        "starts_at_optimum": objective["share_at_optimum"],
        "uncertainty": method,
        "resamples": len(fit.draws),
        "validation": holdout,
    }  # fmt: skip


def _objective_words(objective: dict[str, Any]) -> str:
    huber = f", delta {objective['delta']:g}" if objective["delta"] is not None else ""
    what = {"squares": "r^2 / 2", "huber": "Huber's loss", "lad": "|r|"}[objective["loss"]]
    return f"sum of {what} of {objective['space']} residuals{huber}"


def _tuning(table: pl.DataFrame) -> str | None:
    if "lr" not in table.columns:
        return None
    rates = _spread(table, "lr")
    if "lr_checked" in table.columns and (left := table.height - _truths(table, "lr_checked")):
        return f"learning rate {rates}, not checked in {left} of {table.height} rows"
    if "lr_at_edge" not in table.columns:
        return f"learning rate {rates}"
    edge = "at the edge of its axis in some rows" if _truths(table, "lr_at_edge") else "bracketed in all rows"
    return f"learning rate {rates}, {edge}"
