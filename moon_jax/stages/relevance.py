"""Relevance: the second stage of the funnel, judged pairs of query and item ordered by their cosine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.data.contract import DataError, read_table
from moon_jax.data.forms import Form
from moon_jax.data.histories import rows_among
from moon_jax.data.loading import Prepared, words_of
from moon_jax.metrics import gauc, ndcg_at_k
from moon_jax.stages.embed import encoder_of, unit

Array = np.ndarray
K = 10


@dataclass(frozen=True)
class RelevanceConfig:
    """What a query shows: the query side of a search form; items are those of the embed step."""

    form: Form


def relevance(
    config: RelevanceConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: encoder, items' vectors and `relevance.parquet` -> how well cosines order what was judged, on test.

    `relevance_ndcg@10` (gain = grade, mean over queries), `relevance_auc` (of pairs with at least half of the highest grade
    against the others, within each query, weighted by its pairs), `relevance_pairs`, `relevance_queries`, and how many
    queries each leaves out for having nothing to order.
    """
    judged = read_table(files["relevance"], ["query_id", "item_id", "grade", "split"])
    judged = judged.filter(judged["split"] == "test")
    if not judged.height:
        raise DataError(f"{files['relevance']}: no pair of the test split")
    prepared = Prepared(inputs["prepare"])
    query_ids = read_table(files["queries"], ["query_id"])["query_id"].to_numpy()
    queries, items = judged["query_id"].to_numpy(), judged["item_id"].to_numpy()
    rows_P = _rows_of(query_ids, queries, "query_id", files["relevance"])
    item_P = _rows_of(np.asarray(prepared.item_ids), items, "item_id", files["relevance"])
    asked_Q, at_P = np.unique(rows_P, return_inverse=True)
    pixels = prepared.query_pixels(config.form.search, asked_Q) if "image" in config.form.query else None
    words = words_of(config.form.query)
    text = prepared.query_words(config.form.search, asked_Q, words) if words else None
    queries_QxD = unit(encoder_of(inputs["posttrain"])(pixels, text))
    items_NxD = unit(np.load(inputs["embed"] / "items.npy", allow_pickle=False).astype(np.float32))
    scores_P = np.einsum("pd,pd->p", queries_QxD[at_P], items_NxD[item_P])
    grades_P = judged["grade"].to_numpy().astype(np.float64)
    np.savez(folder / "relevance.npz", query_id=queries, item_id=items, grade=grades_P, score=scores_P)
    ndcg, nothing = ndcg_at_k(grades_P, scores_P, queries, K)
    auc, one_class = gauc((grades_P >= grades_P.max() / 2).astype(int), scores_P, queries)
    return {
        f"relevance_ndcg@{K}": ndcg,
        f"relevance_ndcg@{K}_left_out": nothing,
        "relevance_auc": auc,
        "relevance_auc_left_out": one_class,
        "relevance_pairs": judged.height,
        "relevance_queries": int(asked_Q.size),
    }


def _rows_of(known: Array, ids: Array, name: str, path: Path) -> Array:
    rows, found = rows_among(known, ids)
    if (unknown := np.flatnonzero(~found)).size:
        raise DataError(f"{path}: unknown {name} {ids[unknown[0]]}")
    return rows
