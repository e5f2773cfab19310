"""Does the exchange rate foretell the next version?

Hypothesis: five versions that add the paper's dimensions one after another (data processing, training strategy, architecture,
application) each raise image-search recall and GAUC, and the rate of one into the other, from other versions, says by how much
the next one's GAUC changes. Refuted, step by step, where the observed change of GAUC lies outside the interval of the predicted
one; the last step changes the CTR model alone, which no recall can foretell.
"""

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import analysis
from analysis.axes import frame
from analysis.figures import BLUE, GREY, VERMILLION, new_figure
from experiments import exchange_rate, steps
from experiments.paradigm import WHOLE, System, first_stage, post_trained, told
from experiments.question import QuestionError, Reading
from experiments.reading import number, paired_interval, part_of
from experiments.recipes import measured_search, recipe_for
from experiments.tuning import ASSUMED, Known, bests, settle, try_rates
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from moon_jax.data.contract import Dataset
    from sweeps import Step

SEEDS = (0, 1, 2)
LADDER, RATE = "ladder", "rate"
PLAIN, CUBE = ("attention", "simtier"), ("cube",)
START = System(
    backbone="dual",
    pretraining=False,
    stages="second",
    mixture=False,
    hard_negatives=False,
    queue=False,
    matryoshka=False,
    processed=False,
)
STRATEGY = replace(START, processed=True, stages="both", mixture=True, hard_negatives=True, queue=True)
# version -> (how it is post-trained, how it is applied), each with one dimension more than the one before.
VERSIONS = {
    "1 start": (START, PLAIN),
    "2 + data processing": (replace(START, processed=True), PLAIN),
    "3 + training strategy": (STRATEGY, PLAIN),
    "4 + architecture": (WHOLE, PLAIN),
    "5 + application": (WHOLE, CUBE),
}


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """The ladder, version x seed, each paired with the version before; and the versions that the rate is taken from.

    Systems and CTR models are at their best learning rates of trials by the first seed.
    """
    recipe, search = recipe_for(preset, data), measured_search(data)
    if search.search != "image":
        raise QuestionError(f"{data.folder}: nobody searches by photo here")
    data.path("impressions")
    out = [Cell({"part": RATE, **cell.coordinates}, cell.steps) for cell in exchange_rate.cells(preset, data, known)]
    recipe, mixture = told(recipe), first_stage(data, recipe)
    seeds = SEEDS[:2] if preset == "smoke" else SEEDS

    def trained(system: System, lr: float, seed: int = seeds[0]) -> dict[str, "Step"]:
        run = post_trained(data, recipe, system, search, mixture, seed, lr)
        return {"posttrain": run, "embed": steps.embed(data, recipe, run, (search,), search.item)}

    by = f"valid_{search.search}_entropy"
    systems = {
        system: try_rates(name, by, recipe.lr_axis, functools.partial(trained, system), known)
        for name, (system, _) in reversed(VERSIONS.items())
    }
    last = trained(WHOLE, 1.0)["embed"]
    readers = {
        PLAIN: exchange_rate.reader_trial(data, recipe_for(preset, data), known),
        CUBE: exchange_rate.reader_trial(data, recipe, known, modules=CUBE, of=last),
    }
    for trial in (*systems.values(), readers[CUBE]):  # the plain reader's stand among the rate's cells
        out += trial.cells(part=LADDER, version=trial.name, seed=seeds[0])
    system_rates, reader_rates = bests(systems), bests(readers)
    if len(system_rates) < len(systems) or len(reader_rates) < len(readers):
        return out
    for seed in seeds:
        before: dict[str, Any] = {}
        for name, (system, modules) in VERSIONS.items():
            run, embedded = trained(system, system_rates[system], seed).values()
            ctr = steps.application(
                data,
                recipe,
                length=recipe.ctr_length,
                seed=seed,
                embedded=embedded,
                modules=modules,
                lr=reader_rates[modules],
            )
            named = {"posttrain": run, "embed": embedded, "application": ctr}
            if before:
                if before["embed"] != embedded:
                    named["contrast"] = steps.contrast(embedded, before["embed"])
                named["compare"] = steps.compare(ctr, before["application"])
            told_of = {"part": LADDER, "version": name, "seed": seed, "trial": "", "lr": system_rates[system]}
            out.append(Cell({**told_of, "run": run.name}, named))
            before = {"embed": embedded, "application": ctr}
    return out


def read(results: "pl.DataFrame") -> Reading:
    """Each version's recall and GAUC, what it adds to the one before, and what the rate foretold of that."""
    import polars as pl

    ladder, versions = part_of(results, LADDER), part_of(results, RATE)
    if ladder.is_empty() or versions.is_empty() or "gauc_gain" not in ladder.columns:
        raise QuestionError("iterations: no version has finished beside the one before it yet")
    rate = exchange_rate.rate_into(versions, "image_recall@10")
    table = steps_of(ladder, rate)
    reading = Reading(answer=[], weak=list(rate.warnings))
    for row in table.iter_rows(named=True):
        reading.answer.append(
            f"{row['version']}: recall@10 {row['recall gain']:+.4f} [{row['recall low']:+.4f}, {row['recall high']:+.4f}], GAUC "
            f"{row['gauc gain']:+.4f} [{row['gauc low']:+.4f}, {row['gauc high']:+.4f}], foretold {row['foretold']:+.4f} "
            f"[{row['foretold low']:+.4f}, {row['foretold high']:+.4f}]: {row['verdict']}."
        )
    reading.answer.insert(0, first_sentence(table.filter("encoder"), rate))
    reading.notes.append(
        "Gains are over the version before, paired over test queries, users and seeds, intervals 95 %. Foretold: the rate times "
        "the gain of recall; its interval has the rate's uncertainty and that of recall. A step lies as foretold where the "
        f"difference of observed and foretold is within both uncertainties. The rate is of {rate.n} other versions."
    )
    _, tried, rates, untuned = settle(results)
    reading.weak += [*untuned, "one number of tokens for all versions"]
    reading.notes += rates
    reading.fits["rate"] = rate
    reading.tables["what each version adds"] = table
    if tried.height:
        reading.tables["learning rates tried"] = tried
    reading.tables["versions"] = (
        ladder.group_by("version", maintain_order=True)
        .agg(pl.col("image_recall@10", "gauc", "auc", "log_loss").mean(), seeds=pl.len())
        .sort("version")
    )
    reading.figures["iterations"] = ladder_figure(table)
    return reading


def first_sentence(steps: "pl.DataFrame", rate: "analysis.Rate") -> str:
    """How many steps that move GAUC were foretold; the others, which foretell little, apart."""
    import polars as pl

    moves = (pl.col("gauc low") > 0) | (pl.col("gauc high") < 0)
    foretold = pl.col("verdict") == "as foretold"
    moved, still = steps.filter(moves), steps.filter(~moves)
    told = (
        f"{rate.slope:+.3f} GAUC per unit of image-search recall@10 [{rate.interval[0]:+.3f}, {rate.interval[1]:+.3f}]"
    )
    beyond = f"{moved.height} of {steps.height} steps that change the encoder move GAUC beyond their interval"
    said = f"{moved.filter(foretold).height} of {moved.height} as foretold"
    if not moved.height:
        return f"No step that changes the encoder moves GAUC beyond its interval; the rate is {told}."
    rest = f"; of the others {still.filter(foretold).height} of {still.height} lie as foretold" if still.height else ""
    return f"{beyond}, {said}{rest}; the rate is {told}."


def steps_of(ladder: "pl.DataFrame", rate: "analysis.Rate") -> "pl.DataFrame":
    """One row a version but the first: gains of recall@10 and GAUC over the one before with 95 % intervals, the GAUC foretold."""
    import polars as pl

    spread = (rate.interval[1] - rate.interval[0]) / 2
    rows = []
    for name in list(VERSIONS)[1:]:
        part = ladder.filter(pl.col("version") == name).drop_nulls("gauc_gain")
        if part.is_empty():
            continue
        gauc, low, high = paired_interval(part, "gauc_gain", "gauc_users")
        recall = recall_low = recall_high = 0.0
        if encoder := "gain_recall@10" in part.columns and part["gain_recall@10"].drop_nulls().len() > 0:
            recall, recall_low, recall_high = paired_interval(part, "gain_recall@10")
        foretold = rate.slope * recall
        half = math.hypot(spread * recall, rate.slope * (recall_high - recall_low) / 2)
        apart, allowed = abs(gauc - foretold), math.hypot(half, (high - low) / 2)
        verdict = "as foretold" if apart <= allowed else "not foretold"
        if math.isnan(half):
            verdict = "the rate has no interval"
        if not encoder:
            verdict = "no recall can foretell it" if low > 0 or high < 0 else "no difference seen"
        rows.append({
            "version": name, "encoder": encoder, "recall gain": recall, "recall low": recall_low, "recall high": recall_high,
            "gauc gain": gauc, "gauc low": low, "gauc high": high,
            "foretold": foretold, "foretold low": foretold - half, "foretold high": foretold + half, "verdict": verdict,
        })  # fmt: skip
    return pl.DataFrame(rows)


def ladder_figure(table: "pl.DataFrame") -> "Figure":
    """The change of GAUC with each version, observed (dot) and foretold (square), with 95 % intervals."""
    figure = new_figure(height=1.6 + 0.6 * table.height)
    ax = figure.add_subplot()
    ax.axvline(0.0, color=GREY, lw=1.0, zorder=1)
    for place, row in enumerate(table.iter_rows(named=True)):
        at = table.height - 1 - place
        for shift, name, colour, marker in ((0.14, "gauc gain", BLUE, "o"), (-0.14, "foretold", VERMILLION, "s")):
            low, high = (row[f"{name.removesuffix(' gain')} {end}"] for end in ("low", "high"))
            ax.plot([low, high], [at + shift] * 2, color=colour, lw=1.8, zorder=3)
            label = {"gauc gain": "observed", "foretold": "foretold by recall"}[name] if not place else None
            ax.plot([number(row[name])], [at + shift], color=colour, marker=marker, ms=7, ls="", zorder=4, label=label)
    ax.set_yticks(range(table.height), table["version"].to_list()[::-1])
    ax.set_ylim(-0.6, table.height - 0.4)
    frame(ax, "change of GAUC over the version before, paired (95 % interval)", "")
    ax.legend(frameon=False, loc="best")
    ax.set_title("What each version adds, and what recall foretold", loc="left", fontsize=11)
    return figure
