"""Fits and exchange rates as plain text: what the command line prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.constancy import VARIES

if TYPE_CHECKING:
    import polars as pl

    from analysis.allocation import Allocation
    from analysis.equivalent import Equivalent
    from analysis.fitted import Fit
    from analysis.marginal import MarginalTable
    from analysis.rates import Ranking, Rate


def number(value: float, digits: int = 4) -> str:
    """Short: 4 significant digits, exponents only where they help."""
    return "not known" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def span(ends: tuple[float, float]) -> str:
    """`0.12 .. 0.19`, or `no interval`."""
    low, high = ends
    return f"{number(low)} .. {number(high)}" if np.isfinite(low) and np.isfinite(high) else "no interval"


def noise_words(fit: Fit) -> str:
    """The scatter of one run, in per cent where residuals are logs."""
    sd = fit.noise["sd"]
    return f"{100 * sd:.2g} %" if fit.noise["space"] == "log" else number(sd)


def holdout_words(fit: Fit) -> str | None:
    """One sentence on the held-out points."""
    held = fit.holdout
    if held is None:
        return None
    where = f"held out {fit.x[0]} = {held['x']:.4g} ({held['factor']:.3g} x beyond the fit)"
    miss = f"mean off by {100 * held['relative_error']:+.2f} %"
    if held["within"] is None:
        return f"{where}: {miss}, no interval to judge by"
    return f"{where}: {held['within']} of {held['of']} runs within the {held['level']:.0%} prediction interval, {miss}"


def derived_words(fit: Fit) -> list[str]:
    """Where a curve turns, with its interval; "none in range" where it turns nowhere among the points."""
    out = []
    low_x, high_x = fit.points.x[0, fit.points.used].min(), fit.points.x[0, fit.points.used].max()
    for name, (value, low, high) in fit.derived(fit.level).items():
        if not low_x <= value <= high_x:
            out.append(f"{name}: none in range ({fit.x[0]} from {number(low_x)} to {number(high_x)})")
        elif not low_x <= low <= high <= high_x:
            out.append(f"{name}: {number(value)}, but its interval leaves the range of the points: not established")
        else:
            out.append(f"{name}: {number(value)}  {fit.level:.0%}: {span((low, high))}")
    return out


def with_unit(fit: Fit, column: str, label: str | None = None) -> str:
    """`tokens (M)` where the unit was told."""
    unit = fit.options.get("units", {}).get(column)
    return f"{label or column} ({unit})" if unit else label or column


def fit_summary(fit: Fit) -> str:
    """Several lines: the law, its parameters with intervals, noise, optimum, validation, warnings."""
    lines = [
        f"{fit.law}: {fit.form.formula}",
        f"  y = {with_unit(fit, fit.y, fit.y_label)}, x = {', '.join(with_unit(fit, name) for name in fit.x)};"
        f" {fit.n} points, {fit.clusters} clusters"
        f" ({fit.options['cluster'] or 'each row its own'})",
    ]
    width = max(map(len, fit.params))
    for name, ends in fit.intervals(fit.level).items():
        if name in fit.options["pin"]:
            lines.append(f"  {name:<{width}}  {number(fit.params[name])}  pinned")
            continue
        lines.append(f"  {name:<{width}}  {number(fit.params[name])}  {fit.level:.0%}: {span(ends)}")
    if len(fit.x) == 1 and fit.form.residuals == "log":
        end = float(fit.points.x[0, fit.points.used].max())
        value, low, high = (float(part) for part in fit.slope(end, fit.level))
        lines.append(
            f"  slope d log y / d log {fit.x[0]} at {number(end)}: {number(value)}  {fit.level:.0%}: {span((low, high))}"
        )
    lines += [f"  {text}" for text in derived_words(fit)]
    objective, diagnostics = fit.objective, fit.diagnostics
    decades = ", ".join(f"{value:.2f}" for value in diagnostics["decades"])
    condition = diagnostics["condition"]
    lines += [
        f"  noise of one run: {noise_words(fit)} (from {fit.noise['source']})",
        f"  interval: {fit.checklist['uncertainty']}",
        f"  objective: {fit.checklist['objective']} = {objective['value']:.6g};"
        f" {objective['share_at_optimum']:.0%} of {objective['starts']} starts reach it",
        f"  condition {'infinite' if condition is None else number(condition, 3)},"
        f" {diagnostics['degrees_of_freedom']} degrees of freedom, decades of x: {decades}",
    ]
    if diagnostics["correlations"]:
        pairs = ", ".join(f"{pair.replace(',', '-')} {r:+.2f}" for pair, r in diagnostics["correlations"].items())
        lines.append(f"  correlations: {pairs}")
    if fit.checklist["points_dropped"] != "none":
        lines.append(f"  left out: {fit.checklist['points_dropped']}")
    if (held := holdout_words(fit)) is not None:
        lines.append(f"  {held}")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in fit.warnings)])


def rolling_words(left: pl.DataFrame, x: str) -> str:
    """Rolling predictions as a table: the next larger scale at each cut, then the median error by factor."""
    import polars as pl

    lines = [f"  foretold from smaller {x} alone, error of the mean:"]
    lines.append(
        f"    {'fitted to':>10} {'foretold':>10} {'factor':>7} {'law':>8} {'last value':>10} {'log line':>9}  within"
    )
    following = left.sort("factor").unique("fitted_to", keep="first", maintain_order=True)
    for row in following.sort("fitted_to", descending=True).iter_rows(named=True):
        within = "-" if row["within"] is None else f"{row['within']} of {row['of']}"
        errors = f"{row['error']:>8.1%} {row['error_last_value']:>10.1%} {row['error_log_line']:>9.1%}"
        lines.append(f"    {row['fitted_to']:>10.3g} {row['held_x']:>10.3g} {row['factor']:>7.3g} {errors}  {within}")
    if left.height == following.height:
        return "\n".join(lines)
    sizes = pl.col("error", "error_last_value", "error_log_line").abs().median()
    doubling = left.group_by(octave=pl.col("factor").log(2).round()).agg(pl.col("factor").median(), sizes, n=pl.len())
    lines.append("    median size of the error, by how far beyond the fit:")
    for row in doubling.sort("octave").iter_rows(named=True):
        told = f"{row['error']:>8.1%} {row['error_last_value']:>10.1%} {row['error_log_line']:>9.1%}"
        lines.append(f"    {'':>10} {row['n']:>10} {row['factor']:>7.3g} {told}")
    return "\n".join(lines)


def rate_summary(rate: Rate) -> str:
    """Several lines: slope and elasticity with intervals, what could have been seen, constancy, warnings."""
    lines = [
        f"exchange rate of {rate.of} into {rate.into}: {number(rate.slope)}  {rate.level:.0%}: {span(rate.interval)}",
        f"  smallest slope that could have been seen (80 % power, 5 %): {number(rate.smallest_detectable)}",
        f"  {rate.n} versions ({rate.options['cluster']}), R2 {number(rate.r2, 3)},"
        f" reliability of {rate.of} {number(rate.reliability, 3)}",
    ]
    if np.isfinite(rate.elasticity):
        lines.append(
            f"  elasticity d log(1 - {rate.into}) / d log(1 - {rate.of}): {number(rate.elasticity)}"
            f"  {rate.level:.0%}: {span(rate.elasticity_interval)}"
        )
    lines += [
        f"  constant over the range? p = {number(rate.constant_p_value, 2)} (bend of the line, parametric bootstrap)",
        f"  interval: {rate.checklist['uncertainty']}",
    ]
    if rate.constant_p_value < VARIES and rate.local:
        lines.append(f"  {local_words(rate)}")
    if len(rate.ranking.rows) > 1:
        lines.append(ranking_summary(rate.ranking))
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in rate.warnings)])


def ranking_summary(ranking: Ranking) -> str:
    """A table of proxies, best first, their correlations and the verdict."""
    width = max(len(row["proxy"]) for row in ranking.rows)
    head = f"  {'proxy':<{width}}  {'slope':>9}  {'95 % interval':>22}  {'R2':>5}  {'Spearman':>8}  {'LOO error':>9}"
    lines = [f"proxies of {ranking.into} over {ranking.n} versions", f"{head}  P(best)"]
    for row in ranking.rows:
        lines.append(
            f"  {row['proxy']:<{width}}  {number(row['slope'], 3):>9}  {span((row['low'], row['high'])):>22}"
            f"  {row['r2']:>5.2f}  {row['spearman']:>8.2f}  {number(row['loo_error'], 3):>9}  {row['p_best']:.2f}"
        )
    lines.append("  correlations between proxies (version means):")
    for name, values in zip(ranking.proxies, ranking.correlations, strict=True):
        lines.append(f"  {name:<{width}}  " + "  ".join(f"{value:+.2f}" for value in values))
    verdict = f"best proxy: {ranking.winner}" if ranking.winner else "no proxy can be named best: no P(best) reaches .9"
    return "\n".join([*lines, f"  {verdict}", *(f"  warning: {warning}" for warning in ranking.warnings)])


def local_words(rate: Rate) -> str:
    """The rate at the low, middle and high end of its range."""
    parts = (
        f"{number(one['slope'])} at {number(one['x'], 3)} ({span((one['low'], one['high']))})" for one in rate.local
    )
    return f"local rate of {rate.of}, {rate.level:.0%}: {', '.join(parts)}"


def reach(ends: tuple[float, float]) -> str:
    """As `span`, where an end may be infinite."""
    return span(ends) if not np.isinf(ends).any() else f"{ends[0]:.4g} .. {ends[1]:.4g}"


def equivalent_summary(equivalent: Equivalent) -> str:
    """Several lines: the multiplier with its interval, how often the law never gets there, warnings."""
    place = ", ".join(f"{name} = {number(x)}" for name, x in equivalent.at.items())
    more = f"{number(equivalent.multiplier)} x the {equivalent.axis}"
    if np.isinf(equivalent.multiplier):
        more = f"no amount of {equivalent.axis} (infinitely many times more)"
    lines = [
        f"{equivalent.matched} at {place} equals {more}  {equivalent.level:.0%}: {reach(equivalent.interval)}",
        f"  never reached in {equivalent.never:.1%} of draws" if np.isfinite(equivalent.never) else "  no interval",
        f"  interval: {equivalent.method}",
    ]
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in equivalent.warnings)])


def allocation_summary(allocation: Allocation) -> str:
    """Several lines: the best set-up with intervals, what it reaches and gains, what it costs, warnings."""
    width = max(len(row["axis"]) for row in allocation.rows)
    direction = f"({allocation.better} {allocation.target} is better)"
    lines = [f"best set-up for a budget of {number(allocation.budget)} {direction}"]
    for row in allocation.rows:
        notes = [f"now {number(row['at'])}"] if np.isfinite(row["at"]) else []
        notes += [f"{row['bound']} bound"] if row["bound"] else []
        notes += [f"{row['extrapolation']:.3g} x beyond its fitted range"] if row["extrapolation"] > 1 else []
        note = f"  ({', '.join(notes)})" if notes else ""
        lines.append(
            f"  {row['axis']:<{width}}  {number(row['x']):>9}"
            f"  {allocation.level:.0%}: {span((row['low'], row['high']))}{note}"
        )
    if np.isfinite(allocation.value):
        ends = span(allocation.value_interval)
        lines.append(f"  {allocation.target} there: {number(allocation.value)}  {allocation.level:.0%}: {ends}")
    if np.isfinite(allocation.gain):
        ends = span(allocation.gain_interval)
        lines.append(
            f"  change of {allocation.target} from now: {allocation.gain:+.3g}  {allocation.level:.0%}: {ends}"
        )
    lines.append(f"  costs {number(allocation.spent)}, {allocation.spent / allocation.budget:.1%} of the budget")
    whole = sum(allocation.parts.values())
    if whole:
        lines[-1] += ": " + ", ".join(f"{name} {part / whole:.1%}" for name, part in allocation.parts.items())
    lines.append(f"  method: {allocation.method}")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in allocation.warnings)])


def marginal_summary(table: MarginalTable) -> str:
    """The table of what more compute brings on each axis, best first, with warnings."""
    width = max(len(row["axis"]) for row in table.rows)
    head = f"  {'axis':<{width}}  {'times':>8}  {'change of metric':<44}  {f'change of {table.target}':<34}  P(best)"
    lines = [f"{table.share:+.0%} compute on one axis alone, from a cost of {number(table.cost)}", head.rstrip()]
    for row in table.rows:
        gain = f"{row['metric']} {row['gain']:+.3g}  {span((row['gain_low'], row['gain_high']))}"
        worth = f"{row['worth']:+.3g}  {span((row['worth_low'], row['worth_high']))}"
        best = f"{row['p_best']:.2f}" if np.isfinite(row["p_best"]) else "not known"
        lines.append(f"  {row['axis']:<{width}}  {number(row['factor']):>8}  {gain:<44}  {worth:<34}  {best}")
    lines.append(f"  interval: {table.method}")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in table.warnings)])
