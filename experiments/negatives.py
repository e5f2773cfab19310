"""How does retrieval improve with the number of negatives?

Hypothesis: at fixed tokens, batch and steps, more in-batch candidates in a query's softmax lower the error of image
search with diminishing gains. Refuted if the slope's interval includes 0 or the curve turns. Then, each by itself beside
the whole batch: a queue of past items by a slowly moving average of the encoder (and, once, by the encoder's own past,
which is known to fail from scratch), and hard negatives of the same category. Refuted where the interval of a paired gain
includes 0.
"""

import functools
from typing import TYPE_CHECKING, Any

import analysis
from analysis.figures import line_figure, scaling_figure
from experiments import steps
from experiments.question import Reading
from experiments.reading import (
    floors_of,
    holdout_sentence,
    law_sentence,
    measured,
    number,
    paired_interval,
    primary_search,
    rise_sentence,
    throughput_sentence,
)
from experiments.recipes import Recipe, measured_search, recipe_for
from experiments.tuning import ASSUMED, Known, choose_rates, settle, try_rates, tune
from moon_jax.data.forms import Form
from moon_jax.data.processing import HardNegatives
from sweeps import Cell, Step

MOMENTUM = 0.99  # share of the average that is kept each step, where it fills the queue

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """candidates x seed, the first seed along the lr axis; tokens, batch and steps stay."""
    data.path("pairs")
    recipe, search = recipe_for(preset, data), measured_search(data)

    def trained(count: int, seed: int, lr: float) -> dict[str, Step]:
        run = steps.posttrain(
            data, recipe, forms=(search,), tokens=recipe.negatives_tokens, seed=seed, lr=lr, num_negatives=count
        )
        return _measured(data, recipe, run, search)

    by = f"valid_{search.search}_entropy"
    grid, rates = tune(recipe.negatives, seeds=recipe.seeds, axis=recipe.lr_axis, run=trained, by=by, known=known)
    out = [Cell(_at("batch", count, seed, lr, named["posttrain"]), named) for count, seed, lr, named in grid]
    most = recipe.negatives[-1]
    whole = {seed: trained(most, seed, rates[most])["embed"] for seed in recipe.seeds if most in rates}
    return out + _beside(data, recipe, search, whole, known)


def _beside(data: "Dataset", recipe: Recipe, search: Form, whole: dict[int, Step], known: Known) -> list[Cell]:
    """source x size x seed beside the whole batch, paired with it (image search), each at its best learning rate; one source
    is varied at a time.

    Args:
        whole: seed -> the whole batch's embed step at its own best rate; empty until that is known.
    """
    sizes = [recipe.batch * times for times in recipe.queues]
    plan: list[tuple[str, int, Step | None]] = [("queue", size, None) for size in sizes]
    plan += [("queue, own past", size, None) for size in sizes[:1]]
    if recipe.hard and data.read("items", ["category"])["category"].list.len().max():
        found = steps.process(data, HardNegatives(kind="category", per_query=recipe.hard[-1]))
        plan += [("hard", count, found) for count in recipe.hard]
    first = recipe.seeds[0]

    def trained(source: str, size: int, processed: Step | None, lr: float, seed: int = first) -> dict[str, Step]:
        changes: dict[str, Any] = {"hard_negatives": size} if source == "hard" else {"queue": size}
        if source == "queue":
            changes |= {"ema": MOMENTUM, "queue_from": "ema"}
        run = steps.posttrain(
            data,
            recipe,
            forms=(search,),
            tokens=recipe.negatives_tokens,
            seed=seed,
            lr=lr,
            num_negatives=recipe.negatives[-1],
            processed=processed,
            **changes,
        )
        return _measured(data, recipe, run, search)

    out = []
    for source, size, processed in plan:
        at_rate = functools.partial(trained, source, size, processed)
        trial = try_rates(f"{source} of {size:,}", f"valid_{search.search}_entropy", recipe.lr_axis, at_rate, known)
        out += trial.cells(source=source, negatives=size, seed=first)
        if trial.best is None:
            continue
        for seed, baseline in whole.items():
            named = at_rate(trial.best, seed)
            if search.search == "image":
                named["contrast"] = steps.contrast(named["embed"], baseline)
            out.append(Cell(_at(source, size, seed, trial.best, named["posttrain"]), named))
    return out


def _at(source: str, size: int, seed: int, lr: float, run: Step) -> dict[str, Any]:
    return {"source": source, "negatives": size, "seed": seed, "trial": "", "lr": lr, "run": run.name}


def _measured(data: "Dataset", recipe: Recipe, run: Step, search: Form) -> dict[str, Step]:
    named = {"posttrain": run, "embed": steps.embed(data, recipe, run, (search,), search.item)}
    if search.search == "image":
        named["floors"] = steps.floors(data, recipe)
    return named


def read(results: "pl.DataFrame") -> Reading:
    """Power law with floor and log line against realised candidates, the largest number held out; the other sources'
    paired gains over the whole batch."""
    import polars as pl

    search = primary_search(results)
    in_batch = results.filter(pl.col("source") == "batch")
    beside, tried, besides, untuned = settle(results.filter(pl.col("source") != "batch"))
    runs, rates, weak = choose_rates(in_batch, "negatives", search)
    # Seeds meet slightly different duplicates: their mean makes them replicates of one x.
    runs = runs.with_columns(pl.col("realised_negatives").mean().over("negatives"))
    reading = Reading(answer=[], weak=weak + (untuned if beside.height or tried.height else []))
    for metric, transform in measured(search):
        for law in ("power_floor", "log_line"):
            fit = analysis.fit(
                runs, x="realised_negatives", y=metric, transform=transform, law=law, cluster="run", holdout="largest"
            )
            reading.fits[f"{metric}-{law}"] = fit
        power = reading.fits[f"{metric}-power_floor"]
        reading.answer += [law_sentence(power, metric), holdout_sentence(power, metric)]
        reading.figures[metric] = scaling_figure(
            reading.fits[f"{metric}-power_floor"],
            floors=floors_of(results, metric) if metric.endswith("@10") else None,
            title=f"{search} search against candidates per query",
            xlabel="realised negatives per query",
            ylabel=metric,
        )
    for metric in (f"{search}_entropy", f"{search}_recall@10"):
        told = rise_sentence(runs, reading.fits[f"{metric}-power_floor"], metric, "negatives", "candidates")
        reading.answer.insert(0, told)
    gains = gains_of(beside)
    reading.answer += [
        f"{row['source']} of {row['negatives']:,} beside the whole batch: {search}_recall@10 {row['gain']:+.3f} "
        f"[{row['low']:+.3f}, {row['high']:+.3f}] (paired over queries and seeds), {row['candidates']:,.0f} candidates."
        for row in gains.iter_rows(named=True)
    ]
    if gains.height:
        reading.tables["other sources, beside the whole batch"] = gains
    alike = pl.concat([runs, beside], how="diagonal")
    alike = alike.with_columns(pl.col("realised_negatives").mean().over("source", "negatives"))
    reading.figures["sources"] = line_figure(
        alike,
        x="realised_negatives",
        y=f"{search}_recall@10",
        series="source",
        title="Candidates by where they come from",
        xlabel="realised negatives per query",
    )
    reading.notes = [*rates, *besides, throughput_sentence(results, "posttrain", "tokens")]
    stale = beside.filter(pl.col("source").str.starts_with("queue"))
    if stale.height:
        ages = (
            stale.group_by("negatives").agg(pl.col("queue_staleness").mean(), pl.col("steps").max()).sort("negatives")
        )
        told = ", ".join(
            f"{age:.1f} of {steps:,} steps in a queue of {size:,}" for size, age, steps in ages.iter_rows()
        )
        reading.notes.append(f"Mean age of a queued item: {told}.")
    columns = ["source", "negatives", "seed", "lr", "realised_negatives", "masked_share", "tokens", "passes"]
    columns += [f"{search}_recall@10", "queue_staleness"]
    columns += [f"{search}_hit@10", f"{search}_entropy", "temperature", "posttrain_flops", "status"]
    shown = pl.concat([in_batch, beside], how="diagonal")
    reading.tables["runs"] = shown.select([c for c in columns if c in shown.columns]).sort(
        "source", "negatives", "seed", "lr"
    )
    if tried.height:
        reading.tables["learning rates tried beside the whole batch"] = tried
    return reading


def gains_of(results: "pl.DataFrame") -> "pl.DataFrame":
    """One row a source and size: paired gain of recall@10 over the whole batch with its 95 % interval, and candidates."""
    import polars as pl

    rows = []
    if "gain_recall@10" in results.columns:
        paired = results.drop_nulls("gain_recall@10")
        for (source, size), part in paired.group_by("source", "negatives", maintain_order=True):
            gain, low, high = paired_interval(part, "gain_recall@10")
            told = {"source": source, "negatives": size, "gain": gain, "low": low, "high": high}
            candidates = number(part["realised_negatives"].mean())
            rows.append(told | {"candidates": candidates, "seeds": part.height})
    return pl.DataFrame(rows).sort("source", "negatives") if rows else pl.DataFrame()
