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


def about_learning_rate(results: "pl.DataFrame", axis: str, valid: str) -> tuple[list[str], list[int]]:
    """What the lr axis says at both ends, judged on the valid split.

    Returns:
        A sentence for each end where another rate is better, and the ends whose best rate is the axis's edge.
    """
    import polars as pl

    out, edges = [], []
    done = results.filter(pl.col("status") == "done")
    for end, name in ((number(done[axis].min()), "smallest"), (number(done[axis].max()), "largest")):
        at = done.filter((pl.col(axis) == end) & (pl.col("seed") == done["seed"].min()))
        if at["lr"].n_unique() < 2:
            continue
        best = at.sort(valid, descending=True).row(0, named=True)
        lrs = sorted(at["lr"].to_list())
        fitted = at.filter(pl.col("lr") == 1.0)[valid]
        if fitted.is_empty() or best[valid] <= fitted[0]:
            continue
        base = fitted[0]
        edge = ""
        if best["lr"] in (lrs[0], lrs[-1]):
            edge = " (the edge of the axis: the best may lie beyond)"
            edges.append(int(end))
        out.append(
            f"Learning rate at the {name} {axis} ({end:,.0f}): {valid} prefers x{best['lr']:.2g}{edge}, {best[valid]:.4f} "
            f"against {base:.4f} at the rate that the fit uses; the slope carries this."
        )
    return out, edges


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
    """How far the largest budget stands above the untrained encoder, and on which side of the pixel floors."""
    import polars as pl

    metric = f"{search}_hit@10"
    done = results.filter((pl.col("status") == "done") & (pl.col("lr") == 1.0))
    largest = done.filter(pl.col("budget") == done["budget"].max())
    queries = int(largest[f"{search}_queries"][0])
    best = number(largest[metric].mean())
    floors = floors_of(done, metric)
    out = []
    for name, floor in floors.items():
        error = math.sqrt((best * (1 - best) + floor * (1 - floor)) / queries)
        side = "above" if best > floor else "below"
        distance = abs(best - floor) / max(error, 1e-12)
        out.append(
            f"{metric} at the largest budget, {best:.3f}, stands {side} {name} ({floor:.3f}) by {distance:.1f} SE."
        )
    if gallery := largest["gallery"][0]:
        out.append(f"{queries} queries, gallery of {gallery:,} items; chance and SE are for one draw of queries.")
    return out


def throughput_sentence(results: "pl.DataFrame", stage: str, unit: str) -> str:
    """Median throughput of a worker and its share of the matmul peak that the same worker measured."""
    rate, share = (
        number(results[f"{stage}_{name}"].median()) for name in (f"{unit}_per_second", "share_of_matmul_peak")
    )
    return f"Throughput: {rate:,.0f} {unit}/s a worker (median), {share:.0%} of its own measured float32 matmul peak."
