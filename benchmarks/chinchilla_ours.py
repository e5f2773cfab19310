"""Ours, as a process of its own: `analysis.fit` of the Chinchilla law with a case bootstrap. Prints one line of JSON.

python benchmarks/chinchilla_ours.py DIR 4000
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl

import analysis

RUNS = "chinchilla_svg_extracted.csv"
OUTLIERS = 5  # the highest losses, dropped as Epoch does


def read_runs(path: Path) -> pl.DataFrame:
    """N, D = FLOP / (6 N) and the loss of the 240 runs."""
    size, flops = pl.col("Model Size"), pl.col("Training FLOP")
    table = pl.read_csv(path).select(N=size, D=flops / (6 * size), loss="loss")
    return table.sort("loss").head(table.height - OUTLIERS)


def main() -> None:
    folder, resamples = Path(sys.argv[1]), int(sys.argv[2])
    fit = analysis.fit(
        read_runs(folder / RUNS), x=["N", "D"], y="loss", law="chinchilla", loss="huber", delta=1e-3,
        bootstrap="cases", resamples=resamples,
    )  # fmt: skip
    objective = fit.objective
    found = {"objective": objective["value"], "share": objective["share_at_optimum"], "starts": objective["starts"]}
    print(json.dumps({**found, "params": fit.params, "intervals": fit.intervals() if resamples else {}}))


if __name__ == "__main__":
    main()
