"""What does each processing transformation do to image-search recall?

Hypothesis: at one fixed number of training tokens, each transformation of the training pairs that the paper names
(duplicates out, variants merged, the least similar query of an item kept, categories matched to exposure, texts without
entities out) raises recall@10 of image search by itself. Test queries and gallery are the same for all, so differences are
paired. Refuted, one by one, where the interval of a gain includes 0; an interval below 0 says that it harms. Hard negatives
(of the same category, clicked and not bought, mined) leave the pairs as they are and stand in the loss, a few a query.
"""

import math
from typing import TYPE_CHECKING

from analysis.figures import gains_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import paired_interval
from experiments.recipes import recipe_for, searches_of
from moon_jax.data.processing import (
    EntityFilter,
    ExactImages,
    HardNegatives,
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
HARD = 2  # hard negatives of a query
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
        name, hard = label_of(transformation), 0
        mined = isinstance(transformation, HardNegatives) and transformation.kind == "mined"
        reads = vectors if mined or isinstance(transformation, SimilarityDedup) else None
        if isinstance(transformation, HardNegatives):
            hard = transformation.per_query
        processed = steps.process(data, transformation, vectors=reads)
        for seed in SEEDS:
            run = steps.posttrain(
                data, recipe, forms=(search,), tokens=budget, seed=seed, processed=processed, hard_negatives=hard
            )
            embedded = steps.embed(data, recipe, run, (search,), search.item)
            coordinates = {"transformation": name, "budget": budget, "seed": seed, "run": run.name}
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
    if items["category"].list.len().max():
        there.append(HardNegatives(kind="category", per_query=HARD))
    actions = data.read("pairs", ["action", "split"]).filter(pl.col("split") == "train")["action"].unique()
    if {"click", "purchase"} <= set(actions):
        there.append(HardNegatives(kind="clicked", per_query=HARD))
    there.append(HardNegatives(kind="mined", per_query=HARD))
    return tuple(there)


def label_of(transformation: Transformation) -> str:
    """Its name; hard negatives with their kind."""
    if isinstance(transformation, HardNegatives):
        return f"{transformation.name}:{transformation.kind}"
    return transformation.name


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
    columns += ["gain_recall@10", "gain_recall@10_se", "gain_hit@10", "gain_hit@10_se"]
    reading.tables["runs"] = results.select([c for c in columns if c in results.columns]).sort("transformation", "seed")
    reading.figures["gains"] = transformations_figure(gains)
    return reading


def gains_of(results: "pl.DataFrame") -> "pl.DataFrame":
    """One row a transformation: rows in and out, passes, recall@10 and hit@10, gain of recall@10 with its interval and
    verdict, gain of hit@10 with its interval.
    """
    import polars as pl

    if "gain_recall@10" not in results.columns:
        return pl.DataFrame()
    rows = []
    for (name,), part in results.drop_nulls("gain_recall@10").group_by("transformation", maintain_order=True):
        gain, low, high = paired_interval(part, "gain_recall@10")
        hit_gain, hit_low, hit_high = paired_interval(part, "gain_hit@10")
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


def _told(name: str, gain: float, low: float, high: float) -> str:
    return f"{name} {gain:+.3f} [{low:+.3f}, {high:+.3f}]"


def _mean(table: "pl.DataFrame", column: str) -> float:
    values = table[column].drop_nulls().to_numpy()
    return float(values.mean()) if values.size else math.nan


def transformations_figure(gains: "pl.DataFrame") -> "Figure":
    """A dot a transformation, the best on top, with its 95 % interval, around a line at zero."""
    import polars as pl

    kept = [
        f"{name.replace('_', ' ')}\n{b:,} of {a:,} pairs"
        for name, a, b in gains["transformation", "pairs in", "pairs out"].rows()
    ]
    return gains_figure(
        gains.with_columns(label=pl.Series(kept)),
        label="label",
        gain="gain",
        low="low",
        high="high",
        xlabel=f"gain of {RECALL} over no processing, paired (95 % interval)",
        title="What each transformation does to image search",
    )
