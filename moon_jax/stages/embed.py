"""Embed: every item and query to a vector, and what retrieval makes of them over the full gallery."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from moon_jax.data.contract import DataError, read_table
from moon_jax.data.forms import SEARCHES, Form
from moon_jax.data.histories import rows_among
from moon_jax.data.loading import Prepared, words_of
from moon_jax.data.tables import read_schema
from moon_jax.metrics import (
    alignment,
    contrastive_entropy,
    hit_rate_at_k,
    neighbour_accuracy,
    recall_at_k,
    top_k,
    uniformity,
)
from moon_jax.weights import load_encoder

Array = np.ndarray
KS = (1, 10, 100)
SHARES = "image_shares.npz"
CANDIDATES = 256
SAMPLED, NEIGHBOURS = 2000, 10  # items whose spread and whose neighbours are looked at


@dataclass(frozen=True)
class EmbedConfig:
    """Which searches to measure.

    Attributes:
        searches: one form per search kind; its item side says what gallery items show.
        item: modalities of the representation that the application stage gets.
        seed: of the fixed candidates of the contrastive entropy, and of the items whose geometry is measured.
        dims: widths of beginnings of the vectors (Matryoshka) that are measured, too.
        queries: keep vectors of all queries, too, for behaviour that has queries.
    """

    searches: tuple[Form, ...]
    item: tuple[str, ...]
    seed: int = 0
    dims: tuple[int, ...] = field(default=(), metadata={"added": True})
    queries: bool = field(default=False, metadata={"added": True})


def embed(
    config: EmbedConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: encoder + prepared arrays -> `items.npy` (float16 N x D, in item row order), `image_hits.npy`
    (bool, which test queries of image search found a relevant item in the top 10), `image_shares.npz` (per name of a
    metric float32 Q, what each test query of image search scores), on request `queries.npy` (float16 Q x D), and search metrics.

    Metrics, for each search s: `s_recall@K`, `s_hit@K`, `s_entropy`, `s_alignment` and `s_queries` (how many) on the test split,
    `valid_s_recall@10`, `valid_s_entropy` and `valid_s_queries`; `gallery` is the number of items searched. Image search
    is read a second time, `_no_twins`, without the queries whose photo has a near-identical twin in the gallery.
    `s_recall@K_dN` and `s_hit@10_dN` are those of the first N dimensions, for each N of `dims`. Of the items' own vectors:
    `uniformity`, and with `items.parquet` among the files `category_knn@10`, whether the 10 nearest items tell the leaf category.
    """
    prepared = Prepared(inputs["prepare"])
    encoder_config, graph, params, temperature = load_encoder(inputs["posttrain"])
    encode = functools.partial(_encode_all, _encoder(graph), params)
    galleries: dict[tuple[str, ...], Array] = {}

    def gallery(item: tuple[str, ...]) -> Array:
        if item not in galleries:
            report(len(galleries), len(config.searches) + 1, doing=f"embedding items from {'+'.join(item)}")
            pixels = prepared.item_images if "image" in item else None
            words = words_of(item)
            galleries[item] = encode(pixels, prepared.item_words(words) if words else None)
        return galleries[item]

    metrics: dict[str, Any] = {"gallery": int(prepared.item_ids.size), "embedding": encoder_config.embedding}
    for form in config.searches:
        test, valid = (Search.of(prepared, form, split) for split in ("test", "valid"))
        queries_QxD, items_NxD = encode(*test.shown(prepared, form)), gallery(form.item)
        top_QxK = test.nearest(queries_QxD, items_NxD)
        shares = test.shares(top_QxK) | test.narrow_shares(queries_QxD, items_NxD, config.dims)
        measured = test.found(top_QxK) | test.closeness(queries_QxD, items_NxD, temperature, config.seed)
        measured |= {name: float(share_Q.mean()) for name, share_Q in shares.items() if name not in measured}
        if form.search == "image":
            measured |= test.without_twins(prepared, top_QxK)
            np.save(folder / "image_hits.npy", shares["hit@10"] > 0)
            np.savez(folder / SHARES, **shares)  # type: ignore[arg-type]  # its stub takes one for allow_pickle
        metrics |= {f"{form.search}_{name}": value for name, value in measured.items()}
        queries_QxD = encode(*valid.shown(prepared, form))
        measured = valid.found(valid.nearest(queries_QxD, items_NxD))
        measured |= valid.closeness(queries_QxD, items_NxD, temperature, config.seed)
        kept = ("recall@10", "entropy", "queries")
        metrics |= {f"valid_{form.search}_{name}": measured[name] for name in kept if name in measured}
    items_NxD = gallery(config.item)
    metrics |= geometry(items_NxD, categories_of(files.get("items"), prepared), config.seed)
    np.save(folder / "items.npy", items_NxD.astype(np.float16))
    if config.queries:
        np.save(folder / "queries.npy", all_queries(prepared, config.searches, encode).astype(np.float16))
    return metrics


def geometry(items_NxD: Array, category_N: Array | None, seed: int) -> dict[str, float]:
    """`uniformity` of some items drawn by the seed, `category_knn@10` of some that have a category among all that have one."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(items_NxD))[:SAMPLED]
    out = {"uniformity": uniformity(unit(items_NxD[drawn]))}
    known = np.flatnonzero(category_N >= 0) if category_N is not None else np.empty(0, int)
    if known.size > NEIGHBOURS:
        asked = rng.permutation(known.size)[:SAMPLED]
        vectors, category = items_NxD[known], category_N[known]  # type: ignore[index]
        nearest = top_k(vectors[asked], vectors, NEIGHBOURS, exclude_Q=asked)
        out[f"category_knn@{NEIGHBOURS}"] = neighbour_accuracy(category[nearest], category[asked])
    return out


def categories_of(path: Path | None, prepared: Prepared) -> Array | None:
    """int64 N, the leaf category of each prepared item, -1 where it has none; None where there are no categories."""
    if path is None:
        return None
    import polars as pl

    if "category" not in read_schema(path):
        return None
    table = read_table(path, ["item_id", "category"])
    leaf = table["category"].list.last()
    known = leaf.drop_nulls().unique().sort()
    if known.is_empty():
        return None
    codes = leaf.replace_strict(known, range(known.len()), default=-1, return_dtype=pl.Int64).to_numpy()
    rows, there = rows_among(table["item_id"].to_numpy(), np.asarray(prepared.item_ids))
    return np.where(there, codes[rows], -1)


def all_queries(
    prepared: Prepared, searches: tuple[Form, ...], encode: Callable[[Array | None, Array | None], Array]
) -> Array:
    """float32 Q x D in the order of `queries.parquet`; zeros for queries of searches that are not measured."""
    out = None
    for form in searches:
        rows = np.flatnonzero(prepared.query_search == SEARCHES.index(form.search))
        if not rows.size:
            continue
        pixels = prepared.query_pixels(form.search, rows) if "image" in form.query else None
        words = words_of(form.query)
        vectors = encode(pixels, prepared.query_words(form.search, rows, words) if words else None)
        out = np.zeros((len(prepared.query_search), vectors.shape[1]), np.float32) if out is None else out
        out[rows] = vectors
    if out is None:
        raise DataError("the data has no queries of the searches that are measured")
    return out


@dataclass(frozen=True)
class Search:
    """One search of one split: queries, their relevant gallery rows, and the row that each may not find (its own)."""

    queries_Q: Array
    relevant: list[Array]
    own_Q: Array

    @classmethod
    def of(cls, prepared: Prepared, form: Form, split: str) -> "Search":
        pairs = prepared.pairs_of(form.search, split)
        if not len(pairs):
            raise DataError(f"the data has no {split} pairs for {form.search} search")
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        queries_Q, starts = np.unique(pairs[:, 0], return_index=True)
        return cls(queries_Q, np.split(pairs[:, 1], starts[1:]), np.asarray(prepared.query_item[queries_Q]))

    def shown(self, prepared: Prepared, form: Form) -> tuple[Array | None, Array | None]:
        """(pixels, text) of the queries, in the form's modalities."""
        pixels = prepared.query_pixels(form.search, self.queries_Q) if "image" in form.query else None
        words = words_of(form.query)
        return pixels, prepared.query_words(form.search, self.queries_Q, words) if words else None

    def nearest(self, queries_QxD: Array, gallery_NxD: Array) -> Array:
        """int64 Q x K: the gallery rows that each query finds, best first, as deep as the largest of the KS or the gallery."""
        return top_k(queries_QxD, gallery_NxD, min(max(KS), len(gallery_NxD) - 1), exclude_Q=self.own_Q)

    def found(self, top_QxK: Array) -> dict[str, Any]:
        """`queries`, and recall@K and hit@K for the KS that the search went down to."""
        metrics: dict[str, Any] = {"queries": len(self.queries_Q)}
        for k in (k for k in KS if k <= top_QxK.shape[1]):
            metrics[f"recall@{k}"] = recall_at_k(top_QxK, self.relevant, k)
            metrics[f"hit@{k}"] = hit_rate_at_k(top_QxK, self.relevant, k)
        return metrics

    def closeness(
        self, queries_QxD: Array, gallery_NxD: Array, temperature: float | None, seed: int
    ) -> dict[str, float]:
        """Alignment with a relevant item, and with a temperature the contrastive entropy over fixed candidates."""
        positive_Q = np.array([rows[0] for rows in self.relevant])
        metrics = {"alignment": alignment(queries_QxD, gallery_NxD[positive_Q])}
        if temperature is not None:
            candidates = self.candidates(gallery_NxD.shape[0], seed)
            metrics["entropy"] = contrastive_entropy(queries_QxD, gallery_NxD, positive_Q, candidates, temperature)
        return metrics

    def shares(self, top_QxK: Array) -> dict[str, Array]:
        """What each query scores, float32 Q; the means are the metrics.

        "recall@K" for the KS: the share of its relevant rows that stand in its top K; "hit@10": whether one does.
        """
        out = {}
        for k in (k for k in KS if k <= top_QxK.shape[1]):
            found = [
                np.isin(np.unique(rows), best).mean() for best, rows in zip(top_QxK[:, :k], self.relevant, strict=True)
            ]
            out[f"recall@{k}"] = np.array(found, np.float32)
        if top_QxK.shape[1] >= 10:
            out["hit@10"] = (out["recall@10"] > 0).astype(np.float32)
        return out

    def narrow_shares(self, queries_QxD: Array, gallery_NxD: Array, dims: tuple[int, ...]) -> dict[str, Array]:
        """`shares` of the vectors' first N dimensions, for each N of `dims`, with `_dN` after the name."""
        out: dict[str, Array] = {}
        for dim in dims:
            top_QxK = self.nearest(unit(queries_QxD[:, :dim]), unit(gallery_NxD[:, :dim]))
            out |= {f"{name}_d{dim}": share_Q for name, share_Q in self.shares(top_QxK).items()}
        return out

    def without_twins(self, prepared: Prepared, top_QxK: Array) -> dict[str, Any]:
        """recall and hit rate at 10 over the queries without a near-identical twin, and the share that has one."""
        alone = ~prepared.query_twin[self.queries_Q]
        rest = Search(
            self.queries_Q[alone], [r for r, a in zip(self.relevant, alone, strict=True) if a], self.own_Q[alone]
        )
        measured = rest.found(top_QxK[alone])
        kept = {f"{name}_no_twins": value for name, value in measured.items() if name.endswith("@10")}
        return kept | {"twin_share": float(1 - alone.mean())}

    def candidates(self, items: int, seed: int) -> Array:
        """Q x 256 gallery rows, fixed by the seed, none of them relevant or the query's own."""
        rng = np.random.default_rng(seed)
        out = rng.integers(0, items, (len(self.queries_Q), CANDIDATES))
        for row, (relevant, own) in enumerate(zip(self.relevant, self.own_Q, strict=True)):
            banned = np.append(relevant, own)
            while (bad := np.isin(out[row], banned)).any():
                out[row, bad] = rng.integers(0, items, bad.sum())
        return out


def unit(vectors_NxD: Array) -> Array:
    """At length one."""
    return vectors_NxD / np.maximum(np.linalg.norm(vectors_NxD, axis=1, keepdims=True), 1e-12)


@functools.cache
def _encoder(graph: nnx.GraphDef) -> Callable[..., jax.Array]:
    return jax.jit(lambda params, pixels, text: nnx.merge(graph, params)(pixels, text))


def encoder_of(folder: Path) -> Callable[[Array | None, Array | None], Array]:
    """(pixels or None, text or None) -> float32 N x D, under the encoder that a post-training step saved."""
    _, graph, params, _ = load_encoder(folder)
    return functools.partial(_encode_all, _encoder(graph), params)


def _encode_all(
    encode: Callable[..., jax.Array], params: nnx.State, pixels: Array | None, text: Array | None, batch: int = 256
) -> Array:
    """float32 N x D, in equal batches (the last is padded, so that one compilation serves all)."""
    size = len(pixels) if pixels is not None else len(text) if text is not None else 0

    def blocks() -> Iterator[Array]:
        for start in range(0, size, batch):
            rows = np.minimum(np.arange(start, start + batch), size - 1)
            shown = [None if a is None else jnp.asarray(a[rows]) for a in (pixels, text)]
            yield np.asarray(encode(params, *shown))

    return np.concatenate(list(blocks()))[:size]
