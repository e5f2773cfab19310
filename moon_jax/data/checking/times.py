"""Time: events in order, splits that do not look ahead, histories of the past only, nothing before it is there."""

from typing import TYPE_CHECKING

from moon_jax.data.checking.findings import Findings
from moon_jax.data.contract import Dataset
from moon_jax.data.tables import reading, shards

if TYPE_CHECKING:
    import polars as pl

_LATER = {"train": ("valid", "test"), "valid": ("test",)}


class Order:
    """Whether events stand in the order of user and time, batch after batch."""

    def __init__(self) -> None:
        self.last: pl.DataFrame | None = None

    def check(self, found: Findings, start: int, frame: "pl.DataFrame") -> None:
        import polars as pl

        rows = frame.select("user_id", "timestamp")
        carried = 0 if self.last is None else 1
        rows = rows if self.last is None else pl.concat([self.last, rows])
        user, time = rows["user_id"], rows["timestamp"]
        back = (user < user.shift(1)) | ((user == user.shift(1)) & (time < time.shift(1)))
        found.rows("events", start, back[carried:], "not sorted by user and time")
        self.last = rows.tail(1)


def check_arrivals(found: Findings, file: str, start: int, frame: "pl.DataFrame", arrivals: "pl.DataFrame") -> None:
    """Rows of a batch with a time before their item's `available_from`."""
    joined = frame.select("item_id", "timestamp").join(arrivals, on="item_id", how="left", maintain_order="left")
    early = joined["timestamp"] < joined["available_from"]
    found.rows(file, start, early, "is before its item is there: {} {}", "item_id", joined["item_id"])


def check_splits_in_time(found: Findings, dataset: Dataset) -> None:
    """Impressions of a split that stand after the same user's first one of the next: they leak the future."""
    import polars as pl

    path = dataset.path("impressions")
    with reading(path):
        shown = pl.scan_parquet(shards(path), glob=False).select("user_id", "split", "timestamp")
        firsts = {
            split: shown.filter(pl.col("split").is_in(later))
            .group_by("user_id")
            .agg(first=pl.col("timestamp").min(), which=pl.lit(later[0]))
            .collect(engine="streaming")
            for split, later in _LATER.items()
        }
    for start, part in dataset.batches("impressions", ["user_id", "split", "timestamp"]):
        for split, first in firsts.items():
            joined = part.join(first, on="user_id", how="left", maintain_order="left")
            late = (joined["split"] == split) & (joined["timestamp"] > joined["first"])
            reason = f"leaks the future: {split} but later than this user's first of {_LATER[split][0]}"
            found.rows("impressions", start, late, reason)


def check_histories(found: Findings, dataset: Dataset) -> None:
    """Histories that hold what is no earlier event of the user."""
    import polars as pl

    happened = dataset.read("events", ["user_id", "item_id", "timestamp"]).drop_nulls("item_id")
    seen = happened.group_by("user_id", "item_id").agg(first=pl.col("timestamp").min())
    for start, part in dataset.batches("impressions", ["user_id", "timestamp", "history"]):
        rows = part.with_columns(row=pl.int_range(pl.len())).rename({"history": "item_id"})
        past = rows.explode("item_id").drop_nulls("item_id")
        joined = past.join(seen, on=["user_id", "item_id"], how="left", maintain_order="left")
        leaks = joined.filter((pl.col("first") >= pl.col("timestamp")).fill_null(True)).unique(
            "row", maintain_order=True
        )
        item = pl.Series([None] * part.height, dtype=pl.Int64).scatter(leaks["row"], leaks["item_id"].cast(pl.Int64))
        reason = "history leaks the future: {} {} is no earlier event of this user"
        found.rows("impressions", start, item.is_not_null(), reason, "item", item)
