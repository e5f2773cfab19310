"""Learning rates: chosen on valid, before anything is fitted or compared.

Each point of a grid, and each system that is compared with others, is tried at several rates by one seed, and runs at the best
by all (`try_rates`). `tune` and `choose_rates` are for grids that laws are fitted to, `settle` reads the trials of systems. Cells
then depend on what is known, and `moon run` asks a question again until it asks for nothing more.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from sweeps import Cell, Step

if TYPE_CHECKING:
    import polars as pl

Point = TypeVar("Point", int, float)
Thing = TypeVar("Thing")
WIDER = 3.0  # by this factor a trial is widened whose best lies at an end,
FARTHEST = 27.0  # up to so many times the recipe's rate, or as small a part of it


@dataclass(frozen=True)
class Known:
    """What finished steps have measured, for cells that depend on it.

    Attributes:
        result_of: metrics of a step, with its `status`; None where it has not finished.
        assume: where the best rate is not known yet, take the recipe's: what all would cost can be told so.
    """

    result_of: Callable[[Step], Mapping[str, Any] | None] = lambda step: None
    assume: bool = False


ASSUMED = Known(assume=True)


@dataclass(frozen=True)
class Trial:
    """One thing at several learning rates, by one seed.

    Attributes:
        name: what is tuned. by: the metric on valid whose least value chooses.
        runs: multiplier of the recipe's rate -> the named steps that measure it. best: the multiplier chosen; None while
            runs that it depends on have not finished.
    """

    name: str
    by: str
    runs: Mapping[float, dict[str, Step]]
    best: float | None

    def cells(self, **coordinates: Any) -> list[Cell]:
        """A cell a rate, marked by the name of the trial; cells of the grid itself have `trial=""`."""
        told = {"trial": self.name, "by": self.by}
        return [Cell({**coordinates, **told, "lr": lr}, named) for lr, named in self.runs.items()]


def try_rates(
    name: str, by: str, axis: tuple[float, ...], run: Callable[[float], dict[str, Step]], known: Known
) -> Trial:
    """The trial of what `run` makes at a multiplier of the recipe's rate; an axis of one rate leaves nothing to try.

    A run that diverged is worst. Test takes no part; where nothing is on valid, or all diverge, the recipe's own rate is left.
    """
    if len(axis) == 1:
        return Trial(name, by, {}, axis[0])
    runs = {lr: run(lr) for lr in sorted(axis)}
    while True:
        found = {lr: _measured(named, by, known) for lr, named in runs.items()}
        losses = {lr: loss for lr, loss in found.items() if loss is not None}
        if len(losses) < len(runs):
            return Trial(name, by, runs, 1.0 if known.assume else None)
        if any(math.isnan(loss) for loss in losses.values()) or min(losses.values()) == math.inf:
            return Trial(name, by, runs, 1.0)
        if (rate := wider(losses)) is None:
            return Trial(name, by, runs, min(losses, key=lambda lr: losses[lr]))
        runs = dict(sorted({**runs, rate: run(rate)}.items()))


def wider(losses: Mapping[float, float]) -> float | None:
    """The rate to be tried besides, for the best lies at an end; None where it is bracketed or the search has gone far."""
    best = min(losses, key=lambda lr: losses[lr])
    rate = {min(losses): best / WIDER, max(losses): best * WIDER}.get(best)
    if rate is None or max(rate, 1 / rate) > FARTHEST * 1.001:
        return None
    return rate


def asked(cells: Callable[..., list[Cell]], preset: str, data: Any, known: Known, **options: Any) -> list[Cell]:
    """A question's cells, those that depend on what is known with it."""
    given = {"known": known} if "known" in signature(cells).parameters else {}
    return cells(preset, data, **given, **options)


def bests(trials: Mapping[Thing, Trial]) -> dict[Thing, float]:
    """The multipliers chosen, of the trials that have ended."""
    return {thing: trial.best for thing, trial in trials.items() if trial.best is not None}


def _measured(named: Mapping[str, Step], by: str, known: Known) -> float | None:
    """The metric; inf where a step diverged, nan where all have finished without it, None where they have not."""
    results = [result for step in named.values() if (result := known.result_of(step)) is not None]
    if any(result["status"] == "diverged" for result in results):
        return math.inf
    if len(results) < len(named):
        return None
    return next((float(result[by]) for result in results if by in result), math.nan)


def settle(results: "pl.DataFrame") -> tuple["pl.DataFrame", "pl.DataFrame", list[str], list[str]]:
    """Takes the trials of learning rates out of a question's rows.

    Returns:
        (the rows of the grid, a table of what was tried, sentences, weak points).
    """
    import polars as pl

    untried = ["one learning rate for everything: what each would gain at its own best is not seen"]
    if "trial" not in results.columns:
        return results, pl.DataFrame(), [], untried
    rows, trials = results.filter(pl.col("trial") == ""), results.filter(pl.col("trial") != "")
    if trials.is_empty():
        return rows, pl.DataFrame(), [], untried
    parts, told, edges, waiting = [], [], [], []
    for (name, by, _), part in trials.group_by("trial", "by", "seed", maintain_order=True):
        valid = part[by] if by in part.columns else pl.Series(by, [None] * part.height, pl.Float64)
        table = pl.DataFrame({"trial": part["trial"], "rate": part["lr"], "measured by": part["by"], "on valid": valid})
        table = table.with_columns(chosen=pl.col("on valid") == pl.col("on valid").min()).sort("rate")
        parts.append(table)
        if not set(part["status"]) <= {"done", "diverged"}:
            waiting.append(str(name))
            continue
        if (best := table.filter("chosen")).is_empty():
            continue
        told.append(f"{name} x{best['rate'][0]:.2g}")
        if best["rate"][0] in (table["rate"].min(), table["rate"].max()):
            edges.append(str(name))
    said = f"Learning rates, chosen on valid by one seed, times the recipe's: {', '.join(told)}."
    weak = [f"learning rate of {', '.join(edges)}: the best lies at an end of what was tried"] if edges else []
    weak += [f"learning rate of {', '.join(waiting)}: not all that were tried have finished"] if waiting else []
    return rows, pl.concat(parts), [said] if told else [], weak


def tune(
    points: Iterable[Point],
    *,
    seeds: Sequence[int],
    axis: tuple[float, ...],
    run: Callable[[Point, int, float], dict[str, Step]],
    by: str,
    known: Known,
) -> tuple[list[tuple[Point, int, float, dict[str, Step]]], dict[Point, float]]:
    """The runs of a grid, each point by the first seed along the axis and by the others at the best of it.

    A slope over untuned runs is void, for the best rate moves along the axis of a law.

    Returns:
        ((point, seed, multiplier of the recipe's rate, what `run` makes of them), sorted; the rates known to be best).
    """
    first, *others = seeds
    rows, rates = [], {}
    for point in points:
        trial = try_rates(f"{point:,}", by, axis, functools.partial(run, point, first), known)
        made = {(first, lr): named for lr, named in trial.runs.items()}
        if trial.best is not None:
            rates[point] = trial.best
            made |= {(seed, trial.best): run(point, seed, trial.best) for seed in others}
            made.setdefault((first, trial.best), run(point, first, trial.best))
        rows += [(point, seed, lr, named) for (seed, lr), named in made.items()]
    return sorted(rows, key=lambda row: row[:3]), rates


def choose_rates(results: "pl.DataFrame", axis: str, search: str) -> tuple["pl.DataFrame", list[str], list[str]]:
    """At each point of the axis the learning rate with the least valid entropy, by the seeds that tried the most rates (their
    mean); test takes no part.

    Entropy, not recall: over a few hundred queries the recalls of two rates often differ by less than one query.

    Returns:
        (the rows at the chosen rates, with `lr_checked` and `lr_at_edge` for the fit's checklist, sentences, weak points).
    """
    import polars as pl

    valid = f"valid_{search}_entropy"
    kept, said, edges, unchecked = [], [], [], []
    for point in results[axis].unique().sort():
        at = results.filter(pl.col(axis) == point)
        measured = at.drop_nulls(valid)
        tried = measured.group_by("seed").agg(n=pl.col("lr").n_unique())
        seeds = tried.filter(pl.col("n") == pl.col("n").max())["seed"].to_list()
        full = measured.filter(pl.col("seed").is_in(seeds)).group_by("lr").agg(pl.col(valid).mean(), n=pl.len())
        rates = dict(full.filter(pl.col("n") == len(seeds)).sort("lr").select("lr", valid).iter_rows())
        of_these = at.filter(pl.col("seed").is_in(seeds))
        # Nothing at the recipe's own rate has finished here, unless it diverged: the choice may be another yet.
        if not rates or (1.0 not in rates and 1.0 not in _diverged(of_these)):
            continue
        best = min(rates, key=lambda lr: rates[lr])
        ends = {*rates, *_diverged(of_these)}
        checked = len(ends) > 1
        edge = checked and best in (min(ends), max(ends))
        chosen = measured.filter(pl.col("lr") == best)
        kept.append(chosen.with_columns(lr_checked=pl.lit(checked), lr_at_edge=pl.lit(edge)))
        if not checked:
            unchecked.append(f"{point:,.0f}")
            continue
        if edge:
            edges.append(f"{point:,.0f}")
        seen = ", ".join(f"x{lr:.2g} {entropy:.3f}" for lr, entropy in rates.items())
        optimum = vertex(rates)
        between = "" if math.isnan(optimum) else f" (a parabola in the log of the rate has its least at x{optimum:.2g})"
        said.append(f"Learning rate at {point:,.0f} {axis}, {valid}: {seen}; x{best:.2g} chosen{between}.")
    weak = []
    if edges:
        weak.append(
            f"learning rate: at {axis} {', '.join(edges)} the best lies at the edge of the axis, perhaps beyond it"
        )
    if unchecked and said:
        weak.append(f"learning rate: x1 is used unchecked at {axis} {', '.join(unchecked)}")
    return pl.concat(kept) if kept else results.clear(), said, weak


def _diverged(rows: "pl.DataFrame") -> set[float]:
    return set(rows.filter(rows["status"] == "diverged")["lr"]) if "status" in rows.columns else set()


def vertex(losses: dict[float, float]) -> float:
    """Where a parabola in log rate through the best rate and its two neighbours has its least; nan at an edge of the axis."""
    rates = sorted(losses)
    at = rates.index(min(losses, key=lambda rate: losses[rate]))
    if not 0 < at < len(rates) - 1:
        return math.nan
    (a, b, c), (fa, fb, fc) = zip(*((math.log(r), losses[r]) for r in rates[at - 1 : at + 2]), strict=True)
    below = (b - a) * (fb - fc) - (b - c) * (fb - fa)
    above = (b - a) ** 2 * (fb - fc) - (b - c) ** 2 * (fb - fa)
    return math.exp(b - above / (2 * below)) if below else math.nan
