"""What a sweep costs beside the work: trivial steps, `moon status` on many, a cell of a shape that was compiled before, and one
process for each cell beside workers that stay.

    python benchmarks/sweep_overhead.py [--save JSON] [--quick]

1. 1,000 steps that return at once, two local workers, from the launcher's start to its end; and 10,000 steps registered,
   of which `moon status` then tells: the command's whole time, start of Python included.
2. Cells of one shape (post-training of preset smoke on the planted world, one seed each, then its embed step) on one worker: what
   a post-training step takes beside its training, after the first, which compiles. Beside it the same cells with a process for
   each, on as many cores and with the same cache of compiled programs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measuring import Results

from sweeps import Cell, Ledger, Step, run_local

STEPS, KNOWN, CELLS, ROUNDS, WORKERS = 1_000, 10_000, 12, 3, 2
LONGEST, ANSWER, BESIDE = 30.0, 1.0, 1.0  # seconds: for the steps, for the status, beside a cell's training


def nothing(
    config: Mapping[str, int],
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: at once."""
    return {"number": config["number"]}


def trivial(root: Path, count: int) -> Ledger:
    ledger = Ledger(root)
    steps = [Step("sweep_overhead:nothing", 1, {"number": number}) for number in range(count)]
    ledger.write_plan("q", [Cell({"x": number}, {"nothing": step}) for number, step in enumerate(steps)])
    return ledger


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def status(root: Path) -> None:
    command = [sys.executable, "-m", "experiments.cli", "status", "--out", str(root)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)


def shaped(count: int) -> list[Cell]:
    """Cells that share a shape: seeds of one smoke post-training."""
    from experiments import steps
    from experiments.recipes import recipe_for, searches_of
    from experiments.running import open_data

    data = open_data(None, "smoke", lambda line: None)
    recipe, searches = recipe_for("smoke", data), searches_of(data)[:1]
    cells = []
    for seed in range(count):
        run = steps.posttrain(data, recipe, forms=searches, tokens=3_000, seed=seed)
        embedded = steps.embed(data, recipe, run, searches, ("image",))
        cells.append(Cell({"seed": seed}, {"posttrain": run, "embed": embedded}))
    return cells


def stayed(root: Path, cells: list[Cell]) -> tuple[float, list[float]]:
    """(seconds of the sweep on one worker, what each post-training took beside its training, in the order that they ran)."""
    from experiments.running import worker_environment

    ledger = Ledger(root)
    ledger.write_plan("q", cells)
    seconds = timed(lambda: run_local(ledger, ["q"], workers=1, env=worker_environment()))
    beside = []
    for cell in cells:
        result = ledger.result(cell.steps["posttrain"])
        assert result is not None
        told = result["metrics"]
        beside.append(result["seconds"] - told["tokens"] / told["posttrain_tokens_per_second"])
    return seconds, beside


def one_each(root: Path, cells: list[Cell]) -> float:
    """Seconds of the same cells, a worker process for each, one after another."""
    from experiments.running import worker_environment

    ledger = Ledger(root)
    ledger.register([cells[0].steps["posttrain"].needs["prepare"]])
    ledger.write_plan("prepare", [Cell({}, {"prepare": cells[0].steps["posttrain"].needs["prepare"]})])
    run_local(ledger, ["prepare"], workers=1, env=worker_environment())

    def run() -> None:
        for number, cell in enumerate(cells):
            ledger.write_plan(f"q{number}", [cell])
            run_local(ledger, [f"q{number}"], workers=1, env=worker_environment())

    return timed(run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="write results as JSON")
    parser.add_argument("--quick", action="store_true", help="few steps and cells: shows that the script runs")
    given = parser.parse_args()
    results = Results("sweep_overhead.py", threads=len(os.sched_getaffinity(0)))
    count, known, size, rounds = (30, 60, 2, 1) if given.quick else (STEPS, KNOWN, CELLS, ROUNDS)
    home = Path(tempfile.mkdtemp())
    try:
        ran = [
            timed(lambda n=n: run_local(trivial(home / f"t{n}", count), ["q"], workers=WORKERS)) for n in range(rounds)
        ]
        trivial(home / "t0", known)
        told = [timed(lambda: status(home / "t0")) for _ in range(1 if given.quick else 5)]
        cells = shaped(size)
        stayed(home / "warm", cells[:1])  # the cache of compiled programs
        both = [(stayed(home / f"s{n}", cells), one_each(home / f"e{n}", cells)) for n in range(rounds)]
    finally:
        shutil.rmtree(home)
    beside = [seconds for (_, steps), _ in both for seconds in steps[1:]]
    ratios = [each / sweep for (sweep, _), each in both]
    rows = [
        (f"{count:,} trivial steps, {WORKERS} workers, s", spread(ran)),
        ("a trivial step, ms", f"{1e3 * statistics.median(ran) / count:.1f}"),
        (f"moon status, {known:,} steps, s", spread(told)),
        ("post-training beside its training, after the first of a shape, s", spread(beside)),
        (f"{size} cells, one worker, s", spread([sweep for (sweep, _), _ in both])),
        (f"{size} cells, a process for each, s", spread([each for _, each in both])),
        ("a process for each / one worker", spread(ratios)),
    ]
    results.table("Median (least to most)", ("what", "measured"), rows)
    results.data |= {"trivial": ran, "status": told, "beside": beside, "ratios": ratios}
    if given.quick:
        print("quick: too little to judge by")
        return 0
    goals = (
        (f"{count:,} trivial steps in at most {LONGEST:.0f} s", statistics.median(ran) <= LONGEST),
        (f"moon status on {known:,} steps in at most {ANSWER:.0f} s", statistics.median(told) <= ANSWER),
        (
            f"at most {BESIDE:.0f} s beside the training of a cell whose shape is known",
            statistics.median(beside) <= BESIDE,
        ),
    )
    reached = [results.goal(what, held) for what, held in goals]
    results.finish(given.save)
    return 0 if all(reached) else 1


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
