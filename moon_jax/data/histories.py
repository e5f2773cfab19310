"""Behaviour as arrays: events once per user, an impression as (user, position), its history of any length a slice."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data.contract import DataError, read_table

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray


@dataclass(frozen=True)
class Behaviour:
    """Events sorted by (user, time) and impressions that point into them.

    event_item, event_action: int32 E, item rows and action ids; impression_item int32 I, item rows;
    start, end int64 I: the user's events strictly before the impression are rows start..end;
    user int64 I; clicked float32 I; split object I ("train", "valid", "test"); impression_ids int64 I.
    """

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
    items: int

    def history(self, rows_B: Array, length: int) -> tuple[Array, Array]:
        """The last `length` events before each impression, newest first: (item rows, action ids), int32 B x L.

        Item rows are -1 where the history is shorter, and for events without an item (a text query, say).
        """
        at_BxL = self.end[rows_B, None] - 1 - np.arange(length)[None, :]
        real_BxL = at_BxL >= self.start[rows_B, None]
        at_BxL = np.where(real_BxL, at_BxL, 0)
        return np.where(real_BxL, self.event_item[at_BxL], -1), np.where(real_BxL, self.event_action[at_BxL], 0)


def read_behaviour(items: Path, events: Path, impressions: Path) -> Behaviour:
    """Items' ids, events and impressions of a dataset as arrays; DataError where an id is unknown."""
    item_ids = read_table(items, ["item_id"])["item_id"].to_numpy()
    order = np.argsort(item_ids, kind="stable")

    def rows_of(ids: Array, path: Path) -> Array:
        rows = order[np.minimum(np.searchsorted(item_ids, ids, sorter=order), item_ids.size - 1)]
        if (unknown := np.flatnonzero(item_ids[rows] != ids)).size:
            raise DataError(f"{path}, row {unknown[0]}: unknown item_id {ids[unknown[0]]}")
        return rows.astype(np.int32)

    happened = read_table(events, ["user_id", "item_id", "action", "timestamp"])
    shown = read_table(impressions, ["impression_id", "user_id", "item_id", "timestamp", "clicked", "split"])
    names, action_E = np.unique(happened["action"].to_numpy().astype(str), return_inverse=True)
    has_item = happened["item_id"].is_not_null().to_numpy()
    event_item = np.where(has_item, rows_of(happened["item_id"].fill_null(int(item_ids[0])).to_numpy(), events), -1)
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
        items=item_ids.size,
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
