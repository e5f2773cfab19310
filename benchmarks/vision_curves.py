"""Extrapolation on 72 public learning curves of vision models (Alabdulmohsin et al. 2022), by method.

Fit on `Training` = 1, root mean square log error on `Training` = 0. `analysis.extrapolate` was developed on the half of
the curves whose name (Domain/Task/Model) has an even SHA-256, and frozen before the other half was looked at.

    python benchmarks/vision_curves.py ../shared/data/scaling
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from common import goal, machine, need, show

from experiments.learning_curves import CURVES, METHODS, OFFICIAL, OFFICIAL_METHODS, OURS, Curve, judge, read_curves


def run(method: str, curves: Sequence[Curve], pool: ProcessPoolExecutor | None) -> list[float]:
    if pool is None:
        return [judge(method, curve) for curve in curves]
    return list(pool.map(judge, [method] * len(curves), curves))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help=f"folder with {CURVES} and {OFFICIAL}")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: cores)")
    parser.add_argument(
        "--half", choices=["both", "developed"], default="both", help="developed: leave the frozen half alone"
    )
    parser.add_argument("--quick", action="store_true", help="six curves of the developed half only")
    parser.add_argument("--curves", action="store_true", help="also print every curve")
    options = parser.parse_args(arguments)
    files = need(options.dir, CURVES, OFFICIAL)
    curves = read_curves(*map(pl.read_csv, files))
    if options.quick or options.half == "developed":
        curves = [curve for curve in curves if curve.developed_on][: 6 if options.quick else None]
    workers = 1 if options.quick else options.workers
    context = multiprocessing.get_context("spawn")
    errors, seconds = {}, {}
    for method in METHODS:
        start = time.perf_counter()  # the start of the processes is counted
        if workers > 1:
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                errors[method] = np.array(run(method, curves, pool))
        else:
            errors[method] = np.array(run(method, curves, None))
        seconds[method] = time.perf_counter() - start
    for method in OFFICIAL_METHODS:
        errors[f"official {method}"] = np.array([curve.official.get(method, np.nan) for curve in curves])
    return report(curves, errors, seconds, options.curves, whole=not options.quick and options.half == "both")


def report(
    curves: Sequence[Curve], errors: dict[str, np.ndarray], seconds: dict[str, float], each: bool, whole: bool
) -> int:
    developed = np.array([curve.developed_on for curve in curves])
    finished = np.array([curve.finished for curve in curves])
    domains = sorted({curve.domain for curve in curves})
    groups = {f"domain {name}": np.array([curve.domain == name for curve in curves]) for name in domains}
    groups |= {
        "all": np.ones(len(curves), bool), "M4 finished": finished, "developed": developed, "frozen": ~developed,
        "developed, M4": developed & finished, "frozen, M4": ~developed & finished,
    }  # fmt: skip

    def mean(method: str, group: str) -> str:
        part = errors[method][groups[group]]
        return f"{part.mean():.4f}" if len(part) and np.isfinite(part).all() else "-"

    print(f"mean RMSLE by group of curves; {machine()}")
    rows = [
        [method, *(mean(method, group) for group in groups), f"{seconds[method]:.1f}" if method in seconds else "-"]
        for method in errors
    ]
    show(["method", *groups, "seconds"], [["curves", *(int(part.sum()) for part in groups.values()), ""], *rows])
    if each:
        print()
        lines = []
        for k, curve in enumerate(curves):
            half = "developed" if curve.developed_on else "frozen"
            lines.append([curve.name, half, curve.train.height, *(f"{errors[m][k]:.4f}" for m in errors)])
        show(["curve", "half", "points", *errors], lines)
    if not whole:
        return 0
    print()
    best = errors[OURS]
    reached = [
        goal(
            f"{best[finished].mean():.4f} <= .040 on the {finished.sum()} curves that the official M4 finished",
            best[finished].mean() <= 0.040,
        ),
        goal(f"{best.mean():.4f} <= .0482 on all {len(curves)} curves", best.mean() <= 0.0482),
        goal(f"{seconds[OURS]:.1f} s < 20 s for all curves", seconds[OURS] < 20),
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
