"""What does it take to clear the pixel floor?

Hypothesis: a small encoder that sees enough photos retrieves the same product more often than thumbnails and colour
histograms do. One factor is changed at a time at a fixed number of tokens (own photos as pairs, patch size, resolution,
model size, text in the item, augmentation, learning rate, batch), then the recipe and a wider model run longer. Refuted
if no cell clears it.
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
OVER, SE = "hit_over_pixel_colour", "hit_over_pixel_colour_se"
LONGER, WIDER = (4, 10, 20), 8  # of the budget: the recipe, and with twice its width


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """One factor at a time at the tokens of the second largest budget; then the recipe and the wider model run longer."""
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
        "half the resolution": (_halved(recipe), forms[0]),
    }
    first = recipe.seeds[0]
    points = [(name, budget, first, *variant) for name, variant in variants.items()]
    points += [("recipe", factor * budget, first, recipe, forms[0]) for factor in LONGER[:-1]]
    points += [("recipe", LONGER[-1] * budget, seed, recipe, forms[0]) for seed in recipe.seeds]
    points += [("size micro", WIDER * budget, seed, *variants["size micro"]) for seed in recipe.seeds]
    out = []
    for name, tokens, seed, changed, form in points:
        run = steps.posttrain(data, changed, forms=(form,), tokens=tokens, seed=seed)
        embedded = steps.embed(data, changed, run, (form,), form.item)
        named = {"posttrain": run, "embed": embedded, "floors": steps.floors(data, recipe)}
        named["clearance"] = steps.clearance(data, recipe, embedded)
        out.append(Cell({"variant": name, "budget": tokens, "seed": seed, "run": run.name}, named))
    return out


def _halved(recipe: "Recipe") -> "Recipe":
    """Half as many pixels a side in as many patches."""
    return replace(recipe, height=recipe.height // 2, width=recipe.width // 2, patch=recipe.patch // 2)


def read(results: "pl.DataFrame") -> Reading:
    """Every cell beside the floors, paired over queries; the answer is the cell that is best on the valid split."""
    import polars as pl

    floors = floors_of(results, METRIC)
    table = results.with_columns(clears=pl.col(OVER) > 2 * pl.col(SE)).sort("tokens", METRIC)
    points = table.group_by("variant", "budget").agg(
        pl.col("valid_image_recall@10", METRIC, OVER, SE, "posttrain_seconds").mean(), seeds=pl.len()
    )
    best = points.sort("valid_image_recall@10", descending=True).row(0, named=True)
    side = "clears" if best[OVER] > 2 * best[SE] else "does not clear"
    reading = Reading(
        answer=[
            f"The best cell on the valid split ({best['variant']}, {best['budget']:,} tokens, {best['seeds']} seeds, "
            f"{best['posttrain_seconds'] / 60:.0f} min each) reaches {METRIC} {best[METRIC]:.3f} and {side} pixels + "
            f"colour: {best[OVER]:+.3f} +- {best[SE]:.3f} (standard error, paired over the same queries).",
            "Floors: " + ", ".join(f"{name} {value:.3f}" for name, value in floors.items()) + ".",
        ],
        weak=["one seed a cell but the longest: differences under about two standard errors mean nothing"],
    )
    columns = ["variant", "seed", "tokens", "passes", METRIC, OVER, SE, "clears", "image_recall@10"]
    columns += ["image_hit@10_no_twins", "image_recall@100", "image_entropy", "posttrain_tokens_per_second"]
    reading.tables["cells"] = table.select([*columns, "posttrain_seconds", "peak_memory"])
    reading.figures["variants"] = line_figure(
        results, x="tokens", y=METRIC, series="variant", floors=floors, title="What clears the pixel floor?",
        xlabel="post-training tokens", ylabel=METRIC,
    )  # fmt: skip
    return reading
