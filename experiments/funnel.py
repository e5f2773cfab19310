"""What is each representation worth at each stage of the funnel: retrieval, relevance, ranking?

Hypothesis: the representation that finds most also ranks best, and both images and text together are worth more than
either alone at every stage. Refuted where the order of representations differs between stages by more than their
intervals, or where a trained representation does not stand above the untrained one.
"""

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from analysis.axes import frame
from analysis.figures import BLUE, GREY, new_figure
from experiments import steps
from experiments.exchange_rate import (
    KINDS,
    READER,
    before_ranking,
    encoder_trials,
    kinds_of,
    measured_with,
    reader_trial,
    tried_at,
)
from experiments.question import QuestionError, Reading
from experiments.reading import number, paired_interval, primary_search
from experiments.recipes import recipe_for
from experiments.tuning import ASSUMED, Known, bests, settle
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from moon_jax.data.contract import Dataset
    from sweeps import Step

UNTRAINED = "untrained"
OWN = "embeddings.parquet"
IDS: tuple[str, ...] = ("attention",)  # the CTR model that reads no representation
# stage -> (metric, what it is called); the search metric that stands for query -> item retrieval is put in by the data
STAGES = {
    "retrieval_recall@100": "retrieval by history, recall@100",
    "relevance_ndcg@10": "relevance, NDCG@10",
    "gauc_gain": "ranking, GAUC over IDs alone",
}


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """representation x seed at the largest budget of the exchange rate's versions, and the untrained encoder; all at the
    learning rates that trials chose, those of the exchange rate's among them.
    """
    data.path("impressions")
    recipe, out = recipe_for(preset, data), []
    ann = find_spec("usearch") is not None
    own = data.has("embeddings")
    for file in () if own else ("events", "pairs"):
        data.path(file)
    encoders = {} if own else encoder_trials(data, recipe, known)
    readers = {modules: reader_trial(data, recipe, known, modules=modules) for modules in (IDS, READER)}
    for trial in (*encoders.values(), *readers.values()):
        out += trial.cells(kind=trial.name, budget=0 if own else tried_at(recipe), seed=recipe.seeds[0])
    encoder_rates, rates = bests(encoders), bests(readers)
    if len(encoder_rates) < len(encoders) or len(rates) < len(readers):
        return out

    def ranked_by(modules: tuple[str, ...], seed: int, embedded: "Step | None") -> "Step":
        lr, length = rates[modules], recipe.ctr_length
        return steps.application(data, recipe, length=length, seed=seed, embedded=embedded, modules=modules, lr=lr)

    for seed in recipe.seeds:
        ids = ranked_by(IDS, seed, None)
        if own:
            ranked = ranked_by(READER, seed, None)
            named = {"retrieval": steps.retrieval(data, None, ann=ann), "application": ranked}
            named["compare"] = steps.compare(ranked, ids)
            out.append(Cell({"kind": OWN, "budget": 0, "seed": seed, "trial": "", "run": ranked.name}, named))
            continue
        kinds = kinds_of(data)
        untrained = {UNTRAINED: kinds[list(kinds)[-1]]} if kinds else {}
        for kind, forms in (untrained | kinds).items():
            budget = recipe.version_budgets[-1] if kind != UNTRAINED else 0
            modalities = KINDS.get(kind, KINDS[list(kinds)[-1]])
            lr = encoder_rates.get(kind, 1.0)
            run = steps.posttrain(data, recipe, forms=forms, tokens=budget, seed=seed, lr=lr)
            embedded = steps.embed(data, recipe, run, measured_with(data, modalities), modalities)
            ranked = ranked_by(READER, seed, embedded)
            named = {"posttrain": run, "embed": embedded, **before_ranking(data, embedded, modalities)}
            named |= {"application": ranked, "compare": steps.compare(ranked, ids)}
            out.append(Cell({"kind": kind, "budget": budget, "seed": seed, "trial": "", "run": run.name}, named))
    return out


def read(results: "pl.DataFrame") -> Reading:
    """Per representation each stage's metric with its interval over seeds and what is drawn; whether the orders agree."""
    import polars as pl

    rows, tried, rates, untuned = settle(results)
    done = rows.filter(pl.col("status") == "done")
    if done.is_empty():
        raise QuestionError("funnel: no representation has been through all stages yet")
    metrics = {name: told for name, told in STAGES.items() if name in done.columns}
    if OWN not in set(done["kind"]):
        search = primary_search(done)
        metrics = {f"{search}_recall@10": f"retrieval by {search} search, recall@10"} | metrics
    table = by_kind(done, metrics)
    reading = Reading(answer=[])
    best = {}
    for metric, told in metrics.items():
        rows = table.filter(pl.col("metric") == metric).drop_nulls("mean").sort("mean", descending=True)
        if rows.is_empty():
            continue
        best[told] = firsts(rows)
        listed = ", ".join(
            f"{r['representation']} {r['mean']:.4f}" + (f" +- {r['half']:.4f}" if math.isfinite(r["half"]) else "")
            for r in rows.iter_rows(named=True)
        )
        reading.answer.append(f"{told[0].upper()}{told[1:]}: {listed}.")
    if table["representation"].n_unique() > 1:
        everywhere = [name for name in next(iter(best.values())) if all(name in names for names in best.values())]
        said = "Not one representation is first at every stage"
        if everywhere:
            said = f"First at every stage, or within the interval of the first: {', '.join(everywhere)}. By stage"
        listed = "; ".join(f"{stage}: {', '.join(names)}" for stage, names in best.items())
        reading.answer.insert(0, f"{said}: {listed}.")
    if "retrieval_popularity@100" in done.columns:
        floor, reached = number(done["retrieval_popularity@100"].mean()), number(done["retrieval_recall@100"].max())
        verdict = "every representation stays below it" if reached < floor else "the best stands above it"
        reading.answer.append(f"The most popular items alone reach {floor:.4f} in retrieval by history: {verdict}.")
    _notes(reading, done)
    reading.notes += rates
    reading.weak += untuned
    if tried.height:
        reading.tables["learning rates tried"] = tried
    reading.tables["representations"] = table
    slices = [c for c in done.columns if c.endswith(("_items_gauc", "_users_gauc"))]
    if slices:
        means = [pl.col(c).mean() for c in ("gauc", *slices)]
        reading.tables["GAUC by slice"] = done.group_by("kind", maintain_order=True).agg(means)
    reading.figures["funnel"] = funnel_figure(table, metrics)
    return reading


def firsts(rows: "pl.DataFrame") -> list[str]:
    """The representation with the highest mean, and those whose intervals reach into its own; rows best first."""
    import polars as pl

    top = rows.row(0, named=True)
    half = pl.col("half").fill_nan(0.0)
    reaching = rows.filter(pl.col("mean") + half >= top["mean"] - (top["half"] if math.isfinite(top["half"]) else 0.0))
    return [str(name) for name in reaching["representation"]]


def by_kind(done: "pl.DataFrame", metrics: dict[str, str]) -> "pl.DataFrame":
    """One row a representation and metric: mean over seeds, half of a 95 % interval where the stage has errors over users."""
    import polars as pl

    rows: list[dict[str, Any]] = []
    for (kind,), part in done.group_by("kind", maintain_order=True):
        for metric in metrics:
            seen = part.drop_nulls(metric)
            if seen.is_empty():
                continue
            mean, half = number(seen[metric].mean()), math.nan
            if f"{metric}_se" in seen.columns:
                half = paired_interval(seen, metric, "gauc_users")[2] - mean
            rows.append({"representation": kind, "metric": metric, "mean": mean, "half": half, "seeds": seen.height})
    return pl.DataFrame(rows)


def _notes(reading: Reading, done: "pl.DataFrame") -> None:
    if "retrieval_recall@100" in done.columns:
        left = int(number(done["retrieval_left_out"].max()))
        reading.notes.append(
            f"Retrieval by history: {int(number(done['retrieval_impressions'].max())):,} clicked test impressions, gallery of "
            f"{int(number(done['retrieval_gallery'].max())):,} items, {left:,} impressions without a history left out; chance "
            f"{number(done['retrieval_chance@100'].mean()):.4f} (recall@100)."
        )
        if "retrieval_ann_found" in done.columns:
            reading.notes.append(
                f"The approximate index (HNSW) finds {number(done['retrieval_ann_found'].min()):.1%} or more of the exact top "
                f"100; recall@100 by it {number(done['retrieval_ann_recall@100'].mean()):.4f} against "
                f"{number(done['retrieval_recall@100'].mean()):.4f} exactly."
            )
    if "relevance_ndcg@10" not in done.columns:
        reading.notes.append("Relevance is not measured: the data has no relevance.parquet with a text search.")
    reading.notes.append(
        "A search whose gallery shows nothing of a representation's modalities is measured on a gallery of what it has: a "
        "text query that is an item's own title finds that title trivially."
    )
    reading.notes.append(
        "Intervals: 95 %, t, from the error over users and the spread of seeds; none for searches and "
        "relevance, whose own errors are not kept."
    )
    reading.weak.append("one budget for all representations, and one CTR model")


def funnel_figure(table: "pl.DataFrame", metrics: dict[str, str]) -> "Figure":
    """A panel a stage, a dot a representation with its interval."""
    import polars as pl

    shown = [metric for metric in metrics if metric in set(table["metric"])]
    kinds = list(dict.fromkeys(table["representation"]))[::-1]
    figure = new_figure(width=2.6 + 2.6 * len(shown), height=1.6 + 0.36 * len(kinds))
    for panel, metric in enumerate(shown):
        ax = figure.add_subplot(1, len(shown), panel + 1)
        rows = {row["representation"]: row for row in table.filter(pl.col("metric") == metric).iter_rows(named=True)}
        for at, kind in enumerate(kinds):
            if kind not in rows:
                continue
            colour, mean, half = GREY if kind == UNTRAINED else BLUE, rows[kind]["mean"], rows[kind]["half"]
            if math.isfinite(half):
                ax.plot([mean - half, mean + half], [at, at], color=colour, lw=1.8)
            ax.plot([mean], [at], color=colour, marker="o", ms=6, ls="")
        ax.set_ylim(-0.6, len(kinds) - 0.4)
        ax.set_yticks(range(len(kinds)), kinds if not panel else [""] * len(kinds))
        ax.locator_params(axis="x", nbins=4)
        frame(ax, metrics[metric].replace(", ", ",\n"), "")
    figure.suptitle("What each representation is worth at each stage", x=0.02, ha="left", fontsize=11)
    return figure
