"""The Chinchilla fit as Epoch AI's replication describes it (Besiroglu et al. 2024), written from that description.

The sum of Huber (1e-3) over residuals of log loss, the law in log-sum-exp form with a = log A, b = log B, e = log E;
4,500 starts on a grid; SciPy's L-BFGS-B with numeric gradients; bootstrap refits of runs drawn with replacement, each
from the best parameters. One process, one core. Prints one line of JSON.

    python benchmarks/chinchilla_epoch.py DIR EVERY REFITS      (every EVERY-th start of the grid; 1 for all)
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from chinchilla_ours import RUNS, read_runs
from scipy.optimize import minimize

DELTA = 1e-3
GRID = {
    "alpha": np.arange(0, 2.5, 0.5), "beta": np.arange(0, 2.5, 0.5), "e": np.arange(-1, 1.5, 0.5),
    "a": np.arange(0, 30, 5.0), "b": np.arange(0, 30, 5.0),
}  # fmt: skip


def objective(p: np.ndarray, log_N: np.ndarray, log_D: np.ndarray, log_loss: np.ndarray) -> float:
    alpha, beta, e, a, b = p
    fitted = np.log(np.exp(a - alpha * log_N) + np.exp(b - beta * log_D) + np.exp(e))
    r = np.abs(fitted - log_loss)
    return float(np.sum(np.where(r <= DELTA, 0.5 * r * r, DELTA * (r - 0.5 * DELTA))))


def best_of(starts: list[tuple[float, ...]], data: tuple[np.ndarray, ...]) -> tuple[np.ndarray, float]:
    best, least = np.full(5, np.nan), np.inf
    for start in starts:
        found = minimize(objective, start, args=data, method="L-BFGS-B")
        if found.fun < least:
            best, least = found.x, float(found.fun)
    return best, least


def main() -> None:
    folder, every, refits = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    runs = read_runs(folder / RUNS).select(pl.col("N", "D", "loss").log())
    data = tuple(runs[name].to_numpy() for name in ("N", "D", "loss"))
    starts = list(itertools.product(*GRID.values()))
    tried = np.random.default_rng(0).permutation(len(starts))[::every]  # a random part of the grid costs as the whole
    with np.errstate(all="ignore"):
        start, used = time.perf_counter(), time.process_time()
        best, least = best_of([starts[k] for k in tried], data)
        fitted, fit_used = time.perf_counter(), time.process_time()
        rng = np.random.default_rng(0)
        draws = []
        for _ in range(refits):
            rows = rng.integers(0, runs.height, runs.height)
            draws.append(minimize(objective, best, args=tuple(part[rows] for part in data), method="L-BFGS-B").x)
        done, refit_used = time.perf_counter(), time.process_time()
    alpha, beta, e, a, b = best.tolist()
    params = {"E": np.exp(e), "A": np.exp(a), "alpha": alpha, "B": np.exp(b), "beta": beta}
    seconds = {"fit_seconds": fitted - start, "refit_seconds": done - fitted,
        "fit_used": fit_used - used, "refit_used": refit_used - fit_used}  # fmt: skip
    counts = {"starts": len(starts), "tried": len(tried), "refits": refits}
    sd = np.std(draws, axis=0)[:2].tolist() if refits else []
    print(json.dumps({"objective": least, "params": params, **seconds, **counts, "sd_alpha_beta": sd}))


if __name__ == "__main__":
    main()
