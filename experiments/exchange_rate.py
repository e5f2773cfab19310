"""What is a better offline metric worth downstream?

Hypothesis: over embedding versions, the recall of a search predicts the GAUC of a CTR model that reads the frozen
embeddings, and on worlds whose clicks follow what only images show it is image-search recall that does. Versions form
a design, {images only, text only, both} x token budgets: if all proxies rose together, none could be named. The rate is
taken at equal modalities (a level for each kind), for versions that see no photo cannot find any, whatever they are worth;
the line over all versions alike stands beside it. Refuted if no proxy's slope has an interval above 0, or if none is best
with P >= .9.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

import analysis
from analysis.axes import frame
from analysis.constancy import VARIES
from analysis.figures import GREY, SERIES, exchange_figure, new_figure
from analysis.rates import NAMED_AT
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import SEARCHES
from experiments.recipes import Recipe, mixture_of, recipe_for, searches_of
from experiments.tuning import ASSUMED, Known, Trial, bests, settle, try_rates
from moon_jax.data.forms import Form
from sweeps import Cell, Step

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from analysis.rates import VersionPoints
    from moon_jax.data.contract import Dataset

# Of each search; entropy and alignment fall where recall rises.
PROXIES = ("recall@1", "recall@10", "recall@100", "entropy", "alignment")
STAGES = {
    "retrieval_recall@100": "Retrieval by history, recall@100",
    "relevance_ndcg@10": "Relevance, NDCG@10",
    "gauc": "Ranking, GAUC",
}
LEAST_VERSIONS = 5
READER: tuple[str, ...] = ("attention", "simtier")  # the CTR model that all versions are read by
KINDS = {"images only": ("image",), "text only": ("text",), "both": ("image", "text")}


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """version (kind x budget) x seed; the CTR model, its data and its seeds are the same for all versions.

    Where the searches are of one kind alone its versions have more budgets instead. The encoder's learning rate is the best
    of a trial of each kind, the CTR model's of a trial on one version.
    """
    for file in ("events", "impressions", "pairs"):
        data.path(file)
    recipe, out = recipe_for(preset, data), []
    if not (kinds := kinds_of(data)):
        raise QuestionError(f"{data.folder}: no search can be trained with images or text")
    budgets = recipe.version_budgets if len(kinds) > 1 else tuple(sorted({*recipe.version_budgets, *recipe.budgets}))
    trials = encoder_trials(data, recipe, known)
    reader = reader_trial(data, recipe, known)
    for kind, trial in trials.items():
        out += trial.cells(**_coordinates(kind, tried_at(recipe), recipe.seeds[0]))
    out += reader.cells(**_coordinates(list(kinds)[-1], tried_at(recipe), recipe.seeds[0]))
    if reader.best is None:
        return out
    for kind, lr in bests(trials).items():
        for budget in budgets:
            for seed in recipe.seeds:
                encoded = encoded_with(data, recipe, kind, budget, seed, lr)
                ctr = steps.application(
                    data, recipe, length=recipe.ctr_length, seed=seed, embedded=encoded["embed"], lr=reader.best
                )
                named = {**encoded, **before_ranking(data, encoded["embed"], KINDS[kind]), "application": ctr}
                out.append(Cell({**_coordinates(kind, budget, seed), "trial": "", "lr": lr}, named))
    return out


def _coordinates(kind: str, budget: int, seed: int) -> dict[str, Any]:
    return {"kind": kind, "budget": budget, "seed": seed, "version": f"{kind} @ {budget:,}"}


def tried_at(recipe: Recipe) -> int:
    """The budget at which the learning rates of the versions are tried."""
    return recipe.version_budgets[len(recipe.version_budgets) // 2]


def encoded_with(
    data: "Dataset", recipe: Recipe, kind: str, budget: int, seed: int, lr: float = 1.0
) -> dict[str, Step]:
    """A version: the post-training and the vectors of an encoder of this kind."""
    run = steps.posttrain(data, recipe, forms=kinds_of(data)[kind], tokens=budget, seed=seed, lr=lr)
    return {"posttrain": run, "embed": steps.embed(data, recipe, run, measured_with(data, KINDS[kind]), KINDS[kind])}


def encoder_trials(data: "Dataset", recipe: Recipe, known: Known) -> dict[str, Trial]:
    """Kind of version -> the trial of its learning rates, by the entropy of the search that it is trained on first."""
    budget, seed = tried_at(recipe), recipe.seeds[0]
    return {
        kind: try_rates(
            f"encoder, {kind}",
            f"valid_{forms[0].search}_entropy",
            recipe.lr_axis,
            functools.partial(encoded_with, data, recipe, kind, budget, seed),
            known,
        )
        for kind, forms in kinds_of(data).items()
    }


def reader_trial(
    data: "Dataset", recipe: Recipe, known: Known, *, modules: tuple[str, ...] = READER, of: "Step | None" = None
) -> Trial:
    """The trial of a CTR model's learning rates, by valid log loss: on the representations `of` an embed step, else on the
    version of most modalities at the recipe's own rate, or on those that the data has.
    """
    if of is None and not data.has("embeddings") and (kinds := kinds_of(data)):
        of = encoded_with(data, recipe, list(kinds)[-1], tried_at(recipe), recipe.seeds[0])["embed"]

    def run(lr: float) -> dict[str, Step]:
        length, seed = recipe.ctr_length, recipe.seeds[0]
        ctr = steps.application(data, recipe, length=length, seed=seed, embedded=of, modules=modules, lr=lr)
        return {"application": ctr}

    return try_rates(f"CTR model, {' + '.join(modules)}", "valid_log_loss", recipe.lr_axis, run, known)


def kinds_of(data: "Dataset") -> dict[str, tuple[Form, ...]]:
    """Kind of version -> the forms that it is trained on; kinds whose modalities no search would train are left out."""
    found = {kind: versions_of(data, modalities) for kind, modalities in KINDS.items()}
    return {
        kind: forms
        for kind, forms in found.items()
        if forms and set(KINDS[kind]) <= {m for form in forms for m in (*form.query, *form.item)}
    }


def before_ranking(data: "Dataset", embedded: "Step", modalities: tuple[str, ...]) -> "dict[str, Step]":
    """The stages of the funnel before ranking: retrieval by history, and relevance where pairs with texts are judged."""
    out = {"retrieval": steps.retrieval(data, embedded, ann=find_spec("usearch") is not None)}
    text = [form for form in searches_of(data) if form.search == "text"]
    if data.has("relevance") and text and "text" in modalities:
        out["relevance"] = steps.relevance(data, embedded, text[0])
    return out


def versions_of(data: "Dataset", modalities: tuple[str, ...]) -> tuple[Form, ...] | None:
    """The forms that a version of these modalities is trained on; None where no search has any."""
    return tuple(form for form in (s.restricted(modalities) for s in mixture_of(data)) if form) or None


def measured_with(data: "Dataset", modalities: tuple[str, ...]) -> tuple[Form, ...]:
    """The searches that it is measured by; one whose gallery has nothing of these modalities, with what the version embeds."""
    return tuple(_gallery(form, modalities) for form in searches_of(data))


def _gallery(form: Form, modalities: tuple[str, ...]) -> Form:
    item = tuple(m for m in form.item if m in modalities) or modalities
    query = tuple(m for m in form.query if m in modalities) or form.query
    return replace(form, query=query, item=item)


def read(results: "pl.DataFrame") -> Reading:
    """Searches' recall@10 ranked at equal modalities, the rate of the first and its constancy; the same over all versions alike;
    every proxy; every stage of the funnel.
    """
    results, tried, rates, untuned = settle(results)
    proxies = [f"{search}_recall@10" for search in SEARCHES if f"{search}_recall@10" in results.columns]
    rate = rate_into(results, proxies)
    reading = Reading(
        answer=[first_sentence(rate), *rate_sentences(rate), title_sentence(rate)],
        weak=[*rate.warnings, *untuned],
        notes=rates,
    )
    reading.fits["rate"] = rate
    kinds = dict(zip(results["version"].to_list(), results["kind"].to_list(), strict=True))
    reading.figures["exchange"] = exchange_figure(rate, title=f"Exchange rate into GAUC{at_equal(rate)}", groups=kinds)
    every = [name for name in candidates(results) if measured_everywhere(results, name)]
    if len(every) > len(proxies):
        ranking = analysis.rank_proxies(results, of=every, into="gauc", cluster="version", within=within_of(results))
        best = min(ranking.rows, key=lambda row: row["loo_error"])
        ours = next(row["loo_error"] for row in ranking.rows if row["proxy"] == rate.of)
        alone = mean_alone(ranking.points[0])
        named = f"P(best) = {best['p_best']:.2f}" + ("" if best["p_best"] >= NAMED_AT else ": not surely the best")
        reading.answer.append(
            f"Of all {len(every)} proxies {best['proxy']} foretells a version's GAUC best from the others, with an error of "
            f"{best['loo_error']:.4f} ({named}); {rate.of} {ours:.4f}, the others' mean without a proxy {alone:.4f}."
        )
        reading.tables["every proxy"] = ranking.table()
        reading.figures["proxies"] = proxies_figure(ranking, alone)
    if within_of(results):
        pooled = analysis.exchange_rate(results, of=proxies, into="gauc", cluster="version")
        reading.answer.append(pooled_sentence(pooled))
        reading.fits["rate-all-alike"] = pooled
        reading.figures["exchange-all-alike"] = exchange_figure(
            pooled, title="Exchange rate into GAUC, all versions alike", groups=kinds
        )
    if (stages := stages_table(results, proxies)).height > 1:
        reading.tables["into each stage of the funnel"] = stages
        reading.answer += [
            f"{row['stage']}: {row['proxy']} ranks first of the searches (P(best) = {row['p_best']:.2f}), {told_slope(row)}"
            f" over {row['versions']} versions."
            for row in stages.iter_rows(named=True)
            if row["into"] != "gauc"
        ]
    shown = ["version", "seed", *every, *STAGES, "auc", "log_loss"]
    if tried.height:
        reading.tables["learning rates tried"] = tried
    reading.tables["versions"] = results.select([c for c in shown if c in results.columns]).sort("version", "seed")
    return reading


def within_of(results: "pl.DataFrame") -> str | None:
    """The column of kinds where there are several: a version that sees no photo has no recall of photos to better."""
    return "kind" if results["kind"].n_unique() > 1 else None


def rate_into(results: "pl.DataFrame", of: str | list[str], into: str = "gauc") -> "analysis.Rate":
    """The rate at equal modalities, where versions have several: what a better metric is worth to the system that one has."""
    return analysis.exchange_rate(results, of=of, into=into, cluster="version", within=within_of(results))


def at_equal(rate: "analysis.Rate") -> str:
    return " at equal modalities" if rate.options["within"] else ""


def first_sentence(rate: "analysis.Rate") -> str:
    """Which search ranks first; that there is no rate, before that."""
    first, others = rate.ranking.rows[0], len(rate.ranking.rows)
    if not math.isfinite(rate.interval[0]):
        return f"No rate can be given: the versions do not differ in {rate.of}{at_equal(rate)} beyond the noise of their seeds."
    if others == 1:
        return f"{rate.of} is the only search's recall: {rate.n} versions, {told_slope(first)}."
    surely = "" if first["p_best"] >= NAMED_AT else ", but not surely"
    return (
        f"{first['proxy']} ranks first{at_equal(rate)}{surely}: P(best) = {first['p_best']:.2f} of {others} searches, "
        f"{rate.n} versions."
    )


def pooled_sentence(pooled: "analysis.Rate") -> str:
    """The line over all versions, whatever they see: which modality pays, not what a better metric is worth."""
    told = "; ".join(f"{row['proxy']} {told_slope(row)}" for row in pooled.ranking.rows)
    first = pooled.ranking.rows[0]
    return (
        f"Over all versions alike {first['proxy']} ranks first (P(best) = {first['p_best']:.2f}): {told}. Such a line mixes "
        "what a better metric is worth with which modality pays: versions that see no photo have no recall of photos."
    )


def rate_sentences(rate: "analysis.Rate") -> list[str]:
    """The rate with its interval, what could have been seen, whether it is constant; nothing where there is none."""
    low, high = rate.interval
    if not math.isfinite(low):
        return []
    elasticity = f"; elasticity {rate.elasticity:.3f}." if math.isfinite(rate.elasticity) else "."
    varies = "it varies over the range" if rate.constant_p_value < VARIES else "no sign that it varies over the range"
    return [
        f"Its exchange rate: {rate.slope:+.4f} GAUC per unit of recall [{low:+.4f}, {high:+.4f}], so +0.01 recall is worth "
        f"{rate.slope / 100:+.5f} GAUC{elasticity}",
        f"Smallest slope that could have been seen: {rate.smallest_detectable:.4f}. Is it constant? {varies} "
        f"(p = {rate.constant_p_value:.3f}).",
    ]


def told_slope(row: "Mapping[str, float]") -> str:
    if not math.isfinite(row["low"]):
        return "no rate can be given"
    return f"{row['slope']:+.3f} per unit of recall [{row['low']:+.3f}, {row['high']:+.3f}]"


def title_sentence(rate: "analysis.Rate") -> str:
    """Whether image-search recall is here what the paper calls it, the critical intermediate metric."""
    ours = next((row for row in rate.ranking.rows if row["proxy"] == "image_recall@10"), None)
    asked = "Does image-search recall deserve its title of critical intermediate metric here?"
    if ours is None:
        return f"{asked} Nobody searches by photo, so it cannot be said."
    surely, first, rises = ours["p_best"] >= NAMED_AT, rate.of == "image_recall@10", ours["low"] > 0
    told = f"P(best) = {ours['p_best']:.2f}, {told_slope(ours)}"
    if first and rises and (surely or len(rate.ranking.rows) == 1):
        return f"{asked} Yes: it ranks first and GAUC rises with it ({told})."
    if first and rises:
        return f"{asked} GAUC rises with it, but it is not told from the other searches ({told})."
    if rises:
        return f"{asked} GAUC rises with it ({told}), but {rate.of} ranks before it."
    return f"{asked} No: no rise of GAUC with it is seen ({told})."


def candidates(results: "pl.DataFrame") -> list[str]:
    """Every intermediate metric that the results may hold: of each search, and of the vectors themselves."""
    of_searches = [f"{search}_{metric}" for search in SEARCHES for metric in PROXIES]
    return [name for name in (*of_searches, "uniformity", "category_knn@10") if name in results.columns]


def measured_everywhere(results: "pl.DataFrame", name: str) -> bool:
    """Whether all rows have the metric, and versions differ in it."""
    import polars as pl

    means = results.group_by("version").agg(pl.col(name).mean())[name]
    return not results[name].null_count() and means.n_unique() > 2


def mean_alone(points: "VersionPoints") -> float:
    """Root mean square error of foretelling each version by the mean of the others of its kind."""
    y, groups = np.array(points.y), np.array(points.groups or [0] * len(points.y))
    size = np.bincount(groups)[groups]
    away = y - (np.bincount(groups, y) / np.maximum(np.bincount(groups), 1))[groups]
    return float(np.sqrt(np.mean((away * size / np.maximum(size - 1, 1))[size > 1] ** 2)))


def stages_table(results: "pl.DataFrame", proxies: list[str]) -> "pl.DataFrame":
    """One row a stage of the funnel: the search that ranks first into its metric, and its rate."""
    import polars as pl

    rows = []
    for into, stage in STAGES.items():
        part = results.drop_nulls(into) if into in results.columns else results.clear()
        kept = [proxy for proxy in proxies if part.height and measured_everywhere(part, proxy)]
        if part["version"].n_unique() < LEAST_VERSIONS or not kept:
            continue
        rate = rate_into(part, kept, into)
        first = rate.ranking.rows[0]
        rows.append({
            "stage": stage, "into": into, "versions": rate.n, "proxy": rate.of, "p_best": first["p_best"], "slope": rate.slope,
            "low": rate.interval[0], "high": rate.interval[1], "constant p": rate.constant_p_value,
        })  # fmt: skip
    return pl.DataFrame(rows)


def proxies_figure(ranking: "analysis.Ranking", alone: float) -> "Figure":
    """How well each proxy foretells a version's GAUC from the other versions; the line: their mean, without any proxy."""
    rows = sorted(ranking.rows, key=lambda row: -row["loo_error"])
    figure = new_figure(height=1.3 + 0.24 * len(rows))
    ax = figure.add_subplot()
    families = [
        row["proxy"].partition("_")[0] if row["proxy"].partition("_")[0] in SEARCHES else "vectors" for row in rows
    ]
    for k, family in enumerate((*SEARCHES, "vectors")):
        if family not in families:
            continue
        at = [place for place, mine in enumerate(families) if mine == family]
        name = "the vectors alone" if family == "vectors" else f"{family} search"
        ax.plot([rows[i]["loo_error"] for i in at], at, ls="", marker="os^Dv"[k], color=SERIES[k], ms=6, label=name)
    ax.axvline(alone, color=GREY, lw=1.2)
    ax.annotate("no proxy", (alone, 0), xytext=(-4, -2), textcoords="offset points", ha="right", color=GREY, fontsize=8)
    ax.set_yticks(range(len(rows)), [row["proxy"] for row in rows], fontsize=8)
    frame(ax, f"error of {ranking.into} foretold from the other versions (lower is better)", "")
    ax.set_xlim(left=0)
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    ax.set_title("Which offline metric foretells a version?", loc="left", fontsize=11)
    return figure
