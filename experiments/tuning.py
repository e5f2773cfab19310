"""The learning-rate axis of grids: which points get it, and which rate is fitted there."""

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import polars as pl

Point = TypeVar("Point", int, float)


def tune(
    points: Iterable[Point], *, seeds: Iterable[int], axis: Iterable[float], at: Collection[Point]
) -> list[tuple[Point, int, float]]:
    """The points of a grid as (point, seed, multiplier of the recipe's rate), sorted: all at 1, those of `at` along the axis.

    A slope over untuned runs is void: the axis belongs at both ends of a grid at least. `choose_rates` reads it.
    """
    seeds, axis = tuple(seeds), tuple(axis)
    multipliers = {point: sorted({1.0, *axis}) if point in at else [1.0] for point in points}
    return sorted((point, seed, lr) for point, rates in multipliers.items() for lr in rates for seed in seeds)


def choose_rates(results: "pl.DataFrame", axis: str, search: str) -> tuple["pl.DataFrame", list[str], list[str]]:
    """At each point of the axis the learning rate with the least valid entropy, mean over seeds; test takes no part.

    Entropy, not recall: over a few hundred queries the recalls of two rates often differ by less than one query.

    Returns:
        (the rows at the chosen rates, with `lr_checked` and `lr_at_edge` for the fit's checklist, sentences, weak points).
    """
    import polars as pl

    valid = f"valid_{search}_entropy"
    kept, said, edges, unchecked = [], [], [], []
    for point in results[axis].unique().sort():
        at = results.filter(pl.col(axis) == point)
        seeds = at.filter(pl.col("lr") == 1.0)["seed"].to_list()
        measured = at.filter(pl.col("seed").is_in(seeds)).drop_nulls(valid)
        full = measured.group_by("lr").agg(pl.col(valid).mean(), n=pl.len())
        rates = dict(full.filter(pl.col("n") == len(seeds)).sort("lr").select("lr", valid).iter_rows())
        if not rates:  # nothing at the recipe's own rate has finished here
            continue
        best = min(rates, key=lambda lr: rates[lr])
        checked = len(rates) > 1
        edge = checked and best in (min(rates), max(rates))
        chosen = at.filter((pl.col("lr") == best) & pl.col("seed").is_in(seeds))
        kept.append(chosen.with_columns(lr_checked=pl.lit(checked), lr_at_edge=pl.lit(edge)))
        if not checked:
            unchecked.append(f"{point:,.0f}")
            continue
        if edge:
            edges.append(f"{point:,.0f}")
        seen = ", ".join(f"x{lr:.2g} {entropy:.3f}" for lr, entropy in rates.items())
        optimum = vertex(rates)
        between = "" if math.isnan(optimum) else f" (a parabola in the log of the rate has its least at x{optimum:.2g})"
        said.append(f"Learning rate at {point:,.0f} {axis}, {valid}: {seen}; x{best:.2g} chosen{between}.")
    weak = []
    if edges:
        weak.append(
            f"learning rate: at {axis} {', '.join(edges)} the best lies at the edge of the axis, perhaps beyond it"
        )
    if unchecked and said:
        weak.append(f"learning rate: x1 is used unchecked at {axis} {', '.join(unchecked)}")
    return pl.concat(kept) if kept else results.clear(), said, weak


def vertex(losses: dict[float, float]) -> float:
    """Where a parabola in log rate through the best rate and its two neighbours has its least; nan at an edge of the axis."""
    rates = sorted(losses)
    at = rates.index(min(losses, key=lambda rate: losses[rate]))
    if not 0 < at < len(rates) - 1:
        return math.nan
    (a, b, c), (fa, fb, fc) = zip(*((math.log(r), losses[r]) for r in rates[at - 1 : at + 2]), strict=True)
    below = (b - a) * (fb - fc) - (b - c) * (fb - fa)
    above = (b - a) ** 2 * (fb - fc) - (b - c) ** 2 * (fb - fa)
    return math.exp(b - above / (2 * below)) if below else math.nan
