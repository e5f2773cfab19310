"""Variants of a product merged into one item, so that none is a false negative of another (paper: SKUs of one SPU)."""

from dataclasses import dataclass
from typing import ClassVar

from moon_jax.data.processing.material import Material
from moon_jax.data.processing.transformation import Decision, Transformation
from moon_jax.data.processing.working import Working


@dataclass(frozen=True)
class MergeVariants(Transformation):
    """Pairs lead to one item of each product: of those with a photo, if there are any, the one of the lowest id.

    A search by a variant's own photo stays and finds the product's item; where it shows that very item, the pair goes.
    """

    name: ClassVar[str] = "variants"
    does: ClassVar[str] = "items of one product are merged into one"

    def decide(self, working: Working, material: Material) -> Decision:
        import polars as pl

        items = working.eligible_items(self.scope)
        first = pl.col("item_id").sort_by(~pl.col("photo"), "item_id").first().over("product_id").alias("kept")
        moves = items.select("item_id", first).filter(pl.col("item_id") != pl.col("kept"))
        return Decision("merged into another of their product", items=moves)
