"""Tables: reading CSV and Parquet, taking numeric columns out of them, and saying clearly what is wrong with one."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

ROW = "_row"  # where rows were left out, the number that a row had in the user's table
ROWS_NAMED = 5  # an error names this many faulty rows and counts the rest
LARGEST = 1e100  # beyond it squares and ratios leave the range of floats


class TableError(ValueError):
    """The table cannot answer the question; the message names the file, the column or the rows, and what to do."""


def read_table(path: str | Path) -> pl.DataFrame:
    """Read a table from CSV (.csv, .tsv) or Parquet (.parquet), told apart by the suffix.

    Raises:
        TableError: the file is missing, has another suffix, does not parse, or holds no row.
    """
    import polars as pl

    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = pl.read_parquet(path)
        elif suffix in (".csv", ".tsv"):
            separator = "\t" if suffix == ".tsv" else ","
            # All rows decide the type of a column: a late "n/a" must not look like an unreadable file.
            table = pl.read_csv(path, separator=separator, infer_schema_length=None)
        else:
            raise TableError(
                f"{path}: cannot tell the format from {suffix or 'no suffix'!r}; give a .csv or .parquet file"
            )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TableError(f"{path}: not a readable {suffix[1:]} file ({str(error).splitlines()[0]})") from error
    if table.height == 0:
        raise TableError(f"{path}: the table has no rows")
    return table


def read_units(path: str | Path) -> dict[str, str]:
    """{column: unit} that a Parquet file's metadata tells (as `results.parquet` does); empty for other files."""
    import polars as pl

    if Path(path).suffix.lower() != ".parquet":
        return {}
    try:
        units = json.loads(pl.read_parquet_metadata(path).get("units", "{}"))
    except (pl.exceptions.PolarsError, OSError, ValueError):
        return {}  # the table itself is read elsewhere, and its faults are told there
    return {str(name): str(unit) for name, unit in units.items()} if isinstance(units, dict) else {}


def read_results(runs: str | Path, question: str) -> pl.DataFrame:
    """Read `runs/<question>/results.parquet`: one row a cell, finished or not (`status`). While a sweep runs the table
    is written anew every so often; fits and rates leave out the rows that are not done.

    Raises:
        TableError: there is no such file; the message names the questions that do have results.
    """
    path = Path(runs) / question / "results.parquet"
    if path.is_file():
        return read_table(path)
    found = sorted(p.parent.name for p in Path(runs).glob("*/results.parquet"))
    there = f"results there: {', '.join(found)}" if found else f"no question has results under {Path(runs)}"
    raise TableError(f"{path}: no such file; {there}")


def require_columns(table: pl.DataFrame, names: Sequence[str], source: str = "table") -> None:
    """Raise a TableError that names the first missing column and the closest names that exist."""
    for name in names:
        if name in table.columns:
            continue
        close = difflib.get_close_matches(name, table.columns, n=3, cutoff=0.4)
        hint = f"closest: {', '.join(close)}" if close else f"columns: {', '.join(table.columns)}"
        raise TableError(f"{source}: no column {name!r}; {hint}")


def name_rows(table: pl.DataFrame, rows: Sequence[int] | np.ndarray) -> str:
    """`rows 0, 3, 7` as the user's table counts them from 0, shortened after a few."""
    if ROW in table.columns:
        rows = table[ROW].to_numpy()[np.asarray(rows, int)]
    shown = ", ".join(str(int(row)) for row in rows[:ROWS_NAMED])
    more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def numeric_column(table: pl.DataFrame, name: str, source: str = "table") -> np.ndarray:
    """A column as finite float64, shape (rows,).

    Raises:
        TableError: the column is missing, is not of a numeric type, or holds null, NaN, infinity or magnitudes beyond 1e100
            (rows are named).
    """
    import polars as pl

    require_columns(table, [name], source)
    column = table[name]
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        numbers = column.cast(pl.Float64, strict=False) if column.dtype == pl.String else None
        rows: Sequence[int] | np.ndarray = [] if numbers is None else np.flatnonzero(numbers.is_null().to_numpy())
        where = f" ({name_rows(table, rows)}: {column[int(rows[0])]!r})" if len(rows) else ""
        raise TableError(f"{source}: column {name!r} is {column.dtype}, not numeric{where}")
    values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    faulty = np.flatnonzero(~np.isfinite(values))
    if len(faulty):
        raise TableError(
            f"{source}: column {name!r} is not finite in {name_rows(table, faulty)}; drop these rows or mark them"
        )
    vast = np.flatnonzero(np.abs(values) > LARGEST)
    if len(vast):
        raise TableError(
            f"{source}: column {name!r} is beyond {LARGEST:g} in {name_rows(table, vast)}; give it in another unit"
        )
    return values


def optional_column(table: pl.DataFrame, name: str) -> np.ndarray:
    """A column that only marks rows, as float64 (rows,): NaN where it is missing, empty or no number."""
    import polars as pl

    if name not in table.columns:
        return np.full(table.height, np.nan)
    return table[name].cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def done_rows(table: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Keep the rows that hold a measurement (`status` done, where there is such a column); say what was left out."""
    if "status" not in table.columns:
        return table, []
    import polars as pl

    if ROW not in table.columns:
        table = table.with_row_index(ROW)
    left = table.filter(pl.col("status").is_null() | (pl.col("status") != "done"))
    counts = left["status"].fill_null("unknown").value_counts().sort("status")
    dropped = [f"{count} {status}" for status, count in counts.iter_rows()]
    return table.filter(pl.col("status") == "done"), dropped


def labels(table: pl.DataFrame, name: str, source: str = "table") -> list[Any]:
    """A column as labels; nulls are an error, because a cluster without a name cannot be resampled."""
    require_columns(table, [name], source)
    column = table[name]
    if column.null_count():
        rows = np.flatnonzero(column.is_null().to_numpy())
        raise TableError(f"{source}: column {name!r} is empty in {name_rows(table, rows)}")
    return column.to_list()


def fingerprint(**columns: np.ndarray | Sequence[Any]) -> str:
    """SHA-256 over named columns; the order of rows does not count, the values and their grouping do."""
    names = sorted(columns)
    rows = sorted(zip(*(map(repr, np.asarray(columns[name]).tolist()) for name in names), strict=True))
    return hashlib.sha256(repr((names, rows)).encode()).hexdigest()
