"""Sentences and checks that the questions share."""

import math
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import polars as pl

SEARCHES = ("image", "text", "item")
Transform = Literal["identity", "error"]


def primary_search(results: "pl.DataFrame") -> str:
    """The first search kind that the results measure."""
    return next(search for search in SEARCHES if f"{search}_recall@10" in results.columns)


def measured(search: str) -> "tuple[tuple[str, Transform], ...]":
    """The metrics of a search that laws are fitted to, and how: recall to its ceiling, and the smoother entropy."""
    return (f"{search}_recall@10", "error"), (f"{search}_entropy", "identity")


def number(value: Any) -> float:
    """A polars aggregate as a float; nan where there was nothing to aggregate."""
    return math.nan if value is None else float(value)


def law_sentence(fit: Any, metric: str) -> str:
    """The fitted law in a sentence, every parameter with its 95 % interval."""
    ends = fit.intervals(0.95)
    parts = [f"{name} = {value:.4g} [{ends[name][0]:.3g}, {ends[name][1]:.3g}]" for name, value in fit.params.items()]
    what = f"1 - {metric}" if fit.transform == "error" else metric
    return f"{what} follows {fit.form.formula}: {', '.join(parts)} ({fit.clusters} runs, 95 % intervals)."


def holdout_sentence(fit: Any, metric: str) -> str:
    """Whether the held-out largest point lies in its prediction interval."""
    held = fit.holdout
    if not held:
        return f"{metric}: nothing was held out."
    first, seen = held["rows"][0], ", ".join(f"{row['observed']:.4f}" for row in held["rows"])
    what = f"1 - {metric}" if fit.transform == "error" else metric
    start = f"{what} held out at the largest {fit.x[0]} ({held['x']:.3g}, {held['factor']:.2g} x beyond the fit)"
    if held["within"] is None:
        return f"{start}: predicted {first['predicted']:.4f}, observed {seen}; no interval can be given."
    verdict = "all within" if held["all_within"] else f"only {held['within']} of {held['of']} within: not foretold"
    interval = f"[{first['low']:.4f}, {first['high']:.4f}]"
    return f"{start}: predicted {first['predicted']:.4f} {interval}, observed {seen}; {verdict}."


def about_learning_rate(results: "pl.DataFrame", axis: str, search: str) -> tuple[list[str], list[str], list[int]]:
    """Which rate the lr axis chooses at both ends, by the recall of the valid split and the first seed.

    The recipe's rate (x1) is kept unless another one is better by two standard errors of a difference.

    Returns:
        (a sentence for each end, weak points, the ends whose better rate is the axis's edge).
    """
    import polars as pl

    chosen, weak, edges = [], [], []
    valid = f"valid_{search}_recall@10"
    done = results.filter(pl.col("status") == "done")
    for end, name in ((number(done[axis].min()), "smallest"), (number(done[axis].max()), "largest")):
        at = done.filter((pl.col(axis) == end) & (pl.col("seed") == done["seed"].min())).sort("lr")
        rates = dict(zip(at["lr"], at[valid], strict=True))
        if len(rates) < 2 or 1.0 not in rates:
            continue
        error = math.sqrt(
            sum(r * (1 - r) for r in (rates[1.0], max(rates.values()))) / at[f"valid_{search}_queries"][0]
        )
        best = max(rates, key=lambda lr: rates[lr])
        seen = ", ".join(f"x{lr:.2g} {recall:.4f}" for lr, recall in rates.items())
        kept = rates[best] - rates[1.0] <= 2 * error
        chosen.append(
            f"Learning rate at the {name} {axis} ({end:,.0f}), {valid}: {seen} (SE of a difference {error:.4f}): "
            + ("x1 stands." if kept else f"x{best:.2g} would be better.")
        )
        if kept:
            continue
        weak.append(
            f"the fit uses learning rate x1 where x{best:.2g} is better at the {name} {axis}: the slope carries it"
        )
        if best in (min(rates), max(rates)):
            edges.append(int(end))
    return chosen, weak, edges


def floors_of(results: "pl.DataFrame", metric: str) -> dict[str, float]:
    """Chance, pixels, pixels + colour and the untrained encoder, where they were measured."""
    import polars as pl

    out = {}
    for prefix, name in (("chance", "chance"), ("pixel", "pixels"), ("pixel_colour", "pixels + colour")):
        column = f"{prefix}_{metric}"
        if column in results.columns and results[column].drop_nulls().len():
            out[name] = float(results[column].drop_nulls()[0])
    if "budget" in results.columns:
        untrained = results.filter((pl.col("budget") == 0) & (pl.col("status") == "done"))
        if untrained.height:
            out["untrained"] = number(untrained[metric].mean())
    return out


def clears(results: "pl.DataFrame", search: str) -> list[str]:
    """How far the largest budget stands above the untrained encoder, and on which side of the pixel floors.

    Against pixels the same queries are compared (paired); against the untrained encoder and chance they are not, which
    makes the standard error too large if anything.
    """
    import polars as pl

    metric = f"{search}_hit@10"
    done = results.filter((pl.col("status") == "done") & (pl.col("lr") == 1.0))
    largest = done.filter(pl.col("budget") == done["budget"].max())
    queries = int(largest[f"{search}_queries"][0])
    best = number(largest[metric].mean())
    out = []
    for name, floor in floors_of(done, metric).items():
        column = {"pixels": "hit_over_pixel", "pixels + colour": "hit_over_pixel_colour"}.get(name)
        error = math.sqrt((best * (1 - best) + floor * (1 - floor)) / queries)
        if column in largest.columns:
            error = number(largest[f"{column}_se"].mean())  # seeds share the queries: their mean has no smaller error
        side = "above" if best > floor else "below"
        distance = abs(best - floor) / max(error, 1e-12)
        out.append(
            f"{metric} at the largest budget, {best:.3f}, stands {side} {name} ({floor:.3f}) by {distance:.1f} SE."
        )
    if gallery := largest["gallery"][0]:
        out.append(f"{queries} queries, gallery of {gallery:,} items; chance and SE are for one draw of queries.")
    return out


def throughput_sentence(results: "pl.DataFrame", stage: str, unit: str) -> str:
    """Median throughput of a worker, its share of the matmul peak that the same worker measured, and its memory."""
    rate, share = (
        number(results[f"{stage}_{name}"].median()) for name in (f"{unit}_per_second", "share_of_matmul_peak")
    )
    memory = number(results["peak_memory"].max()) / 2**30
    return (
        f"Throughput: {rate:,.0f} {unit}/s a worker (median), {share:.0%} of its own measured float32 matmul peak; a "
        f"worker held at most {memory:.2f} GiB, mapped files included."
    )
