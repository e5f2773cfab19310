"""On one accelerator, under ten minutes: the training step's share of peak, the loss with up to a million candidates, a sweep.

    python benchmarks/gpu.py [--save benchmarks/results/gpu.json] [--minutes 9]
    python benchmarks/gpu.py --quick --allow-cpu      (tiny sizes: tries the script, writes nothing)

Step: post-training of two towers of ViT-B/16's size (768 x 12 each, images of 224 in patches of 16, 64 text tokens) in
bfloat16 with float32 parameters, pre-decoded input on the device; several batches and rematerialisation policies, the best
is the result. FLOPs are the model's: every matrix product of the step without recomputation. Peak: the maker's dense
bfloat16 figure for this device where we know it, and beside it the fastest square product measured here.
Loss: value and gradients of symmetric InfoNCE, bfloat16, D = 512, batches of 32,768, 262,144 and 1,048,576 (so many
candidates a query): in tiles, beside dense where that fits, and beside the floor (matrix FLOPs at the measured peak).
Sweep: cells an hour of the token question's preset `gpu`, an estimate: steps of its budgets at a measured time a step,
without evaluation, CTR training, data and compilation.

Each measurement is a process of its own, so that its peak memory is its own and running out of memory ends that one alone.
Ends with 2 and one line where there is no accelerator.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import SIZES, JaxPeak, Results
from step_ours import Shape, build

GOAL = 0.40
WIDTH = 512
GIB = 2**30
LARGE = (4096, 8192)  # sides of the square products that measure an accelerator's peak
# Dense bfloat16 FLOP/s by what a device calls itself, from the makers' data sheets; the first that is found counts.
NOMINAL = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("TPU v6", 918e12),
    ("TPU v5p", 459e12),
    ("TPU v5 lite", 197e12),
    ("TPU v4", 275e12),
)
BASE = Shape(width=768, depth=12, side=224, patch=16, text=64, vocabulary=32_768, embedding=512)
STEPS = ((256, "none"), (512, "dots"), (1024, "dots"), (1024, "full"))  # (batch, rematerialisation)
LOSSES = ((32_768, "dense"), (32_768, "tiled"), (262_144, "dense"), (262_144, "tiled"), (1_048_576, "tiled"))
TINY = Shape(64, 1, 16, 8, 8, 64, 32)
QUICK_STEPS = ((8, "full"),)
QUICK_LOSSES = ((256, "tiled"),)
PRODUCTS = {"dense": 6, "tiled": 8}  # times B^2 D


# Measurements, each in a process of its own


def timed(call: Any, seconds: float, least: int = 3) -> list[float]:
    """Seconds of each of some calls that wait for their results, after one that is not counted."""
    call()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < least or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return taken


def peak_bytes() -> int | None:
    """Most bytes that were in use on the device; None where it does not say."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def measure_device(quick: bool) -> dict[str, Any]:
    import jax

    device = jax.local_devices()[0]
    found = {"platform": device.platform, "kind": device.device_kind, "devices": jax.local_device_count()}
    found["limit"] = (device.memory_stats() or {}).get("bytes_limit")
    if device.platform == "cpu" and not quick:
        return found  # nothing will be measured
    peak = JaxPeak("bfloat16", SIZES if quick else LARGE)(0.2 if quick else 4.0)
    return found | {"peak": peak / found["devices"]}  # of one device


def measure_step(shape: dict[str, Any], backbone: str, item: str, remat: str, seconds: float) -> dict[str, Any]:
    import jax

    from moon_jax.flops import count_flops

    given = Shape(**shape)
    parts = {"config": given.config(backbone, "bfloat16"), "size": given.batch, "item": (item,)}
    update, initialise, batch = build(**parts, remat=remat)
    flops = count_flops(build(**parts)[0], jax.eval_shape(initialise), batch)  # of the form that recomputes nothing
    state = initialise()
    began = time.perf_counter()
    compiled = update.lower(state, batch).compile()
    compiling = time.perf_counter() - began

    def call() -> None:
        nonlocal state
        state, loss = compiled(state, batch)
        jax.block_until_ready(loss)

    taken = timed(call, seconds)
    return {"flops": flops, "compile_seconds": compiling, "seconds": taken, "bytes": peak_bytes()}


def measure_loss(batch: int, form: str, seconds: float) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from moon_jax.losses import info_nce

    def loss(queries: jax.Array, keys: jax.Array, temperature: jax.Array) -> jax.Array:
        return info_nce(queries, keys, temperature=temperature, form=form)

    def vectors(seed: int) -> jax.Array:
        drawn = jax.random.normal(jax.random.key(seed), (batch, WIDTH), jnp.float32)
        return (drawn / jnp.linalg.norm(drawn, axis=-1, keepdims=True)).astype(jnp.bfloat16)

    queries, keys = jax.jit(vectors)(0), jax.jit(vectors)(1)
    arguments = (queries, keys, jnp.float32(0.07))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*arguments).compile()
    taken = timed(lambda: jax.block_until_ready(compiled(*arguments)), seconds, least=2)
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return {"seconds": taken, "bytes": peak_bytes(), "temporary": temporary}


MEASURES = {"device": measure_device, "step": measure_step, "loss": measure_loss}


class Measurer:
    """Runs measurements in processes of their own until time is up."""

    def __init__(self, seconds: float, environment: dict[str, str]):
        self.until = time.monotonic() + seconds
        self.environment = environment

    def __call__(self, what: str, **arguments: Any) -> dict[str, Any]:
        """What it found; {"failed": why} where it ran out of memory or of time."""
        left = self.until - time.monotonic()
        if left < 5:
            return {"failed": "no time was left"}
        command = [sys.executable, str(Path(__file__).resolve()), "--one", what, json.dumps(arguments)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=self.environment, timeout=left, check=False
            )
        except subprocess.TimeoutExpired:
            return {"failed": "no time was left"}
        if done.returncode:
            out_of_memory = "RESOURCE_EXHAUSTED" in done.stderr
            return {
                "failed": "out of memory" if out_of_memory else (done.stderr.strip().splitlines() or ["?"])[-1][:200]
            }
        return json.loads(done.stdout.splitlines()[-1])


# Tables


def gib(size: float | None) -> str:
    return "-" if size is None else f"{size / GIB:,.1f}"


def steps(measurer: Measurer, device: dict[str, Any], quick: bool, seconds: float, results: Results) -> float:
    """Prints the table of the training step; returns the best share of peak."""
    measured = device["peak"] * device["devices"]
    nominal = (device["nominal"] or device["peak"]) * device["devices"]
    best, rows = 0.0, []
    for batch, remat in QUICK_STEPS if quick else STEPS:
        shape = replace(TINY if quick else BASE, batch=batch)
        found = measurer("step", shape=vars(shape), backbone="dual", item="text", remat=remat, seconds=seconds)
        results.data.setdefault("steps", []).append({"batch": batch, "remat": remat} | found)
        if "failed" in found:
            rows.append((f"{batch:,}", remat, *["-"] * 6, found["failed"]))
            continue
        second = statistics.median(found["seconds"])
        rate = found["flops"] / second
        best = max(best, rate / nominal)
        rows.append(
            (
                f"{batch:,}",
                remat,
                f"{1e3 * second:,.1f}",
                f"{batch / second:,.0f}",
                f"{rate / 1e12:,.3g}",
                f"{rate / nominal:.0%}",
                f"{rate / measured:.0%}",
                gib(found["bytes"]),
                f"compiled in {found['compile_seconds']:.0f} s",
            )
        )
    header = (
        "batch",
        "remat",
        "ms a step",
        "pairs/s",
        "TFLOP/s",
        "of nominal peak",
        "of measured peak",
        "GiB at most",
        "",
    )
    shape = TINY if quick else BASE
    results.table(f"Training step, bfloat16: {replace(shape, batch=0)}".replace(", batch 0", ""), header, rows)
    return best


def losses(measurer: Measurer, device: dict[str, Any], quick: bool, seconds: float, results: Results) -> None:
    rows = []
    for batch, form in QUICK_LOSSES if quick else LOSSES:
        by_arithmetic = 12 * batch**2
        if form == "dense" and device["limit"] and by_arithmetic > device["limit"]:
            found = {"failed": f"does not fit: {by_arithmetic / GIB:,.0f} GiB by arithmetic"}
        else:
            found = measurer("loss", batch=batch, form=form, seconds=seconds)
        results.data.setdefault("losses", []).append({"batch": batch, "form": form} | found)
        if "failed" in found:
            rows.append((f"{batch:,}", form, "-", "-", "-", found["failed"]))
            continue
        second, floor = statistics.median(found["seconds"]), PRODUCTS[form] * batch**2 * WIDTH / device["peak"]
        rows.append((f"{batch:,}", form, f"{1e3 * second:,.1f}", f"{second / floor:.2f}", gib(found["bytes"]), ""))
    results.table(
        f"Loss, value and gradients, bfloat16, D = {WIDTH}",
        ("candidates", "form", "ms", "times its floor", "GiB at most", ""),
        rows,
    )


def sweep(measurer: Measurer, quick: bool, seconds: float, results: Results) -> None:
    """Cells an hour of the token question, from the time of a step as its recipe trains it: photo to photo."""
    from experiments.recipes import _GPU, _RENDERED
    from moon_jax.models.encoder import EncoderConfig

    recipe = replace(_RENDERED, **_GPU)
    config = EncoderConfig(recipe.size)
    tower = config.vision_shape
    shape = Shape(tower.width, tower.depth, recipe.height, recipe.patch, recipe.text_length, recipe.vocabulary)
    shape = replace(shape, embedding=recipe.embedding, batch=recipe.batch)
    if quick:
        shape = replace(TINY, batch=8)
    found = measurer("step", shape=vars(shape), backbone="generative", item="image", remat="none", seconds=seconds)
    if "failed" in found:
        results.note(f"cells an hour: not measured ({found['failed']})")
        return
    second, tokens = statistics.median(found["seconds"]), 2 * (shape.side // shape.patch) ** 2
    counts = [round(budget / (tokens * shape.batch)) for budget in recipe.budgets]
    hours = [count * second / 3600 for count in counts]
    results.data["sweep"] = {"seconds": found["seconds"], "budgets": recipe.budgets, "steps": counts}
    results.table(
        f"Cells of the preset `gpu` (ESTIMATE: steps x {1e3 * second:,.1f} ms; training alone)",
        ("tokens", "steps", "seconds", "cells an hour"),
        [
            (f"{budget:,}", f"{count:,}", f"{3600 * hour:,.1f}", f"{1 / hour:,.3g}")
            for budget, count, hour in zip(recipe.budgets, counts, hours, strict=True)
        ]
        + [("the grid, one each", f"{sum(counts):,}", f"{3600 * sum(hours):,.1f}", f"{len(hours) / sum(hours):,.3g}")],
    )


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(MEASURES[sys.argv[2]](**json.loads(sys.argv[3]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="what is not measured by then is left out, visibly")
    parser.add_argument("--save", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    parser.add_argument("--allow-cpu", action="store_true", help="with --quick: go on without an accelerator")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script runs; writes nothing")
    given = parser.parse_args()
    path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH"))))
    measurer = Measurer(60 * given.minutes, os.environ | {"PYTHONPATH": path, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"})
    device = measurer("device", quick=given.quick)
    if "failed" in device:
        print(f"gpu.py: the device could not be asked: {device['failed']}", file=sys.stderr)
        return 2
    if device["platform"] == "cpu" and not (given.quick and given.allow_cpu):
        print("gpu.py: no accelerator is here (jax sees CPUs alone): nothing was measured", file=sys.stderr)
        return 2
    device["nominal"] = next((peak for name, peak in NOMINAL if name in device["kind"]), None)
    results = Results("gpu.py", device=device)
    nominal = f"{device['nominal'] / 1e12:,.0f}" if device["nominal"] else "unknown (shares are of the measured one)"
    results.note(
        f"{device['kind']}; bfloat16 peak, TFLOP/s: nominal {nominal}, measured {device['peak'] / 1e12:,.3g}; memory "
        f"{gib(device['limit'])} GiB"
    )
    seconds = 0.2 if given.quick else 8.0
    best = steps(measurer, device, given.quick, seconds, results)
    losses(measurer, device, given.quick, seconds / 2, results)
    sweep(measurer, given.quick, seconds / 2, results)
    if given.quick:
        print("quick: too little to judge by, nothing is written")
        return 0
    of = "nominal" if device["nominal"] else "measured"
    reached = results.goal(f"at least {GOAL:.0%} of the {of} bfloat16 peak: {best:.0%}", best >= GOAL)
    results.finish(given.save)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
