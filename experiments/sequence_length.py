"""What is a longer behaviour history worth?

Hypothesis: GAUC rises with the history length L as long as older events still tell something about the click, and
frozen multimodal representations add to item IDs at the same L. No user ID is used. Refuted if the gain over the
ID-only model at the largest L has an interval that includes 0, or if GAUC does not rise with L.
"""

from typing import TYPE_CHECKING

import analysis
from analysis.figures import line_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import holdout_sentence, number
from experiments.recipes import mixture_of, recipe_for, searches_of
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset

IDS, MOON = "IDs only", "IDs + MOON"


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """L x seed x (IDs only, IDs + representations of the largest token budget)."""
    for file in ("events", "impressions", "pairs"):
        data.path(file)
    recipe, searches = recipe_for(preset, data), searches_of(data)
    encoder = steps.posttrain(data, recipe, forms=mixture_of(data), tokens=recipe.budgets[-1], seed=recipe.seeds[0])
    embedded = steps.embed(data, recipe, encoder, searches, _richest(searches))
    out = []
    for length in recipe.lengths:
        for seed in recipe.seeds:
            baseline = steps.application(data, recipe, length=length, seed=seed, embedded=None)
            ours = steps.application(data, recipe, length=length, seed=seed, embedded=embedded)
            point = {"L": length, "seed": seed}
            out.append(Cell({**point, "model": IDS, "run": baseline.name}, {"application": baseline}))
            compared = {"application": ours, "compare": steps.compare(ours, baseline)}
            out.append(Cell({**point, "model": MOON, "run": ours.name}, compared))
    return out


def _richest(searches: tuple) -> tuple[str, ...]:
    return max((form.item for form in searches), key=len)


def read(results: "pl.DataFrame") -> Reading:
    """GAUC against L for both models, the Bayes curve where it is known, paired gains."""
    import polars as pl

    done = results.filter(pl.col("status") == "done")
    reading = Reading(
        answer=[], weak=["one encoder: its own seed noise is not in the intervals; the CTR rate is not tuned"]
    )
    ours, ids = (done.filter(pl.col("model") == name) for name in (MOON, IDS))
    if ours.is_empty() or ids.is_empty():
        raise QuestionError("sequence_length: no run of each model has finished yet")
    longest, shortest = int(number(ours["L"].max())), int(number(ours["L"].min()))
    gains = _gains(ours)
    at = gains.filter(pl.col("L") == longest).row(0, named=True)
    reading.answer.append(
        f"At L = {longest} representations add {at['gain']:+.4f} GAUC [{at['low']:+.4f}, {at['high']:+.4f}] to IDs alone "
        "(paired: same impressions, users and seeds)."
    )
    means = {name: t.group_by("L").agg(pl.col("gauc").mean()).sort("L") for name, t in ((MOON, ours), (IDS, ids))}
    for name, mean in means.items():
        best = mean.sort("gauc", descending=True).row(0, named=True)
        first = mean.row(0, named=True)
        reading.answer.append(
            f"{name}: GAUC {first['gauc']:.4f} at L = {first['L']}, best {best['gauc']:.4f} at L = {best['L']}."
        )
    reference = {}
    if "bayes_gauc" in done.columns:
        bayes = done.drop_nulls("bayes_gauc").group_by("L").agg(pl.col("bayes_gauc").first()).sort("L")
        reference = {"Bayes-optimal": (bayes["L"].to_list(), bayes["bayes_gauc"].to_list())}
        above = ours.filter(pl.col("gauc_minus_bayes") > 2 * pl.col("gauc_minus_bayes_se"))
        verdict = "no run stands above Bayes by more than 2 SE" if above.is_empty() else (
            f"{above.height} runs stand above Bayes by more than 2 SE: suspect a leak"
        )  # fmt: skip
        reading.answer.append(f"Against the known Bayes-optimal curve: {verdict}.")
    users = int(done["gauc_users"][0])
    smallest = number((gains["error"] * (gains["t"] + 0.85)).median())
    reading.answer.append(
        f"The smallest gain that could have been seen (80 % power, 5 % level) is about {smallest:.4f} GAUC; "
        f"{users} users counted, {int(done['gauc_left_out'][0])} left out for having one class."
    )
    reading.figures["gauc"] = line_figure(
        done,
        x="L",
        y="gauc",
        series="model",
        reference=reference,
        title="GAUC against history length",
        xlabel="L, last events read",
        ylabel="GAUC",
    )
    if longest > 2 * shortest and ours["L"].n_unique() > 3:
        for name, table in ((MOON, ours), (IDS, ids)):
            fit = analysis.fit(table, x="L", y="gauc", law="log_line", cluster="run", holdout="largest")
            reading.fits["gauc-" + ("moon" if name == MOON else "ids")] = fit
            slope = fit.intervals(0.95)["b"]
            reading.answer.append(
                f"{name}: {fit.params['b']:+.4f} GAUC per e-fold of L [{slope[0]:+.4f}, {slope[1]:+.4f}] below the longest. "
                + holdout_sentence(fit, "gauc")
            )
    reading.tables["paired gain of representations"] = gains
    shown = ["L", "model", "seed", "gauc", "auc", "log_loss", "bayes_gauc", "gauc_minus_bayes", "gauc_minus_bayes_se"]
    reading.tables["runs"] = done.select([c for c in shown if c in done.columns]).sort("L", "model", "seed")
    return reading


def _gains(ours: "pl.DataFrame") -> "pl.DataFrame":
    """Per L: mean paired gain over seeds, with users' and seeds' noise; a t interval with Welch-Satterthwaite df.

    All seeds share the test users, so averaging over seeds does not shrink the users' part of the error. The seeds' part
    rests on the spread pooled over all L: two seeds at one L say little of it.
    """
    import polars as pl
    from scipy.special import stdtrit

    table = ours.group_by("L").agg(
        gain=pl.col("gauc_gain").mean(),
        users=pl.col("gauc_gain_se").mean(),
        squares=((pl.col("gauc_gain") - pl.col("gauc_gain").mean()) ** 2).sum(),
        seeds=pl.len(),
    )
    freedom = int((table["seeds"] - 1).sum())
    spread = float(table["squares"].sum()) / freedom if freedom else 0.0
    by_users, by_seeds = table["users"] ** 2, spread / table["seeds"]
    counted = max(number(ours["gauc_users"].min()) - 1, 1.0)
    df = (by_users + by_seeds) ** 2 / (by_users**2 / counted + by_seeds**2 / max(freedom, 1) + 1e-300)
    error = (by_users + by_seeds).sqrt()
    t = pl.Series(stdtrit(df.clip(1.0).to_numpy(), 0.975))
    half = error * t
    shown = table.select("L", "gain").with_columns(
        error=error, t=t, low=table["gain"] - half, high=table["gain"] + half
    )
    return shown.sort("L")
