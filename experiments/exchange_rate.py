"""What is a better offline metric worth downstream?

Hypothesis: over embedding versions, the recall of a search predicts the GAUC of a CTR model that reads the frozen
embeddings, and on worlds whose clicks follow what only images show it is image-search recall that does. Versions form
a design, {images only, text only, both} x token budgets: if all proxies rose together, none could be named. Refuted if
no proxy's slope has an interval above 0, or if none is best with P >= .9.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import analysis
from analysis.figures import exchange_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import SEARCHES
from experiments.recipes import mixture_of, recipe_for, searches_of
from moon_jax.data.forms import Form
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset

KINDS = {"images only": ("image",), "text only": ("text",), "both": ("image", "text")}


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """version (kind x budget) x seed; the CTR model, its data and its seeds are the same for all versions."""
    for file in ("events", "impressions", "pairs"):
        data.path(file)
    recipe, out = recipe_for(preset, data), []
    for kind, modalities in KINDS.items():
        if (forms := versions_of(data, modalities)) is None:
            raise QuestionError(f"{data.folder}: no search can be trained with {kind}")
        measured = measured_with(data, modalities)
        for budget in recipe.version_budgets:
            for seed in recipe.seeds:
                run = steps.posttrain(data, recipe, forms=forms, tokens=budget, seed=seed)
                embedded = steps.embed(data, recipe, run, measured, modalities)
                ctr = steps.application(data, recipe, length=recipe.ctr_length, seed=seed, embedded=embedded)
                coordinates = {"kind": kind, "budget": budget, "seed": seed, "version": f"{kind} @ {budget:,}"}
                out.append(Cell(coordinates, {"posttrain": run, "embed": embedded, "application": ctr}))
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
    """Proxies ranked; the rate of the first with its interval, its constancy, the smallest slope that could be seen."""
    proxies = [f"{search}_recall@10" for search in SEARCHES if f"{search}_recall@10" in results.columns]
    rate = analysis.exchange_rate(results, of=proxies, into="gauc", cluster="version")
    ranking = rate.ranking
    first = ranking.rows[0]
    named = (
        "ranks first" if first["p_best"] >= 0.9 else "ranks first, but not surely (P(best) < .9: no winner is named)"
    )
    reading = Reading(
        answer=[
            f"{first['proxy']} {named}: P(best) = {first['p_best']:.2f} of {len(proxies)} proxies over {rate.n} versions.",
            f"Its exchange rate: {rate.slope:+.4f} GAUC per unit of recall [{rate.interval[0]:+.4f}, "
            f"{rate.interval[1]:+.4f}], so +0.01 recall is worth {rate.slope / 100:+.5f} GAUC"
            + (f"; elasticity {rate.elasticity:.3f}." if math.isfinite(rate.elasticity) else "."),
            f"Smallest slope that could have been seen: {rate.smallest_detectable:.4f}. Constant over the range: "
            f"p = {rate.constant_p_value:.3f}.",
        ],
        weak=list(rate.warnings),
    )
    reading.fits["rate"] = rate
    kinds = dict(zip(results["version"].to_list(), results["kind"].to_list(), strict=True))
    reading.figures["exchange"] = exchange_figure(rate, title="Exchange rate into GAUC", groups=kinds)
    shown = [
        "version",
        "seed",
        *proxies,
        *(p.replace("recall@10", "entropy") for p in proxies),
        "gauc",
        "auc",
        "log_loss",
    ]
    reading.tables["versions"] = results.select([c for c in shown if c in results.columns]).sort("version", "seed")
    return reading
