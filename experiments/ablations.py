"""Which of MOON's choices help image search at this scale?

Hypothesis: each choice of the paper's paradigm (a generative backbone, pretraining on product questions, bidirectional
attention, mean pooling, two stages of post-training, hard negatives, a queue, nested widths) raises image-search recall by
itself: taken out of the whole system alone, at the same number of post-training tokens, recall falls; and where the whole one
has too few tokens to find anything, put into the plain system alone, it rises. Refuted, one by one, where the interval of the
paired difference includes 0 or lies on the other side of it.
"""

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from analysis.axes import frame
from analysis.figures import BLUE, VERMILLION, gains_figure, new_figure
from experiments import steps
from experiments.paradigm import PLAIN, WHOLE, first_stage, nested, post_trained, told
from experiments.question import QuestionError, Reading
from experiments.reading import by_verdict, number, paired_interval, verdict_of
from experiments.recipes import measured_search, recipe_for
from experiments.tuning import ASSUMED, Known, bests, settle, try_rates
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from moon_jax.data.contract import Dataset
    from sweeps import Step

SEEDS = (0, 1, 2)
FLOOR = 3.0  # times chance: a system that finds less has no recall to lose
METRICS = ("recall@1", "recall@10", "recall@100")


BLANK = replace(WHOLE, pretraining=False)
# What is varied: the system that choices are taken out of or put into -> name -> (a system, what it is compared with).
SYSTEMS = {
    # Two towers cannot be pretrained on questions, so the whole system is no opponent of theirs.
    "whole": {
        "whole": (WHOLE, ""),
        "no pretraining": (BLANK, "whole"),
        "two towers": (replace(BLANK, backbone="dual"), "no pretraining"),
        "causal attention": (replace(WHOLE, causal=True), "whole"),
        "last-token pool": (replace(WHOLE, pool="last"), "whole"),
        "causal, last token": (replace(WHOLE, causal=True, pool="last"), "whole"),
        "first stage alone": (replace(WHOLE, stages="first"), "whole"),
        "second stage alone": (replace(WHOLE, stages="second"), "whole"),
        "one form": (replace(WHOLE, mixture=False), "whole"),
        "no hard negatives": (replace(WHOLE, hard_negatives=False), "whole"),
        "no queue": (replace(WHOLE, queue=False), "whole"),
        "circle loss": (replace(WHOLE, loss="circle"), "whole"),
        "no nested widths": (replace(WHOLE, matryoshka=False), "whole"),
        "plain, one stage": (PLAIN, "whole"),
    },
    "plain": {
        "plain": (PLAIN, ""),
        "pretraining": (replace(PLAIN, pretraining=True), "plain"),
        "two towers": (replace(PLAIN, backbone="dual"), "plain"),
        "causal attention": (replace(PLAIN, causal=True), "plain"),
        "last-token pool": (replace(PLAIN, pool="last"), "plain"),
        "two stages, one form": (replace(PLAIN, stages="both"), "plain"),
        "several forms first": (replace(PLAIN, stages="both", mixture=True), "two stages, one form"),
        "hard negatives": (replace(PLAIN, hard_negatives=True), "plain"),
        "queue": (replace(PLAIN, queue=True), "plain"),
        "circle loss": (replace(PLAIN, loss="circle"), "plain"),
        "no nested widths": (replace(PLAIN, matryoshka=False), "plain"),
        "the whole": (WHOLE, "plain"),
    },
}
SEVERAL = ("causal, last token", "plain, one stage", "the whole")  # differ by more than one choice


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """system x seed, all at the recipe's ablation_tokens, each at its best learning rate of a trial by the first seed."""
    recipe, search = told(recipe_for(preset, data)), measured_search(data)
    systems = SYSTEMS[recipe.ablated]
    if search.search != "image":
        raise QuestionError(f"{data.folder}: nobody searches by photo here")
    mixture = first_stage(data, recipe)
    seeds = SEEDS[:2] if preset == "smoke" else SEEDS

    def trained(name: str, lr: float, seed: int = seeds[0]) -> dict[str, "Step"]:
        run = post_trained(data, recipe, systems[name][0], search, mixture, seed, lr)
        return {"posttrain": run, "embed": steps.embed(data, recipe, run, (search,), search.item, nested(recipe))}

    by = f"valid_{search.search}_entropy"
    trials = {name: try_rates(name, by, recipe.lr_axis, functools.partial(trained, name), known) for name in systems}
    rates = bests(trials)
    out = []
    for name, (_, opponent) in systems.items():
        out += trials[name].cells(system=name, opponent=opponent, budget=recipe.ablation_tokens, seed=seeds[0])
    for seed in seeds:  # outermost: neighbours share no program, so two workers compile it once
        for name, (_, opponent) in systems.items():
            if name not in rates or (opponent or name) not in rates:
                continue
            named = trained(name, rates[name], seed)
            run = named["posttrain"].name
            if opponent:
                against = trained(opponent, rates[opponent], seed)["embed"]
                named["contrast"] = steps.contrast(named["embed"], against)
            of = {"system": name, "opponent": opponent, "budget": recipe.ablation_tokens, "seed": seed}
            out.append(Cell({**of, "trial": "", "lr": rates[name], "run": run}, named))
    return out


def read(results: "pl.DataFrame") -> Reading:
    """Per system recall@1, @10, @100 and its paired difference to the system it is compared with, 95 % intervals."""
    import polars as pl

    results, tried, rates, untuned = settle(results)
    base = base_of(results)
    table = differences_of(results)
    if table.is_empty():
        raise QuestionError("ablations: no system has finished beside its opponent yet")

    def said(words: str, rows: "pl.DataFrame") -> str:
        told = ", ".join(_told(row, "recall@10") for row in rows.sort("recall@10 gain").iter_rows(named=True))
        return f"{words}, recall@10 against {_opponents(rows, base)}: {told}."

    varied = results.filter(pl.col("opponent") == "")
    queries, gallery = int(results["image_queries"].drop_nulls()[0]), int(results["gallery"].drop_nulls()[0])
    scores = ", ".join(f"{metric} {_mean(varied, f'image_{metric}'):.3f}" for metric in METRICS)
    notes = [
        f"The {base} system: {scores} (mean of {varied.height} seeds), {queries} queries, gallery of {gallery:,} items.",
        f"Each system alone, all at {int(results['budget'][0]):,} post-training tokens (two stages share them); gains are paired "
        "over test queries and seeds. Intervals: 95 %, t, from the standard error over queries and the spread of seeds "
        f"together, each for itself: of {table.height} true nulls {0.05 * table.height:.1f} would be called a difference.",
        "Hard negatives are encoded besides and cost FLOPs (`posttrain_flops`), but are no tokens of the budget; pretraining "
        "costs tokens of its own.",
    ]
    if base == "whole":
        notes.append(
            "Two towers cannot be pretrained on questions: their opponent is the generative backbone without it."
        )
    else:
        notes.append(
            "Each choice is put into the plain system, not taken out of the whole one: for presets of few tokens."
        )
    reading = Reading(answer=by_verdict(table, said), notes=notes)
    found, chance = _mean(varied, "image_recall@10"), 10 / gallery
    if found < FLOOR * chance:
        reading.answer.insert(
            0,
            f"At this budget the {base} system finds hardly more than chance does (recall@10 {found:.3f} and {chance:.3f}), so "
            "what its parts are worth cannot be seen.",
        )
    if (fewest := int(table["seeds"].min())) < len(SEEDS):  # type: ignore[arg-type]
        reading.weak.append(f"some systems have only {fewest} of {len(SEEDS)} seeds")
    reading.weak += untuned
    reading.notes += rates
    reading.tables["ablations"] = table
    reading.figures["ablations"] = ablations_figure(table, base)
    if tried.height:
        reading.tables["learning rates tried"] = tried
    if (nested_table := nested_of(results)).height:
        reading.tables["nested widths"] = nested_table
        reading.answer.append(_nested_sentence(results))
        reading.figures["nested"] = nested_figure(nested_table)
    return reading


def base_of(results: "pl.DataFrame") -> str:
    """The system that choices are taken out of or put into: the one without an opponent."""
    import polars as pl

    names = results.filter(pl.col("opponent") == "")["system"]
    return str(names[0]) if names.len() else "whole"


def differences_of(results: "pl.DataFrame") -> "pl.DataFrame":
    """One row a system that has an opponent: metrics, and the gain of each with its interval; the verdict is recall@10's."""
    import polars as pl

    if "gain_recall@10" not in results.columns:
        return pl.DataFrame()
    rows = []
    for (name,), part in results.drop_nulls("gain_recall@10").group_by("system", maintain_order=True):
        row: dict[str, Any] = {"system": name, "against": part["opponent"][0], "seeds": part.height}
        for metric in (m for m in METRICS if f"gain_{m}" in part.columns):
            row[metric] = _mean(part, f"image_{metric}")
            gain, low, high = paired_interval(part, f"gain_{metric}")
            row |= {f"{metric} gain": gain, f"{metric} low": low, f"{metric} high": high}
        row["verdict"] = verdict_of(row["recall@10 low"], row["recall@10 high"])
        row |= {name: _mean(part, name) for name in ("posttrain_flops", "tokens") if name in part.columns}
        rows.append(row)
    return pl.DataFrame(rows)


def nested_of(results: "pl.DataFrame") -> "pl.DataFrame":
    """recall@10 by number of dimensions, with nested widths and without."""
    import polars as pl

    widths = sorted(int(c.rpartition("_d")[2]) for c in results.columns if c.startswith("image_recall@10_d"))
    rows = []
    for name in (base_of(results), "no nested widths"):
        part = results.filter(pl.col("system") == name)
        for width in widths:
            values = part[f"image_recall@10_d{width}"].drop_nulls()
            if values.len():
                rows.append(
                    {"system": name, "dimensions": width, "recall@10": number(values.mean()), "sd": values.std()}
                )
    return pl.DataFrame(rows)


def _nested_sentence(results: "pl.DataFrame") -> str:
    """What nested training does for the narrowest beginning, paired."""
    import polars as pl

    part = results.filter(pl.col("system") == "no nested widths")
    width = min(int(c.rpartition("_d")[2]) for c in results.columns if c.startswith("image_recall@10_d"))
    name = f"gain_recall@10_d{width}"
    if name not in part.columns or not part.drop_nulls(name).height:
        return f"recall@10 of the first {width} dimensions has no pair to compare yet."
    gain, low, high = paired_interval(part.drop_nulls(name), name)
    return (
        f"Cut to the first {width} dimensions, training without nested widths changes recall@10 by "
        f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]."
    )


def _told(row: dict[str, Any], metric: str) -> str:
    return f"{row['system']} {row[f'{metric} gain']:+.3f} [{row[f'{metric} low']:+.3f}, {row[f'{metric} high']:+.3f}]"


def _opponents(rows: "pl.DataFrame", base: str) -> str:
    against = set(rows["against"])
    return f"the {base} system" if against == {base} else "the system it is compared with"


def _mean(table: "pl.DataFrame", column: str) -> float:
    values = table[column].drop_nulls().to_numpy()
    return float(values.mean()) if values.size else math.nan


def ablations_figure(table: "pl.DataFrame", base: str) -> "Figure":
    """A dot a system, the largest loss on top, with its 95 % interval, around a line at zero."""
    import polars as pl

    system, against = pl.col("system"), pl.col("against")
    label = pl.when(against == base).then(system).otherwise(system + pl.lit("\nagainst ") + against)
    return gains_figure(
        table.sort("recall@10 gain").with_columns(label=label),
        label="label",
        gain="recall@10 gain",
        low="recall@10 low",
        high="recall@10 high",
        xlabel=f"gain of recall@10 over the {base} system, paired (95 % interval)",
        title="What each choice of the paradigm does to image search",
    )


def nested_figure(table: "pl.DataFrame") -> "Figure":
    """recall@10 against the number of dimensions that are kept, a line with and one without nested training."""
    figure = new_figure()
    ax = figure.add_subplot()
    for (name,), part in table.group_by("system", maintain_order=True):
        colour, marker = (VERMILLION, "s") if name == "no nested widths" else (BLUE, "o")
        label = "whole width alone" if name == "no nested widths" else "nested widths"
        ax.errorbar(
            part["dimensions"],
            part["recall@10"],
            yerr=part["sd"].fill_null(0.0),
            color=colour,
            marker=marker,
            capsize=3,
            label=label,
        )
    ax.set_xscale("log", base=2)
    widths = sorted(set(table["dimensions"]))
    ax.set_xticks(widths, [str(width) for width in widths])
    frame(ax, "dimensions kept (log scale)", "image-search recall@10 (bars: sd of seeds)")
    ax.legend(frameon=False)
    ax.set_title("What the beginning of a vector is worth", loc="left", fontsize=11)
    return figure
