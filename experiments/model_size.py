"""What is a larger encoder worth, and how does that depend on the tokens that it sees?

Hypothesis: contrastive entropy follows one law of model size and tokens together, E + A N^-alpha + B D^-beta, so that runs of
little compute foretell those of more. Its grid is one of equal compute: at each budget of FLOPs every size sees as many
tokens as the budget pays for, negatives counted. Refuted if the largest budget, held out of the fit, lies outside its prediction
intervals more often than stated, or if size does not matter within what seeds scatter.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import analysis
from analysis.figures import line_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import number, primary_search, throughput_sentence
from experiments.recipes import Recipe, measured_search, recipe_for
from experiments.tuning import ASSUMED, Known, choose_rates, tune
from moon_jax.data.augment import draw_views, show
from moon_jax.data.forms import Form
from moon_jax.data.loading import words_of
from moon_jax.flops import count_flops
from moon_jax.models.encoder import EncoderConfig
from sweeps import Cell, Step

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset

AXES = ("active_params", "tokens")


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """size x compute x seed, the first seed along the lr axis; tokens follow from size and compute."""
    data.path("pairs")
    recipe, search = recipe_for(preset, data), measured_search(data)
    out = []
    for size in recipe.compute_sizes:
        sized = replace(recipe, size=size)
        price = pair_price(steps.encoder(sized), search, recipe)
        told = {"encoder_share": price.encoder / price.flops, "loss_share": price.loss / price.flops}
        grid, _ = tune(
            recipe.compute,
            seeds=recipe.seeds,
            axis=recipe.lr_axis,
            run=functools.partial(_trained, data, sized, search, price.tokens / price.flops),
            by=f"valid_{search.search}_entropy",
            known=known,
        )
        for compute, seed, lr, named in grid:
            coordinates = {"size": size, "compute": compute, "seed": seed, "lr": lr, "run": named["posttrain"].name}
            out.append(Cell({**coordinates, "batch": recipe.batch, **told}, named))
    return out


def _trained(
    data: "Dataset", recipe: Recipe, search: Form, tokens_per_flop: float, compute: float, seed: int, lr: float
) -> dict[str, Step]:
    tokens = round(compute * tokens_per_flop)
    run = steps.posttrain(data, recipe, forms=(search,), tokens=tokens, seed=seed, lr=lr)
    return {"posttrain": run, "embed": steps.embed(data, recipe, run, (search,), search.item)}


@dataclass(frozen=True)
class Price:
    """Training FLOPs of one pair by what they are spent on, and its tokens."""

    encoder: float
    photos: float
    loss: float
    tokens: int

    @property
    def flops(self) -> float:
        return self.encoder + self.photos + self.loss


@functools.cache  # a question is asked several times in a run
def pair_price(encoder: EncoderConfig, form: Form, recipe: Recipe) -> Price:
    """What a pair costs: the encoder forward and backward, augmented photos, and the loss over the batch; texts taken to be full.

    Real texts are shorter, so that a budget buys more steps than foreseen: by one factor for all sizes, which leaves the sizes
    equal. What was spent is counted by the runs themselves (`posttrain_flops`).
    """
    import jax
    import numpy as np
    from flax import nnx

    graph, params = nnx.split(nnx.eval_shape(lambda: encoder.build(0)))
    pixels = jax.ShapeDtypeStruct((1, encoder.height, encoder.width, 3), np.uint8)
    views = jax.eval_shape(lambda: draw_views(1, jax.random.key(0)))
    words = jax.ShapeDtypeStruct((1, recipe.text_length), np.int32)
    flops = photos = tokens = 0
    for side, augmented in ((form.query, True), (form.item, recipe.augment_items)):
        image, text = pixels if "image" in side else None, words if words_of(side) else None
        learn = jax.grad(lambda p, i, t: nnx.merge(graph, p)(i, t).sum(), allow_int=True)
        flops += count_flops(learn, params, image, text)
        photos += count_flops(show, pixels, views) if image is not None and augmented else 0
        tokens += encoder.patches * (image is not None) + recipe.text_length * (text is not None)
    return Price(flops, photos, loss_flops(recipe.batch, encoder.embedding), tokens)


def loss_flops(batch: float, embedding: float) -> float:
    """FLOPs of the symmetric loss for one pair among the batch, as `analysis.Cost` counts them."""
    return 8 * batch * embedding


def chosen_runs(results: "pl.DataFrame") -> "tuple[pl.DataFrame, list[str], list[str]]":
    """Runs at each size's chosen rates, with what they cost: (rows, how rates were chosen, weak points).

    Adds `flops_spent` (realised, mean of the budget's runs: what equal compute means), how far `apart` from it a run is, and
    `active_params`: the encoder's FLOPs a token over 6, so that compute is 6 N D, the loss and the photos.
    """
    import polars as pl

    search = primary_search(results)
    parts, said, weak = [], [], []
    for (size,), part in results.group_by("size", maintain_order=True):
        runs, rates, edges = choose_rates(part, "compute", search)
        parts.append(runs)
        said += [f"{size}: {line}" for line in rates]
        weak += [f"{size}: {line}" for line in edges]
    runs = pl.concat(parts)
    body = pl.col("posttrain_flops") * pl.col("encoder_share") / (6 * pl.col("tokens"))
    runs = runs.with_columns(
        active_params=body.mean().over("size"),
        flops_spent=pl.col("posttrain_flops").mean().over("compute"),
        apart=pl.col("posttrain_flops") / pl.col("posttrain_flops").mean().over("compute") - 1,
        tokens=pl.col("tokens").mean().over("size", "compute"),
    )
    return runs, said, weak


def joint_law(runs: "pl.DataFrame", metric: str, transform: Any, **options: Any) -> Any:
    """E + A N^-alpha + B D^-beta over active parameters and tokens."""
    return analysis.fit(
        runs,
        x=AXES,
        y=metric,
        transform=transform,
        law="chinchilla",
        cluster="run",
        loss="huber",
        delta=1e-2,
        **options,
    )


def read(results: "pl.DataFrame") -> Reading:
    """The joint law of entropy and of recall, the largest compute held out; curves of each size."""
    search = primary_search(results)
    runs, rates, weak = chosen_runs(results)
    if runs["size"].n_unique() < 3 or runs["compute"].n_unique() < 3:
        raise QuestionError("model_size: fewer than three sizes at three budgets have finished yet")
    reading = Reading(answer=[], weak=weak)
    for metric, transform in ((f"{search}_entropy", "identity"), (f"{search}_recall@10", "error")):
        fit = joint_law(runs, metric, transform)
        reading.fits[metric] = fit
        reading.answer.append(joint_sentence(fit))
        held = held_out(runs, metric, transform)
        reading.answer.append(held_sentence(held, metric))
        reading.tables[f"{metric}: largest compute, held out"] = held
        if (counted := held.drop_nulls("within")).height:
            reading.held[metric] = (counted.filter("within").height, counted.height)
        reading.figures[metric] = line_figure(
            runs, x="tokens", y=metric, series="size", title=f"{search} search against tokens, by size",
            xlabel="post-training tokens", ylabel=metric,
        )  # fmt: skip
    reading.answer.insert(0, largest_sentence(runs, f"{search}_recall@10", search))
    spread = number(runs["apart"].abs().max())
    budgets = ", ".join(f"{spent:.2g}" for spent in sorted(set(runs["flops_spent"])))
    reading.notes = [
        f"At each budget ({budgets} FLOPs) every size saw as many tokens as it pays for; realised FLOPs of a budget differ by at "
        f"most {spread:.1%}. N: the encoder's FLOPs a token / 6.",
        *rates,
        throughput_sentence(results, "posttrain", "tokens"),
    ]
    columns = ["size", "compute", "seed", "lr", "params", "active_params", "tokens", "passes", f"{search}_entropy"]
    columns += [f"{search}_recall@10", "posttrain_flops", "loss_share", "posttrain_seconds"]
    reading.tables["runs"] = runs.select([c for c in columns if c in runs.columns]).sort(
        "compute", "active_params", "seed"
    )
    return reading


def joint_sentence(fit: Any) -> str:
    """The law with each parameter's interval, where it has one."""
    ends = fit.intervals(0.95)
    told = ", ".join(
        f"{name} = {value:.3g}"
        + (f" [{ends[name][0]:.3g}, {ends[name][1]:.3g}]" if math.isfinite(ends[name][0]) else "")
        for name, value in fit.params.items()
    )
    return f"{fit.y_label} follows {fit.form.formula}: {told} ({fit.clusters} runs; parameters without an interval are not told)."


def held_out(runs: "pl.DataFrame", metric: str, transform: str) -> "pl.DataFrame":
    """The runs of the largest compute, foretold by the law of the smaller ones: one row a run."""
    import numpy as np
    import polars as pl

    largest = pl.col("compute") == runs["compute"].max()
    fit, rows = joint_law(runs.filter(~largest), metric, transform), runs.filter(largest)
    foretold = fit.predict(np.stack([rows[name].to_numpy() for name in AXES]), interval=0.95)
    seen = rows[metric].to_numpy() if transform == "identity" else 1 - rows[metric].to_numpy()
    known = np.isfinite(foretold.low)
    within = [
        bool(a <= y <= b) if k else None for a, y, b, k in zip(foretold.low, seen, foretold.high, known, strict=True)
    ]
    parts = {"foretold": foretold.mean, "low": foretold.low, "high": foretold.high, "observed": seen}
    return rows.select("size", "seed").with_columns(
        **{name: pl.Series(values) for name, values in parts.items()}, within=pl.Series(within, dtype=pl.Boolean)
    )


def held_sentence(held: "pl.DataFrame", metric: str) -> str:
    counted = held.drop_nulls("within")
    if counted.is_empty():
        return f"{metric} of the largest compute, held out: no interval can be given."
    inside = counted.filter("within").height
    worst = number((held["observed"] / held["foretold"] - 1).abs().max())
    return (
        f"{metric} of the largest compute, held out: {inside} of {counted.height} runs within their 95 % prediction intervals; "
        f"the farthest is {worst:.1%} off."
    )


def largest_sentence(runs: "pl.DataFrame", metric: str, search: str) -> str:
    """Sizes at the largest compute, best first."""
    import polars as pl

    top = runs.filter(pl.col("compute") == runs["compute"].max())
    means = top.group_by("size").agg(pl.col(metric, f"{search}_entropy").mean()).sort(f"{search}_entropy")
    told = ", ".join(f"{size} {recall:.3f} ({entropy:.2f} nats)" for size, recall, entropy in means.iter_rows())
    return (
        f"At {number(top['flops_spent'][0]):.3g} FLOPs, {metric} by size (width x blocks), best entropy first: {told}."
    )
