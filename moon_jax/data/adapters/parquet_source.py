"""Reading the Parquet files of a public set: columns as its layout says, rows that break it set apart."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.checking.columns import is_kind
from moon_jax.data.contract import DataError
from moon_jax.data.quarantine import Quarantine
from moon_jax.data.tables import batches, count_rows, read_schema

if TYPE_CHECKING:
    import polars as pl

Faults = Mapping[str, "pl.Expr | pl.Series"]  # reason -> where it holds


def require_columns(path: Path, kinds: Mapping[str, str]) -> None:
    """DataError where the file is missing, unreadable, or a column is missing or not of its kind ("int", ...)."""
    if not path.exists():
        raise DataError(f"{path}: missing; give the folder of the downloaded set")
    schema = read_schema(path)
    for column, kind in kinds.items():
        if column not in schema:
            raise DataError(f"{path}: lacks column {column!r}; it has {', '.join(schema)[:200] or 'nothing'}")
        if not is_kind(schema[column], kind):
            raise DataError(f"{path}: column {column!r} is {schema[column]}, must be {kind}")


def sound_batches(
    path: Path, columns: list[str], faults: Faults, quarantine: Quarantine, file: str, *, rows: int | None = None
) -> "Iterator[pl.DataFrame]":
    """Batches of the rows that no fault holds for, with their place in a column `row`; the others are quarantined."""
    for start, part in batches(path, columns, rows=rows):
        yield set_apart(part.with_row_index("row", start), faults, quarantine, file, path)


def set_apart(part: "pl.DataFrame", faults: Faults, quarantine: Quarantine, file: str, source: Path) -> "pl.DataFrame":
    """The rows without a fault; of the others, the first reason that holds is noted with their `row`."""
    import polars as pl

    for reason, condition in faults.items():
        bad = part.select(condition.fill_null(False).alias("bad"))["bad"]
        if bad.any():
            quarantine.put(file, source, part["row"].filter(bad).to_list(), reason)
            part = part.filter(pl.Series(~bad))
    return part


class Steps:
    """Progress over the rows of several files."""

    def __init__(self, progress: Callable[[int, int], None] | None, *paths: Path):
        self.progress, self.done = progress, 0
        self.total = sum(count_rows(path) for path in paths)

    def __call__(self, rows: int) -> None:
        self.done += rows
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)
