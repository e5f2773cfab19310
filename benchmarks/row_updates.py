"""Row-wise updates of ID tables beside dense ones: what does a step cost as the catalogue grows?

    python benchmarks/row_updates.py [--save JSON] [--quick]

The application stage's training step (DIN, D = 16, batch 512, L = 50, CPU, a device a core), items drawn evenly, with
`id_updates` "dense" (Adam reads and writes the whole table and its two moments) and "rows" (only what the batch names). Both
in one process, in turns; a median of steps. The floor of the dense update is what it must move: 6 times the table, 3 read
and 3 written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Results

from experiments.running import worker_environment

CATALOGUES = (10_000, 100_000, 1_000_000, 4_000_000)
BATCH, LENGTH, WIDTH, ROUNDS, STEPS = 512, 50, 16, 5, 10
GROWTH = 1.5
HOW = ("dense", "rows")


def steppers(items: int) -> dict[str, Any]:
    """A function for each way that runs some steps and returns their seconds, each."""
    import jax
    import jax.numpy as jnp

    from moon_jax.models.behaviour import Shape
    from moon_jax.models.catalogue import place_catalogue
    from moon_jax.models.ctr import CtrConfig
    from moon_jax.sharding import data_mesh, place_batch
    from moon_jax.stages.application import build_initial, build_update, graph_of

    mesh, rng = data_mesh(), np.random.default_rng(0)
    catalogue, rows = place_catalogue(np.ones(items, bool), None, "float32", mesh)
    config = CtrConfig(rows, 1, ("din",), Shape(id_width=WIDTH))
    hyper = {"steps": jnp.int32(10**6), "peak_lr": jnp.float32(1e-3)}
    batches = [
        place_batch(
            mesh,
            {
                "target": rng.integers(0, items, BATCH, dtype=np.int32),
                "history": rng.integers(0, items, (BATCH, LENGTH), dtype=np.int32),
                "action": np.zeros((BATCH, LENGTH), np.int32),
                "clicked": (rng.random(BATCH) < 0.3).astype(np.float32),
            },
        )
        for _ in range(4)
    ]
    out = {}
    for how in HOW:
        update = build_update(graph_of(config), 0.0, mesh, how)
        held = {"state": build_initial(config, 0.0, mesh)(jnp.uint32(0))}

        def run(steps: int, update: Any = update, held: dict[str, Any] = held) -> list[float]:
            seconds = []
            for step in range(steps):
                began = time.perf_counter()
                held["state"], metrics, _ = update(held["state"], batches[step % 4], hyper, catalogue)
                jax.block_until_ready((held["state"], metrics))
                seconds.append(time.perf_counter() - began)
            return seconds

        run(2)
        out[how] = run
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="write results as JSON")
    parser.add_argument("--quick", action="store_true", help="the smallest catalogue: shows that the script runs")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    devices = f"--xla_force_host_platform_device_count={cores}"
    if os.environ.get("XLA_FLAGS") != devices:  # as workers run: glibc reads of huge pages when a process starts
        os.environ.update(worker_environment() | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices})
        os.execv(sys.executable, [sys.executable, *sys.argv])
    results = Results("row_updates.py", threads=cores)
    rows, found = [], {}
    for items in CATALOGUES[:1] if given.quick else CATALOGUES:
        run = steppers(items)
        seconds: dict[str, list[float]] = {how: [] for how in HOW}
        ratios = []
        for _ in range(1 if given.quick else ROUNDS):
            turn = {how: run[how](2 if given.quick else STEPS) for how in HOW}
            ratios.append(statistics.median(turn["dense"]) / statistics.median(turn["rows"]))
            for how in HOW:
                seconds[how] += turn[how]
        found[items] = {how: statistics.median(seconds[how]) for how in HOW}
        rows.append(
            (
                f"{items:,}",
                f"{3 * 4 * WIDTH * items / 2**20:,.0f}",
                *(f"{1e3 * found[items][how]:,.1f}" for how in HOW),
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            )
        )
    header = ("items", "table and moments, MiB", "dense, ms a step", "rows, ms a step", "times as fast")
    results.table(f"A step of DIN, batch {BATCH}, L = {LENGTH}, D = {WIDTH}", header, rows)
    results.data["median_seconds"] = {str(items): one for items, one in found.items()}
    if given.quick:
        print("quick: too little to judge by")
        return 0
    grown = found[CATALOGUES[-1]]["rows"] / found[CATALOGUES[1]]["rows"]
    told = (
        f"rows, {CATALOGUES[-1]:,} items beside {CATALOGUES[1]:,}: at most {GROWTH} times the time a step: {grown:.2f}"
    )
    reached = results.goal(told, grown <= GROWTH)
    results.finish(given.save)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
