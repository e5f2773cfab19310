"""Rows of a user's own CSV, TSV or Parquet file, column by the name that the contract gives it."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moon_jax.data.contract import DataError
from moon_jax.data.tables import batches, read_schema

SUFFIXES = (".csv", ".tsv", ".parquet")
MAX_ID = 1 << 62
_SEPARATORS = ",;\t|"


def find_table(folder: Path, name: str) -> Path | None:
    """`name` with one of the suffixes in `folder`, if it is there."""
    return next((folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()), None)


def columns_of(path: Path) -> list[str]:
    """Names of the columns; DataError where the file cannot be read."""
    if path.suffix == ".parquet":
        return list(read_schema(path))
    with _opened(path) as file:
        first = _first_line(path, file)
    return next(csv.reader([first], delimiter=_separator(path, first)), [])


def read_records(path: Path, columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[int, dict[str, list[Any]] | None]]:
    """(row, values by name) of each row: line of a CSV (the header is line 1), 0-based row of a Parquet file.

    `columns` gives, for each name, the columns of the file that it is made of. Values of a CSV are stripped text, of a
    Parquet file what it holds; None stands for a row whose cells do not fit the header. Raises DataError where a column
    is missing or the file cannot be read, naming the line.
    """
    there = columns_of(path)
    for name, sources in columns.items():
        for source in sources:
            if source not in there:
                told = ", ".join(there)[:200] or "nothing"
                raise DataError(f"{path}: has no column {source!r} for {name}; it has {told} (--map {name}=COLUMN)")
    if path.suffix == ".parquet":
        needed = list(dict.fromkeys(source for sources in columns.values() for source in sources))
        for start, part in batches(path, needed):
            for row, values in enumerate(part.iter_rows(named=True), start):
                yield row, {name: [values[source] for source in sources] for name, sources in columns.items()}
        return
    with _opened(path) as file:
        separator = _separator(path, _first_line(path, file))
        file.seek(0)
        reader = csv.reader(file, delimiter=separator)
        try:
            header = next(reader, [])
            at = {name: [header.index(source) for source in sources] for name, sources in columns.items()}
            for cells in reader:
                if not cells:
                    continue
                fits = len(cells) == len(header)
                yield (
                    reader.line_num,
                    {name: [cells[k].strip() for k in ks] for name, ks in at.items()} if fits else None,
                )
        except UnicodeDecodeError as error:
            raise _not_text(path) from error
        except (OSError, csv.Error) as error:
            raise DataError(f"{path}, line {reader.line_num}: cannot be read as CSV ({error})") from error


def _not_text(path: Path) -> DataError:
    """Names the first line with bytes that are not UTF-8: the reader only knows the block that it stands in."""
    with path.open("rb") as file:
        number = next((number for number, line in enumerate(file, start=1) if not _is_text(line)), 1)
    return DataError(f"{path}, line {number}: not UTF-8 text; save it as UTF-8")


def _is_text(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _opened(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _first_line(path: Path, file: Any) -> str:
    try:
        first = file.readline(1 << 20).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _not_text(path) from error
    if not first:
        raise DataError(f"{path}: is empty; it must begin with a line of column names")
    return str(first)


def _separator(path: Path, first: str) -> str:
    return "\t" if path.suffix == ".tsv" else max(_SEPARATORS, key=first.count)


def text_of(value: Any) -> str:
    """A cell as text, "" where there is nothing; DataError for what is neither text nor a number."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):  # pandas writes whole numbers so where one is missing
        return str(int(value)) if value.is_integer() else "" if value != value else str(value)
    raise DataError(f"{type(value).__name__} where text or a number was expected")


def whole(text: str) -> int | None:
    """The integer that a text is, None for any other text."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        return None
    number = int(text)
    return number if abs(number) < MAX_ID else None


def seconds(text: str) -> int | None:
    """Seconds of the epoch from a whole number or an ISO date and time (UTC unless it says otherwise)."""
    if (number := whole(text)) is not None:
        return number
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


class Ids:
    """Integers for the names by which a source calls its things: its own, where all are whole numbers."""

    def __init__(self, names: Sequence[str]):
        distinct = list(dict.fromkeys(name for name in names if name))
        numbers = [whole(name) for name in distinct]
        # "7" and "07" would be one number but are two names
        self.own = all(n is not None and str(n) == name for n, name in zip(numbers, distinct, strict=True))
        self.number = {
            name: int(own) if self.own and own is not None else place
            for place, (name, own) in enumerate(zip(distinct, numbers, strict=True))
        }
