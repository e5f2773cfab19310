"""What all figures share: frames, ticks of counts on a log axis, floors with labels that do not overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR = "#6B6B6B"
LABEL_GAP = 0.055  # of the axes' height: the least distance between two labels of floors


def short_count(value: float) -> str:
    """1000 -> 1k, 2.5e6 -> 2.5M; small numbers as they are."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def count_ticks(ax: Axes) -> None:
    """Label a log x axis with short counts: each decade, and 2 and 5 between where there are few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    decades = np.log10(high / low)
    short = FuncFormatter(lambda value, _: short_count(value))
    fine = tuple(range(1, 10)) if decades < 0.9 else (1.0, 2.0, 5.0)
    subs = fine if decades < 2.2 else (1.0, 3.0) if decades < 3.5 else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=30))
    ax.xaxis.set_major_formatter(short)
    ax.xaxis.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)), numticks=60))
    ax.xaxis.set_minor_formatter(NullFormatter())


def plain_log_ticks(ax: Axes) -> None:
    """Label a log y axis 0.5, 0.6, ... instead of 5 x 10^-1; within a decade each step, beyond it 1, 2, 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_ylim()
    steps = tuple(range(1, 10)) if high / low < 10 else (1, 2, 5) if high / low < 1000 else (1,)
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=steps, numticks=30))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def frame(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Labels, a faint grid, no box."""
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(True, which="major", color="#E4E4E4", lw=0.7, zorder=0)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def add_floors(ax: Axes, floors: Mapping[str, float]) -> None:
    """Horizontal lines with their names right of the axes, pushed apart where they would overlap."""
    if not floors:
        return
    from matplotlib.transforms import blended_transform_factory

    low, high = ax.get_ylim()
    values = list(floors.values())
    if ax.get_yscale() == "log":
        positive = [value for value in values if value > 0]
        ax.set_ylim(min([low, *(value * 0.95 for value in positive)]), max([high, *(v * 1.05 for v in positive)]))
    else:
        margin = 0.04 * (max(high, *values) - min(low, *values))
        bottom = low if min(values) > low else min(values) - margin
        ax.set_ylim(bottom, high if max(values) < high else max(values) + margin)
    names = sorted(floors, key=lambda name: floors[name])
    at = [_height(ax, floors[name]) for name in names]
    for name, line, label in zip(names, at, spread_out(at, LABEL_GAP), strict=True):
        ax.axhline(floors[name], color=FLOOR, lw=1.0, ls=(0, (2, 2)), zorder=2)
        ax.plot(
            [1.0, 1.015, 1.025], [line, label, label], transform=ax.transAxes, color=FLOOR, lw=0.7, clip_on=False,
            scalex=False, scaley=False,
        )  # fmt: skip
        ax.text(
            1.03, label, f"{name} {floors[name]:.3g}", transform=blended_transform_factory(ax.transAxes, ax.transAxes),
            va="center", ha="left", fontsize=8, color="#404040",
        )  # fmt: skip


def _height(ax: Axes, value: float) -> float:
    """Height of a value as a share of the axes."""
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        return float(np.log(value / low) / np.log(high / low)) if value > 0 else 0.0
    return float((value - low) / (high - low))


def spread_out(at: list[float], gap: float) -> list[float]:
    """Move sorted heights as little as needed so that neighbours are `gap` apart; touching labels stay centred."""
    pools = [[height, 1] for height in at]  # centre and number of labels of each pool
    k = 0
    while k + 1 < len(pools):
        lower, upper = pools[k], pools[k + 1]
        if upper[0] - lower[0] >= gap * (lower[1] + upper[1]) / 2:
            k += 1
            continue
        count = lower[1] + upper[1]
        pools[k : k + 2] = [[(lower[0] * lower[1] + upper[0] * upper[1]) / count, count]]
        k = max(k - 1, 0)
    placed = []
    for centre, count in pools:
        placed += [centre + gap * (j - (count - 1) / 2) for j in range(int(count))]
    return placed
