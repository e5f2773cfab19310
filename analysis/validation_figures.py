"""Figures of validation: how wrong a law was about scales that it had not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.axes import count_ticks, frame
from analysis.figures import BLUE, GREY, ORANGE, VERMILLION, new_figure
from analysis.words import with_unit

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from analysis.fitted import Fit

NAMES = {
    "error": ("law", BLUE, "o"),
    "error_log_line": ("line in log x", ORANGE, "s"),
    "error_last_value": ("last value", GREY, "^"),
}


def joint_figure(fit: Fit, title: str | None = None) -> Figure:
    """A law over several axes: fitted against measured, then what is left over along each axis; held-out runs apart."""
    points = fit.points
    fitted = fit.predict(points.x)
    logs = fit.form.residuals == "log"
    left = 100 * np.log(points.y / fitted) if logs else points.y - fitted
    figure = new_figure(3.3 * (1 + len(fit.x)), 3.6)
    first, *others = figure.subplots(1, 1 + len(fit.x))
    for mask, colour, label in ((points.used, BLUE, "fitted"), (points.held, VERMILLION, "held out")):
        if not mask.any():
            continue
        style = {"ls": "", "marker": "o", "ms": 3.5, "color": colour, "alpha": 0.7, "label": label}
        first.plot(fitted[mask], points.y[mask], **style)
        for axis, values in zip(others, points.x, strict=True):
            axis.plot(values[mask], left[mask], **style)
    ends = [min(fitted.min(), points.y.min()), max(fitted.max(), points.y.max())]
    first.plot(ends, ends, color="black", lw=1.0, ls=(0, (4, 2)), zorder=1)
    frame(first, f"{fit.y_label}, by the law", f"{fit.y_label}, measured")
    first.legend(fontsize=8, frameon=False, loc="best")
    for k, (axis, name) in enumerate(zip(others, fit.x, strict=True)):
        axis.axhline(0.0, color="black", lw=0.8, zorder=1)
        axis.set_xscale("log")
        count_ticks(axis)
        left_over = f"measured over the law, {'%' if logs else fit.y}"
        frame(axis, with_unit(fit, name), left_over if k == 0 else "")
    figure.suptitle(title or f"{fit.law}: {fit.form.formula}", fontsize=10, x=0.01, ha="left")
    return figure


def rolling_figure(left: pl.DataFrame, title: str | None = None) -> Figure:
    """Size of the relative error against the factor of extrapolation; every cut a marker, the median of an octave on the line.

    left: what `leave_largest_out` gave, with ahead="all".
    """
    figure = new_figure(6.0, 4.2)
    ax = figure.add_subplot()
    factor = left["factor"].to_numpy()
    octave = np.round(np.log2(factor))
    grid = np.array([float(np.median(factor[octave == value])) for value in np.unique(octave)])
    for column, (label, colour, marker) in NAMES.items():
        size = 100 * np.abs(left[column].to_numpy())
        ax.plot(factor, size, ls="", marker=marker, ms=4, color=colour, alpha=0.6, zorder=3)
        middle = [float(np.median(size[octave == value])) for value in np.unique(octave)]
        ax.plot(grid, middle, color=colour, lw=1.5, marker=marker, ms=5, label=label, zorder=4)
    ax.set_xscale("log")
    ticks = grid if len(grid) <= 8 else np.geomspace(grid[0], grid[-1], 6)
    ax.set_xticks(ticks, [f"{value:.0f}x" if value >= 10 else f"{value:.2g}x" for value in ticks])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    frame(ax, "beyond the largest x fitted", "error of the mean, %")
    ax.legend(fontsize=8, frameon=False, loc="best")
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    return figure
