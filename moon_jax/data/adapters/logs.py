"""A user's own searches and behaviour: queries, pairs, events and impressions of a CSV or Parquet file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moon_jax.data.adapters.catalogue import cell_text, open_images
from moon_jax.data.adapters.groups import hashed
from moon_jax.data.adapters.photos import read_all
from moon_jax.data.adapters.records import Ids, columns_of, find_table, read_records, seconds
from moon_jax.data.contract import SPLITS, DataError
from moon_jax.data.writing import DatasetWriter

if TYPE_CHECKING:
    import polars as pl

COLUMNS = {
    "queries": ("query_id", "text", "image", "item_id"),
    "pairs": ("query_id", "item_id", "action", "user_id", "timestamp", "split"),
    "events": ("user_id", "item_id", "action", "timestamp"),
    "impressions": ("user_id", "item_id", "timestamp", "history", "clicked", "split"),
}
_NEEDED = {
    "queries": ("query_id",),
    "pairs": ("query_id", "item_id"),
    "events": ("user_id", "item_id", "timestamp"),
    "impressions": ("user_id", "item_id", "clicked"),
}
ACTIONS = ("click", "cart", "purchase")
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")
_SPLIT_EDGES = (("test", 0.2), ("valid", 0.3), ("train", 1.0))  # by hash, where the source has no split


def map_columns(
    table: Path, file: str, allowed: Sequence[str], mapping: Mapping[str, tuple[str, ...]], needed: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The table's columns for each name: as mapped, else the one that has the contract's name already."""
    there = columns_of(table)
    found = {name: (name,) for name in allowed if name in there} | dict(mapping)
    for name in needed:
        if name not in found:
            key = name if file == "items" else f"{file}.{name}"
            raise DataError(f"{table}: which column is {name}? say --map {key}=COLUMN; it has {', '.join(there)[:200]}")
    return found


class Logs:
    """The tables that stand beside the items, row by row; a row that cannot be used is quarantined.

    clicks_are_events: whether the clicked impressions are taken for the users' events.
    """

    def __init__(
        self,
        folder: Path,
        mapping: Mapping[str, Mapping[str, tuple[str, ...]]],
        ids: Ids,
        kept: set[int],
        limit: float,
        writer: DatasetWriter,
    ):
        self.folder, self.ids, self.kept, self.limit, self.writer = folder, ids, kept, limit, writer
        self.tables = {file: path for file in COLUMNS if (path := find_table(folder, file))}
        self.columns = {
            file: map_columns(path, file, COLUMNS[file], dict(mapping.get(file, {})), _NEEDED[file])
            for file, path in self.tables.items()
        }
        for file in mapping:
            if file != "items" and file not in self.tables:
                raise DataError(f"{folder}: --map names {file}, but there is no {file}.csv, .tsv or .parquet")
        if self.has("queries") != self.has("pairs"):
            raise DataError(f"{folder}: queries and pairs belong together; one of the two tables is missing")
        shown = self.columns.get("impressions", {})
        self.clicks_are_events = bool(shown) and not self.has("events") and "history" not in shown
        if shown and "history" not in shown and "timestamp" not in shown:
            raise DataError(
                f"{self.tables['impressions']}: needs a column 'timestamp' to find the events (or clicks) before an impression, "
                "or a column 'history'"
            )
        self.users = self._ids("user_id", ("events", "impressions", "pairs"))
        self.queries = self._ids("query_id", ("queries",))
        self.asked: set[int] = set()

    def has(self, file: str) -> bool:
        return file in self.tables

    def _ids(self, name: str, files: Sequence[str]) -> Ids:
        names = []
        for file in (f for f in files if name in self.columns.get(f, ())):
            names += [
                cell_text(values[name][0], self.tables[file], row, name)
                for row, values in read_records(self.tables[file], {name: self.columns[file][name]})
                if values
            ]
        return Ids(names)

    def rows(self, file: str) -> "list[tuple[int, dict[str, Any]]]":
        """(row, values as the contract has them) of the rows of a table that can be used."""
        table, found, count = self.tables[file], [], 0
        for row, values in read_records(table, self.columns[file]):
            count += 1
            try:
                if values is None:
                    raise _UnusableRowError("cells do not fit the header")
                cells = {
                    name: of[0] if name == "image" and isinstance(of[0], bytes) else self._cell(table, row, name, of[0])
                    for name, of in values.items()
                }
                found.append((row, {name: self._value(file, name, cell) for name, cell in cells.items()}))
            except _UnusableRowError as error:
                self.writer.quarantine.put(file, table, [row], str(error))
        self.writer.quarantine.require_few(file, count, share=self.limit)
        return found

    def _cell(self, table: Path, row: int, name: str, value: Any) -> str:
        if name == "history" and isinstance(value, list):
            return " ".join(cell_text(part, table, row, name) for part in value)
        return cell_text(value, table, row, name)

    def _value(self, file: str, name: str, cell: Any) -> Any:
        if name == "item_id":
            return None if not cell and file == "queries" else self._item(cell)
        if name == "history":
            return [self._item(part) for part in cell.replace(",", " ").split()]
        if name == "query_id":
            return _known(self.queries, cell, "query_id", self.asked if file == "pairs" else None)
        if name == "user_id":
            return None if not cell and file == "pairs" else _known(self.users, cell, "user_id")
        if name == "timestamp":
            if (time := seconds(cell)) is None:
                raise _UnusableRowError(f"timestamp {cell[:80]!r} is no time")
            return time
        if name == "clicked":
            if cell.lower() not in _TRUE + _FALSE:
                raise _UnusableRowError(f"clicked {cell[:80]!r} is neither 1 nor 0")
            return cell.lower() in _TRUE
        allowed = SPLITS if name == "split" else ACTIONS if name == "action" and file == "pairs" else ()
        if allowed and cell not in allowed:
            raise _UnusableRowError(f"{name} {cell[:80]!r} must be one of {', '.join(allowed)}")
        if name == "action" and not cell:
            raise _UnusableRowError("action is empty")
        return cell

    def _item(self, name: str) -> int:
        item = _known(self.ids, name, "item_id")
        if item not in self.kept:
            raise _UnusableRowError(f"item_id {name[:80]!r} was left out of the items")
        return item

    def write_searches(self) -> list[str]:
        """Writes queries and pairs; a query whose photo cannot be used is left out, and so are its pairs. Returns the
        kinds of search: "image", "text", "item"."""
        import polars as pl

        rows = self.rows("queries")
        with open_images(self.folder) as read:
            photos = read_all(read, [values.get("image") or None for _, values in rows])
        found = []
        for (row, values), (image, fault) in zip(rows, photos, strict=True):
            query, name = values["query_id"], values.get("image")
            nothing = image is None and not values.get("text") and values.get("item_id") is None
            if fault is None and name and image is None:
                fault = f"image {name[:80]!r} is not there"
            if query in self.asked:
                fault = f"duplicate query_id {query}"
            if fault or nothing:
                self.writer.quarantine.put(
                    "queries", self.tables["queries"], [row], fault or "has neither text nor image nor item_id"
                )
                continue
            self.asked.add(query)
            found.append((query, values.get("text") or None, image, values.get("item_id")))
        self.writer.quarantine.require_few("queries", len(rows), share=self.limit)
        schema = {"query_id": pl.Int64, "text": pl.String, "image": pl.Binary, "item_id": pl.Int64}
        self.writer.add("queries", pl.DataFrame(found, schema=schema, orient="row"))
        pairs = pl.DataFrame([values for _, values in self.rows("pairs")], schema=self._schema("pairs"))
        pairs = pairs if "action" in pairs.columns else pairs.with_columns(action=pl.lit("click"))
        self.writer.add("pairs", _with_split(pairs, "query_id"))
        kinds = {"image" if image is not None else "text" if text else "item" for _, text, image, _ in found}
        return sorted(kinds)

    def write_behaviour(self) -> None:
        """Writes events and impressions, if there are any; their splits, if not given, are by user.

        Where impressions come without events and without histories, what a user clicked on is what happened to them.
        """
        import polars as pl

        if "events" in self.tables:
            events = pl.DataFrame([values for _, values in self.rows("events")], schema=self._schema("events"))
            events = events if "action" in events.columns else events.with_columns(action=pl.lit("click"))
            self.writer.add("events", events.sort("user_id", "timestamp", maintain_order=True))
        if "impressions" in self.tables:
            shown = pl.DataFrame([values for _, values in self.rows("impressions")], schema=self._schema("impressions"))
            if self.clicks_are_events:
                clicks = shown.filter("clicked").select("user_id", "item_id", "timestamp", action=pl.lit("click"))
                self.writer.add("events", clicks.sort("user_id", "timestamp", maintain_order=True))
            self.writer.add("impressions", _with_split(shown.with_row_index("impression_id"), "user_id"))

    def _schema(self, file: str) -> "dict[str, Any]":
        import polars as pl

        special = {
            "action": pl.String,
            "split": pl.String,
            "clicked": pl.Boolean,
            "history": pl.List(pl.Int64),
        }
        return {name: special.get(name, pl.Int64) for name in self.columns[file]}


class _UnusableRowError(ValueError):
    """Why a row cannot be used."""


def _known(ids: Ids, name: str, column: str, among: set[int] | None = None) -> int:
    number = ids.number.get(name)
    if number is None or (among is not None and number not in among):
        raise _UnusableRowError(f"unknown {column} {name[:80]!r}" if name else f"{column} is empty")
    return number


def _with_split(frame: "pl.DataFrame", key: str) -> "pl.DataFrame":
    """The frame with a split by the hash of `key`, unless it has one."""
    import polars as pl

    if "split" in frame.columns:
        return frame
    keys = frame[key].unique(maintain_order=True).to_list()
    ranked = sorted(keys, key=lambda value: hashed(str(value)))
    of = {
        value: next(s for s, edge in _SPLIT_EDGES if (rank + 0.5) / len(ranked) < edge)
        for rank, value in enumerate(ranked)
    }
    return frame.with_columns(split=pl.Series([of[value] for value in frame[key].to_list()], dtype=pl.String))
