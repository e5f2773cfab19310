"""Tables whose truth is known."""

from __future__ import annotations

import numpy as np
import polars as pl

TRUTH = {"E": 0.15, "A": 4.0, "alpha": 0.25}


def law(x: np.ndarray, E: float = 0.15, A: float = 4.0, alpha: float = 0.25) -> np.ndarray:
    return E + A * x**-alpha


def runs(
    budgets: int = 7, seeds: int = 3, noise: float = 0.02, seed: int = 0, span=(1e4, 3e7), **truth
) -> pl.DataFrame:
    """One row a run: tokens, recall = 1 - error, error = law with log-normal noise."""
    rng = np.random.default_rng(seed)
    x = np.repeat(np.geomspace(*span, budgets), seeds)
    error = law(x, **truth) * np.exp(noise * rng.normal(size=x.size))
    return pl.DataFrame(
        {
            "tokens": x,
            "recall": 1 - error,
            "error": error,
            "run": [f"run-{k}" for k in range(x.size)],
            "seed": np.tile(np.arange(seeds), budgets),
        }
    )


def versions(
    count: int = 12, seeds: int = 3, reliability: float = 0.95, slope: float = 0.1, scatter: float = 0.0, seed: int = 0
) -> pl.DataFrame:
    """Versions x seeds with noise on both axes: gauc = 0.6 + slope * true recall (+ scatter of versions)."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.2, 0.7, count)
    spread = true.std(ddof=1) * np.sqrt((1 - reliability) / reliability * seeds)
    other = rng.uniform(0.2, 0.7, count)
    rows = []
    for v in range(count):
        lift = scatter * abs(slope) * true.std() * rng.normal()
        for s in range(seeds):
            rows.append(
                {
                    "version": f"v{v:02d}",
                    "seed": s,
                    "image_recall": true[v] + spread * rng.normal(),
                    "text_recall": other[v] + spread * rng.normal(),
                    "gauc": 0.6 + slope * true[v] + lift + abs(slope) * spread * rng.normal(),
                }
            )
    return pl.DataFrame(rows)
