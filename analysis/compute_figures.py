"""Figures of compute: isoFLOP valleys, two-step predictions, what more compute brings, where a budget goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.axes import count_ticks, frame
from analysis.figures import BLUE, GREY, VERMILLION, draw_fit, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.allocation import Allocation
    from analysis.isoflop import IsoFlop
    from analysis.marginal import MarginalTable
    from analysis.two_step import TwoStep


def isoflop_figure(result: IsoFlop, title: str | None = None) -> Figure:
    """Left: y against x at each budget, with the optimum; right: the optima over the budgets and their power law."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    figure = new_figure(9.6, 4.2)
    valleys, optima = figure.subplots(1, 2)
    budgets = [valley["budget"] for valley in result.points]
    shades = ScalarMappable(LogNorm(min(budgets) / 1.01, max(budgets) * 2), "cividis")  # the palest yellow is not used
    rows = {row["budget"]: row for row in result.rows}
    for valley in result.points:
        shade, row = shades.to_rgba(valley["budget"]), rows[valley["budget"]]
        valleys.plot(valley["x"], valley["y"], color=shade, lw=1.0, marker="o", ms=3, zorder=3)
        if row["edge"] != "outside":
            valleys.plot(row["x"], row["y"], marker="*", ms=11, color=shade, mec="black", mew=0.6, ls="", zorder=5)
    valleys.set_xscale("log")
    count_ticks(valleys)
    valleys.set_ylim(_floor_of_valleys(result))
    frame(valleys, result.x, result.y)
    figure.colorbar(shades, ax=valleys, label=result.budget, pad=0.01)
    _optima(optima, result)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


def _floor_of_valleys(result: IsoFlop) -> tuple[float, float]:
    """Limits of y that show the bottoms: as much above the highest optimum as there is between the optima."""
    bottoms = np.array([row["y"] for row in result.rows if row["edge"] != "outside"])
    lowest = min(min(valley["y"]) for valley in result.points)
    span = max(float(np.ptp(bottoms)), 0.02 * float(bottoms.max()))
    return lowest - 0.08 * span, float(bottoms.max()) + 0.7 * span


def _optima(ax: Axes, result: IsoFlop) -> None:
    kept = [row for row in result.rows if row["edge"] != "outside"]
    budget, best = (np.array([row[name] for row in kept]) for name in ("budget", "x"))
    known = np.array([np.isfinite(row["low"]) for row in kept])
    for row in (row for row, has in zip(kept, known, strict=True) if has):
        ax.plot([row["budget"]] * 2, [row["low"], row["high"]], color=GREY, lw=1.2, zorder=3)
    ended = np.array([row["edge"] == "end" for row in kept])
    ax.plot(budget[~ended], best[~ended], ls="", marker="o", ms=5, color=BLUE, zorder=4, label="optimum of a budget")
    if ended.any():
        ax.plot(
            budget[ended],
            best[ended],
            ls="",
            marker="o",
            ms=5,
            mec=BLUE,
            mfc="white",
            zorder=4,
            label="at an end of its grid",
        )
    grid = np.geomspace(budget.min() / 1.5, budget.max() * 1.5, 50)
    low, high = result.interval
    exponent = f"{result.exponent:.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else "")
    ax.plot(
        grid, result.optimum(grid), color="black", lw=1.4, zorder=2, label=f"{result.x}* ~ {result.budget}^{exponent}"
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    frame(ax, result.budget, f"best {result.x}")
    ax.legend(fontsize=7.5, frameon=False, loc="best")


def two_step_figure(chain: TwoStep, title: str | None = None) -> Figure:
    """Step 1 (where it has one axis), step 2, and the test runs: foretold with interval against measured."""
    panels = (len(chain.first.x) == 1) + 1 + bool(chain.rows)
    figure = new_figure(0.4 + 3.9 * panels, 4.0)
    axes = list(np.atleast_1d(figure.subplots(1, panels)))
    if len(chain.first.x) == 1:
        ax = axes.pop(0)
        draw_fit(ax, chain.first)
        ax.set_title("step 1", fontsize=9, loc="left")
    ax = axes.pop(0)
    draw_fit(ax, chain.second)
    ax.set_title("step 2", fontsize=9, loc="left")
    if axes:
        _foretold(axes[0], chain)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return figure


def _foretold(ax: Axes, chain: TwoStep) -> None:
    columns = {
        name: np.array([row[name] for row in chain.rows])
        for name in ("y", "chained_hat", "low", "high", "one_step_hat")
    }
    measured, known = columns["y"], np.isfinite(columns["low"])
    for k in np.flatnonzero(known):
        ax.plot([measured[k]] * 2, [columns["low"][k], columns["high"][k]], color=GREY, lw=1.2, zorder=2)
    ax.plot(measured, columns["chained_hat"], ls="", marker="o", ms=5, color=BLUE, zorder=4, label="two steps")
    if np.isfinite(columns["one_step_hat"]).any():
        ax.plot(
            measured, columns["one_step_hat"], ls="", marker="s", ms=4.5, color=VERMILLION, zorder=3, label="one step"
        )
    seen = np.concatenate([measured, columns["chained_hat"], columns["low"][known], columns["high"][known]])
    pad = 0.05 * (np.ptp(seen) or abs(seen[0]) or 1.0)
    ends = [seen.min() - pad, seen.max() + pad]
    ax.plot(ends, ends, color="black", lw=1.0, ls=(0, (4, 2)), zorder=1)
    frame(ax, f"{chain.second.y_label}, measured", "foretold")
    ax.set_title("test runs", fontsize=9, loc="left")
    ax.legend(fontsize=7.5, frameon=False, loc="best")


def marginal_figure(table: MarginalTable, title: str | None = None) -> Figure:
    """One row an axis, best at the top: the change of its metric and of the target, with intervals and a zero line."""
    metrics = list(dict.fromkeys(row["metric"] for row in table.rows))
    # The metrics of several laws share no axis: then the target alone is drawn.
    sides = [(f"change of {metrics[0]}", "gain")] if len(metrics) == 1 and metrics != [table.target] else []
    sides.append((f"change of {table.target}", "worth"))
    figure = new_figure(max(6.4, 1.8 + 3.6 * len(sides)), 1.5 + 0.5 * len(table.rows))
    grid = np.atleast_1d(figure.subplots(1, len(sides), sharey=True))
    places = np.arange(len(table.rows))[::-1]
    for ax, (label, name) in zip(grid, sides, strict=True):
        for place, row in zip(places, table.rows, strict=True):
            colour = VERMILLION if row["extrapolation"] > 1 else BLUE
            if np.isfinite(row[f"{name}_low"]):
                ax.plot([row[f"{name}_low"], row[f"{name}_high"]], [place] * 2, color=colour, lw=2.2, zorder=3)
            ax.plot(row[name], place, marker="o", ms=6, color=colour, zorder=4)
        ax.axvline(0.0, color="black", lw=0.8, zorder=1)
        ax.locator_params(axis="x", nbins=4)
        frame(ax, label, "")
    names = [f"{row['axis']} x {row['factor']:.3g} ({row['spent']:+.1%} compute)" for row in table.rows]
    grid[0].set_yticks(places, names)
    grid[0].set_ylim(-0.6, len(places) - 0.4)
    beyond = any(row["extrapolation"] > 1 for row in table.rows)
    note = f"at most {table.share:.0%} more compute, on one axis alone; {table.level:.0%} intervals"
    note += "; orange: beyond the fitted range" if beyond else ""
    figure.suptitle(f"{title}\n{note}" if title else note, fontsize=9.5, x=0.01, ha="left")
    return figure


def allocation_figure(result: Allocation, title: str | None = None) -> Figure:
    """One panel an axis: the fitted range as a bar, where the set-up stands, the optimum with its interval."""
    figure = new_figure(6.8, 1.0 + 0.85 * len(result.rows))
    grid = np.atleast_1d(figure.subplots(len(result.rows), 1))
    for ax, row in zip(grid, result.rows, strict=True):
        low, high = row["fitted_low"], row["fitted_high"]
        ax.plot([low, high], [0, 0], color="#DADADA", lw=9, solid_capstyle="butt", zorder=1, label="fitted range")
        if np.isfinite(row["low"]):
            ax.plot([row["low"], row["high"]], [0, 0], color=BLUE, lw=2.2, zorder=3)
        ax.plot(
            row["x"], 0, marker="o", ms=7, color=BLUE, ls="", zorder=4, label=f"optimum, {result.level:.0%} interval"
        )
        if np.isfinite(row["at"]):
            ax.plot(row["at"], 0, marker="|", ms=14, mew=2, color=VERMILLION, ls="", zorder=5, label="now")
        seen = [value for value in (low, high, row["x"], row["low"], row["high"], row["at"]) if np.isfinite(value)]
        ax.set_xscale("log")
        ax.set_xlim(min(seen) / 1.6, max(seen) * 1.6)
        count_ticks(ax)
        ax.set_yticks([0], [row["axis"]])
        ax.set_ylim(-1, 1)
        frame(ax, "", "")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    note = f"best set-up for a budget of {result.budget:.4g}"
    figure.suptitle(f"{title}\n{note}" if title else note, fontsize=9.5, x=0.01, ha="left")
    return figure
