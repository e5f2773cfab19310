"""Representations of items and queries under a given encoder, as transformations read them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moon_jax.data.contract import DataError

Array = np.ndarray
FILES = ("item_ids", "items", "query_ids", "queries")


@dataclass(frozen=True)
class Vectors:
    """item_ids int64 N, items float N x D; query_ids int64 Q, queries float Q x D; unit vectors, ids unique."""

    item_ids: Array
    items: Array
    query_ids: Array
    queries: Array

    def __post_init__(self) -> None:
        for ids, vectors, of in ((self.item_ids, self.items, "items"), (self.query_ids, self.queries, "queries")):
            if vectors.ndim != 2 or len(ids) != len(vectors):
                raise DataError(f"representations of {of}: {len(ids)} ids for an array of shape {vectors.shape}")
        if self.items.shape[1] != self.queries.shape[1]:
            raise DataError(
                f"representations: items are {self.items.shape[1]} wide and queries {self.queries.shape[1]}"
            )

    @classmethod
    def read(cls, folder: Path) -> "Vectors":
        """Memory maps of `item_ids.npy`, `items.npy`, `query_ids.npy`, `queries.npy`: what a `represent` step writes."""
        arrays = {}
        for name in FILES:
            path = folder / f"{name}.npy"
            try:
                arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path}: not readable as an array ({error}); give a `represent` step's folder"
                ) from None
        return cls(**arrays)

    def save(self, folder: Path) -> None:
        for name in FILES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    def item_rows(self, ids: Iterable[int] | Array) -> Array:
        """int64: the rows of these items, -1 for those without a representation."""
        return _rows(self.item_ids, np.asarray(ids))

    def query_rows(self, ids: Iterable[int] | Array) -> Array:
        """int64: the rows of these queries, -1 for those without a representation."""
        return _rows(self.query_ids, np.asarray(ids))


def _rows(known: Array, ids: Array) -> Array:
    if not len(known):
        return np.full(ids.shape, -1)
    known = np.asarray(known)
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, ids, sorter=order), known.size - 1)]
    return np.where(known[at] == ids, at, -1)
