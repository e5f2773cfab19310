"""How does retrieval improve with training tokens?

Hypothesis: the error of image search falls as a power of the post-training tokens towards a floor, so that small runs
foretell a larger one. Each budget is a run of its own that decays to it (with --trunk a branch of one). Refuted if the
largest budget, held out of the fit, falls outside its prediction interval, or if the curve is flat.
"""

from typing import TYPE_CHECKING

import analysis
from analysis.figures import scaling_figure
from experiments import steps
from experiments.question import Reading
from experiments.reading import (
    clears,
    floors_of,
    holdout_sentence,
    law_sentence,
    measured,
    primary_search,
    rise_sentence,
    throughput_sentence,
)
from experiments.recipes import measured_search, recipe_for
from experiments.tuning import ASSUMED, Known, choose_rates, tune
from sweeps import Cell, Step

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset


def cells(preset: str, data: "Dataset", trunk: bool = False, known: Known = ASSUMED) -> list[Cell]:
    """budget x seed, the first seed along the lr axis, and the untrained encoder.

    trunk: budgets of one seed and rate branch off one trunk; they are one run, for they share what they have seen.
    """
    data.path("pairs")
    recipe, search = recipe_for(preset, data), measured_search(data)
    branches = recipe.budgets if trunk else ()

    def trained(budget: int, seed: int, lr: float) -> dict[str, Step]:
        run = steps.posttrain(data, recipe, forms=(search,), tokens=budget, seed=seed, lr=lr, branches=branches)
        return {"posttrain": run, "embed": steps.embed(data, recipe, run, (search,), search.item)}

    by = f"valid_{search.search}_entropy"
    grid, _ = tune(recipe.budgets, seeds=recipe.seeds, axis=recipe.lr_axis, run=trained, by=by, known=known)
    untrained = [(0, seed, 1.0, trained(0, seed, 1.0)) for seed in recipe.seeds]
    out = []
    for budget, seed, lr, named in untrained + grid:
        run = named["posttrain"]
        coordinates = {"budget": budget, "seed": seed, "lr": lr, "run": run.needs.get("trunk", run).name}
        if search.search == "image":
            floors, clearance = steps.floors(data, recipe), steps.clearance(data, recipe, named["embed"])
            named |= {"floors": floors, "clearance": clearance}
        out.append(Cell(coordinates, named))
    return out


def read(results: "pl.DataFrame") -> Reading:
    """Power law with floor and log line on recall@10 and on contrastive entropy, the largest budget held out."""
    import polars as pl

    search = primary_search(results)
    trained = results.filter(pl.col("budget") > 0)
    runs, rates, weak = choose_rates(trained, "budget", search)
    # Seeds realise a budget to within a fraction of a percent: their mean makes them replicates of one x.
    runs = runs.with_columns(pl.col("tokens").mean().over("budget"))
    reading = Reading(answer=[], weak=weak)
    for metric, transform in measured(search):
        for law in ("power_floor", "log_line"):
            fit = analysis.fit(
                runs, x="tokens", y=metric, transform=transform, law=law, cluster="run", holdout="largest"
            )
            reading.fits[f"{metric}-{law}"] = fit
            if law == "power_floor":
                reading.answer += [law_sentence(fit, metric), holdout_sentence(fit, metric)]
                reading.figures[metric] = scaling_figure(
                    fit,
                    floors=floors_of(results, metric) if metric.endswith("@10") else None,
                    title=f"{search} search against training tokens",
                    xlabel="post-training tokens",
                    ylabel=metric,
                )
    recall = f"{search}_recall@10"
    rise = rise_sentence(runs, reading.fits[f"{recall}-power_floor"], recall, "budget", "tokens")
    # What the rise is worth comes with it: above what floors, the untrained encoder among them.
    stands = clears(pl.concat([results.filter(pl.col("budget") == 0), runs], how="diagonal"), search)
    reading.answer = [rise, *stands, *reading.answer]
    reading.notes = [*rates, throughput_sentence(trained, "posttrain", "tokens")]
    columns = ["budget", "seed", "lr", "tokens", "passes", f"{search}_recall@1", f"{search}_recall@10"]
    columns += [f"{search}_hit@10", f"{search}_recall@10_no_twins", f"{search}_hit@10_no_twins", f"{search}_entropy"]
    columns += ["posttrain_tokens_per_second", "posttrain_share_of_matmul_peak", "posttrain_seconds", "status"]
    reading.tables["runs"] = results.select([c for c in columns if c in results.columns]).sort("budget", "seed", "lr")
    return reading
