"""Sentences and checks that the questions share."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import polars as pl

SEARCHES = ("image", "text", "item", "mixed")
Transform = Literal["identity", "error"]
FLAT = 5e-4  # of a slope in logs: the parameters of a law without one say nothing


def primary_search(results: "pl.DataFrame") -> str:
    """The first search kind that the results measure."""
    return next(search for search in SEARCHES if f"{search}_recall@10" in results.columns)


def measured(search: str) -> "tuple[tuple[str, Transform], ...]":
    """The metrics of a search that laws are fitted to, and how: those with the ceiling 1, and the smoother entropy."""
    return (f"{search}_recall@10", "error"), (f"{search}_hit@10", "error"), (f"{search}_entropy", "identity")


def part_of(results: "pl.DataFrame", part: str) -> "pl.DataFrame":
    """The finished rows of a part of a question, with the columns that they have; without trials of learning rates."""
    import polars as pl

    rows = results.filter((pl.col("part") == part) & (pl.col("status") == "done"))
    if "trial" in rows.columns:
        rows = rows.filter(pl.col("trial").fill_null("") == "")
    return (
        rows.select([name for name in rows.columns if rows[name].null_count() < rows.height]) if rows.height else rows
    )


def on_all_points(fit: Any) -> Any:
    """The same one-axis law fitted to all its points, once what was held out of it has judged it."""
    import polars as pl

    import analysis

    y = fit.points.y if fit.transform == "identity" else 1 - fit.points.y
    table = pl.DataFrame({fit.x[0]: fit.points.x[0], fit.y: y, "cluster": fit.points.cluster})
    return analysis.fit(table, x=fit.x[0], y=fit.y, transform=fit.transform, law=fit.law, cluster="cluster")


def number(value: Any) -> float:
    """A polars aggregate as a float; nan where there was nothing to aggregate."""
    return math.nan if value is None else float(value)


def law_sentence(fit: Any, metric: str) -> str:
    """The fitted law in a sentence: its slope at the largest point fitted, every parameter with its 95 % interval.

    Where the floor may as well be none the parameters have no interval; the slope has.
    """
    what = f"1 - {metric}" if fit.transform == "error" else metric
    x = float(fit.points.x[0, fit.points.used].max())
    slope, low, high = (float(part) for part in fit.slope(x))
    told = f"d log y / d log {fit.x[0]} at {x:,.4g} = {slope:+.3f} [{low:+.3f}, {high:+.3f}]"
    if max(abs(low), abs(high)) < FLAT:
        return f"{what} is flat, so that no power law is to be told: {told} ({fit.clusters} runs)."
    ends = fit.intervals(0.95)
    parts = [f"{name} = {value:.4g} [{ends[name][0]:.3g}, {ends[name][1]:.3g}]" for name, value in fit.params.items()]
    if any(math.isnan(low) for low, _ in ends.values()):
        parts = [f"{name} = {value:.4g}" for name, value in fit.params.items()]
        parts[-1] += " without interval (the floor is not told from none)"
    return f"{what} follows {fit.form.formula}: {told}; {', '.join(parts)} ({fit.clusters} runs, 95 % intervals)."


def rise_sentence(runs: "pl.DataFrame", fit: Any, metric: str, axis: str, what: str) -> str:
    """The plain answer: what the metric was at the smallest and at the largest point (means), and the slope of its law.

    axis: the column of the points asked for; what: its unit in words.
    """
    import polars as pl

    means = runs.group_by(axis).agg(pl.col(metric).mean()).sort(axis)
    (first, low), (last, high) = means.row(0), means.row(-1)
    x = float(fit.points.x[0, fit.points.used].max())
    slope, below, above = (float(part) for part in fit.slope(x))
    way = "rises" if high > low else "falls"
    seen = "" if below > 0 or above < 0 else "; the interval includes 0, so no slope is seen"
    of = f"1 - {metric}" if fit.transform == "error" else metric
    return (
        f"{metric} {way} from {low:.3f} at {first:,.0f} to {high:.3f} at {last:,.0f} {what}; the slope of {of} in logs is "
        f"{slope:+.3f} [{below:+.3f}, {above:+.3f}]{seen}."
    )


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

    results: the rows at the chosen rates, and the untrained ones.
    Against pixels the same queries are compared (paired); against the untrained encoder and chance they are not, which
    makes the standard error too large if anything.
    """
    import polars as pl

    metric = f"{search}_hit@10"
    done = results.filter(pl.col("status") == "done")
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
    """Median throughput of a worker, its share of the matmul peak (measured by itself, or published), the share of its time
    that it waited for data, and its memory."""
    rate, share = (
        number(results[f"{stage}_{name}"].median()) for name in (f"{unit}_per_second", "share_of_matmul_peak")
    )
    peak = "own measured" if set(results[f"{stage}_peak"].drop_nulls()) == {"measured"} else "devices' published"
    waited = number(results["data_wait_share"].median())
    memory = number(results["peak_memory"].max()) / 2**30
    return (
        f"Throughput: {rate:,.0f} {unit}/s a worker (median), {share:.0%} of its {peak} matmul peak; it "
        f"waited {waited:.1%} of the time for data; a worker held at most {memory:.2f} GiB, mapped files included."
    )


def paired_interval(part: "pl.DataFrame", name: str, units: str = "image_queries") -> tuple[float, float, float]:
    """(mean, low, high) of a metric over seeds (a row each, with `_se` over queries, whose number is the column `units`), 95 %.

    The variance of a mean gain is that over queries (the mean of the seeds' own, for they share the queries) plus that of
    seeds; degrees of freedom after Welch and Satterthwaite. With one seed there is no interval.
    """
    from scipy.stats import t

    gain_S, error_S = part[name].to_numpy(), part[f"{name}_se"].to_numpy()
    seeds, queries = gain_S.size, int(part[units][0])
    of_queries = float(np.mean(error_S) ** 2)
    of_seeds = float(np.var(gain_S, ddof=1) / seeds) if seeds > 1 else math.nan
    variance = of_queries + of_seeds
    parts = of_queries**2 / (queries - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else math.nan)
    half = t.ppf(0.975, variance**2 / parts) * math.sqrt(variance) if variance > 0 else variance
    gain = float(gain_S.mean())
    return gain, gain - half, gain + half


def verdict_of(low: float, high: float) -> str:
    """What the interval of a gain says."""
    return "better" if low > 0 else "worse" if high < 0 else "no difference seen"


def by_verdict(gains: "pl.DataFrame", said: Callable[[str, "pl.DataFrame"], str]) -> list[str]:
    """A sentence for each verdict that occurs, in the same order of rows: `said("Better", its rows)`."""
    import polars as pl

    parts = {name: gains.filter(pl.col("verdict") == name) for name in ("better", "worse", "no difference seen")}
    return [said(name.capitalize(), rows) for name, rows in parts.items() if rows.height]
