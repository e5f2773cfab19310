"""Which choices of the CTR model pay, and is a second look at the same clicks worth it?

Hypothesis: reading representations lifts a CTR model (CUBE beside target attention over IDs); cross layers (DCN-v2), features of
users and of context add to it; row-wise updates and a table of int8 cost nothing. A second pass over the same impressions
overfits rows of rare items, unless the ID table begins anew (one-epoch phenomenon, arXiv 2209.06053; MEDA, arXiv 2305.19531).
Refuted, one by one, where the interval of the paired difference in GAUC includes 0.
"""

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figures import gains_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import by_verdict, number, paired_interval, verdict_of
from experiments.recipes import mixture_of, recipe_for, searches_of
from experiments.tuning import ASSUMED, Known, bests, settle, try_rates
from moon_jax.data.tables import read_schema
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from moon_jax.data.contract import Dataset
    from sweeps import Step

SEEDS = (0, 1, 2)
IDS, CUBE = ("attention",), ("cube",)


@dataclass(frozen=True)
class Choice:
    """One CTR model: its opponent, how many times it sees the impressions, and what differs in `ApplicationConfig`."""

    against: str
    modules: tuple[str, ...] = CUBE
    passes: int = 1
    changes: dict[str, Any] = field(default_factory=dict)


BASE = "CUBE"
CHOICES = {
    BASE: Choice(""),
    "IDs alone": Choice(BASE, IDS),
    "DCN-v2 top": Choice(BASE, changes={"top": "dcnv2"}),
    "int8 representations": Choice(BASE, changes={"storage": "int8"}),
    "row-wise updates": Choice(BASE, changes={"id_updates": "rows"}),
    "user features": Choice(BASE, changes={"features": ("user",)}),
    "time features": Choice(BASE, changes={"features": ("time",)}),
    "position": Choice(BASE, changes={"features": ("position",)}),
    "2 passes": Choice(BASE, passes=2),
    "4 passes": Choice(BASE, passes=4),
    "4 passes, fresh IDs": Choice(BASE, passes=4, changes={"id_passes": "fresh"}),
    "IDs alone, 4 passes": Choice("IDs alone", IDS, passes=4),
    "IDs alone, 4 passes, fresh": Choice("IDs alone", IDS, passes=4, changes={"id_passes": "fresh"}),
}
SMOKE = (BASE, "IDs alone", "row-wise updates", "user features", "4 passes, fresh IDs")
METRICS = ("gauc", "auc", "log_loss", "ece")


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """choice x seed, each at its best learning rate of a trial by the first seed; one pass is the training split once, at most
    the recipe's examples."""
    data.path("impressions")
    recipe, embedded = recipe_for(preset, data), None
    if not data.has("embeddings"):
        searches = searches_of(data)
        run = steps.posttrain(data, recipe, forms=mixture_of(data), tokens=recipe.budgets[-1], seed=recipe.seeds[0])
        embedded = steps.embed(data, recipe, run, searches, max((form.item for form in searches), key=len))
    split = data.read("impressions", ["split"])["split"].to_numpy()
    once = min(int((split == "train").sum()), recipe.examples)
    shown = {name: CHOICES[name] for name in (SMOKE if preset == "smoke" else CHOICES) if _has(data, CHOICES[name])}
    seeds = SEEDS[:2] if preset == "smoke" else SEEDS

    def trained(name: str, lr: float, seed: int = seeds[0]) -> "dict[str, Step]":
        choice = shown[name]
        ctr = steps.application(
            data,
            recipe,
            length=recipe.ctr_length,
            seed=seed,
            embedded=embedded,
            modules=choice.modules,
            examples=once * choice.passes,
            lr=lr,
            **choice.changes,
        )
        return {"application": ctr}

    trials = {
        name: try_rates(name, "valid_log_loss", recipe.lr_axis, functools.partial(trained, name), known)
        for name in shown
    }
    rates = bests(trials)
    out = []
    for name, trial in trials.items():
        out += trial.cells(choice=name, against=shown[name].against, seed=seeds[0])
    for seed in seeds:
        for name, choice in shown.items():
            if name not in rates or (choice.against or name) not in rates:
                continue
            named = trained(name, rates[name], seed)
            run = named["application"]
            if choice.against:
                named["compare"] = steps.compare(
                    run, trained(choice.against, rates[choice.against], seed)["application"]
                )
            of = {"choice": name, "against": choice.against, "seed": seed}
            out.append(Cell({**of, "trial": "", "lr": rates[name], "run": run.name}, named))
    return out


def _has(data: "Dataset", choice: Choice) -> bool:
    """Whether the data has what this choice reads."""
    columns = read_schema(data.path("impressions"))
    needed = {"time": "timestamp", "position": "position"}
    return all(needed[group] in columns for group in choice.changes.get("features", ()) if group in needed)


def read(results: "pl.DataFrame") -> Reading:
    """Each choice's GAUC, AUC, log loss and calibration error, and its paired gain of GAUC over its opponent."""
    import polars as pl

    results, tried, rates, untuned = settle(results)
    done = results.filter(pl.col("status") == "done")
    table = choices_of(done)
    if table.is_empty():
        raise QuestionError("ctr_model: no choice has finished beside its opponent yet")

    def said(words: str, rows: "pl.DataFrame") -> str:
        return f"{words}, GAUC: {', '.join(_told(row) for row in rows.iter_rows(named=True))}."

    reading = Reading(answer=by_verdict(table.sort("gain", descending=True), said))
    reading.answer += _passes(done)
    base = means_of(done).filter(pl.col("choice") == BASE)
    if base.height:
        values = ", ".join(f"{name.replace('_', ' ')} {base[name][0]:.4f}" for name in METRICS)
        reading.notes.append(f"{BASE}, one pass, MLP, no features: {values} (mean of {base['seeds'][0]} seeds).")
    reading.notes.append(
        "Gains are paired (same impressions, users and seeds), intervals 95 %, each for itself: of "
        f"{table.height} true nulls {0.05 * table.height:.1f} would be called a difference. GAUC compares within users, so what "
        "is the same for all impressions of a user shows in AUC and log loss only."
    )
    reading.notes += rates
    reading.weak += untuned
    reading.weak.append(
        "one weight decay for all choices; a cosine over the whole budget, so the last of several passes has the smallest rates"
    )
    reading.weak.append("one set of representations: the encoder's seed noise is not in the intervals")
    reading.tables["choices"] = table
    reading.tables["means over seeds"] = means_of(done)
    if tried.height:
        reading.tables["learning rates tried"] = tried
    reading.figures["choices"] = choices_figure(table)
    return reading


def choices_of(done: "pl.DataFrame") -> "pl.DataFrame":
    """One row a choice that has an opponent: the paired gain of GAUC with its 95 % interval, differences of the other means."""
    import polars as pl

    if "gauc_gain" not in done.columns:
        return pl.DataFrame()
    means = {row["choice"]: row for row in means_of(done).iter_rows(named=True)}
    rows = []
    for (name,), part in done.drop_nulls("gauc_gain").group_by("choice", maintain_order=True):
        gain, low, high = paired_interval(part, "gauc_gain", "gauc_users")
        against = part["against"][0]
        row = {"choice": name, "against": against, "gain": gain, "low": low, "high": high}
        for metric in METRICS[1:]:
            row[f"{metric} difference"] = means[name][metric] - means[against][metric] if against in means else np.nan
        row["verdict"] = verdict_of(low, high)
        rows.append(row)
    return pl.DataFrame(rows)


def means_of(done: "pl.DataFrame") -> "pl.DataFrame":
    """Means over seeds of each choice's metrics, passes and throughput."""
    import polars as pl

    names = [*METRICS, "application_passes", "application_params", "application_examples_per_second"]
    kept = [pl.col(name).mean() for name in names if name in done.columns]
    return done.group_by("choice", maintain_order=True).agg(*kept, seeds=pl.len())


def _passes(done: "pl.DataFrame") -> list[str]:
    """Log loss against passes: where the same clicks are learnt by heart it rises, whatever the order within users does."""
    loss = {row["choice"]: number(row["log_loss"]) for row in means_of(done).iter_rows(named=True)}
    told = [
        f"{base} {loss[base]:.4f} after one pass, {loss[more]:.4f} after four" + (
            f", {loss[fresh]:.4f} with fresh ID rows each pass" if fresh in loss else ""
        )
        for base, more, fresh in (
            (BASE, "4 passes", "4 passes, fresh IDs"),
            ("IDs alone", "IDs alone, 4 passes", "IDs alone, 4 passes, fresh"),
        )
        if base in loss and more in loss
    ]  # fmt: skip
    return [f"Log loss: {'; '.join(told)}."] if told else []


def _told(row: dict[str, Any]) -> str:
    against = "" if row["against"] == BASE else f" against {row['against']}"
    return f"{row['choice']}{against} {row['gain']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def choices_figure(table: "pl.DataFrame") -> "Figure":
    """A dot a choice, the best on top, with its 95 % interval, around a line at zero."""
    import polars as pl

    choice, against = pl.col("choice"), pl.col("against")
    label = pl.when(against == BASE).then(choice).otherwise(choice + pl.lit("\nagainst ") + against)
    return gains_figure(
        table.sort("gain", descending=True).with_columns(label=label),
        label="label",
        gain="gain",
        low="low",
        high="high",
        xlabel=f"gain of GAUC over {BASE} or the opponent named, paired (95 % interval)",
        title="What each choice of the CTR model does",
    )
