"""Reading Parquet tables and digesting what they say, apart from how they are stored."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


class DataError(ValueError):
    """Bad data or a bad request for data, told in one line that says where and what to do."""


def read_table(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """Reads a Parquet file or a folder of shards (in name order); raises DataError, naming the path, if it cannot."""
    import polars as pl

    try:
        frame = pl.scan_parquet(_pattern(path), glob=path.is_dir())
        return (frame.select(columns) if columns is not None else frame).collect()
    except pl.exceptions.ColumnNotFoundError as error:
        raise DataError(f"{path}: lacks a column: {one_line(error)}") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {one_line(error)}") from error


def count_rows(path: Path) -> int:
    """Rows of a Parquet file or folder of shards, from its metadata."""
    import polars as pl

    try:
        return int(pl.scan_parquet(_pattern(path), glob=path.is_dir()).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {one_line(error)}") from error


def logical_digest(path: Path | str) -> str:
    """SHA-256 (hex) of what a Parquet file (or folder of shards) says, however it is stored.

    Row groups, compression and shards do not count. Per column, in name order: name, type, null mask, then the values:
    numbers as little-endian bytes, strings and binaries as lengths and bytes, lists as lengths and their flattened
    values. Raises DataError where the file cannot be read.
    """
    path = Path(path)
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        stamps = tuple((shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from error
    return _digest_once(path.resolve(), stamps)


@lru_cache(maxsize=256)
def _digest_once(path: Path, stamps: tuple[tuple[int, int], ...]) -> str:
    """One digest per state of a file in a process: `stamps` only keys the cache."""
    import polars as pl

    try:
        names = sorted(pl.scan_parquet(_pattern(path), glob=path.is_dir()).collect_schema().names())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {one_line(error)}") from error
    digest = hashlib.sha256()
    for name in names:
        column = read_table(path, [name])[name]  # one column at a time: images alone may fill the memory
        digest.update(f"{name}\0{column.dtype}\0{len(column)}\0".encode())
        _digest_values(digest, column)
    return digest.hexdigest()


def _digest_values(digest: "hashlib._Hash", column: "pl.Series") -> None:
    import numpy as np
    import polars as pl

    present = column.is_not_null()
    digest.update(np.packbits(present.to_numpy()).tobytes())
    column = column.filter(present)
    if isinstance(column.dtype, pl.List | pl.Array):
        lists = column.cast(pl.List(column.dtype.inner))
        lengths = lists.list.len()
        digest.update(lengths.cast(pl.Int64).to_numpy().astype("<i8").tobytes())
        inner = lists.filter(lengths > 0).explode()  # explode would turn an empty list into a null
        digest.update(f"{len(inner)}\0".encode())
        return _digest_values(digest, inner)
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    if column.dtype in (pl.String, pl.Binary):
        binary = column.cast(pl.Binary)
        digest.update(binary.bin.size("b").cast(pl.Int64).to_numpy().astype("<i8").tobytes())
        for part in binary:
            digest.update(part)
        return None
    if column.dtype == pl.Boolean:
        digest.update(column.cast(pl.UInt8).to_numpy().tobytes())
        return None
    values = column.to_physical().to_numpy()
    if values.dtype.kind not in "iuf":
        raise DataError(f"column {column.name!r} of type {column.dtype} has no logical digest")
    digest.update(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return None


def _pattern(path: Path) -> Path:
    return path / "*.parquet" if path.is_dir() else path


def one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
