"""Figures of a planted world: what is in it, and what is known of it."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figures import BLUE, GREEN, GREY, MARKERS, ORANGE, SERIES, VERMILLION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray
_SMALL = 8


def products_figure(products: Sequence[Mapping[str, Any]]) -> "Figure":
    """One row a product: its `variants` (photo, title), its `photos` by users, and its text `queries` in words."""
    variants, photos = len(products[0]["variants"]), max(len(product["photos"]) for product in products)
    figure = new_figure(9.6, 1.72 * len(products) + 0.2)
    widths = [1.3] * variants + [1] * photos + [2]
    axes = figure.subplots(len(products), len(widths), squeeze=False, width_ratios=widths)
    for row, product in enumerate(products):
        for ax in axes[row]:
            ax.axis("off")
        for column, (photo, title) in enumerate(product["variants"]):
            _picture(axes[row, column], photo)
            axes[row, column].set_title(fill(title, 21), fontsize=9, y=-0.08, va="top")
        for column, photo in enumerate(product["photos"], variants):
            _picture(axes[row, column], photo)
        told = "\n".join(f"“{text}”" for text in product["queries"])
        axes[row, -1].text(0, 0.5, told, fontsize=9, linespacing=1.6, va="center", transform=axes[row, -1].transAxes)
    heads = {0: "catalogue: variants", variants: "searched by photo", variants + photos: "searched by text"}
    for column, head in heads.items():
        axes[0, column].text(0, 1.12, head, fontsize=9, color=GREY, transform=axes[0, column].transAxes)
    return figure


def history_figure(shown: Array, events: Sequence[Array | None], matches: Array, weights: Array) -> "Figure":
    """The item shown, and the last events before it, newest first, 16 a row; what matches is framed, with its weight.

    `events` holds photos, None for a search; `matches` and `weights` are by lag.
    """
    rows = -(-len(events) // 16)
    figure = new_figure(9.6, 0.66 * rows + 0.5)
    panels: Any = figure.subfigures(1, 2, width_ratios=[1, 6.4])
    left, right = panels
    ax = left.subplots()
    _picture(ax, shown)
    ax.set_title("shown", fontsize=9, color=GREY)
    axes = right.subplots(rows, 16, squeeze=False, gridspec_kw={"hspace": 0.1, "wspace": 0.05})
    for lag, ax in enumerate(axes.flat):
        ax.set_xticks([])
        ax.set_yticks([])
        if lag >= len(events):
            ax.axis("off")
            continue
        match = bool(matches[lag])
        for spine in ax.spines.values():
            spine.set(color=VERMILLION if match else "none", linewidth=2.5)
        if (photo := events[lag]) is None:
            ax.set_box_aspect(1)
            ax.text(0.5, 0.5, "search", fontsize=6, color=GREY, ha="center", va="center", transform=ax.transAxes)
        else:
            ax.imshow(photo, interpolation="nearest", alpha=1.0 if match else 0.5)
        if match:
            ax.set_title(f"+{weights[lag]}", fontsize=_SMALL, color=VERMILLION, pad=1)
        if lag % 16 == 0:
            ax.set_ylabel(f"{lag + 1}", fontsize=_SMALL, color=GREY, rotation=0, ha="right", va="center")
    right.supylabel("lag of the first in the row", fontsize=_SMALL, color=GREY)
    return figure


def weights_figure(weights: Array) -> "Figure":
    """What the event at each lag adds to s."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(6.8, 2.9)
    ax = figure.subplots()
    ax.bar(np.arange(1, len(weights) + 1), weights, width=0.9, color=BLUE)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="lag: the l-th last event", ylabel="weight")
    return _plain(ax)


def bayes_figure(curves: Mapping[str, Mapping[str, float]], label: str) -> "Figure":
    """The best possible value at each history length L, one line a slice."""
    figure = new_figure(6.8, 3.9)
    ax = figure.subplots()
    lengths = list(next(iter(curves.values())))
    for (name, curve), colour, marker in zip(curves.items(), SERIES, MARKERS, strict=False):
        ax.plot(range(len(lengths)), [curve[length] for length in lengths], color=colour, marker=marker, label=name)
    ax.set_xticks(range(len(lengths)), lengths)
    ax.set(xlabel="L, events of history that are seen", ylabel=label)
    if len(curves) > 1:
        ax.legend(frameon=False)
    return _plain(ax)


def positions_figure(examination: Array, rate: Array, error: Array) -> "Figure":
    """Click rate by position, over that of the first, beside the planted examination probability."""
    figure = new_figure(6.8, 3.4)
    ax = figure.subplots()
    places = np.arange(1, len(examination) + 1)
    ax.plot(places, examination, color=BLUE, label="planted probability of examination")
    ax.errorbar(
        places, rate, 1.96 * error, fmt="o", color=VERMILLION, capsize=3, label="clicks as logged, 95 % interval"
    )
    ax.set(xlabel="position on the page", ylabel="relative to position 1", ylim=(0, None), xticks=places)
    ax.legend(frameon=False)
    return _plain(ax)


def frequencies_figure(observed: Mapping[str, Array], planted: Mapping[str, Array], exponent: float) -> "Figure":
    """Share of products with each value of each attribute, by planted rank, on the planted Zipf lines."""
    figure = new_figure(6.8, 4.1)
    ax = figure.subplots()
    for (name, share), colour, marker in zip(observed.items(), SERIES, MARKERS, strict=False):
        order = np.argsort(-planted[name])
        ranks = np.arange(1, len(order) + 1)
        ax.plot(ranks, planted[name][order], color=colour, linewidth=1)
        seen = share[order] > 0
        ax.plot(ranks[seen], share[order][seen], marker, color=colour, markersize=4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="rank of the value", ylabel="share of products")
    ax.set_title(f"lines: planted, rank^-{exponent:g}", fontsize=9, color=GREY, loc="right")
    ax.legend(frameon=False)
    return _plain(ax)


def funnel_figure(counts: Mapping[str, int]) -> "Figure":
    """How many went how far."""
    figure = new_figure(6.8, 2.1)
    ax = figure.subplots()
    names, values = list(counts), list(counts.values())
    ax.barh(names, values, color=[GREY, BLUE, ORANGE, GREEN][-len(names) :])
    for row, value in enumerate(values):
        ax.text(value, row, f" {value:,}", va="center", fontsize=9)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    return _plain(ax)


def arrivals_figure(days: Array, items: Array, impressions: Array) -> "Figure":
    """Share of items that have arrived, and of the impressions of each day that show one of them."""
    figure = new_figure(6.8, 3.2)
    ax = figure.subplots()
    ax.plot(days, items, color=BLUE, label="new items, share of the catalogue so far")
    ax.plot(days, impressions, color=VERMILLION, marker="o", markersize=4, label="share of the day's impressions")
    ax.set(xlabel="days since the log began", ylim=(0, None))
    ax.legend(frameon=False)
    return _plain(ax)


def coverage_figure(samples: Array, unseen: Array, law: tuple[Array, Array] | None) -> "Figure":
    """The probability of looks not seen yet after n samples, and the power law where it holds."""
    figure = new_figure(6.8, 3.6)
    ax = figure.subplots()
    ax.plot(samples, unseen, color=BLUE, label="error of the learner that remembers looks, exact")
    if law is not None:
        ax.plot(*law, color=VERMILLION, linestyle="--", linewidth=2, label="its power law, where it holds")
    ax.set(xscale="log", yscale="log", xlabel="n, products seen", ylabel="probability of a look not seen")
    ax.set_ylim(max(float(unseen.min()), 1e-4), 1.3)
    ax.legend(frameon=False)
    return _plain(ax)


def _picture(ax: "Axes", photo: Array) -> None:
    ax.imshow(photo, interpolation="nearest")
    ax.axis("off")


def _plain(ax: "Axes") -> "Figure":
    ax.spines[["top", "right"]].set_visible(False)
    return ax.figure  # type: ignore[return-value]
