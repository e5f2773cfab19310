"""The most similar items of queries under given representations: exactly, or by an approximate index (HNSW)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moon_jax.data.contract import DataError

Array = np.ndarray
INDEXES = ("exact", "hnsw")
ITEMS_AT_ONCE = 1 << 16  # compared at a time
WIDER = 4  # times the depth is how widely the approximate index searches
SAMPLE = 512  # queries on which its own recall is measured


@dataclass(frozen=True)
class Nearest:
    """Finds the `depth` items of highest inner product. items: unit vectors float N x D of the rows that take part."""

    items: Array
    rows_N: Array
    depth: int

    def exact(self, queries_qxD: Array) -> Array:
        """int64 q x depth: places in `rows_N`, the most similar first; compares all with all, a block at a time."""
        best_qxk, found_qxk = np.zeros((len(queries_qxD), 0), np.float32), np.zeros((len(queries_qxD), 0), np.int64)
        for low in range(0, self.rows_N.size, ITEMS_AT_ONCE):
            part = np.asarray(self.items[self.rows_N[low : low + ITEMS_AT_ONCE]], np.float32)
            scores = queries_qxD @ part.T
            top = np.argpartition(-scores, min(self.depth, scores.shape[1]) - 1, axis=1)[:, : self.depth]
            best_qxk = np.concatenate([best_qxk, np.take_along_axis(scores, top, axis=1)], axis=1)
            found_qxk = np.concatenate([found_qxk, top + low], axis=1)
            order = np.lexsort((found_qxk, -best_qxk), axis=1)[:, : self.depth]
            best_qxk = np.take_along_axis(best_qxk, order, axis=1)
            found_qxk = np.take_along_axis(found_qxk, order, axis=1)
        return found_qxk

    def hnsw(self) -> Callable[[Array], Array]:
        """As `exact`, but by usearch's hierarchical graph: misses some, costs about log N a query.

        Built by one thread, so that the same vectors give the same graph. Raises DataError without the extra `ann`.
        """
        try:
            from usearch.index import Index
        except ImportError as error:
            raise DataError("index=hnsw needs the package usearch: pip install 'moon-jax[ann]'") from error
        index = Index(ndim=self.items.shape[1], metric="ip", dtype="f32", expansion_search=WIDER * self.depth)
        for low in range(0, self.rows_N.size, ITEMS_AT_ONCE):
            part = np.asarray(self.items[self.rows_N[low : low + ITEMS_AT_ONCE]], np.float32)
            index.add(np.arange(low, low + len(part), dtype=np.uint64), part, threads=1)
        return lambda queries_qxD: index.search(queries_qxD, self.depth).keys.astype(np.int64).reshape(-1, self.depth)

    def recall(self, search: Callable[[Array], Array], queries_QxD: Array) -> float:
        """Share of the exact answers that `search` finds, over up to `SAMPLE` queries spread evenly."""
        chosen = np.unique(np.linspace(0, len(queries_QxD) - 1, SAMPLE).astype(np.int64))
        sample = np.asarray(queries_QxD[chosen], np.float32)
        wanted, found = self.exact(sample), search(sample)
        return float(np.mean([np.isin(w, f).mean() for w, f in zip(wanted, found, strict=True)]))
