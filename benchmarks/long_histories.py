"""CTR over long behaviour: is time linear in L, is memory, how often is a step compiled; and a million impressions at L = 10,000.

    python benchmarks/long_histories.py [--save JSON] [--quick]

Steps: the application stage's training step, batch 64, D = 16 for IDs and 64 for representations (float16), L from 64 to
16,384, each module as it ships; time is a median of steps on data that lies ready, memory what XLA says that the compiled
step needs beside its arguments. A behaviour's share of either should not grow with L.

Reading: a million impressions of 20,000 users with 10,000 events each, every history cut out when its batch is read. Beside
it stands what lists of 10,000 padded for each impression would need. Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Results

from experiments.running import worker_environment

HERE = Path(__file__).resolve().parent
LENGTHS = (64, 256, 1024, 4096, 16_384)
MODULES = (("din",), ("din", "simtier"), ("gsu_content",), ("cube",))
BATCH, CONTENT, ITEMS, STEPS = 64, 64, 10_000, 25
USERS, LENGTH, IMPRESSIONS, READ = 20_000, 10_000, 1_000_000, 100
GROWTH = 1.5  # times as much a behaviour at the longest as at 1,024, at most
MIB = 2**20


def log(users: int, length: int, impressions: int) -> Any:
    """Users with `length` events each, the last of which are before every impression."""
    from moon_jax.data.histories import Behaviour

    rng = np.random.default_rng(0)
    user = rng.integers(0, users, impressions)
    return Behaviour(
        item_ids=np.arange(ITEMS),
        event_item=rng.integers(0, ITEMS, users * length, dtype=np.int32),
        event_action=np.full(users * length, 0, np.int32),  # zeros would be no memory yet
        actions=("click",),
        impression_ids=np.arange(impressions),
        user=user,
        impression_item=rng.integers(0, ITEMS, impressions, dtype=np.int32),
        start=user * length,
        end=(user + 1) * length,
        clicked=(rng.random(impressions) < 0.3).astype(np.float32),
        split=np.full(impressions, "train"),
    )


def training(behaviour: Any, modules: tuple[str, ...], length: int, batch: int) -> tuple[Any, Any, Any]:
    """(state -> (state, metrics) on the batch given, state, batches) as the application stage sets them up."""
    import jax.numpy as jnp

    from moon_jax.data.impressions import Impressions, shuffled
    from moon_jax.engine import Engine
    from moon_jax.models.behaviour import MODULES as KNOWN
    from moon_jax.models.behaviour import Shape
    from moon_jax.models.catalogue import place_catalogue
    from moon_jax.models.ctr import CtrConfig
    from moon_jax.sharding import make_mesh
    from moon_jax.stages import application as stage

    content = CONTENT if any(KNOWN[name].reads_content for name in modules) else 0
    vectors = np.random.default_rng(1).normal(size=(ITEMS, content)).astype(np.float32) if content else None
    mesh = make_mesh(Engine(), batch)
    catalogue, rows = place_catalogue(np.ones(ITEMS, bool), vectors, "float16", mesh)
    model = CtrConfig(rows, 1, modules, Shape(content=content))
    config = stage.ApplicationConfig(length, behaviour.user.size, modules, batch=batch)
    update = stage.build_update(stage.graph_of(model), config.weight_decay, mesh)
    state = stage.build_initial(model, config.weight_decay, mesh)(jnp.uint32(0))
    hyper = {"steps": jnp.int32(10**6), "peak_lr": jnp.float32(1e-3)}
    return (
        (update, hyper, catalogue, mesh),
        state,
        shuffled(Impressions(behaviour, length), "train", batch, config.seed),
    )


def measure_steps(modules: list[str], length: int, steps: int) -> dict[str, Any]:
    import jax

    from moon_jax.sharding import place_batch

    (update, hyper, catalogue, mesh), state, batches = training(
        log(BATCH, length, 4 * BATCH), tuple(modules), length, BATCH
    )
    ready = [place_batch(mesh, next(batches)) for _ in range(4)]
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: compiled.append(event))
    temporary = update.lower(state, ready[0], hyper, catalogue).compile().memory_analysis().temp_size_in_bytes
    seconds = []
    for step in range(steps + 1):
        began = time.perf_counter()
        state, metrics, _ = update(state, ready[step % 4], hyper, catalogue)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    compilations = compiled.count("/jax/core/compile/backend_compile_duration")
    return {"seconds": seconds[1:], "temporary": temporary, "compilations": compilations}


def measure_reading(users: int, length: int, impressions: int, batches: int) -> dict[str, Any]:
    import jax

    from moon_jax.sharding import place_batch

    behaviour = log(users, length, impressions)
    held = sum(x.nbytes for x in vars(behaviour).values() if isinstance(x, np.ndarray) and x.dtype != object)
    (update, hyper, catalogue, mesh), state, reader = training(behaviour, ("din",), length, BATCH)
    next(reader)
    began = time.perf_counter()
    for _ in range(batches):
        next(reader)
    reading = (time.perf_counter() - began) / batches / BATCH
    state, metrics, _ = update(state, place_batch(mesh, next(reader)), hyper, catalogue)
    jax.block_until_ready(metrics)
    began = time.perf_counter()
    for _ in range(batches // 10):
        state, metrics, _ = update(state, place_batch(mesh, next(reader)), hyper, catalogue)
    jax.block_until_ready(metrics)
    training_seconds = (time.perf_counter() - began) / (batches // 10) / BATCH
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    padded = impressions * length * 8  # an int32 item and an int32 action
    return {"held": held, "padded": padded, "peak": peak, "reading": reading, "training": training_seconds}


MEASURES = {"steps": measure_steps, "reading": measure_reading}


def measured(what: str, **arguments: Any) -> dict[str, Any]:
    environment = os.environ | worker_environment() | {"JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={len(os.sched_getaffinity(0))}"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(Path(__file__).resolve()), "--one", what, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def steps(lengths: tuple[int, ...], count: int, results: Results) -> dict[str, dict[int, dict[str, Any]]]:
    """Prints the table of steps; returns what was found by modules and length."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    rows = []
    for modules in MODULES if count > 1 else MODULES[:1]:
        name = " + ".join(modules)
        for length in lengths:
            one = found.setdefault(name, {})[length] = measured("steps", modules=modules, length=length, steps=count)
            second, behaviours = statistics.median(one["seconds"]), BATCH * length
            rows.append(
                (
                    name,
                    f"{length:,}",
                    f"{1e3 * second:,.1f}",
                    f"{1e9 * second / behaviours:,.0f}",
                    f"{one['temporary'] / MIB:,.1f}",
                    f"{one['temporary'] / behaviours:,.0f}",
                    f"{one['compilations']}",
                )
            )
    header = ("modules", "L", "ms a step", "ns a behaviour", "MiB of the step", "bytes a behaviour", "compilations")
    results.table(f"Training step, batch {BATCH}", header, rows)
    results.data["steps"] = found
    return found


def judge(found: dict[str, dict[int, dict[str, Any]]], results: Results) -> bool:
    reached, (short, long) = [], (1024, LENGTHS[-1])
    for name, by_length in found.items():
        time_ = [statistics.median(by_length[length]["seconds"]) / length for length in (short, long)]
        memory = [by_length[length]["temporary"] / length for length in (short, long)]
        grown = time_[1] / time_[0], memory[1] / memory[0]
        told = f"{name}, L = {long:,} beside {short:,}: at most {GROWTH} times the"
        reached.append(results.goal(f"{told} time a behaviour: {grown[0]:.2f}", grown[0] <= GROWTH))
        reached.append(results.goal(f"{told} memory a behaviour: {grown[1]:.2f}", grown[1] <= GROWTH, timing=False))
    once = all(one["compilations"] == 1 for by_length in found.values() for one in by_length.values())
    return all([*reached, results.goal("one compilation for each shape", once, timing=False)])


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(MEASURES[sys.argv[2]](**json.loads(sys.argv[3]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="write results as JSON")
    parser.add_argument("--quick", action="store_true", help="short histories, few users: shows that the script runs")
    given = parser.parse_args()
    results = Results("long_histories.py", threads=len(os.sched_getaffinity(0)))
    found = steps(LENGTHS[:2] if given.quick else LENGTHS, 1 if given.quick else STEPS, results)
    users, length, impressions, batches = (100, 300, 5_000, 10) if given.quick else (USERS, LENGTH, IMPRESSIONS, READ)
    one = measured("reading", users=users, length=length, impressions=impressions, batches=batches)
    results.data["reading"] = one
    results.table(
        f"{impressions:,} impressions at L = {length:,}, {users:,} users with as many events",
        (
            "log in memory, GiB",
            "padded lists would be, GiB",
            "peak of the process, GiB",
            "read, samples/s",
            "DIN trained",
        ),
        [
            (
                f"{one['held'] / 2**30:.2f}",
                f"{one['padded'] / 2**30:.1f}",
                f"{one['peak'] / 2**30:.2f}",
                f"{1 / one['reading']:,.0f}",
                f"{1 / one['training']:,.0f}",
            )
        ],
    )
    if given.quick:
        print("quick: too little to judge by")
        return 0
    reached = judge(found, results)
    results.finish(given.save)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
