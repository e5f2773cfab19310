"""What is a longer behaviour history worth, and to which behaviour module?

Hypothesis: GAUC rises with the history length L as long as older events still tell something about the click, and
modules that read frozen multimodal representations (SimTier, SA-TA, MUSE, MAKE, CUBE) stand above DIN, which reads item
IDs, at the same L. No user ID is used. Refuted, module by module, if the gain over DIN at the largest L has an interval that
includes 0, or if GAUC does not rise with L.
"""

import functools
from typing import TYPE_CHECKING

import analysis
from analysis.figures import gains_figure, line_figure
from experiments import steps
from experiments.question import QuestionError, Reading
from experiments.reading import by_verdict, holdout_sentence, law_sentence, number, verdict_of
from experiments.recipes import LONG, mixture_of, recipe_for, searches_of
from experiments.tuning import ASSUMED, Known, bests, settle, try_rates
from moon_jax.models.behaviour import MODULES
from sweeps import Cell

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    from matplotlib.figure import Figure

    from moon_jax.data.contract import Dataset
    from sweeps import Step

CONTROL, OURS = "DIN", "CUBE"
NEAR_CHANCE = 0.52  # GAUC
# Of IDs alone, then those that read representations. SimTier and MAKE are additions to a model in their papers, too.
MODELS: dict[str, tuple[str, ...]] = {
    "DIN": ("din",),
    "attention": ("attention",),
    "SIM-soft": ("sim_soft",),
    "TWIN": ("twin",),
    "DIN + SimTier": ("din", "simtier"),
    "DIN + MAKE": ("din", "make"),
    "SA-TA": ("sa_ta",),
    "MUSE": ("gsu_content",),
    "CUBE": ("cube",),
}
SMOKE = (CONTROL, "MUSE", OURS)  # each is a compilation at every L
LONG_MODELS = (CONTROL, "DIN + SimTier", "MUSE", OURS)  # what two cores can do at lengths of ten thousand and more
CONTENT = [name for name, modules in MODELS.items() if any(MODULES[module].reads_content for module in modules)]


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """L x seed x model, each model at its best learning rate of a trial at `ctr_length`.

    Representations are `embeddings.parquet` where the data has it, else of the largest token budget.
    """
    own = data.has("embeddings")
    for file in ("impressions",) if own else ("events", "impressions", "pairs"):
        data.path(file)
    recipe, embedded, out = recipe_for(preset, data), None, []
    if not own:
        searches = searches_of(data)
        encoder = steps.posttrain(data, recipe, forms=mixture_of(data), tokens=recipe.budgets[-1], seed=recipe.seeds[0])
        embedded = steps.embed(data, recipe, encoder, searches, _richest(searches))
    shown = (
        SMOKE if preset == "smoke" else LONG_MODELS if recipe.lengths[-1] >= LONG[2] and preset == "demo" else MODELS
    )

    def run(name: str, lr: float, length: int = recipe.ctr_length, seed: int = recipe.seeds[0]) -> "Step":
        modules = MODELS[name]
        return steps.application(data, recipe, length=length, seed=seed, embedded=embedded, modules=modules, lr=lr)

    trials = {
        name: try_rates(name, "valid_log_loss", recipe.lr_axis, functools.partial(_named, run, name), known)
        for name in MODELS
        if name in shown
    }
    for name, trial in trials.items():
        out += trial.cells(L=recipe.ctr_length, seed=recipe.seeds[0], model=name)
    rates = bests(trials)
    if CONTROL not in rates:
        return out
    for length in recipe.lengths:
        for seed in recipe.seeds:
            control = run(CONTROL, rates[CONTROL], length, seed)
            for name, lr in rates.items():
                ours = run(name, lr, length, seed)
                named = {"application": ours} | ({} if name == CONTROL else {"compare": steps.compare(ours, control)})
                coordinates = {"L": length, "seed": seed, "model": name, "trial": "", "lr": lr}
                out.append(Cell({**coordinates, "run": ours.name}, named))
    return out


def _named(run: "Callable[[str, float], Step]", name: str, lr: float) -> "dict[str, Step]":
    return {"application": run(name, lr)}


def _richest(searches: tuple) -> tuple[str, ...]:
    return max((form.item for form in searches), key=len)


def read(results: "pl.DataFrame") -> Reading:
    """GAUC against L for each model, the Bayes curve where it is known, paired gains over DIN at the same L."""
    import polars as pl

    rows, tried, rates, untuned = settle(results)
    done = rows.filter(pl.col("status") == "done")
    ours, control = (done.filter(pl.col("model") == name) for name in (OURS, CONTROL))
    if ours.is_empty() or control.is_empty():
        raise QuestionError(f"sequence_length: no run of {OURS} and of {CONTROL} has finished yet")
    reading = Reading(answer=[], weak=["one set of representations: the encoder's seed noise is not in the intervals"])
    reading.weak += untuned
    if (highest := number(done.group_by("model", "L").agg(pl.col("gauc").mean())["gauc"].max())) < NEAR_CHANCE:
        reading.weak.append(f"no model is far from chance: the best GAUC is {highest:.4f}, chance .5")
    gains = gains_of(done)
    longest = int(number(ours["L"].max()))
    at_longest = gains.filter(pl.col("L") == longest).sort("gain", descending=True)

    def said(words: str, rows: "pl.DataFrame") -> str:
        told = ", ".join(
            f"{r['model']} {r['gain']:+.4f} [{r['low']:+.4f}, {r['high']:+.4f}]" for r in rows.iter_rows(named=True)
        )
        return f"{words} than DIN at L = {longest}, GAUC: {told}.".replace("seen than", "seen from")

    reading.answer = by_verdict(at_longest, said)
    for name, table in ((CONTROL, control), (OURS, ours)):
        mean = table.group_by("L").agg(pl.col("gauc").mean()).sort("L")
        best = mean.sort("gauc", descending=True).row(0, named=True)
        first = mean.row(0, named=True)
        reading.answer.append(
            f"{name}: GAUC {first['gauc']:.4f} at L = {first['L']}, best {best['gauc']:.4f} at L = {best['L']}."
        )
    reading.answer += _against_bayes(done)
    smallest = number((gains["error"] * (gains["t"] + 0.85)).median())
    reading.answer.append(
        f"The smallest gain that could have been seen (80 % power, 5 % level) is about {smallest:.4f} GAUC; "
        f"{int(done['gauc_users'][0])} users counted, {int(done['gauc_left_out'][0])} left out for having one class."
    )
    reading.notes.append(
        "Gains are paired (same impressions, users and seeds), intervals 95 %, each for itself: of "
        f"{at_longest.height} true nulls {0.05 * at_longest.height:.1f} would be called a difference."
    )
    reading.notes += rates
    _fit(reading, {OURS: ours, CONTROL: control})
    _draw(reading, done, gains)
    reading.tables["paired gains over DIN"] = gains
    if (quarters := quartiles_of(done, longest)).height:
        reading.tables[f"paired gains over DIN by users' history length, L = {longest}"] = quarters
        reading.answer += _by_quartile(quarters)
    if (slices := slices_of(done, longest)).height:
        reading.tables[f"GAUC by slice at L = {longest}"] = slices
    shown = [
        "L",
        "model",
        "seed",
        "lr",
        "gauc",
        "auc",
        "log_loss",
        "ece",
        "application_params",
        "bayes_gauc",
        "gauc_minus_bayes",
    ]
    shown += ["gauc_minus_bayes_se", "application_examples_per_second"]
    if tried.height:
        reading.tables["learning rates tried"] = tried
    reading.tables["runs"] = done.select([c for c in shown if c in done.columns]).sort("L", "model", "seed")
    return reading


def _against_bayes(done: "pl.DataFrame") -> list[str]:
    import polars as pl

    if "bayes_gauc" not in done.columns or done["gauc_minus_bayes"].drop_nulls().is_empty():
        return []
    done = done.drop_nulls("gauc_minus_bayes")
    above = done.filter(pl.col("gauc_minus_bayes") > 2 * pl.col("gauc_minus_bayes_se"))
    verdict = f"no run of {done.height} stands above Bayes by more than 2 SE"
    if above.height:
        expected = 0.023 * done.height
        verdict = (
            f"{above.height} of {done.height} runs stand above Bayes by more than 2 SE ({expected:.1f} would by chance, if all "
            "were at Bayes)"
        )
    return [f"Against the Bayes-optimal curve, known to L = {number(done['L'].max()):,.0f}: {verdict}."]


def _fit(reading: Reading, tables: "dict[str, pl.DataFrame]") -> None:
    """A line in log L for each of these models, and for ours a power law of 1 - GAUC with a floor; the longest held out.

    The line has no ceiling: what more length than was run would bring is read off the power law.
    """
    for name, table in tables.items():
        if table["L"].n_unique() < 4:
            continue
        fit = analysis.fit(table, x="L", y="gauc", law="log_line", cluster="run", holdout="largest")
        reading.fits[f"gauc-{name.lower()}"] = fit
        slope = fit.intervals(0.95)["b"]
        reading.answer.append(
            f"{name}: {fit.params['b']:+.4f} GAUC per e-fold of L [{slope[0]:+.4f}, {slope[1]:+.4f}] below the longest. "
            + holdout_sentence(fit, "gauc")
        )
        if name == OURS:
            power = analysis.fit(
                table, x="L", y="gauc", transform="error", law="power_floor", cluster="run", holdout="largest"
            )
            reading.fits[f"gauc-{name.lower()}-power_floor"] = power
            reading.answer.append(f"{name}: {law_sentence(power, 'gauc')} {holdout_sentence(power, 'gauc')}")


def _draw(reading: Reading, done: "pl.DataFrame", gains: "pl.DataFrame") -> None:
    import polars as pl

    reference = {}
    if "bayes_gauc" in done.columns:
        bayes = done.drop_nulls("bayes_gauc").group_by("L").agg(pl.col("bayes_gauc").first()).sort("L")
        reference = {"Bayes-optimal": (bayes["L"].to_list(), bayes["bayes_gauc"].to_list())}
    panels = {
        "gauc": ([CONTROL, *CONTENT], "GAUC against history length: what representations add"),
        "gauc-ids": ([name for name in MODELS if name not in CONTENT], "GAUC against history length: IDs alone"),
    }
    for figure, (names, title) in panels.items():
        rows = done.filter(pl.col("model").is_in(names))
        reading.figures[figure] = line_figure(
            rows,
            x="L",
            y="gauc",
            series="model",
            reference=reference,
            title=title,
            xlabel="L, last events read",
            ylabel="GAUC",
        )
    reading.figures["gains"] = modules_figure(gains)


def gains_of(done: "pl.DataFrame") -> "pl.DataFrame":
    """One row for each L and model but DIN: its paired gain over DIN with a 95 % interval, and the verdict."""
    import polars as pl

    parts = []
    for name in (name for name in MODELS if name != CONTROL):
        rows = done.filter(pl.col("model") == name).drop_nulls("gauc_gain")
        if rows.height:
            parts.append(_gains(rows).insert_column(0, pl.Series("model", [name] * rows["L"].n_unique())))
    if not parts:
        raise QuestionError("sequence_length: no model has finished beside DIN yet")
    gains = pl.concat(parts)
    return gains.with_columns(
        verdict=pl.Series([verdict_of(*ends) for ends in gains.select("low", "high").iter_rows()])
    )


def quartiles_of(done: "pl.DataFrame", length: int) -> "pl.DataFrame":
    """For each quarter of the users by history length and each model: its paired gain over DIN at L, a 95 % interval, and
    the smallest effect that could have been seen (80 % power, 5 % level)."""
    import polars as pl

    parts = []
    for quartile in range(1, 5):
        named = f"quartile_{quartile}"
        if f"{named}_gauc_gain" not in done.columns:
            continue
        for name in (name for name in MODELS if name != CONTROL):
            rows = done.filter(pl.col("model") == name).select(
                "L",
                *(pl.col(f"{named}_{metric}").alias(metric) for metric in ("gauc_gain", "gauc_gain_se", "events_most")),
                gauc_users=f"{named}_users",
                events_least=f"{named}_events_least",
            )
            rows = rows.filter(pl.col("gauc_gain").is_finite())
            if (found := rows.filter(pl.col("L") == length)).is_empty():
                continue
            of = {"quartile": quartile, "events": f"{found['events_least'][0]:,} to {found['events_most'][0]:,}"}
            of |= {"users": int(found["gauc_users"][0]), "model": name}
            gained = _gains(rows).filter(pl.col("L") == length)
            gained = gained.with_columns(smallest_seen=pl.col("error") * (pl.col("t") + 0.85))
            parts.append(gained.select(*(pl.lit(v).alias(k) for k, v in of.items()), pl.exclude("L", "error", "t")))
    return pl.concat(parts) if parts else pl.DataFrame()


def _by_quartile(quarters: "pl.DataFrame") -> list[str]:
    import polars as pl

    told = [
        f"{row['events']} events ({row['users']:,} users) {row['gain']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}], "
        f"smallest to be seen {row['smallest_seen']:.4f}"
        for row in quarters.filter(pl.col("model") == OURS).iter_rows(named=True)
    ]
    return [f"{OURS} over {CONTROL} by quarters of the users: {'; '.join(told)}."] if told else []


def slices_of(done: "pl.DataFrame", length: int) -> "pl.DataFrame":
    """Mean GAUC over seeds of each model on new items, tail items and cold users, with their numbers of impressions."""
    import polars as pl

    rows = done.filter(pl.col("L") == length)
    slices = [name for name in ("new_items", "tail_items", "cold_users") if f"{name}_gauc" in rows.columns]
    means = [pl.col(f"{name}_gauc").mean().alias(f"{name} ({_shown(rows, name):,})") for name in slices]
    return rows.group_by("model", maintain_order=True).agg(pl.col("gauc").mean().alias("all"), *means)


def _shown(rows: "pl.DataFrame", name: str) -> int:
    return int(number(rows[f"{name}_impressions"].drop_nulls().max()))


def modules_figure(gains: "pl.DataFrame") -> "Figure":
    """The paired gain over DIN at the longest history, a dot a model with its 95 % interval."""
    import polars as pl

    longest = int(number(gains["L"].max()))
    return gains_figure(
        gains.filter(pl.col("L") == longest).sort("gain", descending=True),
        label="model",
        gain="gain",
        low="low",
        high="high",
        xlabel=f"gain of GAUC over DIN at L = {longest}, paired (95 % interval)",
        title="What each behaviour module adds to DIN",
    )


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
