"""The distribution of training pairs over categories matched to what is shown to users."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.data.processing.grouping import mix64
from moon_jax.data.processing.material import Material
from moon_jax.data.processing.shards import scan
from moon_jax.data.processing.transformation import Decision, Transformation
from moon_jax.data.processing.working import Working
from moon_jax.data.tables import one_line

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
BETWEEN = " > "  # the levels of a category


@dataclass(frozen=True)
class MatchExposure(Transformation):
    """Pairs of categories that are over-represented beside their exposure are sampled down (paper: head categories).

    With n pairs in a category of exposure share t, at most t M stay. M is n / t of the category at which the least
    served categories make up `short` of the exposure: these keep all they have and stay below their share, all others
    get it exactly. Short 0 matches every category and may cost nearly all pairs. A second pass drops nothing.

    Attributes:
        level: of the category, 1 is the root, 0 the whole path.
        exposure: shares by category, its levels joined by " > "; what is not named is never shown and goes. Empty: the
            impressions of the train split, each category of the pairs once more (so that none is lost by chance).
        seed: of the sample; a pair's chance depends on its ids, not on its place.
    """

    name: ClassVar[str] = "exposure"
    does: ClassVar[str] = "categories sampled down to their share of what users are shown"
    level: int = 0
    short: float = 0.1
    exposure: tuple[tuple[str, float], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.level >= 0, f"level {self.level} must be 0 (the whole path) or more")
        self.require(0 <= self.short < 1, f"short {self.short} must lie in [0, 1)")
        sound = all(math.isfinite(share) and share >= 0 for _, share in self.exposure)
        self.require(sound, "shares of exposure must be finite and not negative")

    def decide(self, working: Working, material: Material) -> Decision:
        import polars as pl

        category = self._categories(material)
        pairs = working.pairs.with_columns(eligible=working.eligible_pairs(self.scope))
        pairs = pairs.join(category, on="item_id", how="left", maintain_order="left")
        gone = np.zeros(pairs.height, bool)
        facts: dict[str, float] = {}
        for (split,), part in pairs.filter("eligible").with_row_index("at").group_by("split", maintain_order=True):
            shares = self._shares(part, category, material)
            counts = part.group_by("category").len("pairs").join(shares, on="category", how="left").sort("category")
            pairs_C = counts["pairs"].to_numpy().astype(np.float64)
            share_C = counts["share"].fill_null(0.0).to_numpy()
            self.require(bool(share_C.sum() > 0), "no category of the pairs has any exposure")
            share_C = share_C / share_C.sum()
            allowed_C = np.minimum(pairs_C, np.ceil(share_C * quota(pairs_C, share_C, self.short) - 1e-9))
            allowed = counts.select("category", allowed=pl.Series(allowed_C))
            # Rows in the order of a hash of their ids, so that a sample does not depend on the order of the file.
            key = mix64(mix64(part["query_id"].to_numpy(), self.seed) ^ part["item_id"].to_numpy().astype(np.uint64))
            ranked = part.with_columns(key=pl.Series(key)).join(
                allowed, on="category", how="left", maintain_order="left"
            )
            order = (
                pl.struct("key", "query_id", "item_id", pl.col("action").cast(pl.String), "row")
                .rank("ordinal")
                .over("category")
            )
            out = ranked.filter(order > pl.col("allowed"))["row"]
            gone |= pairs["row"].is_in(out.implode()).to_numpy()
            for when, count_C in (("before", pairs_C), ("after", allowed_C)):
                apart = 0.5 * np.abs(count_C / count_C.sum() - share_C).sum()
                facts[f"{split}: share of pairs in the wrong category {when}"] = round(float(apart), 4)
        return Decision("beyond their category's exposure", pairs=gone, facts=facts)

    def _categories(self, material: Material) -> "pl.DataFrame":
        import polars as pl

        levels = pl.col("category").list.head(self.level) if self.level else pl.col("category")
        joined = levels.list.join(BETWEEN).cast(pl.Categorical).alias("category")
        return material.read("items", [pl.col("item_id").cast(pl.Int64), joined])

    def _shares(self, pairs: "pl.DataFrame", category: "pl.DataFrame", material: Material) -> "pl.DataFrame":
        import polars as pl

        if self.exposure:
            names, shares = zip(*self.exposure, strict=True)
            return pl.DataFrame({"category": names, "share": shares}, schema_overrides={"category": pl.Categorical})
        shown = scan(material.path("impressions")).filter(pl.col("split") == "train").group_by("item_id").len("share")
        counted = shown.with_columns(pl.col("item_id").cast(pl.Int64)).collect(engine="streaming")
        once = pairs.select("category").unique().with_columns(share=pl.lit(1.0))
        there = counted.join(category, on="item_id").select("category", pl.col("share").cast(pl.Float64))
        return pl.concat([once, there]).group_by("category").agg(pl.col("share").sum())


def read_exposure(path: Path) -> tuple[tuple[str, float], ...]:
    """(category, share) of a CSV or Parquet table with these two columns, by name. Raises DataError."""
    import polars as pl

    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
        shares = table.select(pl.col("category").cast(pl.String), pl.col("share").cast(pl.Float64)).drop_nulls()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a table with columns category and share ({one_line(error)})") from error
    return tuple(sorted(shares.rows()))


def quota(pairs_C: Array, share_C: Array, short: float) -> float:
    """M: the least pairs / share such that the categories below it make up no more than `short` of the exposure."""
    shown = share_C > 0
    served = pairs_C[shown] / share_C[shown]
    order = np.argsort(served, kind="stable")
    reached = np.cumsum(share_C[shown][order])
    return float(served[order][np.searchsorted(reached, short, side="right").clip(max=reached.size - 1)])
