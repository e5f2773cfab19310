"""How large should the encoder be for a given compute?

Hypothesis: at each budget of FLOPs, negatives counted, there is a best size between the smallest and the largest, and it
grows as a power of the budget. Two ways to it over one grid (that of `model_size`): the valley of each budget (isoFLOP,
Hoffmann et al. 2022, approach 2) and the joint law of size and tokens (approach 3). Refuted where a budget has no best size
inside the grid; doubtful where the two ways disagree beyond their intervals.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import analysis
from analysis.axes import frame
from analysis.figures import BLUE, VERMILLION, line_figure, new_figure
from analysis.isoflop import optimum_exponent, valley_optima
from analysis.table import TableError
from experiments import model_size
from experiments.model_size import chosen_runs, joint_law
from experiments.question import QuestionError, Reading
from experiments.reading import number, primary_search

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

cells = model_size.cells  # one grid answers both
MORE = 10.0  # times the largest compute: what the joint law says of it


def read(results: "pl.DataFrame") -> Reading:
    """The best size of each budget in both ways, their exponents, and what counting the loss changes."""
    runs, rates, weak = chosen_runs(results)
    if runs["size"].n_unique() < 3 or runs["compute"].n_unique() < 3:
        raise QuestionError("compute_optimal: fewer than three sizes at three budgets have finished yet")
    metric = f"{primary_search(results)}_entropy"
    reading = Reading(answer=[], weak=weak, notes=rates)
    points, noise = points_of(runs, metric)
    law = joint_law(runs, metric, "identity")
    reading.fits["joint law"] = law
    options: Any = {
        "x": "active_params",
        "y": metric,
        "budget": "flops_spent",
        "method": "interpolation",
        "noise": noise,
    }
    iso: Any = None
    try:
        iso = analysis.isoflop(points, **options)
    except TableError as error:
        valleys = valley_optima(points, **options)
        reading.weak.insert(0, f"isoFLOP gives no power law: {error}")
        reading.figures["valleys"] = valleys_figure(points, metric)
    else:
        valleys = iso.rows
        reading.fits["isoflop"] = iso
        reading.figures["valleys"] = iso.figure("The best size at each compute")
        reading.weak += [f"isoFLOP: {warning}" for warning in iso.warnings]
    table = optima_of(points, runs, law, valleys)
    reading.tables["the best size of each compute"] = table
    reading.figures["optima"] = optima_figure(table)
    reading.answer = [
        *exponents(iso, law),
        *(told(row) for row in table.iter_rows(named=True)),
        loss_sentence(runs, table),
    ]
    reading.weak += [f"joint law: {warning}" for warning in law.warnings]
    return reading


def points_of(runs: "pl.DataFrame", metric: str) -> tuple["pl.DataFrame", float]:
    """(one row a size and compute: mean of the seeds; standard deviation of such a mean, pooled; nan with one seed)."""
    import polars as pl

    groups = runs.group_by("size", "compute").agg(
        pl.col(metric, "active_params", "flops_spent", "tokens", "loss_share").mean(),
        variance=pl.col(metric).var(),
        n=pl.len(),
    )
    pooled = groups.select((pl.col("variance") / pl.col("n")).mean()).item()
    return groups.drop("variance").sort("compute", "active_params"), math.nan if pooled is None else math.sqrt(pooled)


def optima_of(
    points: "pl.DataFrame", runs: "pl.DataFrame", law: Any, valleys: "Sequence[dict[str, Any]]"
) -> "pl.DataFrame":
    """One row a budget, and one beyond: the best active parameters by valley and by law, with intervals, and the law's tokens."""
    import polars as pl

    by_budget = {row["budget"]: row for row in valleys}
    budgets = sorted(set(points["flops_spent"]))
    spent = (
        runs["posttrain_flops"] / runs["tokens"]
    )  # whatever the size, a token of a pair costs its loss and its photo
    a_token = number((spent * (1 - runs["encoder_share"])).mean())
    without_loss = number((spent * (1 - runs["encoder_share"] - runs["loss_share"])).mean())
    rows = []
    for budget in (*budgets, MORE * budgets[-1]):
        row = by_budget.get(budget, {})
        kept = row and row["edge"] != "outside"
        best = _allocated(law, budget, a_token)
        free = _allocated(law, budget, without_loss)
        rows.append({
            "compute": budget, "run": budget <= budgets[-1],
            "valley": row["x"] if kept else math.nan, "valley low": row["low"] if kept else math.nan,
            "valley high": row["high"] if kept else math.nan, "edge": row.get("edge", "outside"),
            "law": best["active_params"]["x"], "law low": best["active_params"]["low"], "law high": best["active_params"]["high"],
            "law tokens": best["tokens"]["x"], "law, loss for nothing": free["active_params"]["x"],
        })  # fmt: skip
    return pl.DataFrame(rows)


def _allocated(law: Any, budget: float, other_a_token: float) -> dict[str, dict[str, Any]]:
    """The law's optimum under 6 N D and what each token costs besides the encoder, by axis."""
    spent = analysis.allocate(
        law, cost=lambda v: v["tokens"] * (6 * v["active_params"] + other_a_token), budget=budget, better="lower"
    )
    return {row["axis"]: row for row in spent.rows}


def exponents(iso: Any, law: Any) -> list[str]:
    """How the best size grows with compute, in both ways."""
    value, low, high = optimum_exponent(law)
    by_law = f"{value:.2f} " + (f"[{low:.2f}, {high:.2f}]" if math.isfinite(low) else "(no interval)")
    if iso is None:
        return [
            f"The best size grows as compute^{by_law} by the joint law; by valleys none can be told: fewer than three budgets "
            "have their best size inside the grid."
        ]
    at, high_at = iso.interval
    none = "(no interval: with the noise of the seeds some valleys leave the grid)"
    by_valleys = f"{iso.exponent:.2f} " + (f"[{at:.2f}, {high_at:.2f}]" if math.isfinite(at) else none)
    overlap = at <= high and low <= high_at
    agree = "the two agree within their intervals" if overlap else "the two disagree"
    if not (math.isfinite(at) and math.isfinite(low)):
        agree = "whether they agree is not told"
    by_both = f"compute^{by_valleys} by the valleys of {len(iso.rows)} budgets, ^{by_law} by the joint law"
    return [f"The best size grows as {by_both}: {agree}."]


def told(row: dict[str, Any]) -> str:
    """One budget: the best size by its valley and by the law."""
    law = (
        f"{row['law']:,.0f} [{row['law low']:,.0f}, {row['law high']:,.0f}] active parameters on {row['law tokens']:,.0f} tokens "
        "by the law"
    )
    if not row["run"]:
        return f"{MORE:.0f} times the largest compute run, {row['compute']:.2g} FLOPs, is best spent on {law}: an extrapolation."
    if math.isnan(row["valley"]):
        return f"{row['compute']:.2g} FLOPs: no best size inside the grid; {law}."
    valley = (
        f"{row['valley']:,.0f} [{row['valley low']:,.0f}, {row['valley high']:,.0f}] active parameters by the valley"
    )
    at_end = ", whose lowest point is an end of the grid" if row["edge"] == "end" else ""
    return f"{row['compute']:.2g} FLOPs: {valley}{at_end}; {law}."


def loss_sentence(runs: "pl.DataFrame", table: "pl.DataFrame") -> str:
    """What the loss over all candidates costs, and what counting it changes."""
    shares = runs.sort("active_params")["loss_share"]
    last = table.filter("run").row(-1, named=True)
    small, large, others = number(shares[0]), number(shares[-1]), number(runs["batch"][0]) - 1
    return (
        f"The loss over {others:,.0f} negatives costs {small:.1%} of the FLOPs of the smallest encoder, {large:.2%} of the "
        f"largest; were it free, the law's best size at {last['compute']:.2g} FLOPs would be "
        f"{last['law, loss for nothing']:,.0f} in place of {last['law']:,.0f}."
    )


def valleys_figure(points: "pl.DataFrame", metric: str) -> "Figure":
    """The metric against size, a line a budget: what there is to see where no power law can be told."""
    import polars as pl

    shown = points.with_columns(FLOPs=pl.Series([f"{spent:.2g} FLOPs" for spent in points["flops_spent"]]))
    return line_figure(
        shown, x="active_params", y=metric, series="FLOPs", title="Size at equal compute", xlabel="active parameters",
        ylabel=metric,
    )  # fmt: skip


def optima_figure(table: "pl.DataFrame") -> "Figure":
    """The best size against compute: valleys (dots) and the joint law (line), with their 95 % intervals."""
    figure = new_figure(height=4.0)
    ax = figure.add_subplot()
    compute = table["compute"].to_numpy()
    ax.fill_between(compute, table["law low"], table["law high"], color=VERMILLION, alpha=0.18, lw=0)
    ax.plot(compute, table["law"], color=VERMILLION, marker="s", ms=5, label="joint law")
    seen = table.filter(table["valley"].is_not_nan())
    for row in seen.iter_rows(named=True):
        ax.plot([row["compute"]] * 2, [row["valley low"], row["valley high"]], color=BLUE, lw=1.8)
    for at_end, label, face in (
        (False, "valley of the budget", BLUE),
        (True, "lowest size run is an end of the grid", "white"),
    ):
        if (rows := seen.filter((seen["edge"] == "end") == at_end)).height:
            ax.plot(rows["compute"], rows["valley"], color=BLUE, marker="o", mfc=face, ms=7, ls="", label=label)
    largest = number(table.filter("run")["compute"].max())
    ax.axvline(largest, color="0.6", ls=":", lw=1.2)
    ax.annotate(" beyond what was run", (largest, 0.02), xycoords=("data", "axes fraction"), fontsize=8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    frame(ax, "compute of a run (FLOPs, loss counted)", "best active parameters")
    ax.legend(frameon=False, loc="upper left")
    ax.set_title("The best size for a compute, in two ways", loc="left", fontsize=11)
    return figure
