"""What does it take to clear the pixel floor?

Hypothesis: a small encoder that sees enough photos retrieves the same product more often than thumbnails and colour
histograms do. One factor is changed at a time at a fixed number of tokens (own photos as pairs, patch size, model size,
text in the item, augmentation, learning rate, batch), then the best is run longer. Refuted if no cell clears it.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.figures import line_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import floors_of
from experiments.recipes import mixture_of, recipe_for
from moon_jax.data.forms import Form, parse_form
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl

    from experiments.recipes import Recipe
    from moon_jax.data.contract import Dataset

METRIC = "image_hit@10"


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """One factor at a time at the tokens of the second largest budget, then 1x, 4x and 10x of the recipe itself."""
    recipe = recipe_for(preset, data)
    if "image" not in data.forms:
        raise QuestionError(f"{data.folder}: nobody searches by photo here")
    plain, with_text = (parse_form("image", text) for text in ("image->image", "image->image+text"))
    forms = mixture_of(data) if len(data.forms) == 1 else (plain,)
    budget = recipe.budgets[-2]
    variants: dict[str, tuple[Recipe, Form]] = {
        "recipe": (recipe, forms[0]),
        "no own photos as pairs": (replace(recipe, own_weight=0.0), forms[0]),
        "text in the item": (recipe, with_text),
        "patch 8": (replace(recipe, patch=8), forms[0]),
        "items augmented, too": (replace(recipe, augment_items=True), forms[0]),
        "size micro": (replace(recipe, size="micro"), forms[0]),
        "learning rate x2": (replace(recipe, lr=2 * recipe.lr), forms[0]),
        "batch x4": (replace(recipe, batch=4 * recipe.batch), forms[0]),
    }
    points = [(name, budget, *variant) for name, variant in variants.items()]
    points += [("recipe", factor * budget, recipe, forms[0]) for factor in (4, 10)]
    out = []
    for name, tokens, changed, form in points:
        run = steps.posttrain(data, changed, forms=(form,), tokens=tokens, seed=0)
        embedded = steps.embed(data, changed, run, (form,), form.item)
        named = {"posttrain": run, "embed": embedded, "floors": steps.floors(data, recipe)}
        out.append(Cell({"variant": name, "budget": tokens, "seed": 0, "run": run.name}, named))
    return out


def read(results: "pl.DataFrame") -> Reading:
    """Every cell beside the floors, and the first that clears pixels + colour by 2 SE."""
    import polars as pl

    floors = floors_of(results, METRIC)
    queries = int(results["image_queries"][0])
    highest = max(floors.values())
    table = results.with_columns(se=(pl.col(METRIC) * (1 - pl.col(METRIC)) / queries).sqrt()).with_columns(
        clears=pl.col(METRIC) - 2 * pl.col("se") > highest
    )
    best = table.sort("valid_image_recall@10", descending=True).row(0, named=True)
    minutes = best["posttrain_seconds"] / 60
    side = "clears" if best["clears"] else "does not clear"
    reading = Reading(
        answer=[
            f"The best cell on the valid split ({best['variant']}, {best['tokens']:,.0f} tokens, {minutes:.0f} min) "
            f"reaches {METRIC} {best[METRIC]:.3f} +- {best['se']:.3f} and {side} the highest floor, {highest:.3f}.",
            "Floors: " + ", ".join(f"{name} {value:.3f}" for name, value in floors.items()) + ".",
        ],
        weak=["one seed a cell: differences under about two standard errors mean nothing"],
    )
    columns = ["variant", "tokens", "passes", METRIC, "se", "clears", "image_recall@10", "image_hit@10_no_twins"]
    columns += ["image_recall@100", "image_entropy", "posttrain_tokens_per_second", "posttrain_seconds"]
    reading.tables["cells"] = table.select(columns).sort("tokens", METRIC)
    reading.figures["variants"] = line_figure(
        results, x="tokens", y=METRIC, series="variant", floors=floors, title="What clears the pixel floor?",
        xlabel="post-training tokens", ylabel=METRIC,
    )  # fmt: skip
    return reading
