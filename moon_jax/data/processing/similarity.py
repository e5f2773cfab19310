"""Similarity dedup: of several queries for one item those that the last encoder finds least similar to it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from moon_jax.data.processing.material import Material
from moon_jax.data.processing.transformation import Decision, Transformation
from moon_jax.data.processing.working import Working

Array = np.ndarray
COMPARED = 1 << 14  # pairs compared at a time


@dataclass(frozen=True)
class SimilarityDedup(Transformation):
    """Of the queries of one kind (by photo, by text, by product, mixed) for one item, the `keep` least similar stay.

    What an encoder finds similar already it has learned; the paper keeps the pair least similar under the model before.
    Cosines of different kinds are not comparable, so kinds are kept apart, as are splits. Pairs without a
    representation on either side stay. Ties go to the lower query.
    """

    name: ClassVar[str] = "similarity"
    does: ClassVar[str] = "of several queries for an item the least similar stays (needs representations)"
    keep: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.keep >= 1, f"keep {self.keep} must be at least 1")

    def decide(self, working: Working, material: Material) -> Decision:
        import polars as pl

        pairs = working.pairs.join(
            working.queries.select("query_id", "kind"), on="query_id", how="left", maintain_order="left"
        )
        vectors = material.vectors
        query_P = vectors.query_rows(pairs["query_id"].to_numpy())
        cosine_P = cosines(vectors.queries, vectors.items, query_P, vectors.item_rows(pairs["item_id"].to_numpy()))
        eligible_P, known_P = working.eligible_pairs(self.scope).to_numpy(), np.isfinite(cosine_P)
        compared = pairs.with_columns(cosine=pl.Series(cosine_P)).filter(pl.Series(eligible_P & known_P))
        # Ranks of queries, not of rows: a query's click and its purchase stay or go together.
        order = pl.struct("cosine", "query_id").rank("dense").over("item_id", "kind", "split")
        out = compared.filter(order > self.keep)["row"]
        kept = compared.filter(order <= self.keep)["cosine"].mean()
        facts = {
            "mean cosine before": round(float(compared["cosine"].mean() or 0.0), 4),  # type: ignore[arg-type]
            "mean cosine after": round(float(kept or 0.0), 4),  # type: ignore[arg-type]
            "pairs without a representation": int((eligible_P & ~known_P).sum()),
        }
        gone = pairs["row"].is_in(out.implode()).to_numpy()
        return Decision("more similar to their item than another query's", pairs=gone, facts=facts)


def cosines(ones: Array, others: Array, one_P: Array, other_P: Array) -> Array:
    """float64 P: cosine of rows `one_P` of `ones` (N x D) with rows `other_P` of `others` (M x D); nan where a row is -1.

    Rounded to 6 digits, so that what is equal ties.
    """
    out = np.full(one_P.size, np.nan)
    known = np.flatnonzero((one_P >= 0) & (other_P >= 0))
    for start in range(0, known.size, COMPARED):
        rows = known[start : start + COMPARED]
        one, other = np.asarray(ones[one_P[rows]], np.float32), np.asarray(others[other_P[rows]], np.float32)
        length = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        out[rows] = np.round(np.einsum("pd,pd->p", one, other) / np.maximum(length, 1e-12), 6)
    return out
