"""TAOBAO-MM: display advertising at Taobao, histories of up to 1,000 items, 128-d vectors of 35 million items.

Where: huggingface.co/datasets/TaoBao-MM/Taobao-MM (139 GB), described with MUSE (arXiv 2512.07216). Licence: Apache-2.0.
Layout, Parquet; ids are any int64, negative ones too, 0 stands for an empty field:

    train/train-shard-*.parquet, test/test-shard-*.parquet   label_0 (one-hot, [0, 1] = clicked), 129_1 user,
        130_1 ... 130_5 user features, 150_2_180 / 151_2_180 history of items / categories (newest last), 205 item,
        206 category, 213 / 214 city / province of the item
    raw/scl_embedding_int8_p90.parquet   205, 205_c: 128 x int8 at scale 1/127; all targets, 90 % of history events
    raw/item_features.parquet            205, 206, 213, 214

It is read shard by shard, only the columns that are needed, in bounded memory; each shard becomes one shard of
impressions. There are no images, titles, searches or times: it serves the questions about sequence length. Histories may
name items that the set does not describe (`open_histories`). One training user in twenty, by id, is the valid split.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.adapters.parquet_source import Steps, require_columns, set_apart, sound_batches
from moon_jax.data.checking.ids import Known
from moon_jax.data.contract import DataError, Dataset, refuse_existing
from moon_jax.data.quarantine import SHARE
from moon_jax.data.tables import batches, count_rows
from moon_jax.data.writing import DatasetWriter

if TYPE_CHECKING:
    import polars as pl

_USER = tuple(f"130_{k}" for k in range(1, 6))
_ITEM = {"206": "category", "213": "city", "214": "province"}
_SHARD = {
    "label_0": "list<int>",
    "129_1": "int",
    **dict.fromkeys(_USER, "int"),
    "150_2_180": "list<int>",
    "205": "int",
    **dict.fromkeys(_ITEM, "int"),
}
_HELD_OUT = 20  # one in so many training users
WIDTH, SCALE = 128, 1 / 127


def import_taobao_mm(
    source: Path, target: Path, *, limit: float = SHARE, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Imports the folder `source` into the contract directory `target`: items, embeddings, users, impressions.

    Rows without user, item or a one-hot label go to the quarantine; more than `limit` of all stop the import with a
    DataError, as do missing files and columns. `progress(done, total)` counts rows.
    """
    source, target = Path(source), Path(target)
    refuse_existing(target)
    shards = {split: sorted((source / split).glob("*.parquet")) for split in ("train", "test")}
    for split, paths in shards.items():
        if not paths:
            raise DataError(
                f"{source / split}: no shard {split}-shard-*.parquet; give the folder of the downloaded set"
            )
        for path in paths:
            require_columns(path, _SHARD)
    vectors, features = source / "raw" / "scl_embedding_int8_p90.parquet", source / "raw" / "item_features.parquet"
    if vectors.exists():
        require_columns(vectors, {"205": "int", "205_c": "list<int>"})
    if features.exists():
        require_columns(features, {"205": "int", **dict.fromkeys(_ITEM, "int")})
    every = [path for paths in shards.values() for path in paths]
    rows = sum(map(count_rows, every))
    step = Steps(progress, *every, *(path for path in (vectors, features) if path.exists()))
    with DatasetWriter(
        target,
        name="taobao-mm",
        source="TaoBao-MM/Taobao-MM (Alimama)",
        licence="Apache-2.0",
        split_rule="train and test as published; valid: one training user in twenty, by id",
        simulated=dict.fromkeys(("items", "users", "impressions", "embeddings"), False),
        forms={},
        facts={"open_histories": True, "vectors": vectors.exists()},
    ) as writer:
        known = _write_items(writer, features if features.exists() else None, every, step)
        if vectors.exists():
            _write_vectors(writer, vectors, known, limit, step)
        users = _Users(writer)
        for split, paths in shards.items():
            for path in paths:
                _write_shard(writer, path, split, users)
                writer.quarantine.require_few("impressions", rows, share=limit)
                step(count_rows(path))
    return writer.dataset


def _write_items(
    writer: DatasetWriter, features: Path | None, shards: list[Path], step: Callable[[int], None]
) -> Known:
    """Writes the items with their features, of `item_features` or else of the shards' targets; returns their ids."""
    import polars as pl

    known = pl.DataFrame(schema={"205": pl.Int64})
    for path in [features] if features else shards:
        for _, part in batches(path, ["205", *_ITEM]):
            fresh = part.filter(pl.col("205").is_not_null() & (pl.col("205") != 0)).unique(
                "205", keep="first", maintain_order=True
            )
            fresh = fresh.join(known, on="205", how="anti", maintain_order="left")
            known = pl.concat([known, fresh.select(pl.col("205").cast(pl.Int64))])
            writer.gather("items", _items(fresh))
            if features:
                step(part.height)
    return Known(known["205"])


def _items(part: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    words = [
        pl.when(pl.col(column) != 0).then(pl.format("{}:{}", pl.lit(name), pl.col(column)))
        for column, name in _ITEM.items()
        if name != "category"
    ]
    category = pl.when(pl.col("206") != 0).then(pl.col("206").cast(pl.String))
    return part.select(
        pl.col("205").cast(pl.Int64).alias("item_id"),
        pl.lit("").alias("title"),
        pl.lit(None, pl.Binary).alias("image"),
        pl.concat_list(category).list.drop_nulls().alias("category"),
        pl.concat_list(words).list.drop_nulls().alias("attributes"),
        pl.col("205").cast(pl.Int64).alias("product_id"),
    )


def _write_vectors(writer: DatasetWriter, path: Path, known: Known, limit: float, step: Callable[[int], None]) -> None:
    """Streams the vectors; items that only histories name are added to the items."""
    import polars as pl

    vector = pl.col("205_c")
    faults = {
        "item 205 is null or 0": pl.col("205").is_null() | (pl.col("205") == 0),
        f"205_c has not {WIDTH} numbers": vector.list.len().fill_null(0) != WIDTH,
        "205_c holds a null": vector.list.eval(pl.element().is_null()).list.any(),
        "205_c holds a number beyond int8": vector.list.eval(~pl.element().is_between(-128, 127)).list.any(),
        "item 205 is repeated": ~pl.col("205").is_first_distinct(),
    }
    for part in sound_batches(path, ["205", "205_c"], faults, writer.quarantine, "embeddings"):
        others = part.filter(known.lacks(part["205"])).select("205", *(pl.lit(0, pl.Int64).alias(c) for c in _ITEM))
        writer.gather("items", _items(others))
        writer.gather(
            "embeddings",
            part.select(
                pl.col("205").cast(pl.Int64).alias("item_id"),
                vector.cast(pl.List(pl.Int8)).list.to_array(WIDTH).alias("embedding"),
                pl.lit(SCALE, pl.Float32).alias("scale"),
            ),
        )
        step(part.height)
    writer.quarantine.require_few("embeddings", count_rows(path), share=limit)


class _Users:
    """Users with their features, each once; of those written only the ids are held: 8 bytes a user."""

    def __init__(self, writer: DatasetWriter):
        import polars as pl

        self.writer = writer
        self.seen = pl.DataFrame(schema={"user_id": pl.Int64})

    def add(self, part: "pl.DataFrame") -> None:
        import polars as pl

        fresh = part.unique("user_id", keep="first", maintain_order=True)
        fresh = fresh.join(self.seen, on="user_id", how="anti", maintain_order="left")
        self.seen = pl.concat([self.seen, fresh.select("user_id")])
        self.writer.gather("users", fresh)


def _write_shard(writer: DatasetWriter, path: Path, split: str, users: _Users) -> None:
    """One shard of impressions out of one of the source: narrow columns first, to find rows that cannot be used, then
    the histories in a stream."""
    import polars as pl

    faults = {
        "label_0 is not one-hot": ~_one_hot(pl.col("label_0")).fill_null(False),
        "user 129_1 is null or 0": pl.col("129_1").is_null() | (pl.col("129_1") == 0),
        "item 205 is null or 0": pl.col("205").is_null() | (pl.col("205") == 0),
    }
    bad: list[pl.Series] = []
    for part in _narrow(path):
        kept = set_apart(part, faults, writer.quarantine, "impressions", path)
        bad.append(part["row"].filter(~part["row"].is_in(kept["row"].implode())))
        users.add(kept.select(pl.col("129_1", *_USER).cast(pl.Int64)).rename({"129_1": "user_id"}))
    start, user = writer.rows("impressions"), pl.col("129_1").cast(pl.Int64)
    history = pl.col("150_2_180").cast(pl.List(pl.Int64))
    rows = pl.scan_parquet(path, glob=False).with_row_index("row")
    if len(out := pl.concat(bad)):
        rows = rows.filter(~pl.col("row").is_in(out.implode()))
    held_out = (
        pl.lit(split)
        if split != "train"
        else pl.when(user % _HELD_OUT == 0).then(pl.lit("valid")).otherwise(pl.lit(split))
    )
    writer.add(
        "impressions",
        rows.select(
            (pl.int_range(pl.len(), dtype=pl.Int64) + start).alias("impression_id"),
            user.alias("user_id"),
            pl.col("205").cast(pl.Int64).alias("item_id"),
            history.list.eval(pl.element().filter(pl.element() != 0)).fill_null([]).alias("history"),
            (pl.col("label_0").list.get(1, null_on_oob=True) == 1).alias("clicked"),
            held_out.alias("split"),
        ),
    )


def _narrow(path: Path) -> "Iterator[pl.DataFrame]":
    for start, part in batches(path, ["label_0", "129_1", *_USER, "205"], rows=1 << 16):
        yield part.with_row_index("row", start)


def _one_hot(label: "pl.Expr") -> "pl.Expr":
    return (label.list.len() == 2) & (label.list.sum() == 1) & (label.list.min() == 0)
