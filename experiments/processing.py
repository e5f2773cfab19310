"""What does each processing transformation do to image-search recall?

Hypothesis: at one fixed number of training tokens, each transformation of the training pairs that the paper names
(duplicates out, variants merged, the least similar query of an item kept, categories matched to exposure, texts without
entities out) raises recall@10 of image search by itself. Test queries and gallery are the same for all, so differences are
paired. Refuted, one by one, where the interval of a gain includes 0; an interval below 0 says that it harms. Hard
negatives are left out: the loss cannot be trained on them yet.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from analysis.axes import frame
from analysis.figures import BLUE, GREY, VERMILLION, new_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.recipes import recipe_for, searches_of
from moon_jax.data.processing import (
    EntityFilter,
    ExactImages,
    MatchExposure,
    MergeVariants,
    NearTitles,
    PerceptualImages,
    SimilarityDedup,
    Transformation,
)
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from moon_jax.data.contract import Dataset

SEEDS = (0, 1, 2)
BASELINE = "none"
HIT, RECALL = "image_hit@10", "image_recall@10"


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """transformation (and none) x seed, at the third of the recipe's budgets."""
    recipe = recipe_for(preset, data)
    search = searches_of(data)[0]
    if search.search != "image":
        raise QuestionError(f"{data.folder}: nobody searches by photo here")
    budget = recipe.budgets[2]
    out, baselines = [], {}
    for seed in SEEDS:
        run = steps.posttrain(data, recipe, forms=(search,), tokens=budget, seed=seed)
        baselines[seed] = steps.embed(data, recipe, run, (search,), search.item)
        coordinates = {"transformation": BASELINE, "budget": budget, "seed": seed, "run": run.name}
        out.append(Cell(coordinates, {"posttrain": run, "embed": baselines[seed]}))
    # "The model before" of similarity dedup is one encoder for all seeds, so that they train on the same pairs.
    vectors = steps.represent(data, baselines[SEEDS[0]].needs["posttrain"], (search,), search.item)
    for transformation in transformations_for(data):
        reads = vectors if isinstance(transformation, SimilarityDedup) else None
        processed = steps.process(data, transformation, vectors=reads)
        for seed in SEEDS:
            run = steps.posttrain(data, recipe, forms=(search,), tokens=budget, seed=seed, processed=processed)
            embedded = steps.embed(data, recipe, run, (search,), search.item)
            coordinates = {"transformation": transformation.name, "budget": budget, "seed": seed, "run": run.name}
            named = {"process": processed, "posttrain": run, "embed": embedded}
            named["contrast"] = steps.contrast(embedded, baselines[seed])
            out.append(Cell(coordinates, named))
    return out


def transformations_for(data: "Dataset") -> tuple[Transformation, ...]:
    """Those that have something to work on in this dataset, each as it is by default."""
    import polars as pl

    items = data.read("items", ["product_id", "category", "attributes"])
    described = items.select((pl.col("category").list.len() + pl.col("attributes").list.len()).sum()).item()
    there: list[Transformation] = [ExactImages(), PerceptualImages(), NearTitles()]
    if items["product_id"].n_unique() < items.height:
        there.append(MergeVariants())
    there.append(SimilarityDedup())
    if data.has("impressions"):
        there.append(MatchExposure())
    if described:
        there.append(EntityFilter())
    return tuple(there)


def read(results: "pl.DataFrame") -> Reading:
    """Paired gains over the untouched data with 95 % intervals, null results too."""
    import polars as pl

    gains = gains_of(results)
    if gains.is_empty():
        raise QuestionError("processing: no transformation has finished beside its baseline yet")
    base = results.filter(pl.col("transformation") == BASELINE)
    queries, gallery = int(results["image_queries"][0]), int(results["gallery"][0])
    answer = []
    for verdict, words in (("raises", "raised"), ("lowers", "lowered"), ("no difference seen", "not seen to change")):
        named = [
            _told(*row)
            for row in gains.filter(pl.col("verdict") == verdict)["transformation", "gain", "low", "high"].rows()
        ]
        if named:
            answer.append(f"{RECALL} {words} by {', '.join(named)}.")
    baseline = f"{RECALL} {_mean(base, RECALL):.3f}, {HIT} {_mean(base, HIT):.3f}"
    hits = [_told(*row) for row in gains["transformation", "hit gain", "hit low", "hit high"].rows()]
    notes = [
        f"Without processing: {baseline} (mean of {base.height} seeds), {queries} queries, gallery of {gallery:,} items.",
        "Each transformation alone, in train scope: test queries and gallery are the same, gains are paired over queries "
        "and seeds. Intervals: 95 %, t, from the standard error over queries and the spread of seeds together; each for "
        f"itself: of {gains.height} true nulls {0.05 * gains.height:.1f} would be called a difference.",
        f"{HIT}, paired likewise: {', '.join(hits)}.",
        "Fewer pairs at the same tokens mean more passes over each: `passes` in the table.",
    ]
    untouched = gains.filter(pl.col("pairs in") == pl.col("pairs out"))["transformation"].to_list()
    if untouched:
        notes.append(f"No training pair went by: {', '.join(untouched)}.")
    reading = Reading(answer=answer, notes=notes)
    fewest = int(gains["seeds"].min())  # type: ignore[arg-type]
    if fewest < len(SEEDS):
        reading.weak.append(f"some transformations have only {fewest} of {len(SEEDS)} seeds")
    reading.tables["transformations"] = gains
    columns = ["transformation", "seed", "tokens", "passes", RECALL, HIT, "image_entropy"]
    columns += ["recall_gain", "recall_gain_se", "hit_gain", "hit_gain_se"]
    reading.tables["runs"] = results.select([c for c in columns if c in results.columns]).sort("transformation", "seed")
    reading.figures["gains"] = gains_figure(gains)
    return reading


def gains_of(results: "pl.DataFrame") -> "pl.DataFrame":
    """One row a transformation: rows in and out, passes, recall@10 and hit@10, gain of recall@10 with its interval and
    verdict, gain of hit@10 with its interval.
    """
    import polars as pl

    if "recall_gain" not in results.columns:
        return pl.DataFrame()
    rows = []
    for (name,), part in results.drop_nulls("recall_gain").group_by("transformation", maintain_order=True):
        gain, low, high = _interval(part, "recall_gain")
        hit_gain, hit_low, hit_high = _interval(part, "hit_gain")
        rows.append(
            {
                "transformation": name,
                "pairs in": int(part["train_pairs_in"][0]),
                "pairs out": int(part["train_pairs_out"][0]),
                "items in training in": int(part["trained_items_in"][0]),
                "items in training out": int(part["trained_items_out"][0]),
                "passes": _mean(part, "passes"),
                RECALL: _mean(part, RECALL),
                HIT: _mean(part, HIT),
                "gain": gain,
                "low": low,
                "high": high,
                "hit gain": hit_gain,
                "hit low": hit_low,
                "hit high": hit_high,
                "seeds": part.height,
                "verdict": "raises" if low > 0 else "lowers" if high < 0 else "no difference seen",
            }
        )
    return pl.DataFrame(rows).sort("gain", descending=True) if rows else pl.DataFrame()


def _interval(part: "pl.DataFrame", name: str) -> tuple[float, float, float]:
    """(mean, low, high) of a paired gain over seeds (a row each, with `_se` over queries), 95 %.

    The variance of a mean gain is that over queries (the mean of the seeds' own, for they share the queries) plus that of
    seeds; degrees of freedom after Welch and Satterthwaite. With one seed there is no interval.
    """
    from scipy.stats import t

    gain_S, error_S = part[name].to_numpy(), part[f"{name}_se"].to_numpy()
    seeds, queries = gain_S.size, int(part["image_queries"][0])
    of_queries = float(np.mean(error_S) ** 2)
    of_seeds = float(np.var(gain_S, ddof=1) / seeds) if seeds > 1 else math.nan
    variance = of_queries + of_seeds
    parts = of_queries**2 / (queries - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else math.nan)
    half = t.ppf(0.975, variance**2 / parts) * math.sqrt(variance) if variance > 0 else variance
    gain = float(gain_S.mean())
    return gain, gain - half, gain + half


def _told(name: str, gain: float, low: float, high: float) -> str:
    return f"{name} {gain:+.3f} [{low:+.3f}, {high:+.3f}]"


def _mean(table: "pl.DataFrame", column: str) -> float:
    values = table[column].drop_nulls().to_numpy()
    return float(values.mean()) if values.size else math.nan


def gains_figure(gains: "pl.DataFrame") -> "Figure":
    """A dot a transformation, the best on top, with its 95 % interval, around a line at zero."""
    figure = new_figure(height=1.3 + 0.42 * gains.height)
    ax = figure.add_subplot()
    ax.axvline(0.0, color=GREY, lw=1.0, zorder=1)
    for at, row in enumerate(reversed(list(gains.iter_rows(named=True)))):
        colour = {"raises": BLUE, "lowers": VERMILLION}.get(row["verdict"], GREY)
        marker = {"raises": "^", "lowers": "v"}.get(row["verdict"], "o")
        if math.isfinite(row["low"]):
            ax.plot([row["low"], row["high"]], [at, at], color=colour, lw=1.8, zorder=3)
        ax.plot([row["gain"]], [at], color=colour, marker=marker, ms=7, ls="", zorder=4)
    kept = [
        f"{name.replace('_', ' ')}\n{b:,} of {a:,} pairs"
        for name, a, b in gains["transformation", "pairs in", "pairs out"].rows()
    ]
    ax.set_yticks(range(gains.height), kept[::-1])
    ax.set_ylim(-0.6, gains.height - 0.4)
    frame(ax, f"gain of {RECALL} over no processing, paired (95 % interval)", "")
    ax.set_title("What each transformation does to image search", loc="left", fontsize=11)
    return figure
