"""Tables on disk, a slice at a time: a Parquet file or a folder of shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.tables import count_rows, shards

if TYPE_CHECKING:
    import polars as pl


def scan(path: Path) -> "pl.LazyFrame":
    """The table lazily, shards in name order."""
    import polars as pl

    return pl.scan_parquet(shards(path), glob=False)


def scan_shards(path: Path) -> "Iterator[tuple[int, pl.LazyFrame]]":
    """(rows before it, the shard lazily) for each shard of a table."""
    import polars as pl

    before = 0
    for shard in shards(path):
        yield before, pl.scan_parquet(shard, glob=False)
        before += count_rows(shard)


def slices(path: Path, rows: int) -> Iterator[tuple[Path, int, int]]:
    """(shard, first row in it, how many) of each slice of at most so many rows."""
    for shard in shards(path):
        size = count_rows(shard)
        for start in range(0, size, rows):
            yield shard, start, min(rows, size - start)
