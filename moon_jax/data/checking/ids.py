"""Identities: keys stand once, and whatever is referred to is there."""

from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data.checking.findings import Findings
from moon_jax.data.contract import Dataset

if TYPE_CHECKING:
    import polars as pl

KEYS = {
    "items": ("item_id",),
    "queries": ("query_id",),
    "impressions": ("impression_id",),
    "truth": ("impression_id",),
    "users": ("user_id",),
    "embeddings": ("item_id",),
    "relevance": ("query_id", "item_id"),
    "hard_negatives": ("query_id", "item_id"),
}
HOME = {"item_id": "items", "query_id": "queries", "user_id": "users", "impression_id": "impressions"}


class Known:
    """The ids of a table, for asking which others are not among them."""

    def __init__(self, ids: "pl.Series"):
        self.sorted_N = np.unique(_whole(ids.drop_nulls()).drop_nulls().to_numpy())
        span = int(self.sorted_N[-1]) - int(self.sorted_N[0]) + 1 if self.sorted_N.size else 0
        self.dense = span == self.sorted_N.size

    def lacks(self, ids: "pl.Series") -> "pl.Series":
        """Which ids are unknown (bool, false for null)."""
        import polars as pl

        whole = _whole(ids)
        values = whole.fill_null(0).to_numpy()
        if not self.sorted_N.size:
            unknown = np.ones(len(values), bool)
        elif self.dense:
            unknown = (values < self.sorted_N[0]) | (values > self.sorted_N[-1])
        else:
            at = np.minimum(np.searchsorted(self.sorted_N, values), self.sorted_N.size - 1)
            unknown = self.sorted_N[at] != values
        return (pl.Series(ids.name, unknown) | whole.is_null()) & ids.is_not_null()


def _whole(ids: "pl.Series") -> "pl.Series":
    import polars as pl

    return ids.cast(pl.Int64, strict=False)  # an id beyond 64 bits becomes null: no table has it


def check_keys(found: Findings, dataset: Dataset, file: str) -> None:
    """Rows that repeat a key. Rising keys are seen to be distinct in one pass; others are held in memory, once."""
    import polars as pl

    keys = list(KEYS[file])
    if len(keys) == 1 and _rises(dataset, file, keys[0]):
        return
    frame = dataset.read(file, keys)
    again = ~frame.select(pl.struct(keys).is_first_distinct()).to_series() if len(keys) > 1 else None
    if again is None:
        found.rows(file, 0, ~frame[keys[0]].is_first_distinct(), "duplicate {} {}", keys[0], frame[keys[0]])
    elif again.any():
        told = frame.select(pl.format("{} with {}", *keys)).to_series()
        found.rows(file, 0, again, "duplicate {} {}", " with ".join(keys), told)


def _rises(dataset: Dataset, file: str, key: str) -> bool:
    last = None
    for _, part in dataset.batches(file, [key]):
        ids = part[key]
        if ids.null_count() or not (ids > ids.shift(1)).all() or (last is not None and ids[0] <= last):
            return False
        last = ids[-1]
    return True


class References:
    """Which columns refer to which table, with the ids of those tables read once."""

    def __init__(self, dataset: Dataset, sound: list[str]):
        self.dataset = dataset
        # A log of a larger shop: its histories may name items that this dataset does not describe.
        self.open_histories = bool(dataset.facts.get("open_histories"))
        self.known = {
            column: Known(dataset.read(file, [column])[column])
            for column, file in HOME.items()
            if file in sound and (file != "impressions" or "truth" in sound)
        }

    def check(self, found: Findings, file: str, start: int, frame: "pl.DataFrame") -> None:
        """Ids of a batch that their table does not have."""
        import polars as pl

        for column in (name for name in HOME if name in frame.columns and HOME[name] != file):
            if column in self.known:
                found.rows(file, start, self.known[column].lacks(frame[column]), "unknown {} {}", column, frame[column])
        if "history" in frame.columns and "item_id" in self.known and not self.open_histories:
            rows = frame.select(pl.int_range(pl.len()).alias("row"), "history").explode("history").drop_nulls()
            unknown = rows.filter(self.known["item_id"].lacks(rows["history"])).unique("row", maintain_order=True)
            first = pl.Series([None] * frame.height, dtype=pl.Int64).scatter(unknown["row"], unknown["history"])
            found.rows(file, start, first.is_not_null(), "unknown {} {} in history", "item_id", first)

    def check_tables(self, found: Findings, file: str, columns: list[str]) -> None:
        """Columns that refer to a table which the dataset does not have at all."""
        for column in ("item_id", "query_id"):
            if column not in columns or HOME[column] == file or self.dataset.has(HOME[column]):
                continue
            if any(part[column].is_not_null().any() for _, part in self.dataset.batches(file, [column])):
                found.whole(file, f"has {column} but the dataset has no {HOME[column]} table")


def check_negatives(found: Findings, dataset: Dataset) -> None:
    """Hard negatives that are positives of their query."""
    import polars as pl

    pairs = dataset.read("pairs", ["query_id", "item_id"]).unique().with_columns(positive=pl.lit(True))
    for start, part in dataset.batches("hard_negatives", ["query_id", "item_id"]):
        joined = part.join(pairs, on=["query_id", "item_id"], how="left", maintain_order="left")
        found.rows(
            "hard_negatives", start, joined["positive"], "{} {} is a positive of its query", "item_id", part["item_id"]
        )
