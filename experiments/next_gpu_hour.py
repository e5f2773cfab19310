"""Where does the next GPU-hour pay?

Hypothesis: 10 % more compute is worth more on one axis (training tokens, negatives, history length) than on the others, and the
exchange rate says what it is worth in CTR. Its cells are those of the questions behind it, so that it costs nothing beside them:
the laws of recall against tokens and against negatives, that of GAUC against length, the rate of recall into GAUC. Refuted if no
axis is best with P >= .9; not answered where the rate has no interval above 0.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import analysis
from experiments import exchange_rate, negatives, sequence_length, training_tokens
from experiments.question import QuestionError, Reading
from experiments.reading import number, part_of, primary_search
from experiments.recipes import measured_search, recipe_for
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


def cells(preset: str, data: "Dataset") -> list[Cell]:
    """All cells of the questions behind it, each with the part that it belongs to."""
    recipe, width = recipe_for(preset, data), measured_search(data)
    out = []
    for part, question in PARTS.items():
        for cell in question.cells(preset, data):
            told = {"part": part, "embedding": recipe.embedding, "batch": recipe.batch, "search": width.search}
            out.append(Cell({**told, **cell.coordinates}, cell.steps))
    return out


@dataclass(frozen=True)
class Setup:
    """What is weighed: a law for each axis, the exchange rate, where the set-up stands and what it costs."""

    laws: dict[str, Any]
    rate: Any
    cost: "analysis.Cost"
    bounds: dict[str, tuple[float, float]]


def read(results: "pl.DataFrame") -> Reading:
    """What 10 % more compute brings on each axis, in recall and in GAUC, and how ten times the compute is best spent."""
    reading = Reading(answer=[])
    setup = _setup(results, reading)
    marginal = analysis.marginal_table(
        setup.laws, cost=setup.cost, rate=setup.rate, bounds=setup.bounds, better="higher"
    )
    best = marginal.rows[0]
    surely = f"P(best) = {best['p_best']:.2f}" + ("" if best["p_best"] >= 0.9 else ", so it is not surely the best")
    reading.answer = [
        f"10 % more compute pays most in {best['axis']}: {_worth(best)} ({surely}).",
        *(f"{_axis(row)}." for row in marginal.rows),
        _stand(setup),
    ]
    reading.fits["marginal"] = marginal
    reading.figures["marginal"] = marginal.figure("What 10 % more compute brings, one axis at a time")
    reading.tables["10 % more compute"] = marginal.table()
    reading.weak += list(marginal.warnings)
    budget = MORE * setup.cost(setup.cost.at)
    ranges = {name: (setup.cost.at[name], high) for name, (_, high) in setup.bounds.items()}
    spent = analysis.allocate(
        setup.laws, cost=setup.cost, budget=budget, rate=setup.rate, bounds=ranges, better="higher"
    )
    now = setup.cost.at
    told = ", ".join(f"{row['axis']} {now[row['axis']]:,.4g} -> {row['x']:,.4g}" for row in spent.rows)
    reading.answer.append(
        f"{MORE:.0f} times the compute is best spent so, no axis beyond {BEYOND:.0f} times what was run: {told}; GAUC "
        f"{spent.gain:+.4f} [{spent.gain_interval[0]:+.4f}, {spent.gain_interval[1]:+.4f}]."
    )
    reading.fits["allocation"] = spent
    reading.figures["allocation"] = spent.figure(f"How {MORE:.0f} times the compute is best spent")
    reading.tables[f"{MORE:.0f} times the compute"] = spent.table()
    reading.weak.append("cost is FLOPs of training the encoder and one CTR model; no axis for the size of the encoder")
    return reading


def _setup(results: "pl.DataFrame", reading: Reading) -> Setup:
    """Laws and rate from the parts, the largest set-up of each axis as where we stand; QuestionError where a part is missing."""
    import polars as pl

    tables = {part: part_of(results, part) for part in PARTS}
    if missing := [part for part, table in tables.items() if table.is_empty()]:
        raise QuestionError(f"next_gpu_hour: no cell of {', '.join(missing)} has finished yet")
    metric = f"{primary_search(tables['training_tokens'])}_recall@10"
    fits = {part: question.read(tables[part]).fits for part, question in PARTS.items() if part != "exchange_rate"}
    laws = {
        "tokens": fits["training_tokens"][f"{metric}-power_floor"],
        "negatives": fits["negatives"][f"{metric}-power_floor"],
    }
    length = fits["sequence_length"].get(f"gauc-{READER.lower()}")
    if length is not None:
        laws["length"] = length
    rate = analysis.exchange_rate(tables["exchange_rate"], of=metric, into="gauc", cluster="version")
    low, high = rate.interval
    reading.notes.append(
        f"Laws: {metric} against tokens and against negatives, GAUC of {READER} against length; rate: {rate.slope:+.4f} GAUC per "
        f"unit of {metric} [{low:+.4f}, {high:+.4f}] over {rate.n} versions."
    )
    if not low > 0:
        reading.weak.insert(0, "the rate has no interval above 0: what recall is worth in GAUC is not known here")
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
    bounds = {name: (1.0, BEYOND * float(law.points.x.max())) for name, law in laws.items()}
    return Setup(laws, rate, cost, bounds)


def _worth(row: dict[str, Any]) -> str:
    interval = "no interval"
    if math.isfinite(row["worth_low"]):
        interval = f"[{row['worth_low']:+.5f}, {row['worth_high']:+.5f}]"
    return f"{row['worth']:+.5f} GAUC {interval}"


def _axis(row: dict[str, Any]) -> str:
    through = "" if row["metric"] == "gauc" else f"{row['metric']} {row['gain']:+.5f}, "
    return f"{row['axis']} {row['x']:,.4g} -> {row['x_after']:,.4g} ({row['factor']:.2f} times): {through}{_worth(row)}"


def _stand(setup: Setup) -> str:
    parts = setup.cost.parts({})
    whole = sum(parts.values())
    shares = ", ".join(f"{name} {flops / whole:.1%}" for name, flops in parts.items())
    return f"The set-up costs {whole:.3g} FLOPs: {shares}."
