"""The contrastive loss with many negatives: time on CPU beside the floor, and memory on eight devices.

    python benchmarks/contrastive.py [--largest 32768] [--runs 3] [--save JSON] [--figure PNG] [--quick]

Time: value and gradients of symmetric InfoNCE over all pairs of a batch, float32, D = 512, one device that uses all
cores; in tiles and dense (as far as the dense form's matrices fit in --dense-gib). The floor is the matrix FLOPs at the
matmul peak that is measured right before and after, in turns with the losses: 6 B^2 D FLOPs dense; 8 B^2 D in tiles, whose
backward pass computes the logits anew instead of keeping them. Each time is told beside its own floor, and beside the
dense form's too: nothing could be faster than that. Compilation is left out.

Memory: bytes a device of the temporaries, by compiling for eight simulated devices (bfloat16, D = 512), beside the dense
form: three float32 matrices (logits, their exponentials, their gradients), by arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contrastive_memory import DEVICES
from measuring import Clock, JaxPeak, Results, start_as_workers_do, told

WIDTH = 512
PRODUCTS = {"dense": 6, "tiled": 8}  # times B^2 D: matrix FLOPs of value and gradients
OF_FLOOR, OF_FLOOR_FROM, OF_DENSE = 2.0, 4096, 1.3
GIB = 2**30
# (global batch, queue, form, goal in GiB a device)
MEMORY = (
    (65_536, 131_072, "tiled", 0.9),
    (65_536, 131_072, "ring", None),
    (262_144, 131_072, "tiled", None),
    (262_144, 131_072, "ring", None),
    (1_048_576, 0, "tiled", 7.0),
    (1_048_576, 0, "ring", 2.5),
)
QUICK_MEMORY = ((1024, 2048, "tiled", None), (1024, 0, "ring", None))
NAMES = {"tiled": "all-gather + tiles", "ring": "ring + tiles"}


@dataclass
class Measured:
    """One form at one batch: seconds of each run, the peak around it, bytes of temporaries."""

    batch: int
    form: str
    bytes: int
    call: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    @property
    def flops(self) -> float:
        return PRODUCTS[self.form] * self.batch**2 * WIDTH

    def floors(self, form: str) -> list[float]:
        """Seconds that the products of a form take at the peak of each run."""
        return [PRODUCTS[form] * self.batch**2 * WIDTH / peak for peak in self.peaks]

    def of_floor(self, form: str) -> list[float]:
        return [s / floor for s, floor in zip(self.seconds, self.floors(form), strict=True)]


def prepare(batch: int, form: str) -> Measured:
    """The compiled value and gradients with their arguments, run once."""
    import jax
    import jax.numpy as jnp

    from moon_jax.losses import info_nce

    def loss(queries: jax.Array, keys: jax.Array, temperature: jax.Array) -> jax.Array:
        return info_nce(queries, keys, temperature=temperature, form=form)

    vectors = jax.random.normal(jax.random.key(batch), (2, batch, WIDTH), jnp.float32)
    queries, keys = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    arguments = (queries, keys, jnp.float32(0.07))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*arguments).compile()
    call = lambda: jax.block_until_ready(compiled(*arguments))  # noqa: E731
    if batch <= 4096:
        call()
    return Measured(batch, form, compiled.memory_analysis().temp_size_in_bytes, call)


def time_batch(batch: int, forms: tuple[str, ...], runs: int, peak: JaxPeak, results: Results) -> dict[str, Measured]:
    """The forms in turns, each between two measurements of the peak."""
    measured = {form: prepare(batch, form) for form in forms}
    before = peak()
    for _ in range(runs):
        for one in measured.values():
            calls = max(1, int(0.2 * before / one.flops))  # at least about 0.2 s
            with Clock() as clock:
                began = time.perf_counter()
                for _ in range(calls):
                    one.call()
                one.seconds.append((time.perf_counter() - began) / calls)
            results.others.append(clock.others)
            after = peak()
            one.peaks.append(max(before, after))
            before = after
    return measured


def times(batches: list[int], dense_bytes: float, runs: int, results: Results) -> list[dict[str, Measured]]:
    peak, table = JaxPeak(), []
    for batch in batches:
        forms = ("tiled", "dense") if 12 * batch**2 <= dense_bytes else ("tiled",)
        table.append(time_batch(batch, forms, runs, peak, results))
    rows = []
    for row in table:
        tiled, dense = row["tiled"], row.get("dense")
        rows.append(
            (
                f"{tiled.batch:,}",
                f"{statistics.median(tiled.peaks) / 1e9:,.0f}",
                f"{1e3 * statistics.median(tiled.seconds):,.1f}",
                told(tiled.of_floor("tiled")),
                f"{statistics.median(tiled.of_floor('dense')):.2f}",
                f"{tiled.bytes / 2**20:,.0f}",
                *(
                    (
                        f"{1e3 * statistics.median(dense.seconds):,.1f}",
                        told(dense.of_floor("dense")),
                        f"{dense.bytes / 2**20:,.0f}",
                        told(ratios(row)),
                    )
                    if dense
                    else ("-", "-", f"({12 * tiled.batch**2 / 2**20:,.0f})", "-")
                ),
            )
        )
    results.table(
        f"Value and gradients, float32, D = {WIDTH}, one device: medians (lowest to highest of {runs} runs in turns); "
        "dense MiB in brackets by arithmetic",
        (
            "batch",
            "peak GFLOP/s",
            "tiled, ms",
            "times its floor",
            "times dense floor",
            "MiB",
            "dense, ms",
            "times its floor",
            "MiB",
            "tiled / dense",
        ),
        rows,
    )
    results.data["times"] = [
        {"batch": one.batch, "form": one.form, "seconds": one.seconds, "peaks": one.peaks, "bytes": one.bytes}
        for row in table
        for one in row.values()
    ]
    return table


def ratios(row: dict[str, Measured]) -> list[float]:
    """Tiled over dense, run by run."""
    return [t / d for t, d in zip(row["tiled"].seconds, row["dense"].seconds, strict=True)]


def judge_times(table: list[dict[str, Measured]], results: Results) -> bool:
    floors = {
        row["tiled"].batch: statistics.median(row["tiled"].of_floor("tiled"))
        for row in table
        if row["tiled"].batch >= OF_FLOOR_FROM
    }
    both = {row["tiled"].batch: statistics.median(ratios(row)) for row in table if "dense" in row}
    worst, slowest = max(floors, key=lambda k: floors[k]), max(both, key=lambda k: both[k])
    saved = next(row["dense"].bytes / row["tiled"].bytes for row in table[::-1] if "dense" in row)
    largest = max(both)
    return all(
        [
            results.goal(
                f"tiled within {OF_FLOOR:.0f} times its floor from {OF_FLOOR_FROM:,} on: at most {floors[worst]:.2f} "
                f"(at {worst:,})",
                floors[worst] <= OF_FLOOR,
            ),
            results.goal(
                f"tiled at most {OF_DENSE} times dense where that fits: at most {both[slowest]:.2f} (at {slowest:,}); at "
                f"{largest:,} dense takes {saved:,.0f} times the memory",
                both[slowest] <= OF_DENSE,
            ),
        ]
    )


def memory(cases: tuple[tuple[int, int, str, float | None], ...], results: Results) -> bool:
    """Prints the table of bytes a device; whether all goals are reached."""
    home = Path(__file__).resolve().parent
    asked = json.dumps([{"batch": b, "queue": q, "form": form} for b, q, form, _ in cases])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(home.parent), os.environ.get("PYTHONPATH"))))
    }
    done = subprocess.run(
        [sys.executable, str(home / "contrastive_memory.py"), asked],
        stdout=subprocess.PIPE,
        check=True,
        env=environment,
    )
    sizes = [size / GIB for size in json.loads(done.stdout)]
    results.table(
        f"GiB a device of {DEVICES}, compiled, bfloat16, D = 512; dense by arithmetic",
        ("global batch", "queue", "form", "GiB", "goal", "dense"),
        [
            (
                f"{batch:,}",
                f"{queue:,}",
                NAMES[form],
                f"{size:.3g}",
                "-" if limit is None else f"{limit:g}",
                f"{12 * (batch // DEVICES) * (batch + queue) / GIB:,.3g}",
            )
            for (batch, queue, form, limit), size in zip(cases, sizes, strict=True)
        ],
    )
    reached = [
        results.goal(
            f"{batch:,} + {queue:,} queued, {NAMES[form]}: {size:.2f} of {limit} GiB", size <= limit, timing=False
        )
        for (batch, queue, form, limit), size in zip(cases, sizes, strict=True)
        if limit is not None
    ]
    return all(reached)


def draw(table: list[dict[str, Measured]], path: Path) -> None:
    """Time and memory over the batch, with the floors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for form, colour in (("tiled", "C0"), ("dense", "C1")):
        some = [row[form] for row in table if form in row]
        batches = [one.batch for one in some]
        left.loglog(batches, [statistics.median(one.seconds) for one in some], "o-", color=colour, label=form, ms=4)
        floors = [statistics.median(row["tiled"].floors(form)) for row in table]
        all_batches = [row["tiled"].batch for row in table]
        left.loglog(all_batches, floors, ":", color=colour, label=f"floor, {PRODUCTS[form]} B²D")
        right.loglog(batches, [one.bytes / GIB for one in some], "o-", color=colour, label=form, ms=4)
        if form == "dense":
            by_arithmetic = [12 * batch**2 / GIB for batch in all_batches]
            right.loglog(all_batches, by_arithmetic, ":", color=colour, label="dense by arithmetic")
    left.set(xlabel="batch", ylabel="seconds, value and gradients")
    right.set(xlabel="batch", ylabel="GiB of temporaries")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
        axis.set_xticks(all_batches, [f"{batch // 1024}k" for batch in all_batches], minor=False)
        axis.minorticks_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=32_768, help="batch; from 1,024 on it doubles")
    parser.add_argument("--runs", type=int, default=3, help="of each form, in turns")
    parser.add_argument("--dense-gib", type=float, default=4.0, help="largest matrices of the dense form")
    parser.add_argument("--save", type=Path, help="write results as JSON")
    parser.add_argument("--figure", type=Path, help="write a PNG")
    parser.add_argument("--quick", action="store_true", help="1,024, one run: shows that the script runs")
    given = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    start_as_workers_do()
    largest, runs = (1024, 1) if given.quick else (given.largest, given.runs)
    batches = [1024 << k for k in range(20) if 1024 << k <= largest]
    results = Results("contrastive.py")
    table = times(batches, given.dense_gib * GIB, runs, results)
    if given.figure is not None:
        draw(table, given.figure)
    if given.quick:
        memory(QUICK_MEMORY, results)
        print("quick: too little to judge by")
        return 0
    reached = [judge_times(table, results), memory(MEMORY, results)]
    results.finish(given.save)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
