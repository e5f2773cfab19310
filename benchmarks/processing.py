"""Processing one million pair rows: peak memory, and rows a second beside the same done by hand in polars.

    python benchmarks/processing.py [--pairs 1000000] [--runs 3] [--work DIR]

Makes a catalogue of titles, categories and attributes with its search log and impressions (no photos; a fifth as many
items and two fifths as many queries as pairs), and removes it. Two chains, each in a process of its own that measures its
own peak resident set: what can be written by hand in plain polars (variants, entities, exposure) beside that, in turns
on the same files; and all that need no representations, with titles and hard negatives. Photos are apart: their cost is
decoding (`--photos N` times that on N rendered ones).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from common import goal, machine, show

GOAL_BYTES, GOAL_ROWS = 2 * 2**30, 1_000_000
COLOURS = ("red", "navy blue", "green", "black", "white", "olive", "teal", "grey")
LEAVES = tuple(
    f"{kind} {part}" for kind in ("running", "casual", "formal", "party") for part in ("shoe", "shirt", "bag")
)
BY_HAND = ("variants", "entities", "exposure:short=0.1")
CHAINS = {
    "variants, entities, exposure": BY_HAND,
    "those, titles, negatives": (*BY_HAND, "near_titles", "hard_negatives"),
}


def make(folder: Path, pairs: int) -> None:
    """A catalogue with its search log, written as a contract directory."""
    from moon_jax.data.contract import write_dataset

    rng = np.random.default_rng(0)
    items, queries = pairs // 5, 2 * pairs // 5
    product = rng.integers(0, items // 3, items)
    leaf = np.minimum(rng.zipf(1.5, items // 3) - 1, len(LEAVES) - 1)[product]
    colour = rng.integers(0, len(COLOURS), items // 3)[product]
    brand = rng.integers(0, 5000, items // 3)[product]
    titles = [
        f"brand{b} {COLOURS[c] if stated else 'new'} {LEAVES[k]} model {p}"
        for b, c, k, p, stated in zip(brand, colour, leaf, product, rng.random(items) < 0.8, strict=True)
    ]
    asked = rng.integers(0, items, queries)
    split = np.array(["train"] * 8 + ["valid", "test"])[np.arange(queries) % 10]
    row = rng.integers(0, queries, pairs)
    sibling = np.argsort(np.argsort(product, kind="stable"), kind="stable")
    order = np.argsort(product, kind="stable")
    near = order[np.minimum(sibling[asked[row]] + rng.integers(0, 3, pairs), items - 1)]
    tables = {
        "items": pl.DataFrame(
            {
                "item_id": np.arange(items),
                "title": titles,
                "image": pl.Series([None] * items, dtype=pl.Binary),
                "category": [["goods", LEAVES[k]] for k in leaf],
                "attributes": [[f"colour:{COLOURS[c]}"] for c in colour],
                "product_id": product,
            }
        ),
        "queries": pl.DataFrame({"query_id": np.arange(queries), "text": [titles[i] for i in asked]}),
        "pairs": pl.DataFrame(
            {
                "query_id": row,
                "item_id": near,
                "action": rng.choice(["click", "purchase"], pairs),
                "timestamp": np.arange(pairs),
                "split": split[row],
            }
        ),
        "impressions": pl.DataFrame(
            {
                "impression_id": np.arange(pairs),
                "user_id": np.arange(pairs),
                "item_id": rng.integers(0, items, pairs),
                "timestamp": np.arange(pairs),
                "clicked": rng.random(pairs) < 0.1,
                "split": np.array(["train"] * 8 + ["valid", "test"])[np.arange(pairs) % 10],
            }
        ),
    }
    write_dataset(
        folder, name="generated", source="this benchmark", licence="generated", split_rule="by query", tables=tables,
        simulated=dict.fromkeys(tables, True), forms={"text": "text->text"}, facts={},
    )  # fmt: skip


def ours(source: Path, target: Path, names: tuple[str, ...]) -> None:
    from moon_jax.data.processing import process_dataset
    from moon_jax.data.processing.naming import parse_transformation

    process_dataset(source, target, [parse_transformation(name) for name in names])


def by_hand(source: Path, target: Path) -> None:
    """The first chain as one would write it in polars for this dataset alone: no report, no digests, nothing resumable.

    It drops the same pairs and writes the same tables.
    """
    target.mkdir()
    tables = {
        name: pl.read_parquet(source / f"{name}.parquet") for name in ("items", "queries", "pairs", "impressions")
    }
    items, pairs, queries = tables["items"], tables["pairs"], tables["queries"]
    train = pl.col("split") == "train"
    held = pairs.filter(~train)["item_id"].unique()
    free = items.filter(~pl.col("item_id").is_in(held.implode()))
    first = free.select("item_id", kept=pl.col("item_id").min().over("product_id"))
    moved = first.filter(pl.col("item_id") != pl.col("kept"))
    now = pairs.with_row_index("row").filter(train).join(moved, on="item_id", how="left", maintain_order="left")
    now = now.with_columns(changed=pl.col("kept").is_not_null(), item=pl.coalesce("kept", "item_id"))
    winner = pl.struct("changed", "item_id").sort().first().over("query_id", "item", "action")
    now = now.with_columns(winner=winner).filter(
        ~pl.col("changed") | (pl.struct("changed", "item_id") == pl.col("winner"))
    )
    now = now.select("row", "query_id", "action", item_id="item")

    words = [name.split(":")[1] for name in items["attributes"].explode().unique()]
    words = sorted({*words, *items["category"].explode().unique()}, key=lambda word: -len(word))

    def few(frame: pl.DataFrame, column: str) -> pl.Series:
        found = pl.col(column).str.to_lowercase().str.extract_many(words, leftmost=True).list.n_unique()
        return frame.select(found < 2)[column]

    kept = free.filter(~pl.col("item_id").is_in(moved["item_id"].implode()))
    poor = kept.filter(few(kept, "title"))["item_id"]
    silent = queries.filter(few(queries, "text"))["query_id"]
    now = now.filter(~pl.col("item_id").is_in(poor.implode()) & ~pl.col("query_id").is_in(silent.implode()))

    category = items.select("item_id", category=pl.col("category").list.join(" > "))
    shown = tables["impressions"].filter(train).join(category, on="item_id").group_by("category").len("shown")
    now = now.join(category, on="item_id", maintain_order="left")
    counts = now.group_by("category").len("n").join(shown, on="category", how="left").fill_null(0)
    counts = counts.with_columns(t=(pl.col("shown") + 1) / (pl.col("shown") + 1).sum()).with_columns(
        v=pl.col("n") / pl.col("t")
    )
    counts = counts.sort("v").with_columns(reached=pl.col("t").cum_sum())
    quota = counts.filter(pl.col("reached") > 0.1)["v"][0]
    allowed = counts.select("category", allowed=(pl.col("t") * quota).ceil())
    now = now.join(allowed, on="category", maintain_order="left")
    now = now.filter(pl.int_range(pl.len()).shuffle(seed=0).over("category") < pl.col("allowed"))

    left = pairs.with_row_index("row").join(
        now.select("row", item="item_id"), on="row", how="left", maintain_order="left"
    )
    left = left.filter(~train | pl.col("item").is_not_null()).with_columns(item_id=pl.coalesce("item", "item_id"))
    out = pl.concat([moved["item_id"], poor])
    items.with_columns(in_training=~pl.col("item_id").is_in(out.implode())).write_parquet(target / "items.parquet")
    left.select(pairs.columns).write_parquet(target / "pairs.parquet")
    for name in ("queries", "impressions"):
        tables[name].write_parquet(target / f"{name}.parquet")


def child(way: str, source: Path, target: Path) -> None:
    """One run in this process; prints what it took as JSON."""
    began = time.perf_counter()
    if way == "by hand":
        by_hand(source, target)
    else:
        ours(source, target, CHAINS[way])
    seconds = time.perf_counter() - began
    left = pl.scan_parquet(target / "pairs.parquet").select(pl.len()).collect().item()
    # Of this program alone: ru_maxrss begins with the peak of the process that started it.
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "pairs": left}))


def run(way: str, source: Path, home: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        command = [sys.executable, __file__, "--child", way, str(source), str(Path(scratch, "out"))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def photos(count: int, home: Path) -> tuple[float, float]:
    """(photos a second hashed by the transformations, decoded alone) on rendered photos, both on all cores."""
    from concurrent.futures import ThreadPoolExecutor
    from io import BytesIO

    from PIL import Image

    from moon_jax.data.processing.photos import signature

    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(200):
        buffer = BytesIO()
        coarse = rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 80), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    encoded = (encoded * (count // 200 + 1))[:count]

    def decode(data: bytes) -> None:
        with Image.open(BytesIO(data)) as image:
            image.convert("RGB")

    rates = []
    with ThreadPoolExecutor() as pool:
        for function in (lambda data: signature(data, ""), decode):
            began = time.perf_counter()
            list(pool.map(function, encoded))
            rates.append(count / (time.perf_counter() - began))
    return rates[0], rates[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=GOAL_ROWS)
    parser.add_argument("--runs", type=int, default=3, help="of each way, in turns")
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument(
        "--work", type=Path, default=None, help="where to make the dataset (default: the temporary folder)"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]), Path(given.child[2]))
        return 0
    with tempfile.TemporaryDirectory(dir=given.work) as scratch:
        source = Path(scratch, "source")
        make(source, given.pairs)
        first, full = CHAINS
        took: dict[str, list[dict[str, float]]] = {"by hand": [], first: [], full: []}
        for _ in range(given.runs):
            for way, results in took.items():
                results.append(run(way, source, Path(scratch)))
        hashed, decoded = photos(given.photos, Path(scratch))
    rows = []
    for way, results in took.items():
        seconds = [result["seconds"] for result in results]
        rate = [f"{given.pairs / value:,.0f}" for value in (statistics.median(seconds), max(seconds), min(seconds))]
        peak = max(result["peak"] for result in results)
        rows.append((way, *rate, f"{peak / 2**30:.2f}", f"{results[0]['pairs']:,.0f}"))
    show(("way", "pair rows/s", "slowest", "fastest", "peak GiB", "pairs left"), rows)
    ratios = [ours["seconds"] / hand["seconds"] for hand, ours in zip(took["by hand"], took[first], strict=True)]
    print(
        f"ours takes {statistics.median(ratios):.2f} times as long as by hand ({min(ratios):.2f} to {max(ratios):.2f} "
        f"over {given.runs} runs in turns); {machine()}"
    )
    print(f"photos: {hashed:,.0f}/s hashed, {decoded:,.0f}/s decoded alone ({hashed / decoded:.0%})")
    peak = max(result["peak"] for way in (first, full) for result in took[way])
    same = took[first][0]["pairs"] == took["by hand"][0]["pairs"]
    reached = [
        goal(f"{given.pairs:,} pair rows in at most 2 GiB: {peak / 2**30:.2f} GiB", peak <= GOAL_BYTES),
        goal("by hand and ours leave the same number of pairs", same),
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
