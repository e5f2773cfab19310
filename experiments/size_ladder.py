"""Does one learning rate serve the whole ladder of sizes, and how does it move with the batch?

Hypothesis: with rates of kernels that shrink as 64 / width (muP), the best learning rate of every size is that of the
smallest, within the width of the valley; with one rate for all parameters it falls with the size. Refuted where the shift of
the best rate from the smallest to the largest size is no nearer to none under the rule. Along the batch, at fixed tokens,
the best rate is expected to rise about as its square root.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from analysis.axes import frame
from analysis.figures import SERIES, new_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import number, primary_search
from experiments.recipes import measured_search, recipe_for
from moon_jax.models.shapes import WIDTHS
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from moon_jax.data.contract import Dataset

RATES: tuple[float, ...] = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
BATCHES: tuple[float, ...] = (0.5, 1, 2, 4)
RULES = {"mup": "rates of kernels x 64 / width", "none": "one rate for all"}


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """size x rule x lr x seed; batch x lr x seed at the smallest size. The smallest is the same under both rules.

    The largest size has one seed: it costs more than all others together.
    """
    data.path("pairs")
    recipe, search, out = recipe_for(preset, data), measured_search(data), []
    smallest = recipe.sizes[0]
    batches = BATCHES[:3] if preset == "smoke" else BATCHES  # as few as have an exponent
    plan = [(size, rule, recipe.batch) for size in recipe.sizes for rule in RULES if size != smallest]
    plan += [(smallest, "mup", int(times * recipe.batch)) for times in batches]
    for lr, seed in itertools.product(RATES, recipe.seeds):
        for size, rule, batch in plan:  # innermost: neighbours share no program, so two workers compile it once
            if size == recipe.sizes[-1] and seed != recipe.seeds[0]:
                continue
            run = steps.posttrain(
                data,
                replace(recipe, size=size, batch=batch),
                forms=(search,),
                tokens=recipe.ladder_tokens,
                seed=seed,
                lr=lr,
                transfer=rule,
            )
            named = {"posttrain": run, "embed": steps.embed(data, recipe, run, (search,), search.item)}
            coordinates = {"size": size, "rule": rule, "batch": batch, "lr": lr, "seed": seed, "run": run.name}
            out.append(Cell({**coordinates, "peak_lr": run.config.peak_lr}, named))
    return out


@dataclass(frozen=True)
class Optimum:
    """The lowest point of a parabola in log2 of the rate, its standard error, and whether it lies within the rates tried."""

    log2_rate: float
    error: float
    inside: bool

    def __str__(self) -> str:
        return f"{2**self.log2_rate:.2g} (x/ {2 ** (1.96 * self.error):.2g})"


def read(results: "pl.DataFrame") -> Reading:
    """The best rate of each size under both rules, its shift, and its exponent in the batch."""
    import polars as pl

    metric = f"valid_{primary_search(results)}_entropy"
    done = results.drop_nulls(metric)
    base = int(number(done.filter(pl.col("rule") == "none")["batch"].min()))
    ladder = done.filter(pl.col("batch") == base)
    sizes = sorted(set(ladder["size"]), key=lambda size: WIDTHS[size])
    if len(sizes) < 2:
        raise QuestionError("size_ladder: no second size has finished yet")
    reading = Reading(answer=[])
    best: dict[tuple[str, str], Optimum] = {}
    for size in sizes:
        for rule in RULES:
            runs = ladder.filter(pl.col("size") == size)
            runs = runs if size == sizes[0] else runs.filter(pl.col("rule") == rule)
            if runs["lr"].n_unique() >= 3:
                best[size, rule] = optimum(runs, metric)
    for rule, told in RULES.items():
        if (sizes[-1], rule) not in best:
            continue
        first, last = best[sizes[0], rule], best[sizes[-1], rule]
        shift, error = last.log2_rate - first.log2_rate, math.hypot(first.error, last.error)
        factor, low, high = (2**x for x in (shift, shift - 1.96 * error, shift + 1.96 * error))
        reading.answer.append(
            f"With {told} the best rate of {sizes[-1]} is {factor:.2g} [{low:.2g}, {high:.2g}] times that of {sizes[0]} "
            f"({WIDTHS[sizes[-1]] // WIDTHS[sizes[0]]} times as wide)."
        )
        seen = ", ".join(f"{size} {best[size, rule]}" for size in sizes if (size, rule) in best)
        reading.notes.append(f"Best peak rate with {told}: {seen}.")
        largest = ladder.filter((pl.col("size") == sizes[-1]) & (pl.col("rule") == rule))
        lowest = number(largest.group_by("lr").agg(pl.col(metric).mean())[metric].min())
        reading.notes.append(f"{metric} of {sizes[-1]} at the best rate tried with {told}: {lowest:.2f} nats.")
        outside = [size for size in sizes if (size, rule) in best and not best[size, rule].inside]
        if outside:
            reading.weak.append(
                f"{told}: the best rate of {', '.join(outside)} lies at the edge of those tried, or beyond"
            )
    batches = done.filter((pl.col("size") == sizes[0]) & (pl.col("rule") == "mup"))
    by_batch = {
        int(batch): optimum(part, metric)
        for (batch,), part in batches.group_by("batch", maintain_order=True)
        if part["lr"].n_unique() >= 3
    }
    by_batch = {batch: best for batch, best in by_batch.items() if math.isfinite(best.error)}
    if len(by_batch) > 2:
        slope, error = exponent(by_batch)
        reading.answer.append(
            f"At fixed tokens the best rate of {sizes[0]} goes as batch^{slope:.2f} [{slope - 1.96 * error:.2f}, "
            f"{slope + 1.96 * error:.2f}] from {min(by_batch)} to {max(by_batch)} pairs."
        )
        reading.figures["batches"] = batches_figure(by_batch, slope)
    recall = metric.removeprefix("valid_").replace("_entropy", "_recall@10")
    gains = []
    for size in sizes:
        of_size = ladder.filter((pl.col("size") == size) & (pl.col("rule") == "mup"))
        chosen = of_size.group_by("lr").agg(pl.col(metric).mean(), pl.col(recall).mean()).sort(metric)
        gains.append(f"{size} {number(chosen[recall][0]):.3f}")
    reading.notes.append(f"{recall} at each size's best rate tried (test split): {', '.join(gains)}.")
    tokens = number(ladder["tokens"].mean())
    reading.notes.append(
        f"{tokens:,.0f} post-training tokens a run, {metric} (lower is better); the best rate is the lowest point of a "
        "parabola in the log of the rate over the best rate tried and its two neighbours on either side, as far as there "
        "are, all seeds; intervals by the delta method."
    )
    reading.weak.append("one budget: the best rate of a size may move with the tokens, too")
    columns = ["size", "rule", "batch", "lr", "seed", "peak_lr", "params", metric, recall, "status"]
    reading.tables["runs"] = results.select([c for c in columns if c in results.columns])
    reading.figures["ladder"] = ladder_figure(ladder, metric, sizes, best)
    return reading


def optimum(runs: "pl.DataFrame", metric: str) -> Optimum:
    """The best rate of these runs; rows of one size, rule and batch."""
    import polars as pl

    means = runs.group_by("peak_lr").agg(pl.col(metric).mean()).sort("peak_lr")
    rates, values = means["peak_lr"].to_numpy(), means[metric].to_numpy()
    lowest = int(np.argmin(values))
    near = rates[max(0, lowest - 2) : lowest + 3]
    if len(near) > 3 and len(near) - lowest < 3:  # the far side of a valley at the edge tells nothing of its floor
        near = rates[max(0, lowest - 1) : lowest + 3]
    kept = runs.filter(pl.col("peak_lr").is_in(near))
    x, y = np.log2(kept["peak_lr"].to_numpy()), kept[metric].to_numpy()
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    (_, b, c), *_ = np.linalg.lstsq(design, y, rcond=None)
    inside = 0 < lowest < len(rates) - 1
    if c <= 0:
        return Optimum(float(np.log2(rates[lowest])), math.inf, False)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    variance = float(residual @ residual) / max(len(y) - 3, 1)
    covariance = variance * np.linalg.inv(design.T @ design)
    slope = np.array([0.0, -1 / (2 * c), b / (2 * c * c)])
    return Optimum(float(-b / (2 * c)), float(np.sqrt(slope @ covariance @ slope)), inside)


def exponent(by_batch: dict[int, Optimum]) -> tuple[float, float]:
    """(slope of log best rate on log batch, its standard error), weighted by the optima's own errors."""
    x = np.log2(list(by_batch))
    y = np.array([best.log2_rate for best in by_batch.values()])
    weight = 1 / np.array([max(best.error, 0.05) ** 2 for best in by_batch.values()])
    centred = x - np.average(x, weights=weight)
    spread = float(weight @ centred**2)
    slope = float(weight @ (centred * y)) / spread
    apart = y - np.average(y, weights=weight) - slope * centred
    scale = max(1.0, float(weight @ apart**2) / max(len(x) - 2, 1))
    return slope, math.sqrt(scale / spread)


def ladder_figure(
    ladder: "pl.DataFrame", metric: str, sizes: list[str], best: dict[tuple[str, str], Optimum]
) -> "Figure":
    """The metric against the rate, a line a size, a panel a rule; the best rates are marked below."""
    import polars as pl

    figure = new_figure(width=8.4, height=4.0)
    axes = figure.subplots(1, len(RULES), sharey=True)
    for ax, (rule, told) in zip(axes, RULES.items(), strict=True):
        for k, size in enumerate(sizes):
            runs = ladder.filter(pl.col("size") == size)
            runs = runs if size == sizes[0] else runs.filter(pl.col("rule") == rule)
            means = runs.group_by("peak_lr").agg(pl.col(metric).mean()).sort("peak_lr")
            ax.plot(means["peak_lr"], means[metric], color=SERIES[k], marker="o", ms=4, label=size)
            if (size, rule) in best and math.isfinite(best[size, rule].error):
                ax.axvline(2 ** best[size, rule].log2_rate, color=SERIES[k], ls=":", lw=1.2)
        ax.set_xscale("log")
        frame(ax, "peak learning rate (log scale)", f"{metric}, nats" if ax is axes[0] else "")
        ax.set_title(told, loc="left", fontsize=10)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def batches_figure(by_batch: dict[int, Optimum], slope: float) -> "Figure":
    """The best rate against the batch, with the fitted power."""
    figure = new_figure(height=3.8)
    ax = figure.add_subplot()
    batches = np.array(list(by_batch))
    rates = np.array([2**best.log2_rate for best in by_batch.values()])
    half = np.array([2 ** (1.96 * min(best.error, 6)) for best in by_batch.values()])
    ax.errorbar(
        batches, rates, yerr=[rates - rates / half, rates * half - rates], color=SERIES[0], marker="o", ls="", capsize=3
    )
    middle = np.exp(np.log(rates).mean() + slope * (np.log(batches) - np.log(batches).mean()))
    ax.plot(batches, middle, color=SERIES[0], lw=1.2, label=f"batch^{slope:.2f}")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(batches, [str(batch) for batch in batches])
    frame(ax, "pairs a step (log scale)", "best peak learning rate (log scale)")
    ax.legend(frameon=False)
    return figure
