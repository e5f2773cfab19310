"""TAOBAO-MM read and imported: rows a second beside raw polars, and memory after two shards against all of them.

Shards in the published layout are generated (at least --gigabytes of them) in a folder of their own and removed at the
end. Every measurement is a child process, so that its peak memory is its own. Users have three impressions each here (11
in the published set), with histories of 987 random items on average: they compress less than the real ones.

    python benchmarks/taobao_mm.py            # 2 GB, some minutes
    python benchmarks/taobao_mm.py --quick    # a test of this script
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import goal, machine, show

ROWS = 50_000  # of a shard: about 270 MB
ITEMS, CATEGORIES, USER_ROWS, LENGTH = 2_000_000, 10_000, 3, 1000
COLUMNS = ["label_0", "129_1", "150_2_180", "205"]
FLAT = 1.15  # goal: memory of all shards to that of two (an import needs a training and a test shard)


def make_shard(path: Path, rows: int, seed: int) -> None:
    """One shard with the columns, types and row groups of the published ones."""
    import polars as pl

    rng = np.random.default_rng(seed)
    users = rows // USER_ROWS + 1
    item_ids, category_ids = (
        np.random.default_rng(k).integers(-(2**62), 2**62, n) for k, n in ((1, ITEMS), (2, CATEGORIES))
    )
    lengths_U = np.where(rng.random(users) < 0.95, LENGTH, rng.integers(1, LENGTH, users))
    index = rng.integers(0, ITEMS, int(lengths_U.sum()))
    flat = pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), lengths_U),
            "150_2_180": item_ids[index],
            "151_2_180": category_ids[index % CATEGORIES],
        }
    )
    past = flat.group_by("user", maintain_order=True).agg("150_2_180", "151_2_180")
    who = np.arange(rows) // USER_ROWS
    user_ids, target = rng.integers(-(2**62), 2**62, users)[who], rng.integers(0, 4000, rows)
    frame = pl.DataFrame(
        {
            "label_0": pl.Series([[1, 0], [0, 1]], dtype=pl.List(pl.Int8)).gather(rng.random(rows) < 0.139),
            "129_1": user_ids,
            **{f"130_{k}": user_ids // (k * 2**55) for k in range(1, 6)},
            **{name: past[name].gather(who) for name in ("150_2_180", "151_2_180")},
            "205": item_ids[target],
            "206": category_ids[target % CATEGORIES],
            "213": item_ids[target] // 2**54,
            "214": item_ids[target] // 2**58,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path, row_group_size=10_000, compression="zstd")


def read_raw(source: Path, target: Path) -> int:
    """The columns of every shard by polars alone, in batches."""
    import polars as pl

    return sum(
        part.height
        for path in sorted(source.rglob("*.parquet"))
        for part in pl.scan_parquet(path).select(COLUMNS).collect_batches(maintain_order=True)
    )


def read_ours(source: Path, target: Path) -> int:
    """The same by the adapters' reader."""
    from moon_jax.data.tables import batches

    return sum(part.height for path in sorted(source.rglob("*.parquet")) for _, part in batches(path, COLUMNS))


def import_whole(source: Path, target: Path) -> int:
    """Read, sift, write, digest."""
    from moon_jax.data.adapters.taobao_mm import import_taobao_mm

    return import_taobao_mm(source, target).rows["impressions"]


def check_whole(source: Path, target: Path) -> int:
    """`moon data check` of what was imported."""
    from moon_jax.data.contract import check, open_dataset

    if faults := check(target):
        raise SystemExit(f"the imported set breaks the contract: {faults[0]}")
    return open_dataset(target).rows["impressions"]


WORK = {"raw polars": read_raw, "reader": read_ours, "import": import_whole, "check": check_whole}


def child(kind: str, source: Path, target: Path) -> dict[str, Any]:
    """Rows, seconds of the work alone and peak MiB of a process that does nothing else."""
    command = [sys.executable, __file__, "--child", kind, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{kind} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_child(kind: str, source: Path, target: Path) -> None:
    import polars  # noqa: F401  imported before the clock starts, for all alike

    start = time.perf_counter()
    rows = WORK[kind](source, target)
    seconds = time.perf_counter() - start
    # Of this program alone: ru_maxrss begins with the peak of the process that started it.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "peak": peak}))


def spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def measure(home: Path, repeats: int, *, goals: bool) -> bool:
    """The table, and whether the goals were reached."""
    all_shards, one = home / "all", home / "one"
    paths = sorted(all_shards.rglob("*.parquet"))
    for path in (paths[0], paths[-1]):  # a test shard and a training shard
        (one / path.parent.name).mkdir(parents=True)
        os.link(path, one / path.parent.name / path.name)
    stored = sum(path.stat().st_size for path in paths)
    print(f"{machine()}; {len(paths)} shards, {stored / 1e9:.2f} GB; rows/s as median (least-most) of {repeats} turns")
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in WORK}
    for turn in range(repeats):
        first = ["raw polars", "reader"][:: 1 if turn % 2 == 0 else -1]
        for kind in [*first, "import", "check"]:
            if kind == "import":
                shutil.rmtree(home / "set", ignore_errors=True)
            found[kind].append(child(kind, all_shards, home / "set"))
    few = {kind: child(kind, one, home / "few") for kind in WORK}
    rates = {kind: [run["rows"] / run["seconds"] for run in runs] for kind, runs in found.items()}
    peaks = {kind: max(run["peak"] for run in runs) for kind, runs in found.items()}
    show(
        ["work", "rows", "rows/s", "stored MB/s", "peak MiB, 2 shards", "peak MiB, all", "ratio"],
        [
            [
                kind,
                f"{runs[0]['rows']:,}",
                spread(rates[kind], 0),
                f"{stored / 1e6 / float(np.median([run['seconds'] for run in runs])):.0f}",
                f"{few[kind]['peak']:.0f}",
                f"{peaks[kind]:.0f}",
                f"{peaks[kind] / few[kind]['peak']:.2f}",
            ]
            for kind, runs in found.items()
        ],
    )
    ratios = [ours / raw for ours, raw in zip(rates["reader"], rates["raw polars"], strict=True)]
    print(f"reader / raw polars, turn by turn: {spread(ratios)}")
    if not goals:
        return True
    print()
    reached = []
    for kind in ("reader", "import", "check"):
        ratio = peaks[kind] / few[kind]["peak"]
        reached.append(goal(f"{kind}: memory of all shards {ratio:.2f} times that of two, <= {FLAT}", ratio <= FLAT))
    return all(reached)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gigabytes", type=float, default=2.0, help="stored size of the generated shards, at least (2)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns of every measurement (3)")
    parser.add_argument(
        "--folder", type=Path, help="where the shards are made and removed (the system's temporary one)"
    )
    parser.add_argument("--quick", action="store_true", help="two small shards, one turn, no goals")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        kind, source, target = options.child
        run_child(kind, Path(source), Path(target))
        return 0
    home = Path(tempfile.mkdtemp(prefix="taobao-mm-", dir=options.folder))
    try:
        rows, size, shards = (400 if options.quick else ROWS), 0.0, 0
        while shards < 3 or (not options.quick and size < options.gigabytes * 1e9):
            split = "test" if shards == 0 else "train"
            path = home / "all" / split / f"{split}-shard-{shards:06d}.parquet"
            make_shard(path, rows, seed=shards)
            size, shards = size + path.stat().st_size, shards + 1
        return 0 if measure(home, 1 if options.quick else options.repeats, goals=not options.quick) else 1
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
