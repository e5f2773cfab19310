"""Figures of validation: how wrong a law was about scales that it had not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.axes import frame
from analysis.figures import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

NAMES = {
    "error": ("law", BLUE, "o"),
    "error_log_line": ("line in log x", ORANGE, "s"),
    "error_last_value": ("last value", GREY, "^"),
}


def rolling_figure(left: pl.DataFrame, title: str | None = None) -> Figure:
    """Size of the relative error against the factor of extrapolation; every cut a marker, the median at a factor a line.

    left: what `leave_largest_out` gave, with ahead="all".
    """
    figure = new_figure(6.0, 4.2)
    ax = figure.add_subplot()
    factor = left["factor"].to_numpy()
    grid = np.unique(factor.round(6))
    for column, (label, colour, marker) in NAMES.items():
        size = 100 * np.abs(left[column].to_numpy())
        ax.plot(factor, size, ls="", marker=marker, ms=4, color=colour, alpha=0.6, zorder=3)
        middle = [float(np.median(size[np.isclose(factor, value, rtol=1e-3)])) for value in grid]
        ax.plot(grid, middle, color=colour, lw=1.5, marker=marker, ms=5, label=label, zorder=4)
    ax.set_xscale("log")
    ticks = grid if len(grid) <= 8 else np.geomspace(grid[0], grid[-1], 6)
    ax.set_xticks(ticks, [f"{value:.3g}x" for value in ticks])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    frame(ax, "beyond the largest x fitted", "error of the mean, %")
    ax.legend(fontsize=8, frameon=False, loc="best")
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    return figure
