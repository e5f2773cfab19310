"""How does retrieval improve with the number of negatives?

Hypothesis: at fixed tokens, batch and steps, more in-batch candidates in a query's softmax lower the error of image
search with diminishing gains. Refuted if the slope's interval includes 0 or the curve turns.
"""

from typing import TYPE_CHECKING

import analysis
from analysis.figures import scaling_figure
from experiments import steps
from experiments.question import Reading
from experiments.reading import (
    choose_rates,
    floors_of,
    holdout_sentence,
    law_sentence,
    measured,
    primary_search,
    throughput_sentence,
)
from experiments.recipes import measured_search, recipe_for
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """candidates x seed x lr (an axis at both ends); tokens, batch and steps stay."""
    data.path("pairs")
    recipe, search = recipe_for(preset, data), measured_search(data)
    points = [(count, seed, 1.0) for count in recipe.negatives for seed in recipe.seeds]
    axis = [(count, lr) for count in (recipe.negatives[0], recipe.negatives[-1]) for lr in recipe.lr_axis if lr != 1.0]
    points += [(count, seed, lr) for count, lr in axis for seed in recipe.seeds]
    out = []
    for count, seed, lr in sorted(points):
        run = steps.posttrain(
            data, recipe, forms=(search,), tokens=recipe.negatives_tokens, seed=seed, lr=lr, num_negatives=count
        )
        named = {"posttrain": run, "embed": steps.embed(data, recipe, run, (search,), search.item)}
        if search.search == "image":
            named["floors"] = steps.floors(data, recipe)
        out.append(Cell({"negatives": count, "seed": seed, "lr": lr, "run": run.name}, named))
    return out


def read(results: "pl.DataFrame") -> Reading:
    """Power law with floor and log line against realised candidates, the largest number held out."""
    import polars as pl

    search = primary_search(results)
    runs, rates, weak = choose_rates(results, "negatives", search)
    # Seeds meet slightly different duplicates: their mean makes them replicates of one x.
    runs = runs.with_columns(pl.col("realised_negatives").mean().over("negatives"))
    reading = Reading(answer=[], weak=weak)
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
    reading.notes = [*rates, throughput_sentence(results, "posttrain", "tokens")]
    columns = ["negatives", "seed", "lr", "realised_negatives", "tokens", "passes", f"{search}_recall@10"]
    columns += [f"{search}_hit@10", f"{search}_entropy", "temperature", "posttrain_flops", "status"]
    reading.tables["runs"] = results.select([c for c in columns if c in results.columns]).sort(
        "negatives", "seed", "lr"
    )
    return reading
