"""What does pretraining on product questions teach the model about the catalogue?

Hypothesis: trained on next tokens of answers alone, the model tells of a product that it has not seen, by its photo, the
category, the kind and the colour far more often than by naming the commonest answer, and with the title beside the photo
more often than the words of the title alone would. Refuted, field by field, where the interval of the paired difference
includes 0 or lies below.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.axes import frame
from analysis.figures import BLUE, GREY, VERMILLION, new_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import number, paired_interval
from experiments.recipes import recipe_for
from sweeps import Cell

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    from matplotlib.figure import Figure

    from moon_jax.data.contract import Dataset

WAYS = {"photo": "by photo", "photo_title": "by photo and title"}
FLOORS = {"photo": ("majority", "the commonest answer"), "photo_title": ("title_words", "words of the title")}
RATES = (1 / 3, 1.0, 3.0)
SAMPLES = "samples.json"  # of the answers step


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """pretraining tokens x seed x lr (an axis at the largest budget)."""
    for file in ("items", "pairs"):
        data.path(file)
    recipe, out = recipe_for(preset, data), []
    for budget in recipe.pretrain_tokens:
        for lr in RATES if budget == recipe.pretrain_tokens[-1] else (1.0,):
            for seed in recipe.seeds:
                run = steps.pretrain(data, recipe, tokens=budget, seed=seed, lr=lr)
                coordinates = {"budget": budget, "lr": lr, "seed": seed, "run": run.name}
                out.append(Cell(coordinates, {"pretrain": run, "answers": steps.answers(data, run)}))
    return out


def read(results: "pl.DataFrame", folder_of: "Callable[[str], Path] | None" = None) -> Reading:
    """Accuracies at the largest budget and its best rate, paired gains over both floors, samples to look at."""
    import polars as pl

    largest = results.filter(pl.col("budget") == results["budget"].max())
    rates = largest.group_by("lr").agg(pl.col("pretrain_valid_loss").mean(), n=pl.len()).sort("pretrain_valid_loss")
    best = number(rates["lr"][0])
    chosen = largest.filter(pl.col("lr") == best)
    table = accuracies_of(chosen)
    if table.is_empty():
        raise QuestionError("pretraining: no run at the largest budget has been asked yet")
    answer = []
    for row in table.iter_rows(named=True):
        answer.append(
            f"{row['field'].capitalize()} {row['asked']}: {row['right']:.1%} right, {row['gain']:+.1%} "
            f"[{row['low']:+.1%}, {row['high']:+.1%}] over {row['floor']} ({row['of floor']:.1%})."
        )
    seen = ", ".join(f"x{lr:.2g} {loss:.3f}" for lr, loss in rates.select("lr", "pretrain_valid_loss").iter_rows())
    notes = [
        f"{int(chosen['answer_products'][0]):,} products of the test split, one item each, none of them trained on; an answer is "
        "right where all of it is. Gains are paired over products and seeds, intervals 95 %.",
        f"Learning rate at {number(results['budget'].max()):,.0f} tokens, loss on the valid split in nats a token: {seen}; "
        f"x{best:.2g} chosen.",
        "The kind of product is the leaf of its category. The words of the title guess by naive Bayes, fitted on the items "
        "that are trained on, without any photo.",
    ]
    reading = Reading(answer=answer, notes=notes)
    if rates.height > 1 and best in (min(rates["lr"]), max(rates["lr"])):
        reading.weak.append("the best learning rate lies at the edge of its axis, perhaps beyond it")
    reading.tables["answers"] = table
    fields = table["field"].unique(maintain_order=True).to_list()
    reading.figures["answers"] = accuracy_figure(results.filter(pl.col("lr") == 1.0), fields)
    samples = [] if folder_of is None else samples_of(folder_of(chosen["answers_step"][0]))
    if samples:
        reading.figures["samples"] = samples_figure(samples)
    return reading


def accuracies_of(chosen: "pl.DataFrame") -> "pl.DataFrame":
    """One row a field and a way of asking: share of right answers, the floor's, the paired gain with its interval."""
    import polars as pl

    floors = [c for c in chosen.columns if c.endswith("_majority") and "_over_" not in c]
    fields = [c.removeprefix("answer_").removesuffix("_majority") for c in floors]
    rows = []
    for field in fields:
        queries = chosen[f"answer_{field}_products"]
        for way, (floor, told) in FLOORS.items():
            gain, low, high = paired_interval(
                chosen.with_columns(image_queries=queries), f"answer_{field}_{way}_over_{floor}"
            )
            rows.append(
                {
                    "field": field.replace("_", " "),
                    "asked": WAYS[way],
                    "right": number(chosen[f"answer_{field}_{way}"].mean()),
                    "floor": told,
                    "of floor": number(chosen[f"answer_{field}_{floor}"].mean()),
                    "gain": gain,
                    "low": low,
                    "high": high,
                    "products": int(queries[0]),
                    "seeds": chosen.height,
                }
            )
    return pl.DataFrame(rows)


def accuracy_figure(results: "pl.DataFrame", fields: list[str]) -> "Figure":
    """A panel a field: share of right answers against pretraining tokens, by photo and with the title, and both floors."""
    import polars as pl

    figure = new_figure(width=2.6 * len(fields) + 0.6, height=3.4)
    axes = figure.subplots(1, len(fields), sharey=True, squeeze=False)[0]
    means = results.group_by("budget").agg(pl.selectors.numeric().exclude("budget").mean()).sort("budget")
    for ax, field in zip(axes, fields, strict=True):
        name = f"answer_{field.replace(' ', '_')}"
        for way, colour, marker in (("photo", BLUE, "o"), ("photo_title", VERMILLION, "s")):
            floor, told = FLOORS[way]
            ax.plot(means["budget"], means[f"{name}_{way}"], color=colour, marker=marker, label=WAYS[way])
            ax.axhline(means[f"{name}_{floor}"][0], color=colour, ls=":", lw=1.2, label=told)
        ax.set_xscale("log")
        ax.set_xticks(means["budget"], [_short_number(budget) for budget in means["budget"]])
        ax.minorticks_off()
        ax.set_ylim(0, 1.02)
        frame(ax, "pretraining tokens", "share of right answers" if ax is axes[0] else "")
        ax.set_title(field, loc="left", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def samples_of(folder: Path) -> list[dict[str, Any]]:
    """What an answers step kept to be looked at, photos as arrays; none where it is gone."""
    import matplotlib.image

    if not (folder / SAMPLES).exists():
        return []
    kept = json.loads((folder / SAMPLES).read_text())
    return [sample | {"photo": matplotlib.image.imread(folder / sample["photo"])} for sample in kept]


def samples_figure(samples: list[dict[str, Any]]) -> "Figure":
    """Photos of products that were not trained on, what the model says by photo alone, and what is true."""
    columns = 2
    rows = -(-len(samples) // columns)
    figure = new_figure(width=10.0, height=1.62 * rows + 0.4)
    grid = figure.subplots(rows, 2 * columns, width_ratios=[1, 2.7] * columns, squeeze=False)
    for ax in grid.ravel():
        ax.axis("off")
    for n, sample in enumerate(samples):
        shown, told = grid[n // columns, 2 * (n % columns) : 2 * (n % columns) + 2]
        shown.imshow(sample["photo"])
        for line, (asked, true, said) in enumerate(sample["answers"]):
            right = said.lower() == true.lower()
            text = f"{asked}: {said}" if right else f"{asked}: {said or '(nothing)'}  (true: {true})"
            told.text(0, 1 - 0.2 * line, _short(text), color=BLUE if right else GREY, fontsize=7.5, va="top")
    figure.suptitle(
        "What the model says of photos that it has not seen; right answers in blue", x=0.01, ha="left", fontsize=11
    )
    return figure


def _short_number(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e5 else f"{value / 1e3:g}k"


def _short(text: str, most: int = 64) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
