"""Reading Parquet tables, whole or in batches, and digesting what they say, apart from how they are stored."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

BATCH_BYTES = 1 << 26  # what a batch may take once it is decoded, about
BATCH_ROWS = 1 << 18  # at most
PROBE_ROWS = 2048  # read first, to see what a row takes: stored small does not mean small when decoded
WHOLE_BYTES, WHOLE_ROWS = 1 << 27, 1 << 20  # a smaller table's column is read once and kept while it is digested

Chunks = Callable[[], "Iterator[pl.Series]"]  # a column in parts, from the start at every call


class DataError(ValueError):
    """Bad data or a bad request for data, told in one line that says where and what to do."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever polars raises over a damaged Parquet file into a DataError that names the path."""
    import polars as pl

    try:
        with _unprinted_panics():
            yield
    except pl.exceptions.ColumnNotFoundError as error:
        raise DataError(f"{path}: lacks a column: {one_line(error)}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {one_line(error)}") from error


@contextmanager
def _unprinted_panics() -> Iterator[None]:
    """Over some damage polars' threads panic: their backtrace goes to stderr before Python hears of it, and would bury the
    one line that says what is wrong. Whatever else was printed meanwhile is printed after."""
    import polars as pl

    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except pl.exceptions.PanicException:
            kept.truncate(0)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            os.write(2, kept.read())


def shards(path: Path) -> list[Path]:
    """The Parquet files of a table in their order: the file itself, or a folder's `*.parquet` by name.

    Raises DataError for a folder without any, and for a shard that is a link: no table leads out of its dataset.
    """
    if not path.is_dir():
        return [path]
    if not (found := sorted(path.glob("*.parquet"))):
        raise DataError(f"{path}: a folder without any shard *.parquet")
    for shard in found:
        if shard.is_symlink() or not shard.is_file():
            raise DataError(f"{shard}: a shard must be a file of its own, not a link or a folder")
    return found


def read_table(path: Path, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """Reads a Parquet file or a folder of shards (in name order); raises DataError, naming the path, if it cannot."""
    import polars as pl

    with reading(path):
        frame = pl.scan_parquet(shards(path), glob=False)
        return (frame.select(columns) if columns is not None else frame).collect()


def read_schema(path: Path) -> "pl.Schema":
    """Names and types of a table's columns; raises DataError where its shards disagree."""
    import polars as pl

    schemas = {}
    for shard in shards(path):
        with reading(shard):
            schemas[shard] = pl.scan_parquet(shard, glob=False).collect_schema()
    first, schema = next(iter(schemas.items()))
    for shard, other in schemas.items():
        if dict(other) != dict(schema):
            raise DataError(f"{shard}: its columns {_told(other)} differ from {first.name}'s {_told(schema)}")
    return schema


def count_rows(path: Path) -> int:
    """Rows of a Parquet file or folder of shards, from its metadata."""
    return _count_once(path, stamps(path))


@lru_cache(maxsize=1024)
def _count_once(path: Path, stamps: tuple[tuple[int, int], ...]) -> int:
    import polars as pl

    rows = 0
    for shard in shards(path):
        with reading(shard):
            rows += int(pl.scan_parquet(shard, glob=False).select(pl.len()).collect().item())
    return rows


def batches(
    path: Path, columns: Sequence[str] | None = None, *, rows: int | None = None
) -> Iterator[tuple[int, "pl.DataFrame"]]:
    """(row of the table at which it starts, some columns of consecutive rows), shard by shard, in bounded memory.

    A batch has at most `rows` rows; by default as many as take about 64 MiB. Raises DataError as `read_table` does.
    """
    import polars as pl

    start = 0
    for shard in shards(path):
        with reading(shard):
            frame = pl.scan_parquet(shard, glob=False)
            frame = frame.select(columns) if columns is not None else frame
        height = count_rows(shard)
        size = rows or _batch_rows(frame, height, shard)
        for row in range(0, height, size):
            with reading(shard):
                part = frame.slice(row, size).collect()
            yield start + row, part
        start += height


def _batch_rows(frame: "pl.LazyFrame", height: int, shard: Path) -> int:
    if height <= PROBE_ROWS:
        return PROBE_ROWS
    with reading(shard):
        taken = frame.head(PROBE_ROWS).collect().estimated_size() / PROBE_ROWS
    return int(max(256, min(BATCH_ROWS, BATCH_BYTES / max(taken, 1))))


def logical_digest(path: Path | str) -> str:
    """SHA-256 (hex) of what a Parquet file (or folder of shards) says, however it is stored.

    Row groups, compression and shards do not count. Per column, in name order: name, type, null mask, then the values:
    numbers as little-endian bytes, strings and binaries as lengths and bytes, lists as lengths and their flattened
    values. A large table is read in batches, once for each of these parts. Raises DataError where it cannot be read.
    """
    path = Path(path)
    return _digest_once(path.resolve(), stamps(path))


def stamps(path: Path) -> tuple[tuple[int, int], ...]:
    """(bytes, nanoseconds of the last change) of each shard: the state of a table without reading it."""
    try:
        return tuple((found.st_size, found.st_mtime_ns) for found in (shard.stat() for shard in shards(path)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from error


@lru_cache(maxsize=256)
def _digest_once(path: Path, stamps: tuple[tuple[int, int], ...]) -> str:
    """One digest per state of a file in a process: `stamps` only keys the cache."""
    import polars as pl

    digest = hashlib.sha256()
    schema, height = read_schema(path), count_rows(path)
    whole = height <= WHOLE_ROWS and sum(size for size, _ in stamps) <= WHOLE_BYTES

    def chunks(name: str) -> Iterator[pl.Series]:
        yield pl.Series(name, [], schema[name])  # even an empty table has a type
        for _, part in batches(path, [name]):
            yield part[name]

    for name in sorted(schema.names()):
        digest.update(f"{name}\0{schema[name]}\0{height}\0".encode())
        kept = [read_table(path, [name])[name]] if whole else None  # one column: images alone may fill the memory
        try:
            _digest_values(digest, (lambda k=kept: iter(k)) if kept else (lambda n=name: chunks(n)), name)  # type: ignore[misc]
        except (TypeError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise DataError(f"{path}: column {name!r} of type {schema[name]} has no logical digest") from error
    return digest.hexdigest()


def _digest_values(digest: "hashlib._Hash", chunks: Chunks, name: str) -> None:
    """The null mask of a column, then its values; the chunks are gone through once for each part."""
    import polars as pl

    _digest_mask(digest, chunks)
    dtype = next(chunks()).dtype
    if isinstance(dtype, pl.List | pl.Array):
        count = 0
        for column in chunks():
            lengths = column.drop_nulls().cast(pl.List(dtype.inner)).list.len()
            digest.update(lengths.cast(pl.Int64).to_numpy().astype("<i8").tobytes())
            count += int(lengths.sum())
        digest.update(f"{count}\0".encode())
        return _digest_values(digest, lambda: map(flattened, chunks()), name)
    if dtype in (pl.String, pl.Binary) or isinstance(dtype, pl.Categorical | pl.Enum):
        for column in chunks():
            sizes = _binary(column).bin.size("b")
            digest.update(sizes.cast(pl.Int64).to_numpy().astype("<i8").tobytes())
        for column in chunks():
            for part in _binary(column):
                digest.update(part)
        return None
    for column in chunks():
        _digest_numbers(digest, column.drop_nulls(), name)
    return None


def _digest_mask(digest: "hashlib._Hash", chunks: Chunks) -> None:
    """One bit a row, packed as if the column were one array: bits that do not fill a byte wait for the next chunk."""
    import numpy as np

    waiting = np.zeros(0, bool)
    for column in chunks():
        present = np.concatenate([waiting, column.is_not_null().to_numpy()])
        full = present.size - present.size % 8
        digest.update(np.packbits(present[:full]).tobytes())
        waiting = present[full:]
    digest.update(np.packbits(waiting).tobytes())


def flattened(column: "pl.Series") -> "pl.Series":
    """The values of a column of lists, one after another; nulls and empty lists give none."""
    import polars as pl

    lists = column.drop_nulls().cast(pl.List(column.dtype.inner))  # type: ignore[attr-defined]
    return lists.filter(lists.list.len() > 0).explode()  # explode would turn an empty list into a null


def _binary(column: "pl.Series") -> "pl.Series":
    import polars as pl

    column = column.drop_nulls()
    return (column if column.dtype == pl.Binary else column.cast(pl.String)).cast(pl.Binary)


def _digest_numbers(digest: "hashlib._Hash", column: "pl.Series", name: str) -> None:
    import numpy as np
    import polars as pl

    if column.dtype == pl.Boolean:
        digest.update(column.cast(pl.UInt8).to_numpy().tobytes())
        return
    values = column.to_physical().to_numpy()
    if values.dtype.kind not in "iuf":
        raise TypeError(f"column {name!r} of type {column.dtype} is no column of numbers")
    digest.update(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes())


def _told(schema: "pl.Schema") -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in schema.items())


def one_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
