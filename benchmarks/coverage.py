"""How often do 95 % intervals hold a planted truth? A published grid of laws, kinds of noise and numbers of runs; then of
exchange rates, with the attenuation of ordinary least squares beside them.

Each configuration is planted many times; each fit is asked for the interval of every parameter, of the mean and of one new
run at 3 times the largest x. A configuration with 12 runs and more must hold each of them in 92.5-98 % of trials, all of
these together in 94-96 %; with fewer runs at least 92.5 %. Where a fit gives a quantity no interval, that is counted and
printed, and the quantity is judged by the other trials; a judged configuration may do so in 10 % of trials at most. Where the
planted floor cannot be identified no coverage is promised: it is counted how often that is said.

    python benchmarks/coverage.py            (under 20 minutes on 2 cores)
    python benchmarks/coverage.py --quick    (under a minute: a smoke test, too few trials to judge anything)
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from common import goal, machine, show

import analysis

LEVEL = 0.95
FAR = 3.0  # times the largest x: where the mean and a new run are foretold
TRIALS_OF_A_RECALL = 2000
MOST_WITHOUT = 0.10  # of the trials of a judged configuration may give no interval
BLOCK = 25  # trials that one task of a worker runs


@dataclass(frozen=True)
class Law:
    """A planted law. `recall`: whether its values are recalls themselves; else 1 - value is one."""

    name: str
    truth: dict[str, float]
    noise: float  # of a run, in the law's residual space: logs for power and power_floor
    span: tuple[float, float] = (1e4, 1e8)
    recall: bool = False


LAWS = {
    "power": Law("power", {"A": 2.0, "alpha": 0.15}, 0.02),
    "power_floor": Law("power_floor", {"E": 0.15, "A": 4.0, "alpha": 0.25}, 0.02),
    "log_line": Law("log_line", {"a": -0.3, "b": 0.05}, 0.01, recall=True),
    "bounded_power": Law("bounded_power", {"low": 0.1, "high": 0.85, "x0": 1e5, "alpha": 0.5}, 0.01, recall=True),
    "small floor": Law("power_floor", {"E": 0.005, "A": 4.0, "alpha": 0.25}, 0.02),
    "no floor": Law("power_floor", {"E": 0.0, "A": 4.0, "alpha": 0.25}, 0.02),
    "short range": Law("power_floor", {"E": 0.15, "A": 4.0, "alpha": 0.25}, 0.02, span=(1e6, 1e8)),
}
UNIDENTIFIED = ("small floor", "no floor", "short range")


@dataclass(frozen=True)
class Configuration:
    """`kind`: "run" (noise of a run), "binomial" (a recall over 2,000 queries), "both", "seeds" (3 runs at each x, 2
    under 12 runs), or
    "rows" (each run measured 3 times, half of the variance common to its rows; the cluster is the run)."""

    law: str
    kind: str
    runs: int

    @property
    def judged(self) -> bool:
        return self.law not in UNIDENTIFIED

    @property
    def quantities(self) -> tuple[str, ...]:
        return (*LAWS[self.law].truth, "mean", "new run")


IDENTIFIED = tuple(law for law in LAWS if law not in UNIDENTIFIED)
GRID = (
    *(Configuration(law, "run", n) for law in IDENTIFIED for n in (6, 8, 12, 18, 36)),
    *(Configuration(law, "binomial", n) for law in IDENTIFIED for n in (8, 12, 36)),
    *(Configuration(law, "both", n) for law in IDENTIFIED for n in (12, 36)),
    *(Configuration(law, "seeds", n) for law in IDENTIFIED for n in (10, 18, 36)),
    *(Configuration(law, "rows", n) for law in IDENTIFIED for n in (12, 24)),
    *(Configuration(law, "run", n) for law in UNIDENTIFIED for n in (8, 18, 36)),
)
QUICK = (
    *(Configuration(law, "run", 12) for law in IDENTIFIED),
    Configuration("power_floor", "binomial", 12),
    Configuration("power_floor", "seeds", 18),
    Configuration("no floor", "run", 12),
)


@dataclass(frozen=True)
class Rates:
    """A planted exchange rate: gauc = .6 + .1 recall, 3 seeds a version, `scatter` of versions about the line."""

    versions: int
    reliability: float
    scatter: float


RATES = tuple(
    Rates(n, r, s) for n in (12, 24) for r, s in ((0.8, 0.0), (0.9, 0.0), (0.95, 0.0), (0.8, 0.3), (0.9, 1.0))
)
SLOPE = 0.1


def plant(configuration: Configuration, rng: np.random.Generator) -> pl.DataFrame:
    """A table of one row a measurement: x, y, trials, run."""
    law = LAWS[configuration.law]
    each = (3 if configuration.runs >= 12 else 2) if configuration.kind == "seeds" else 1
    x = np.repeat(np.geomspace(*law.span, configuration.runs // each), each)
    value = analysis.get_law(law.name).values(x[None], np.array(list(law.truth.values())))
    run = np.arange(len(x))
    if configuration.kind == "rows":
        x, value, run = (np.repeat(part, 3) for part in (x, value, run))
    noise = law.noise * rng.normal(size=len(x))
    if configuration.kind == "rows":
        noise = (noise + law.noise * rng.normal(size=configuration.runs)[run]) / np.sqrt(2)
    if configuration.kind != "binomial":
        value = _moved(law, value, noise)
    if configuration.kind in ("binomial", "both"):
        recall = np.clip(value if law.recall else 1 - value, 0, 1)
        hits = rng.binomial(TRIALS_OF_A_RECALL, recall) / TRIALS_OF_A_RECALL
        value = hits if law.recall else 1 - hits
    y = value if law.recall else 1 - value
    return pl.DataFrame({"x": x, "y": y, "run": run.astype(str), "trials": np.full(len(x), TRIALS_OF_A_RECALL)})


def _moved(law: Law, value: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return value * np.exp(noise) if analysis.get_law(law.name).residuals == "log" else value + noise


def one_fit(configuration: Configuration, trial: int, resamples: int) -> tuple[list[float], bool]:
    """For each quantity 1 for a hit, 0 for a miss, NaN for no interval; whether the floor was said to be unidentified."""
    law = LAWS[configuration.law]
    rng = np.random.default_rng([zlib.crc32(repr(configuration).encode()), trial])
    table = plant(configuration, rng)
    binomial = configuration.kind in ("binomial", "both")
    fit = analysis.fit(
        table, x="x", y="y", law=law.name, transform="identity" if law.recall else "error", cluster="run",
        trials="trials" if binomial else None, resamples=resamples, seed=trial,
    )  # fmt: skip
    far = FAR * law.span[1]
    true = float(analysis.get_law(law.name).values(np.array([[far]]), np.array(list(law.truth.values())))[0])
    new = true
    if configuration.kind != "binomial":
        new = float(_moved(law, np.array(true), law.noise * rng.normal(size=())))
    if binomial:
        recall = float(np.clip(new if law.recall else 1 - new, 0, 1))
        share = rng.binomial(TRIALS_OF_A_RECALL, recall) / TRIALS_OF_A_RECALL
        new = share if law.recall else 1 - share
    intervals = fit.intervals(LEVEL)
    ends = [*(intervals[name] for name in law.truth), fit.band(far, LEVEL)[1:], fit.predict(far, interval=LEVEL)[1:]]
    values = [*law.truth.values(), true, new]
    hits = [
        float(low <= value <= high) if np.isfinite(low) else np.nan
        for (low, high), value in zip(ends, values, strict=True)
    ]
    return hits, any("is not identified" in text for text in fit.warnings)


def one_rate(rates: Rates, trial: int) -> tuple[bool, float, float]:
    """Whether the interval holds the slope; our slope; that of ordinary least squares on the version means."""
    rng = np.random.default_rng([zlib.crc32(repr(rates).encode()), trial])
    n, seeds = rates.versions, 3
    true = rng.uniform(0.2, 0.7, n)
    spread = true.std(ddof=1) * np.sqrt((1 - rates.reliability) / rates.reliability * seeds)  # of one seed
    lift = rates.scatter * SLOPE * true.std() * rng.normal(size=n)
    recall = true[:, None] + spread * rng.normal(size=(n, seeds))
    gauc = 0.6 + (SLOPE * true + lift)[:, None] + SLOPE * spread * rng.normal(size=(n, seeds))
    version, seed = np.indices((n, seeds)).reshape(2, -1)
    table = pl.DataFrame({"version": version.astype(str), "seed": seed, "recall": recall.ravel(), "gauc": gauc.ravel()})
    rate = analysis.exchange_rate(table, of="recall", into="gauc", resamples=0)
    plain = np.polyfit(recall.mean(axis=1), gauc.mean(axis=1), 1)[0]
    return rate.interval[0] <= SLOPE <= rate.interval[1], rate.slope, float(plain)


def block(task: tuple[Configuration | Rates, range, int]) -> list[Any]:
    what, trials, resamples = task
    if isinstance(what, Rates):
        return [one_rate(what, trial) for trial in trials]
    return [one_fit(what, trial, resamples) for trial in trials]


def gather(what: Sequence[Configuration | Rates], trials: int, resamples: int, workers: int) -> list[list[Any]]:
    """The outcomes of all trials, by configuration."""
    tasks = [(one, range(k, min(k + BLOCK, trials)), resamples) for one in what for k in range(0, trials, BLOCK)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            blocks = list(pool.map(block, tasks))
    else:
        blocks = [block(task) for task in tasks]
    found: dict[Configuration | Rates, list[Any]] = {one: [] for one in what}
    for (one, *_), part in zip(tasks, blocks, strict=True):
        found[one] += part
    return list(found.values())


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def judge_laws(grid: Sequence[Configuration], outcomes: Sequence[list[Any]], enough: bool) -> list[tuple[str, bool]]:
    """Print the table of laws; goals and whether each is reached."""
    rows, pooled = [], []
    misses: dict[bool, list[str]] = {True: [], False: []}
    for one, found in zip(grid, outcomes, strict=True):
        hits = np.array([trial[0] for trial in found])
        warned = float(np.mean([trial[1] for trial in found]))
        none = float(np.isnan(hits).mean(axis=0).max())
        covered = np.array([np.nanmean(column) if np.isfinite(column).any() else np.nan for column in hits.T])
        many = one.runs >= 12
        fine = none <= MOST_WITHOUT and covered.min() >= 0.925 and (not many or covered.max() <= 0.98)
        if one.judged:
            misses[many] += [] if fine else [f"{one.law}/{one.kind}/{one.runs}"]
            pooled += [hits] if many else []
        shown = [f"{name} {percent(share)}" for name, share in zip(one.quantities[:-2], covered[:-2], strict=True)]
        verdict = ("ok" if fine else "FAILS") if one.judged and enough else "not judged"
        rows.append([
            one.law, one.kind, one.runs, ", ".join(shown), percent(covered[-2]), percent(covered[-1]),
            percent(none), percent(warned) if analysis.get_law(LAWS[one.law].name).floor else "-", verdict,
        ])  # fmt: skip
    show(["law", "noise", "runs", "parameters", "mean", "new run", "no interval", "floor warned", "verdict"], rows)
    together = float(np.nanmean(np.concatenate([hits.ravel() for hits in pooled]))) if pooled else np.nan
    left = {many: ", ".join(names) or "none" for many, names in misses.items()}
    return [
        (f"12 runs and more: every quantity of every configuration within 92.5-98 %; not: {left[True]}", not misses[True]),
        (f"12 runs and more, pooled: {percent(together)} % within 94-96 %", not pooled or 0.94 <= together <= 0.96),
        (f"under 12 runs: at least 92.5 %; not: {left[False]}", not misses[False]),
    ]  # fmt: skip


def judge_rates(grid: Sequence[Rates], outcomes: Sequence[list[Any]]) -> list[tuple[str, bool]]:
    """Print the table of exchange rates; goals and whether each is reached."""
    rows, biases, covers = [], [], []
    for one, found in zip(grid, outcomes, strict=True):
        hits, ours, plain = (np.array(part, float) for part in zip(*found, strict=True))
        biases.append(float(np.nanmedian(ours)) / SLOPE - 1)
        covers.append(float(hits.mean()))
        error = 1.2533 * 1.4826 * float(np.nanmedian(np.abs(ours - np.nanmedian(ours)))) / SLOPE / np.sqrt(len(ours))
        rows.append([
            one.versions, one.reliability, one.scatter, f"{100 * biases[-1]:+.2f} +- {100 * error:.2f}",
            f"{100 * (float(np.median(plain)) / SLOPE - 1):+.1f}", percent(covers[-1]),
        ])  # fmt: skip
    show(["versions", "reliability", "scatter", "median bias, %", "of OLS, %", "coverage, %"], rows)
    worst, least, most = max(biases, key=abs), min(covers), max(covers)
    together = float(np.mean(covers))
    return [
        (f"exchange rate: worst median bias {100 * worst:+.2f} %, under 2 %", abs(worst) < 0.02),
        (f"exchange rate: coverage {percent(least)}-{percent(most)} %, within 92.5-98", least >= 0.925 and most <= 0.98),
        (f"exchange rate, pooled: {percent(together)} % within 94-96 %", 0.94 <= together <= 0.96),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=800, help="of each configuration of laws (default 800)")
    parser.add_argument("--rate-trials", type=int, default=3000, help="of each planted exchange rate (default 3000)")
    parser.add_argument("--resamples", type=int, default=400, help="bootstrap draws of a fit (default 400)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: cores)")
    parser.add_argument("--only", default="", help="configurations whose law/noise/runs contains this")
    parser.add_argument("--quick", action="store_true", help="few configurations and trials; nothing is judged")
    options = parser.parse_args(arguments)
    grid: Sequence[Configuration] = QUICK if options.quick else GRID
    grid = [one for one in grid if options.only in f"{one.law}/{one.kind}/{one.runs}"]
    rates = [] if options.only else list(RATES[:2] if options.quick else RATES)
    trials, rate_trials = (8, 40) if options.quick else (options.trials, options.rate_trials)
    workers = 1 if options.quick else options.workers
    start = time.perf_counter()
    error = 100 * np.sqrt(LEVEL * (1 - LEVEL) / trials)
    print(f"{machine()}; coverage of 95 % intervals in %, {trials} trials each (standard error {error:.1f})")
    goals = judge_laws(grid, gather(grid, trials, options.resamples, workers), enough=not options.quick)
    if rates:
        print(f"\nexchange rates, {rate_trials} trials each")
        goals += judge_rates(rates, gather(rates, rate_trials, 0, workers))
    seconds = time.perf_counter() - start
    print(f"\n{seconds:.0f} s")
    if options.quick:
        return 0
    reached = [goal(*one) for one in [*goals, ("under 20 minutes", seconds < 1200)]]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
