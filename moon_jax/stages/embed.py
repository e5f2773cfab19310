"""Embed: every item and query to a vector, and what retrieval makes of them over the full gallery."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from moon_jax.data.contract import DataError
from moon_jax.data.forms import Form
from moon_jax.data.loading import Prepared
from moon_jax.metrics import contrastive_entropy, hit_rate_at_k, recall_at_k, top_k
from moon_jax.weights import load_encoder

Array = np.ndarray
KS = (1, 10, 100)
CANDIDATES = 256


@dataclass(frozen=True)
class EmbedConfig:
    """Which searches to measure.

    Attributes:
        searches: one form per search kind; its item side says what gallery items show.
        item: modalities of the representation that the application stage gets.
        seed: of the fixed candidates of the contrastive entropy.
    """

    searches: tuple[Form, ...]
    item: tuple[str, ...]
    seed: int = 0


def embed(
    config: EmbedConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: encoder + prepared arrays -> `items.npy` (float16 N x D, in item row order), `image_hits.npy`
    (bool, which test queries of image search found a relevant item in the top 10), `image_recall.npy` (float32, which
    share of their relevant items) and search metrics.

    Metrics, for each search s: `s_recall@K`, `s_hit@K`, `s_entropy` and `s_queries` (how many) on the test split,
    `valid_s_recall@10`, `valid_s_entropy` and `valid_s_queries`; `gallery` is the number of items searched. Image search
    is read a second time, `_no_twins`, without the queries whose photo has a near-identical twin in the gallery.
    """
    prepared = Prepared(inputs["prepare"])
    encoder_config, graph, params, temperature = load_encoder(inputs["posttrain"])
    encode = functools.partial(_encode_all, _encoder(graph), params)
    galleries: dict[tuple[str, ...], Array] = {}

    def gallery(item: tuple[str, ...]) -> Array:
        if item not in galleries:
            report(len(galleries), len(config.searches) + 1, doing=f"embedding items from {'+'.join(item)}")
            pixels = prepared.item_images if "image" in item else None
            galleries[item] = encode(pixels, prepared.item_text if "text" in item else None)
        return galleries[item]

    metrics: dict[str, Any] = {"gallery": int(prepared.item_ids.size), "embedding": encoder_config.embedding}
    for form in config.searches:
        for split in ("test", "valid"):
            search = Search.of(prepared, form, split)
            vectors_QxD = encode(*search.shown(prepared, form))
            measured = search.measure(vectors_QxD, gallery(form.item), temperature, config.seed)
            if split == "test" and form.search == "image":
                measured |= search.without_twins(prepared, vectors_QxD, gallery(form.item))
                recall_Q = search.recalls(vectors_QxD, gallery(form.item))
                np.save(folder / "image_recall.npy", recall_Q)
                np.save(folder / "image_hits.npy", recall_Q > 0)
            if split == "test":
                metrics |= {f"{form.search}_{name}": value for name, value in measured.items()}
            else:
                kept = ("recall@10", "entropy", "queries")
                metrics |= {f"valid_{form.search}_{name}": measured[name] for name in kept}
    np.save(folder / "items.npy", gallery(config.item).astype(np.float16))
    return metrics


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
        return pixels, prepared.query_words(form.search, self.queries_Q) if "text" in form.query else None

    def measure(self, queries_QxD: Array, gallery_NxD: Array, temperature: float | None, seed: int) -> dict[str, Any]:
        """recall@K and hit@K for the KS, and with a temperature the contrastive entropy over fixed candidates."""
        deepest = min(max(KS), gallery_NxD.shape[0] - 1)
        top = top_k(queries_QxD, gallery_NxD, deepest, exclude_Q=self.own_Q)
        metrics: dict[str, Any] = {"queries": len(self.queries_Q)}
        for k in (k for k in KS if k <= deepest):
            metrics[f"recall@{k}"] = recall_at_k(top, self.relevant, k)
            metrics[f"hit@{k}"] = hit_rate_at_k(top, self.relevant, k)
        if temperature is not None:
            positive_Q = np.array([rows[0] for rows in self.relevant])
            candidates = self.candidates(gallery_NxD.shape[0], seed)
            metrics["entropy"] = contrastive_entropy(queries_QxD, gallery_NxD, positive_Q, candidates, temperature)
        return metrics

    def recalls(self, queries_QxD: Array, gallery_NxD: Array, k: int = 10) -> Array:
        """float32 Q: the share of the query's relevant rows that stand in its top k; their mean is recall@k."""
        top = top_k(queries_QxD, gallery_NxD, min(k, gallery_NxD.shape[0] - 1), exclude_Q=self.own_Q)
        shares = [np.isin(np.unique(rows), found).mean() for found, rows in zip(top, self.relevant, strict=True)]
        return np.array(shares, np.float32)

    def without_twins(self, prepared: Prepared, queries_QxD: Array, gallery_NxD: Array) -> dict[str, Any]:
        """recall and hit rate at 10 over the queries without a near-identical twin, and the share that has one."""
        alone = ~prepared.query_twin[self.queries_Q]
        rest = Search(
            self.queries_Q[alone], [r for r, a in zip(self.relevant, alone, strict=True) if a], self.own_Q[alone]
        )
        measured = rest.measure(queries_QxD[alone], gallery_NxD, None, 0)
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
