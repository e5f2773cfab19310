"""Figures: scaling curves, curves over a length, exchange rates. Built without pyplot, so they need no display.

Colours are Okabe and Ito's, told apart by colour-blind readers; every series also has its own marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.axes import add_floors, count_ticks, frame, plain_log_ticks
from analysis.fitted import Fit
from analysis.rates import Ranking, Rate, VersionPoints
from analysis.table import TableError, done_rows, numeric_column, optional_column, require_columns
from analysis.words import with_unit

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5F5F5F"
)  # fmt: skip
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
PANELS_A_ROW = 3


def new_figure(width: float = 6.8, height: float = 4.6) -> Figure:
    """An empty figure in inches, laid out so that nothing is cut."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write `<stem>.png` (160 dpi) and `<stem>.svg`; the same figure gives the same bytes. Returns both paths."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    figure.savefig(png, dpi=160, metadata={"Software": None})
    svg.write_text(svg_text(figure))
    return png, svg


def svg_text(figure: Figure) -> str:
    """The figure as SVG, from `<svg` on, without a date and with the same ids every time."""
    from matplotlib import rc_context

    out = StringIO()
    with rc_context({"svg.hashsalt": "analysis", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def scaling_figure(
    fit: Fit,
    table: pl.DataFrame | None = None,
    *,
    floors: Mapping[str, float] | None = None,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    log_y: bool = False,
) -> Figure:
    """Runs, their seed spread, the fitted curve with band and prediction interval, held-out runs, floors.

    An error (transform "error") is drawn as the metric itself, growing, unless `log_y`: then errors on a log axis,
    where a power law is a line. floors: name -> value of the *metric* (chance, untrained, ...), as labelled lines.
    table: rows to draw instead of those that the fit keeps; it needs the columns of the fit.
    """
    figure = new_figure()
    ax = figure.add_subplot()
    draw_fit(ax, fit, table=table, log_y=log_y, xlabel=xlabel, ylabel=ylabel, legend=False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)  # outside: floors cross the axes
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    error = fit.transform == "error" and log_y
    add_floors(ax, {name: 1 - value if error else value for name, value in (floors or {}).items()})
    return figure


def draw_fit(
    ax: Axes,
    fit: Fit,
    *,
    table: pl.DataFrame | None = None,
    log_y: bool = False,
    xlabel: str | None = None,
    ylabel: str | None = None,
    legend: bool = True,
) -> None:
    """Draw a one-axis fit onto axes; see `scaling_figure`.

    Raises:
        TableError: the fit has several axes, or the table lacks its columns.
    """
    if len(fit.x) != 1:
        raise TableError(f"a figure of a law over {', '.join(fit.x)} needs one axis; this law has {len(fit.x)}")
    flip = fit.transform == "error" and not log_y
    x, y, held, passes = _points(fit, table)
    y = 1 - y if flip else y
    used_x = fit.points.x[0, fit.points.used]
    grid = np.geomspace(min(x.min(), used_x.min()) / 1.25, max(x.max(), used_x.max()) * 1.7, 240)
    inside = grid <= used_x.max()
    mean = fit.predict(grid)
    band, new_run = fit.band(grid, fit.level), fit.predict(grid, interval=fit.level)
    show = (lambda values: np.clip(1 - values, 0.0, None)) if flip else (lambda values: values)
    if len(fit.draws):
        ax.fill_between(
            grid, show(new_run.low), show(new_run.high), color=BLUE, alpha=0.10, lw=0, zorder=1,
            label=f"a new run ({fit.level:.0%})",
        )  # fmt: skip
        ax.fill_between(
            grid, show(band.low), show(band.high), color=BLUE, alpha=0.25, lw=0, zorder=2,
            label=f"the mean ({fit.level:.0%})",
        )  # fmt: skip
    ax.plot(grid[inside], show(mean)[inside], color=BLUE, lw=1.8, zorder=3, label=f"{fit.law}: {_formula(fit)}")
    ax.plot(grid[~inside], show(mean)[~inside], color=BLUE, lw=1.8, ls=(0, (4, 2)), zorder=3)
    _runs(ax, x, y, held, passes)
    ax.set_xscale("log")
    if log_y:
        ax.set_yscale("log")
        plain_log_ticks(ax)
    else:
        ax.set_ylim(_view(y, show(new_run.low), show(new_run.high)))
    ax.set_xlim(grid[0], grid[-1])
    count_ticks(ax)
    shown = fit.y if flip else fit.y_label
    frame(ax, xlabel or with_unit(fit, fit.x[0]), ylabel or with_unit(fit, fit.y, shown))
    if legend:
        ax.legend(fontsize=8, frameon=False, loc="best")


def _formula(fit: Fit) -> str:
    """The law as it was fitted: to the error, where that is what the metric was turned into."""
    return fit.form.formula.replace("y =", "1 - y =", 1) if fit.transform == "error" else fit.form.formula


def _view(y: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Limits that show every run and the interval of a new one, but at most one span of the runs beyond them."""
    span = np.ptp(y) or abs(y[0]) or 1.0
    ends = [np.concatenate([edge[np.isfinite(edge)], y]) for edge in (np.minimum(low, high), np.maximum(low, high))]
    bottom, top = max(ends[0].min(), y.min() - span), min(ends[1].max(), y.max() + span)
    return bottom - 0.04 * (top - bottom), top + 0.04 * (top - bottom)


def _points(fit: Fit, table: pl.DataFrame | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y (transformed), held out, passes of the rows to draw: (n,) each."""
    if table is None:
        return fit.points.x[0], fit.points.y, fit.points.held, fit.points.passes
    done, _ = done_rows(table)
    x, y = numeric_column(done, fit.x[0]), numeric_column(done, fit.y)
    passes = optional_column(done, "passes")
    held = np.zeros(len(x), bool) if fit.holdout is None else x >= fit.holdout["x"]
    return x, 1 - y if fit.transform == "error" else y, held, passes


def _runs(ax: Axes, x: np.ndarray, y: np.ndarray, held: np.ndarray, passes: np.ndarray) -> None:
    """Every run as a marker (hollow: data seen more than once), the mean of seeds with their standard deviation."""
    repeated = np.nan_to_num(passes, nan=0.0) > 1
    kinds = (
        (~held & ~repeated, "o", GREY, True, "runs"),
        (~held & repeated, "o", GREY, False, "runs, data repeated (passes > 1)"),
        (held & ~repeated, "D", VERMILLION, True, "held out"),
        (held & repeated, "D", VERMILLION, False, "held out, data repeated"),
    )
    for mask, marker, colour, filled, label in kinds:
        if mask.any():
            face = colour if filled else "white"
            ax.plot(
                x[mask], y[mask], ls="", marker=marker, ms=4.5, mec=colour, mfc=face, mew=1.0, alpha=0.85, zorder=5,
                label=label,
            )  # fmt: skip
    for value in np.unique(x):
        group = y[x == value]
        if len(group) > 1:
            colour = VERMILLION if held[x == value].all() else GREY
            ax.errorbar(
                value * 1.06,
                group.mean(),
                yerr=group.std(ddof=1),
                fmt="_",
                color=colour,
                ms=7,
                capsize=2,
                lw=1.1,
                zorder=4,
            )


def line_figure(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    series: str | None = None,
    reference: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    floors: Mapping[str, float] | None = None,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    log_x: bool = True,
) -> Figure:
    """A metric against an axis, one line for each value of `series`: every row, the means and their 95 % t interval.

    The spread of rows is pooled over the axis, for two seeds at one x tell little of it; without replicates there is no
    interval. reference: name -> (x, y), e.g. the Bayes-optimal
    value at each length. With zeros on a log axis the part near zero is linear.

    Raises:
        TableError: a column is missing or not finite.
    """
    done, _ = done_rows(table)
    require_columns(done, [series] if series else [])
    xs, ys = numeric_column(done, x), numeric_column(done, y)
    names = np.array([str(name) for name in done[series]] if series else [y] * len(xs))
    figure = new_figure()
    ax = figure.add_subplot()
    for k, name in enumerate(dict.fromkeys(names.tolist())):
        mine = names == name
        grid, mean, half = _means(xs[mine], ys[mine])
        colour = SERIES[k % len(SERIES)]
        if len(grid) < mine.sum():
            ax.plot(xs[mine], ys[mine], ls="", marker=".", ms=4, color=colour, alpha=0.6, zorder=5)
        ax.errorbar(
            grid, mean, yerr=np.where(np.isfinite(half), half, 0.0), color=colour,
            marker=MARKERS[k % len(MARKERS)], ms=5, lw=1.6, capsize=2.5, label=name, zorder=4,
        )  # fmt: skip
    for k, (name, (at, values)) in enumerate((reference or {}).items()):
        ax.plot(at, values, color="black", lw=1.4, ls=((0, (5, 2)), (0, (1, 1.5)))[k % 2], label=name, zorder=3)
    if log_x and xs.min() > 0:
        ax.set_xscale("log")
        count_ticks(ax)
    elif log_x:
        ax.set_xscale("symlog", linthresh=float(xs[xs > 0].min()) if (xs > 0).any() else 1.0)
        ax.set_xticks(np.unique(xs), [f"{value:g}" for value in np.unique(xs)])
        ax.minorticks_off()
    frame(ax, xlabel or x, ylabel or y)
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    if series or reference:
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    add_floors(ax, dict(floors or {}))
    return figure


def _means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct x, mean y, half width of the mean's 95 % t interval with the spread pooled over all x (NaN without any)."""
    from scipy.special import stdtrit

    grid, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    mean = np.bincount(group, y) / counts
    freedom = int(np.sum(counts - 1))
    if freedom == 0:
        return grid, mean, np.full(len(grid), np.nan)
    spread = np.sqrt(np.sum((y - mean[group]) ** 2) / freedom)
    return grid, mean, stdtrit(freedom, 0.975) * spread / np.sqrt(counts)


def gains_figure(gains: pl.DataFrame, *, label: str, gain: str, low: str, high: str, xlabel: str, title: str) -> Figure:
    """A dot a row with its interval around a line at zero, the first row on top; by colour and marker whether it includes 0.

    gains: columns `label` (its lines are kept), `gain`, `low`, `high`; an interval that is nan is not drawn.
    """
    figure = new_figure(height=1.3 + 0.38 * gains.height)
    ax = figure.add_subplot()
    ax.axvline(0.0, color=GREY, lw=1.0, zorder=1)
    for at, (mean, least, most) in enumerate(reversed(gains[gain, low, high].rows())):
        colour, marker = (BLUE, "^") if least > 0 else (VERMILLION, "v") if most < 0 else (GREY, "o")
        ax.plot([least, most], [at, at], color=colour, lw=1.8, zorder=3)
        ax.plot([mean], [at], color=colour, marker=marker, ms=7, ls="", zorder=4)
    ax.set_yticks(range(gains.height), gains[label].to_list()[::-1])
    ax.set_ylim(-0.6, gains.height - 0.4)
    frame(ax, xlabel, "")
    ax.set_title(title, loc="left", fontsize=11)
    return figure


def exchange_figure(
    result: Rate | Ranking,
    *,
    title: str | None = None,
    groups: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Versions with standard errors on both axes and the line; one panel for each proxy, best first.

    groups: version -> name of its kind (image-only, ...), shown by colour and marker. labels: column -> axis label.
    """
    ranking = result if isinstance(result, Ranking) else result.ranking
    panels = list(zip(ranking.rows, ranking.points, strict=True))
    columns = min(len(panels), PANELS_A_ROW)
    lines = -(-len(panels) // columns)
    figure = new_figure(5.6 if columns == 1 else 3.3 * columns + 0.4, 4.2 if columns == 1 else 3.1 * lines + 0.5)
    grid = np.atleast_1d(figure.subplots(lines, columns, sharey=True, squeeze=False)).ravel()
    names = dict(labels or {})
    for k, (ax, (row, points)) in enumerate(zip(grid, panels, strict=False)):
        slope = row["slope"] if np.isfinite(row["low"]) else np.nan
        _draw_versions(ax, points, slope, (row["low"], row["high"]), groups)
        frame(
            ax, names.get(row["proxy"], row["proxy"]), names.get(ranking.into, ranking.into) if k % columns == 0 else ""
        )
        known = np.isfinite(row["low"])
        note = (
            f"slope {row['slope']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
            if known
            else "no slope: alike within noise"
        )
        note += f"\nR² {row['r2']:.2f}"
        if len(panels) > 1:
            note += f",  P(best) {row['p_best']:.2f}"
        ax.set_title(note, fontsize=8.5, loc="left")
    for ax in grid[len(panels) :]:
        ax.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    if groups:
        grid[0].legend(fontsize=7.5, frameon=False, loc="best")
    return figure


def draw_rate(ax: Axes, rate: Rate, *, groups: Mapping[str, str] | None = None) -> None:
    """Draw one rate onto axes; see `exchange_figure`."""
    _draw_versions(ax, rate.points, rate.slope, rate.interval, groups)
    frame(ax, rate.of, rate.into)
    low, high = rate.interval
    ax.set_title(f"slope {rate.slope:.3g} [{low:.3g}, {high:.3g}], {rate.n} versions", fontsize=8.5, loc="left")


def _draw_versions(
    ax: Axes, points: VersionPoints, slope: float, ends: tuple[float, float], groups: Mapping[str, str] | None
) -> None:
    x, y = np.array(points.x), np.array(points.y)
    known = np.isfinite(points.x_error)
    lines = np.array(points.groups or [0] * len(x))
    kinds = [(groups or {}).get(name, "") for name in points.names]
    for k, kind in enumerate(sorted(set(kinds))):  # the same kind has the same colour in every figure
        mine = np.array([name == kind for name in kinds])
        errors: dict[str, Any] = {"xerr": points.x_error, "yerr": points.y_error} if known else {}
        ax.errorbar(
            x[mine], y[mine], **errors, ls="", marker=MARKERS[k % len(MARKERS)], ms=5, color=SERIES[k % len(SERIES)],
            ecolor=GREY, elinewidth=0.9, capsize=1.5, zorder=4, label=kind or None,
        )  # fmt: skip
    if not np.isfinite(slope):
        return
    for group in np.unique(lines):  # parallel lines, where the slope is taken within groups
        u, v = x[lines == group], y[lines == group]
        pad = 0.06 * np.ptp(u)
        grid = np.array([u.min() - pad, u.mean(), u.max() + pad])
        away = grid - u.mean()
        ax.plot(grid, v.mean() + slope * away, color="black", lw=1.4, zorder=3)
        if np.all(np.isfinite(ends)):
            edges = np.stack([v.mean() + end * away for end in ends])
            ax.fill_between(grid, edges.min(axis=0), edges.max(axis=0), color="black", alpha=0.10, lw=0, zorder=1)
