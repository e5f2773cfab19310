"""Behaviour as arrays: events once per user, an impression as (user, position), its history of any length a slice."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data.contract import DataError, read_table
from moon_jax.data.tables import read_schema

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
SLICED = 256  # histories from this length on are copied as slices, which a gather, element by element, is slower than


@dataclass(frozen=True)
class Behaviour:
    """Events sorted by (user, time) and impressions that point into them.

    event_item, event_action: int32 E, item rows and action ids; impression_item int32 I, item rows;
    where queries are read as behaviours, row N + q of `event_item` and of `impression_query` (int32 I) is query row q;
    start, end int64 I: the user's events strictly before the impression are rows start..end;
    user int64 I; clicked float32 I; split object I ("train", "valid", "test"); impression_ids int64 I;
    item_ids int64 N, in the order of rows; queries: how many query rows follow those of the items;
    impression_query: -1 where an impression answers no query.
    """

    item_ids: Array

    event_item: Array
    event_action: Array
    actions: tuple[str, ...]
    impression_ids: Array
    user: Array
    impression_item: Array
    start: Array
    end: Array
    clicked: Array
    split: Array
    queries: int = 0
    impression_query: Array | None = None

    @property
    def items(self) -> int:
        return self.item_ids.size

    @property
    def answers_queries(self) -> bool:
        """Whether some impression answers a query."""
        return self.impression_query is not None and bool((self.impression_query >= 0).any())

    def history(self, rows_B: Array, length: int) -> tuple[Array, Array]:
        """The last `length` events before each impression, newest first: (item rows, action ids), int32 B x L.

        Item rows are -1 where the history is shorter, and for events without an item, unless queries are read.
        """
        if length >= SLICED:
            return self._slices(rows_B, length)
        at_BxL = self.end[rows_B, None] - 1 - np.arange(length)[None, :]
        real_BxL = at_BxL >= self.start[rows_B, None]
        at_BxL = np.where(real_BxL, at_BxL, 0)
        return np.where(real_BxL, self.event_item[at_BxL], -1), np.where(real_BxL, self.event_action[at_BxL], 0)

    def _slices(self, rows_B: Array, length: int) -> tuple[Array, Array]:
        """`history`, copied impression by impression."""
        item_BxL = np.full((rows_B.size, length), -1, self.event_item.dtype)
        action_BxL = np.zeros((rows_B.size, length), self.event_action.dtype)
        first_B = np.maximum(self.start[rows_B], self.end[rows_B] - length)
        for row, (first, end) in enumerate(zip(first_B.tolist(), self.end[rows_B].tolist(), strict=True)):
            item_BxL[row, : end - first] = self.event_item[first:end][::-1]
            action_BxL[row, : end - first] = self.event_action[first:end][::-1]
        return item_BxL, action_BxL

    def rows_of(self, ids: Array) -> tuple[Array, Array]:
        """(item rows, bool whether there is such an item) of item ids."""
        return rows_among(self.item_ids, ids)

    def shown_in_training(self) -> Array:
        """bool N: items that are the target of a training impression, or stand in the history of one."""
        training = self.split == "train"
        edges = np.zeros(self.event_item.size + 1, np.int64)
        np.add.at(edges, self.start[training], 1)
        np.add.at(edges, self.end[training], -1)
        read = self.event_item[np.cumsum(edges[:-1]) > 0]
        known = np.zeros(self.items, bool)
        known[read[(read >= 0) & (read < self.items)]] = True
        known[self.impression_item[training]] = True
        return known


def rows_among(item_ids: Array, ids: Array) -> tuple[Array, Array]:
    """(places of `ids` in `item_ids`, int32, bool whether they are there)."""
    order = np.argsort(item_ids, kind="stable")
    rows = order[np.minimum(np.searchsorted(item_ids, ids, sorter=order), item_ids.size - 1)]
    return rows.astype(np.int32), item_ids[rows] == ids


def read_behaviour(items: Path, events: Path | None, impressions: Path, queries: Path | None = None) -> Behaviour:
    """Items' ids, events and impressions of a dataset as arrays; DataError where an id is unknown.

    With `queries` the queries that events and impressions name are read, too. Without events the impressions' own
    `history` lists (newest last) are read, as clicks.
    """
    item_ids = read_table(items, ["item_id"])["item_id"].to_numpy()

    def rows_of(ids: Array, path: Path, known: Array = item_ids, name: str = "item_id") -> Array:
        rows, found = rows_among(known, ids)
        if (unknown := np.flatnonzero(~found)).size:
            raise DataError(f"{path}, row {unknown[0]}: unknown {name} {ids[unknown[0]]}")
        return rows

    query_ids = np.zeros(0, np.int64) if queries is None else read_table(queries, ["query_id"])["query_id"].to_numpy()

    def query_rows_of(table: "pl.DataFrame", path: Path) -> Array:
        """Row N + q where a row names a query and no item, -1 elsewhere."""
        out = np.full(table.height, -1, np.int32)
        if query_ids.size and "query_id" in table.columns:
            named = table["query_id"].is_not_null().to_numpy()
            ids = table["query_id"].fill_null(int(query_ids[0])).to_numpy()
            out[named] = (item_ids.size + rows_of(ids, path, query_ids, "query_id"))[named]
        return out

    if events is None:
        return _read_lists(item_ids, impressions, rows_of)
    happened = read_table(events, _with_query(events, "user_id", "item_id", "action", "timestamp"))
    named = ("impression_id", "user_id", "item_id", "timestamp", "clicked", "split")
    shown = read_table(impressions, _with_query(impressions, *named))
    names, action_E = np.unique(happened["action"].to_numpy().astype(str), return_inverse=True)
    has_item = happened["item_id"].is_not_null().to_numpy()
    event_item = np.where(has_item, rows_of(happened["item_id"].fill_null(int(item_ids[0])).to_numpy(), events), -1)
    event_item = np.where(has_item, event_item, query_rows_of(happened, events))
    start, end = _before(happened, shown)
    return Behaviour(
        event_item=event_item,
        event_action=action_E.astype(np.int32),
        actions=tuple(str(name) for name in names),
        impression_ids=shown["impression_id"].to_numpy(),
        user=shown["user_id"].to_numpy(),
        impression_item=rows_of(shown["item_id"].to_numpy(), impressions),
        start=start,
        end=end,
        clicked=shown["clicked"].to_numpy().astype(np.float32),
        split=shown["split"].to_numpy().astype(str),
        item_ids=item_ids,
        queries=query_ids.size,
        impression_query=query_rows_of(shown, impressions) if query_ids.size else None,
    )


def _with_query(path: Path, *columns: str) -> list[str]:
    """These columns, and `query_id` where the file has it."""
    return [*columns, *(("query_id",) if "query_id" in read_schema(path) else ())]


def _read_lists(item_ids: Array, impressions: Path, rows_of: Callable[[Array, Path], Array]) -> Behaviour:
    """Impressions that bring their histories along: the lists, one after another, are the events.

    A list may name items that the catalogue lacks (public logs do; `moon data check` says where they may): no item there.
    """
    shown = read_table(impressions, ["impression_id", "user_id", "item_id", "clicked", "split", "history"])
    lengths = shown["history"].list.len().fill_null(0).to_numpy().astype(np.int64)
    end = np.cumsum(lengths)
    event_item, known = rows_among(item_ids, shown["history"].explode().drop_nulls().to_numpy())
    return Behaviour(
        event_item=np.where(known, event_item, -1).astype(np.int32),
        event_action=np.zeros(event_item.size, np.int32),
        actions=("click",),
        impression_ids=shown["impression_id"].to_numpy(),
        user=shown["user_id"].to_numpy(),
        impression_item=rows_of(shown["item_id"].to_numpy(), impressions),
        start=end - lengths,
        end=end,
        clicked=shown["clicked"].to_numpy().astype(np.float32),
        split=shown["split"].to_numpy().astype(str),
        item_ids=item_ids,
    )


def _before(happened: "pl.DataFrame", shown: "pl.DataFrame") -> tuple[Array, Array]:
    """Each impression's slice of events: those of its user with a timestamp strictly below its own."""
    user_E, time_E = (happened[c].to_numpy() for c in ("user_id", "timestamp"))
    user_I, time_I = (shown[c].to_numpy() for c in ("user_id", "timestamp"))
    start = np.searchsorted(user_E, user_I, side="left")
    # One sorted search over (user, time): times become ranks, so that both fit one exact integer key.
    times = np.unique(np.concatenate([time_E, time_I]))
    users = np.unique(np.concatenate([user_E, user_I]))
    key_E = np.searchsorted(users, user_E) * (times.size + 1) + np.searchsorted(times, time_E)
    key_I = np.searchsorted(users, user_I) * (times.size + 1) + np.searchsorted(times, time_I)
    return start, np.searchsorted(key_E, key_I, side="left")
