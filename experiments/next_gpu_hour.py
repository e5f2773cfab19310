"""Where does the next GPU-hour pay?

Hypothesis: 10 % more compute is worth more on one axis (training tokens, negatives, history length) than on the others, and the
exchange rate says what it is worth in CTR. Its cells are those of the questions behind it, so that it costs nothing beside them:
the laws of recall against tokens and against negatives, that of GAUC against length, the rate of recall into GAUC. Refuted if no
axis is best with P >= .9. An axis whose law did not foretell its own largest scale takes no part, nor one whose last step that
was run brought nothing, or less than its law promises (or, where the truth is known, brings nothing in truth), nor do tokens and
negatives where the rate has no interval above 0: what they bring is then told in recall alone.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

import analysis
from analysis.allocation import IDLE
from experiments import exchange_rate, negatives, sequence_length, training_tokens
from experiments.answering import shortfall
from experiments.question import QuestionError, Reading
from experiments.reading import number, on_all_points, part_of, primary_search
from experiments.recipes import measured_search, recipe_for
from experiments.tuning import ASSUMED, Known, asked
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset

PARTS = {
    "training_tokens": training_tokens,
    "negatives": negatives,
    "sequence_length": sequence_length,
    "exchange_rate": exchange_rate,
}
AXES = ("tokens", "negatives", "length")
BEYOND = 4.0  # times the largest of its axis that was run: farther a law is not asked
MORE = 10.0  # times the compute, of the allocation
READER = sequence_length.OURS
SOMETHING = 1e-4  # GAUC: less is nothing


def cells(preset: str, data: "Dataset", known: Known = ASSUMED) -> list[Cell]:
    """All cells of the questions behind it, each with the part that it belongs to."""
    recipe, width = recipe_for(preset, data), measured_search(data)
    out = []
    for part, question in PARTS.items():
        for cell in asked(question.cells, preset, data, known):
            told = {
                "part": part,
                "embedding": recipe.embedding,
                "batch": recipe.batch,
                "search": width.search,
                "trial": "",
            }
            out.append(Cell({**told, **cell.coordinates}, cell.steps))
    return out


@dataclass(frozen=True)
class Setup:
    """What is weighed: a law for each axis, the exchange rate, where the set-up stands and what it costs.

    missed: axes whose laws did not foretell; refused: axis -> why it cannot be weighed in GAUC.
    """

    laws: dict[str, Any]
    rate: Any
    cost: "analysis.Cost"
    bounds: dict[str, tuple[float, float]]
    missed: set[str]
    refused: dict[str, str]


def read(results: "pl.DataFrame") -> Reading:
    """What up to 10 % more compute brings on each axis, in recall and in GAUC, and how ten times the compute is best spent."""
    reading = Reading(answer=[])
    setup = _setup(results, reading)
    weighed = {axis: law for axis, law in setup.laws.items() if axis not in setup.refused}
    reading.answer += [f"{axis} takes no part: {why}." for axis, why in setup.refused.items()]
    if weighed:
        _weigh(weighed, setup, reading)
    else:
        reading.answer.insert(
            0, "No axis can be recommended: what more compute is worth in GAUC is not known for any of them."
        )
        _in_recall(setup, reading)
    reading.answer.append(_stand(setup))
    reading.weak.append("cost is FLOPs of training the encoder and one CTR model; `compute_optimal` asks for its size")
    return reading


def _weigh(laws: dict[str, Any], setup: Setup, reading: Reading) -> None:
    """The marginal table and the allocation over the axes that can be weighed; the best axis is said first."""
    through = {"rate": setup.rate} if any(law.y != setup.rate.into for law in laws.values()) else {}
    bounds = {axis: setup.bounds[axis] for axis in laws}
    marginal = analysis.marginal_table(laws, cost=setup.cost, bounds=bounds, better="higher", **through)
    best = marginal.rows[0]
    surely = f"P(best) = {best['p_best']:.2f}" + ("" if best["p_best"] >= 0.9 else ", so it is not surely the best")
    if len(laws) == 1:
        surely = "the only axis that can be weighed"
    reading.answer.insert(
        0, f"Of at most 10 % more compute what pays most is {best['axis']}, {_factor(best)}: {_worth(best)} ({surely})."
    )
    reading.answer += [f"{_axis(row)}; {_last_step(laws[row['axis']])}." for row in marginal.rows]
    reading.fits["marginal"] = marginal
    reading.figures["marginal"] = marginal.figure("Where does a little more compute pay?")
    reading.tables["10 % more compute"] = marginal.table()
    reading.weak += list(marginal.warnings)
    if not {"tokens", "negatives"} & set(laws):
        _in_recall(setup, reading)
    budget = MORE * setup.cost(setup.cost.at)
    ranges = {name: (setup.cost.at[name], high) for name, (_, high) in bounds.items()}
    spent = analysis.allocate(laws, cost=setup.cost, budget=budget, bounds=ranges, better="higher", **through)
    now = setup.cost.at
    told = ", ".join(f"{row['axis']} {now[row['axis']]:,.4g} -> {row['x']:,.4g}" for row in spent.rows)
    whole = spent.spent / spent.budget > IDLE
    reading.answer.append(
        (
            f"{MORE:.0f} times the compute is best spent so"
            if whole
            else f"Of {MORE:.0f} times the compute these laws can place {spent.spent / spent.budget:.0%}"
        )  # they are not asked farther
        + f", no axis beyond {BEYOND:.0f} times what was run: {told}; GAUC {spent.gain:+.4f} "
        f"[{spent.gain_interval[0]:+.4f}, {spent.gain_interval[1]:+.4f}]."
    )
    reading.weak += [warning for warning in spent.warnings if warning not in reading.weak]
    reading.fits["allocation"] = spent
    reading.figures["allocation"] = spent.figure(f"How {MORE:.0f} times the compute is best spent")
    reading.tables[f"{MORE:.0f} times the compute"] = spent.table()


def _in_recall(setup: Setup, reading: Reading) -> None:
    """What 10 % more compute brings in recall, of the axes whose laws foretold: for where GAUC cannot be told."""
    laws = {axis: law for axis, law in setup.laws.items() if law.y == setup.rate.of and axis not in setup.missed}
    if not laws:
        return
    bounds = {axis: setup.bounds[axis] for axis in laws}
    table = analysis.marginal_table(laws, cost=setup.cost, bounds=bounds, better="higher")
    told = "; ".join(
        f"{row['axis']} {row['x']:,.4g} -> {row['x_after']:,.4g}: {row['gain']:+.5f} [{row['gain_low']:+.5f}, "
        f"{row['gain_high']:+.5f}]"
        for row in table.rows
    )
    reading.answer.append(f"In {setup.rate.of} alone, at most 10 % more compute brings: {told}.")
    reading.tables["10 % more compute, in recall"] = table.table()
    reading.figures["recall"] = table.figure("What a little more compute brings in recall")


def last_step(law: Any) -> tuple[float, float, float]:
    """(the largest x but one, the largest, what the step from one to the other brought in the metric, means of the runs)."""
    x, y = law.points.x[0], law.points.y if law.transform == "identity" else 1 - law.points.y
    before, last = sorted(set(x))[-2:]
    return float(before), float(last), float(y[x == last].mean() - y[x == before].mean())


def _last_step(law: Any) -> str:
    before, last, gain = last_step(law)
    return f"the last step that was run, {before:,.4g} -> {last:,.4g}, brought {gain:+.4f} {law.y}"


def missed(law: Any) -> str:
    """How a law failed at its own held-out largest scale, beyond chance; empty where it did not, or nothing was held out."""
    held = law.holdout
    if not held or held["within"] is None or shortfall({"": (held["within"], held["of"])}) is None:
        return ""
    first, seen = held["rows"][0], ", ".join(f"{row['observed']:.4f}" for row in held["rows"])
    return (
        f"its law did not foretell its largest scale ({law.y_label} predicted {first['predicted']:.4f} [{first['low']:.4f}, "
        f"{first['high']:.4f}], observed {seen})"
    )


def idle(law: Any) -> str:
    """That the last step that was run brought nothing, whatever the law promises beyond; empty where it brought something."""
    return "" if last_step(law)[2] > 0 else f"{_last_step(law)}, so there is nothing for a law to go on"


def promised(law: Any) -> str:
    """That the law, fitted to all points, promises more of the last step that was run than it brought, beyond the scatter of
    runs (95 %, t); empty where it does not. Such a curve has bent, and its law goes on rising.
    """
    before, last, seen = last_step(law)
    x, y = law.points.x[0], law.points.y
    means = {at: y[x == at].mean() for at in set(x)}
    freedom = len(y) - len(means)
    if freedom < 1:
        return ""
    scatter = float(np.sqrt(sum((value - means[at]) ** 2 for at, value in zip(x, y, strict=True)) / freedom))
    runs = [int((x == at).sum()) for at in (before, last)]
    most = seen + float(stdtrit(freedom, 0.975)) * scatter * math.sqrt(sum(1 / n for n in runs))
    there = on_all_points(law).predict(np.array([before, last]))
    told = float(there[1] - there[0]) if law.transform == "identity" else float(there[0] - there[1])
    if told <= most:
        return ""
    return f"{_last_step(law)} (at most {most:+.4f}), where its law promises {told:+.4f}: the curve has bent"


def untrue(done: "pl.DataFrame", law: Any) -> str:
    """That the truth of a planted world gains nothing from the last step of length; empty where it does, or is not known."""
    import polars as pl

    if "bayes_gauc" not in done.columns:
        return ""
    before, last, seen = last_step(law)
    truth = [done.filter(pl.col("L") == length)["bayes_gauc"].drop_nulls().mean() for length in (before, last)]
    if None in truth or (gain := number(truth[1]) - number(truth[0])) > SOMETHING:
        return ""
    return (
        f"the truth of this world, its Bayes GAUC, gains {gain:+.4f} from {before:,.4g} to {last:,.4g} (the model {seen:+.4f}), "
        "which no law of measured points can know"
    )


def _setup(results: "pl.DataFrame", reading: Reading) -> Setup:
    """Laws and rate from the parts, the largest set-up of each axis as where we stand; QuestionError where a part is missing.

    Laws are judged by their held-out largest scale, and then fitted to all points.
    """
    import polars as pl

    tables = {part: part_of(results, part) for part in PARTS}
    if missing := [part for part, table in tables.items() if table.is_empty()]:
        raise QuestionError(f"next_gpu_hour: no cell of {', '.join(missing)} has finished yet")
    metric = f"{primary_search(tables['training_tokens'])}_recall@10"
    fits = {part: question.read(tables[part]).fits for part, question in PARTS.items() if part != "exchange_rate"}
    judged = {}
    for axis, (part, name) in {
        "tokens": ("training_tokens", f"{metric}-power_floor"),
        "negatives": ("negatives", f"{metric}-power_floor"),
        "length": ("sequence_length", f"gauc-{READER.lower()}-power_floor"),
    }.items():
        if axis == "length" and name not in fits[part]:  # too few lengths for a law
            continue
        judged[axis] = law = fits[part][name]
        if law.holdout and law.holdout["within"] is not None:
            reading.held[f"{part}: {name}"] = (law.holdout["within"], law.holdout["of"])
    length = judged.get("length")
    rate = exchange_rate.rate_into(tables["exchange_rate"], metric)
    low, high = rate.interval
    told = f"{rate.slope:+.4f} GAUC per unit of {metric} [{low:+.4f}, {high:+.4f}] over {rate.n} versions"
    reading.notes.append(
        f"Laws: {metric} against tokens and against negatives, GAUC of {READER} against length, judged by their largest scale "
        f"and then fitted to all points; rate: {told}."
    )
    refused = {axis: why for axis, law in judged.items() if (why := missed(law))}
    missed_axes = set(refused)
    unmissed = {axis: law for axis, law in judged.items() if axis not in missed_axes}
    refused |= {axis: why for axis, law in unmissed.items() if (why := idle(law) or promised(law))}
    if length is not None and "length" not in refused and (why := untrue(tables["sequence_length"], length)):
        refused["length"] = why
    if not low > 0:
        refused = (
            dict.fromkeys(("tokens", "negatives"), f"the exchange rate has no interval above 0 ({told})") | refused
        )
    tokens, ctr = tables["training_tokens"], tables["sequence_length"].filter(pl.col("model") == READER)
    largest, longest = (
        tokens.filter(pl.col("tokens") == pl.col("tokens").max()),
        ctr.filter(pl.col("L") == pl.col("L").max()),
    )
    at = {"tokens": number(largest["tokens"].mean()), "length": number(longest["L"].mean())}
    at["negatives"] = number(largest["realised_negatives"].mean())
    pairs = number((largest["steps"] * largest["batch"]).mean())
    events = number((longest["application_flops"] / (longest["examples"] * longest["L"])).mean())
    cost = analysis.Cost(
        tokens=at["tokens"],
        params=number(largest["params"].mean()),
        tokens_per_pair=at["tokens"] / pairs,
        embedding=int(number(largest["embedding"].mean())),
        negatives=at["negatives"],
        length=at["length"] if length is not None else 0.0,
        impressions=number(longest["examples"].mean()) if length is not None else 0.0,
        event_flops=events if length is not None else 0.0,
    )
    laws = {axis: on_all_points(law) for axis, law in judged.items()}
    bounds = {name: (1.0, BEYOND * float(law.points.x.max())) for name, law in laws.items()}
    return Setup(laws, rate, cost, bounds, missed_axes, refused)


def _worth(row: dict[str, Any]) -> str:
    interval = "no interval"
    if math.isfinite(row["worth_low"]):
        interval = f"[{row['worth_low']:+.5f}, {row['worth_high']:+.5f}]"
    return f"{row['worth']:+.5f} GAUC {interval}"


def _axis(row: dict[str, Any]) -> str:
    through = "" if row["metric"] == "gauc" else f"{row['metric']} {row['gain']:+.5f}, "
    return f"{row['axis']} {row['x']:,.4g} -> {row['x_after']:,.4g} ({_factor(row)}): {through}{_worth(row)}"


def _factor(row: dict[str, Any]) -> str:
    """How far the axis goes, and what that costs: less than 10 % where it stops at its bound."""
    return f"{row['factor']:.2f} times for {row['spent']:+.1%} compute"


def _stand(setup: Setup) -> str:
    parts = setup.cost.parts({})
    whole = sum(parts.values())
    shares = ", ".join(f"{name} {flops / whole:.1%}" for name, flops in parts.items())
    return f"The set-up costs {whole:.3g} FLOPs: {shares}."
