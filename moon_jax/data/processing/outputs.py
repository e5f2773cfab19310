"""The tables as they stand after processing: the source's shards, streamed, with the rows and ids that are left."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.contract import DataError
from moon_jax.data.processing.shards import scan, scan_shards
from moon_jax.data.processing.working import Working

if TYPE_CHECKING:
    import polars as pl


def tables_of(working: Working, files: Mapping[str, Path]) -> list[str]:
    """The tables that come out: those that went in, and hard negatives where there are any."""
    return [
        *(name for name in files if name != "hard_negatives"),
        *(["hard_negatives"] if len(working.negatives) else []),
    ]


def shards_after(working: Working, files: Mapping[str, Path], name: str) -> "Iterator[pl.LazyFrame]":
    """The shards of one table after processing, in the order of the source; wide columns are never held whole."""
    import polars as pl

    if name == "hard_negatives":
        yield working.negatives.lazy()
        return
    dropped = _dropped_impressions(working, files) if name == "truth" else None
    for before, shard in scan_shards(files[name]):
        columns = shard.collect_schema().names()
        if name == "items":
            left = _only(shard, "item_id", working.items["item_id"])
            if not working.items["in_training"].all():
                out = working.items.filter(~pl.col("in_training"))["item_id"]
                left = left.with_columns(in_training=~pl.col("item_id").is_in(out.implode()))
        elif name == "queries":
            left = _only(shard, "query_id", working.queries["query_id"])
            if "item_id" in columns and len(working.moved_items):
                owners = working.queries.lazy().select("query_id", owner="item_id")
                left = left.join(owners, on="query_id", how="left", maintain_order="left")
                left = left.with_columns(item_id=pl.col("owner")).select(columns)
        elif name == "pairs":
            ids = working.pairs.lazy().select("row", query="query_id", item="item_id")
            left = shard.with_row_index("row", offset=before).with_columns(pl.col("row").cast(pl.Int64))
            left = left.join(ids, on="row", how="inner", maintain_order="left")
            left = left.with_columns(query_id="query", item_id="item").select(columns)
        elif name == "truth":
            left = shard.filter(~pl.col("impression_id").is_in(dropped.implode())) if dropped is not None else shard
        else:
            left = _referring(shard, name, columns, working)
        yield left


def _only(shard: "pl.LazyFrame", key: str, ids: "pl.Series") -> "pl.LazyFrame":
    import polars as pl

    return shard.filter(pl.col(key).is_in(ids.implode()))


def _referring(shard: "pl.LazyFrame", name: str, columns: list[str], working: Working) -> "pl.LazyFrame":
    """Events, impressions, relevance and embeddings: ids turned to those that stand for them.

    A row whose item is gone goes; an event or impression whose query is gone forgets the query, if it has an item.
    """
    import polars as pl

    items, queries = working.moved_items, working.moved_queries
    if name == "embeddings":
        return _only(shard, "item_id", working.items["item_id"])
    for key, moves in (("item_id", items), ("query_id", queries)):
        if key not in columns or not len(moves):
            continue
        found = moves.lazy().select(key, found=pl.lit(True), kept="kept")
        shard = shard.join(found, on=key, how="left", maintain_order="left").with_columns(
            pl.col("found").fill_null(False)
        )
        if key == "item_id" or name == "relevance" or "item_id" not in columns:
            shard = shard.filter(~pl.col("found") | pl.col("kept").is_not_null())
        else:
            shard = shard.filter(~pl.col("found") | pl.col("kept").is_not_null() | pl.col("item_id").is_not_null())
        shard = shard.with_columns(pl.when("found").then("kept").otherwise(key).alias(key)).select(columns)
    if "history" in columns and len(items):
        gone = items.filter(pl.col("kept").is_null())["item_id"]
        stand = items.filter(pl.col("kept").is_not_null())
        element = pl.element().filter(~pl.element().is_in(gone.implode()))
        shard = shard.with_columns(pl.col("history").list.eval(element.replace(stand["item_id"], stand["kept"])))
    if name == "relevance":
        # Two items of one grade each may have become one: the better grade counts.
        best = pl.col("grade") == pl.col("grade").max().over("query_id", "item_id", "split")
        shard = shard.filter(best).unique(["query_id", "item_id", "split"], keep="first", maintain_order=True)
    return shard


def require_impressions(working: Working, files: Mapping[str, Path], why: str) -> None:
    """Raises DataError where a split would lose its last impression with the items that go."""
    import polars as pl

    dropped = _dropped_impressions(working, files)
    if dropped is None or not len(dropped):
        return
    shown = scan(files["impressions"]).with_columns(left=~pl.col("impression_id").is_in(dropped.implode()))
    for split, left in shown.group_by("split").agg(pl.col("left").any()).sort("split").collect().iter_rows():
        if not left:
            raise DataError(f"no {split} impression would be left ({why}); loosen the transformation or leave it out")


def _dropped_impressions(working: Working, files: Mapping[str, Path]) -> "pl.Series | None":
    """The impressions that went, whose truth goes with them; None where none did."""
    import polars as pl

    gone = working.moved_items.filter(pl.col("kept").is_null())["item_id"]
    if "impressions" not in files or not len(gone):
        return None
    shown = scan(files["impressions"]).filter(pl.col("item_id").is_in(gone.implode()))
    return shown.select("impression_id").collect(engine="streaming")["impression_id"]
