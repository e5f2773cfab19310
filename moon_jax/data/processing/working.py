"""The dataset under work, as ids: about 30 bytes a pair and 20 an item or query; wide columns stay on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.contract import SPLITS, DataError
from moon_jax.data.processing.shards import scan

if TYPE_CHECKING:
    import polars as pl

FRAMES = ("items", "queries", "pairs", "negatives", "moved_items", "moved_queries")


@dataclass(frozen=True)
class Working:
    """Ids and flags of what is left, in file order.

    Attributes:
        items: item_id, product_id, photo (it has one), in_training, held (valid or test asks about it).
        queries: query_id, item_id (the item that it is or shows, or null), kind ("image", "text", "item",
            "mixed"), split (of its pairs, the latest of train, valid, test; null: it has none).
        pairs: row (in the source), query_id, item_id, action, split, and search_id where the source has it.
        negatives: query_id, item_id, kind.
        moved_items, moved_queries: id -> kept (null: gone) where rows left the tables; of all transformations so far.
    """

    items: "pl.DataFrame"
    queries: "pl.DataFrame"
    pairs: "pl.DataFrame"
    negatives: "pl.DataFrame"
    moved_items: "pl.DataFrame"
    moved_queries: "pl.DataFrame"

    @classmethod
    def read(cls, files: Mapping[str, Path]) -> "Working":
        """From the tables items, queries and pairs. Raises DataError where one or a column of it is missing."""
        import polars as pl

        for name in ("items", "queries", "pairs"):
            if name not in files:
                raise DataError(f"processing needs {name}.parquet, and the dataset has none")
        held = pl.col("split") != "train"
        pairs = _collected(files["pairs"], ["query_id", "item_id", "action", "split"], ["search_id"])
        pairs = pairs.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
        pairs = pairs.cast({"query_id": pl.Int64, "item_id": pl.Int64, "action": pl.Categorical, "split": _splits()})
        queries = _kinds(files["queries"])
        asked = pairs.group_by("query_id").agg(pl.col("split").max())
        queries = queries.join(asked, on="query_id", how="left", maintain_order="left")
        items = _collected(
            files["items"], ["item_id", "product_id", pl.col("image").is_not_null().alias("photo")], ["in_training"]
        ).cast({"item_id": pl.Int64, "product_id": pl.Int64})
        if "in_training" not in items.columns:
            items = items.with_columns(in_training=pl.lit(True))
        evaluated = pl.concat(
            [
                pairs.filter(held)["item_id"],
                queries.filter(held & pl.col("item_id").is_not_null())["item_id"],
            ]
        )
        items = items.with_columns(held=pl.col("item_id").is_in(evaluated.implode()))
        negatives = pl.DataFrame(schema={"query_id": pl.Int64, "item_id": pl.Int64, "kind": pl.String})
        if "hard_negatives" in files:
            negatives = _collected(files["hard_negatives"], ["query_id", "item_id", "kind"], [])
        moved = pl.DataFrame(schema={"item_id": pl.Int64, "kept": pl.Int64})
        return cls(items, queries, pairs, negatives, moved, moved.rename({"item_id": "query_id"}))

    def save(self, folder: Path) -> None:
        for name in FRAMES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")

    @classmethod
    def load(cls, folder: Path) -> "Working":
        import polars as pl

        return cls(**{name: pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES})

    def eligible_items(self, scope: str) -> "pl.DataFrame":
        """The items that a transformation may change, sorted by id."""
        import polars as pl

        chosen = self.items.filter(pl.col("in_training") & ~pl.col("held")) if scope == "train" else self.items
        return chosen.sort("item_id")

    def eligible_queries(self, scope: str) -> "pl.DataFrame":
        """The queries that a transformation may change, sorted by id."""
        import polars as pl

        chosen = self.queries.filter(pl.col("split") == "train") if scope == "train" else self.queries
        return chosen.sort("query_id")

    def eligible_pairs(self, scope: str) -> "pl.Series":
        """bool P: the pairs that a transformation may change."""
        import polars as pl

        return self.pairs["split"] == "train" if scope == "train" else pl.repeat(True, self.pairs.height, eager=True)

    def counts(self) -> dict[str, int]:
        """Rows by what they are, as reports give them."""
        by_split = dict(self.pairs.group_by("split").len().iter_rows())
        return {
            **{f"{split} pairs": by_split.get(split, 0) for split in SPLITS},
            "items": self.items.height,
            "items in training": int(self.items["in_training"].sum()),
            "queries": self.queries.height,
            "hard negatives": self.negatives.height,
        }


def _splits() -> "pl.Enum":
    import polars as pl

    return pl.Enum(SPLITS)


def _collected(path: Path, columns: "list[str | pl.Expr]", optional: list[str]) -> "pl.DataFrame":
    import polars as pl

    try:
        lazy = scan(path)
        known = lazy.collect_schema().names()
        chosen = [*columns, *(name for name in optional if name in known)]
        return lazy.select(chosen).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}; run `moon data check`") from error


def _kinds(path: Path) -> "pl.DataFrame":
    """query_id, item_id and kind, as the contract tells them from what is set."""
    import polars as pl

    known = scan(path).collect_schema().names()
    shown = pl.col("image").is_not_null() if "image" in known else pl.lit(False)
    worded = pl.col("text").is_not_null() if "text" in known else pl.lit(False)
    kind = (
        pl.when(shown & worded)
        .then(pl.lit("mixed"))
        .when(shown)
        .then(pl.lit("image"))
        .when(worded)
        .then(pl.lit("text"))
        .otherwise(pl.lit("item"))
    )
    item = pl.col("item_id").cast(pl.Int64) if "item_id" in known else pl.lit(None, pl.Int64).alias("item_id")
    return _collected(path, [pl.col("query_id").cast(pl.Int64), item, kind.cast(pl.Categorical).alias("kind")], [])
