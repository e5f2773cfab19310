"""Hard negatives: items that a query might be mistaken to want, written as a table beside the pairs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.data.processing.grouping import mix64
from moon_jax.data.processing.material import Material
from moon_jax.data.processing.nearest import INDEXES, Nearest
from moon_jax.data.processing.similarity import cosines
from moon_jax.data.processing.transformation import Decision, Transformation
from moon_jax.data.processing.working import Working

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
KINDS = ("category", "clicked", "mined")
DRAWN = 4  # times as many as are wanted are drawn, for the guard takes some away
DRAWN_AT_ONCE = 1 << 16  # queries drawn for at a time
QUERIES_AT_ONCE = 256  # compared at a time


@dataclass(frozen=True)
class HardNegatives(Transformation):
    """Up to `per_query` hard negatives of each training query, of one kind.

    "category": other items of the same category as an item it led to (paper), drawn at random by ids and seed.
    "clicked": clicked but not bought in a search where something else was bought (SCL); such pairs are no positives
    any more and go. "mined": the most similar items under given representations, exactly, or with index "hnsw" by an
    approximate one, whose own recall is then told.

    The guard against false negatives: none is of a product that the query led to, in any split, none is another of its
    positives, and, where there are representations, none has a cosine above `closest` with a positive of the query.
    Only items that valid and test do not ask about are taken (in train scope), so that no evaluation is trained against.

    Attributes:
        depth: how many of the most similar items the guard chooses from.
        index: "exact" compares every query with every item: for up to about a million of each.
    """

    name: ClassVar[str] = "hard_negatives"
    does: ClassVar[str] = "hard negatives of each query: kind=category, clicked or mined"
    kind: str = "category"
    per_query: int = 4
    closest: float = 0.9
    depth: int = 64
    seed: int = 0
    index: str = field(default="exact", metadata={"added": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.kind in KINDS, f"kind {self.kind!r} must be one of {', '.join(KINDS)}")
        self.require(
            1 <= self.per_query <= self.depth, f"per_query {self.per_query} must lie in 1..depth = {self.depth}"
        )
        self.require(self.index in INDEXES, f"index {self.index!r} must be one of {', '.join(INDEXES)}")
        self.require(-1 <= self.closest <= 1, f"closest {self.closest} must be a cosine, -1 to 1")

    def decide(self, working: Working, material: Material) -> Decision:
        import polars as pl

        train = working.pairs.filter(working.pairs["split"] == "train")
        if not len(train):
            raise DataError(f"{self.name}: there are no training pairs")
        items = working.eligible_items(self.scope)
        told: dict[str, float] = {}
        positives = working.pairs.select("query_id", "item_id")
        if self.kind == "clicked":
            found = _clicked(train)
            positives, blocks = positives.join(found, on=["query_id", "item_id"], how="anti"), iter([found])
        elif self.kind == "category":
            blocks = self._of_category(train, items, material)
        else:
            blocks = self._mined(train, items, material, told)
        guard = Guard.of(working, positives, material if material.has_vectors else None, self.closest)
        chosen, candidates, sound = [], 0, 0
        for block in blocks:
            left = guard(block)
            candidates, sound = candidates + block.height, sound + left.height
            # The guard may leave more than are wanted: the first stay, the most similar or first drawn.
            order = pl.struct("rank", "item_id").rank("ordinal").over("query_id")
            chosen.append(left.filter(order <= self.per_query).sort("query_id", "rank", "item_id"))
        negatives = pl.concat(chosen).select("query_id", "item_id", kind=pl.lit(self.kind))
        gone = None
        if self.kind == "clicked":
            key = pl.struct("query_id", "item_id")
            gone = working.pairs.select(key.is_in(negatives.select(key).to_series().implode())).to_series().to_numpy()
        facts = {"candidates": candidates, "of them taken away by the guard": candidates - sound, **told}
        return Decision("clicked, not bought: hard negatives now", pairs=gone, negatives=negatives, facts=facts)

    def _of_category(
        self, train: "pl.DataFrame", items: "pl.DataFrame", material: Material
    ) -> "Iterator[pl.DataFrame]":
        """Items drawn from the category of the query's first item (by id), a block of queries at a time; rank is the
        order of the draw."""
        import polars as pl

        path = pl.col("category").list.join(" > ").cast(pl.Categorical)
        category = material.read("items", [pl.col("item_id").cast(pl.Int64), path])
        queries = train.group_by("query_id").agg(pl.col("item_id").min()).sort("query_id")
        queries = queries.join(category, on="item_id", how="inner", maintain_order="left")
        # Members of a category lie side by side, in the order of ids.
        members = items.join(category, on="item_id", how="inner").sort(pl.col("category").to_physical(), "item_id")
        places = members.with_row_index("at").group_by("category").agg(start=pl.col("at").min(), size=pl.len())
        queries = queries.join(places, on="category", how="inner", maintain_order="left")
        ids = members["item_id"].to_numpy()
        for block in queries.iter_slices(DRAWN_AT_ONCE):
            query_Q = block["query_id"].to_numpy()
            start_Q, size_Q = (block[name].to_numpy().astype(np.uint64) for name in ("start", "size"))
            drawn = []
            for rank in range(DRAWN * self.per_query):
                at_Q = start_Q + mix64(mix64(query_Q, self.seed), 1 + rank) % size_Q
                drawn.append(pl.DataFrame({"query_id": query_Q, "item_id": ids[at_Q.astype(np.int64)], "rank": rank}))
            yield pl.concat(drawn).group_by("query_id", "item_id").agg(pl.col("rank").min())

    def _mined(
        self, train: "pl.DataFrame", items: "pl.DataFrame", material: Material, told: dict[str, float]
    ) -> "Iterator[pl.DataFrame]":
        """The `depth` most similar items of each query, a block of queries at a time; rank 0 is the most similar."""
        import polars as pl

        vectors = material.vectors
        item_rows = vectors.item_rows(items["item_id"].to_numpy())
        ids_N, item_rows = items["item_id"].to_numpy()[item_rows >= 0], item_rows[item_rows >= 0]
        asked = train["query_id"].unique().sort().to_numpy()
        query_rows = vectors.query_rows(asked)
        asked, query_rows = asked[query_rows >= 0], query_rows[query_rows >= 0]
        depth = min(self.depth, ids_N.size)
        if not asked.size or not depth:
            raise DataError(f"{self.name}: none of the training queries, or none of the items, has a representation")
        nearest = Nearest(vectors.items, item_rows, depth)
        search: Callable[[Array], Array] = nearest.exact
        if self.index == "hnsw":
            search = nearest.hnsw()
            told["recall of the index"] = round(nearest.recall(search, vectors.queries[query_rows]), 4)
        for start in range(0, asked.size, QUERIES_AT_ONCE):
            block = slice(start, start + QUERIES_AT_ONCE)
            found_qxk = search(np.asarray(vectors.queries[query_rows[block]], np.float32))
            material.report(min(block.stop, asked.size) / asked.size)
            yield pl.DataFrame(
                {
                    "query_id": np.repeat(asked[block], depth),
                    "item_id": ids_N[found_qxk].ravel(),
                    "rank": np.tile(np.arange(depth), len(found_qxk)),
                }
            )


def _clicked(train: "pl.DataFrame") -> "pl.DataFrame":
    """Items clicked in a search where something was bought, and never bought for that query; all of rank 0."""
    import polars as pl

    search = ["query_id", *(["search_id"] if "search_id" in train.columns else [])]
    bought = (pl.col("action") == "purchase").any()
    never = ~bought.over("query_id", "item_id")
    chosen = train.filter(bought.over(search) & never).select("query_id", "item_id").unique()
    return chosen.with_columns(rank=pl.lit(0, pl.Int64))


@dataclass(frozen=True)
class Guard:
    """Takes false negatives away. positives: query_id, item_id, product_id of all that a query led to or shows."""

    positives: "pl.DataFrame"
    products: "pl.DataFrame"
    material: Material | None
    closest: float

    @classmethod
    def of(cls, working: Working, positives: "pl.DataFrame", material: Material | None, closest: float) -> "Guard":
        import polars as pl

        owned = working.queries.filter(pl.col("item_id").is_not_null()).select("query_id", "item_id")
        products = working.items.select("item_id", "product_id")
        known = pl.concat([positives, owned]).unique().join(products, on="item_id", how="left")
        return cls(known, products, material, closest)

    def __call__(self, found: "pl.DataFrame") -> "pl.DataFrame":
        """The candidates (query_id, item_id, rank) that are no false negatives, as far as can be told."""
        import polars as pl

        left = found.join(self.products, on="item_id", how="inner", maintain_order="left")
        left = left.join(self.positives, on=["query_id", "item_id"], how="anti", maintain_order="left")
        left = left.join(self.positives, on=["query_id", "product_id"], how="anti", maintain_order="left")
        left = left.drop("product_id")
        if self.material is None or not len(left):
            return left
        against = left.join(self.positives.select("query_id", positive="item_id"), on="query_id", how="left")
        vectors = self.material.vectors
        rows = (vectors.item_rows(against[name].to_numpy()) for name in ("item_id", "positive"))
        near = against.with_columns(cosine=pl.Series(cosines(vectors.items, vectors.items, *rows)))
        false = near.filter(pl.col("cosine").fill_nan(None) > self.closest)
        return left.join(false, on=["query_id", "item_id"], how="anti", maintain_order="left")
