"""The Chinchilla law (240 runs, Huber 1e-3) with 4,000 case bootstraps, from the start of the process: ours and others.

Ours and the Epoch-style baseline take turns. The baseline's 4,500 starts are run (or a random part of them, --every) with
a small number of its bootstrap refits, and what was not run is extrapolated linearly; the table says what.

    python benchmarks/chinchilla_fit.py ../shared/data/scaling
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from chinchilla_ours import RUNS
from common import goal, machine, need, show

HERE = Path(__file__).resolve().parent
BOOTSTRAPS = 4000
OPTIMUM = 0.00101827402


def run(script: str, *arguments: object, threads: int | None = None) -> dict[str, Any]:
    """A script's line of JSON, and the wall and processor seconds of its whole process; threads: of its BLAS."""
    environment = os.environ if threads is None else {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout.splitlines()[-1]), "wall": wall, "used": used}


def whole(found: dict[str, Any], bootstraps: int, kind: str = "seconds") -> float:
    """Seconds (or "used": of the processor) that the baseline would need for its whole grid and all bootstraps."""
    fit, refit = found[f"fit_{kind}"], found[f"refit_{kind}"]
    other = found["wall" if kind == "seconds" else "used"] - fit - refit
    return other + fit * found["starts"] / found["tried"] + refit * bootstraps / found["refits"]


def spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help=f"folder with {RUNS}")
    parser.add_argument("--repeats", type=int, default=3, help="turns of ours and the baseline (default 3)")
    parser.add_argument("--refits", type=int, default=200, help="bootstrap refits of the baseline that are run (200)")
    parser.add_argument("--every", type=int, default=1, help="run only every k-th of the baseline's 4,500 starts (1)")
    parser.add_argument(
        "--side", type=int, default=3, help="PyPI chinchilla's grid: side^5 starts (3); 0 leaves it out"
    )
    parser.add_argument("--quick", action="store_true", help="one turn, few starts and bootstraps, no goals")
    options = parser.parse_args(arguments)
    need(options.dir, RUNS)
    bootstraps = 200 if options.quick else BOOTSTRAPS
    repeats = 1 if options.quick else options.repeats
    every, refits = (90, 5) if options.quick else (options.every, options.refits)
    side = 0 if options.quick or importlib.util.find_spec("chinchilla") is None else options.side
    print(f"{machine()}; {repeats} turns: seconds as median (least-most)")
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(run("chinchilla_ours.py", options.dir, bootstraps))
        theirs.append(run("chinchilla_epoch.py", options.dir, every, refits, threads=1))  # it spins in BLAS else
    totals = [whole(found, bootstraps) for found in theirs]
    ratios = [total / found["wall"] for total, found in zip(totals, ours, strict=True)]
    cpu = [whole(b, bootstraps, "used") / a["used"] for a, b in zip(ours, theirs, strict=True)]
    rows = [
        row("ours: fit + bootstraps", ours[0], bootstraps, [found["wall"] for found in ours], ours[0]["starts"]),
        row("Epoch-style: fit + bootstraps", theirs[0], bootstraps, totals, theirs[0]["starts"]),
        row("  of it run: fit", theirs[0], 0, [found["fit_seconds"] for found in theirs], theirs[0]["tried"]),
        row("  of it run: refits", theirs[0], refits, [found["refit_seconds"] for found in theirs], 0),
    ]
    if side:
        other = run("chinchilla_pypi.py", options.dir, side)
        rows.append(row("PyPI chinchilla: fit alone", other, 0, [other["wall"]], other["starts"]))
    show(["method", "bootstraps", "starts", "seconds", "objective", "A", "B", "E", "alpha", "beta"], rows)
    first = theirs[0]
    print(
        f"Epoch-style: {first['tried']} of {first['starts']} starts and {refits} of {bootstraps} refits were run, the rest is "
        f"linear extrapolation; one core, as described"
    )
    print(f"ratio of wall time from process start: {spread(ratios)}; of processor time: {spread(cpu)}")
    print("ours, 95 %: " + ", ".join(f"{k} ({low:.4g}, {high:.4g})" for k, (low, high) in ours[0]["intervals"].items()))
    if options.quick:
        return 0
    print()
    walls = [found["wall"] for found in ours]
    objective = max(found["objective"] for found in ours)
    reached = [
        goal(f"{spread(walls, 2)} s < 5 s", max(walls) < 5),
        goal(f"{spread(walls, 2)} s <= 3 s (aim)", float(np.median(walls)) <= 3),
        goal(f"{spread(ratios)} times as fast, >= 15", min(ratios) >= 15),
        goal(f"objective {objective:.12g} <= {OPTIMUM}", objective <= OPTIMUM),
    ]
    return 0 if all(reached) else 1


def row(name: str, found: dict[str, Any], bootstraps: int, seconds: Sequence[float], starts: int) -> list[object]:
    p = found["params"]
    shown = [
        f"{found['objective']:.10f}",
        f"{p['A']:.2f}",
        f"{p['B']:.2f}",
        *(f"{p[k]:.5f}" for k in ("E", "alpha", "beta")),
    ]
    return [name, bootstraps or "-", starts or "-", spread(seconds), *shown]


if __name__ == "__main__":
    raise SystemExit(main())
