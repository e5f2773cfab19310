"""Retrieval: the first stage of the funnel, what a user will click found among all items by what they did before."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.data.histories import Behaviour, read_behaviour
from moon_jax.data.processing.nearest import Nearest
from moon_jax.stages.application import representations
from moon_jax.stages.embed import unit

Array = np.ndarray
KS = (10, 100)
AT_ONCE = 1024  # queries


@dataclass(frozen=True)
class RetrievalConfig:
    """How a user becomes a query.

    Attributes:
        length: last events whose items' representations are averaged.
        ann: search by an approximate index, too (usearch's HNSW; the extra `ann`), and say what it misses.
    """

    length: int = 20
    ann: bool = False


def retrieval(
    config: RetrievalConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: representations + behaviour -> `retrieval_hits.npz` (impression_id, user, and per K whether it was found).

    A query is the mean of the representations of a user's last items; what it should find is the item clicked next, of
    each clicked test impression, over the full catalogue. `retrieval_recall@K` with its standard error over users,
    `retrieval_popularity@K` of the K items clicked most in training (the floor), `retrieval_chance@K`. With `ann`
    `retrieval_ann_recall@K` and `retrieval_ann_found`, the share of the exact answers that the index finds.
    Impressions without any item before them are left out and counted.
    """
    behaviour = read_behaviour(files["items"], files.get("events"), files["impressions"])
    vectors_NxD = representations(files, inputs, behaviour)
    if vectors_NxD is None:
        raise DataError("retrieval needs representations: an embed step, or embeddings.parquet")
    vectors_NxD = unit(vectors_NxD.astype(np.float32))
    clicked = np.flatnonzero((behaviour.split == "test") & (behaviour.clicked > 0))
    queries_QxD, kept_Q = users_as_queries(behaviour, vectors_NxD, clicked, config.length)
    rows, queries_QxD = clicked[kept_Q], queries_QxD[kept_Q]
    if not rows.size:
        raise DataError("retrieval: no clicked test impression has an item in its history")
    depth = min(max(KS), behaviour.items)
    nearest = Nearest(vectors_NxD, np.arange(behaviour.items), depth)
    target_Q, user_Q = behaviour.impression_item[rows], behaviour.user[rows]
    at_Q = _places(nearest.exact, queries_QxD, target_Q, report)
    ks = [k for k in KS if k <= depth]
    hits = {f"recall@{k}": at_Q < k for k in ks}
    saved = {"impression_id": behaviour.impression_ids[rows], "user": user_Q, **hits}
    np.savez(folder / "retrieval_hits.npz", **saved)
    training = (behaviour.split == "train") & (behaviour.clicked > 0)
    clicks_N = np.bincount(behaviour.impression_item[training], minlength=behaviour.items)
    popular = np.argsort(-clicks_N, kind="stable")[:depth]
    metrics: dict[str, Any] = {
        "retrieval_impressions": int(rows.size),
        "retrieval_left_out": int(clicked.size - rows.size),
        "retrieval_gallery": behaviour.items,
    }
    for k in ks:
        found_Q = hits[f"recall@{k}"]
        metrics |= {
            f"retrieval_recall@{k}": float(found_Q.mean()),
            f"retrieval_recall@{k}_se": error_over_users(found_Q, user_Q),
            f"retrieval_popularity@{k}": float(np.isin(target_Q, popular[:k]).mean()),
            f"retrieval_chance@{k}": k / behaviour.items,
        }
    if config.ann:
        search = nearest.hnsw()
        near_Q = _places(search, queries_QxD, target_Q, report)
        metrics |= {f"retrieval_ann_recall@{k}": float((near_Q < k).mean()) for k in ks}
        metrics["retrieval_ann_found"] = nearest.recall(search, queries_QxD)
    return metrics


def users_as_queries(behaviour: Behaviour, vectors_NxD: Array, rows_Q: Array, length: int) -> tuple[Array, Array]:
    """(unit vectors Q x D: the mean over the last `length` events that have an item, bool Q whether there was one)."""
    queries, kept = [], []
    for start in range(0, rows_Q.size, AT_ONCE):
        history_qxL, _ = behaviour.history(rows_Q[start : start + AT_ONCE], length)
        real_qxL = history_qxL >= 0
        total = np.einsum("qld,ql->qd", vectors_NxD[np.maximum(history_qxL, 0)], real_qxL.astype(np.float32))
        queries.append(unit(total))
        kept.append(real_qxL.any(axis=1))
    if not queries:
        return np.zeros((0, vectors_NxD.shape[1]), np.float32), np.zeros(0, bool)
    return np.concatenate(queries), np.concatenate(kept)


def error_over_users(found_Q: Array, user_Q: Array) -> float:
    """Standard error of a share, users as the unit of chance; nan with one user."""
    _, at_Q = np.unique(user_Q, return_inverse=True)
    apart_U = np.bincount(at_Q, found_Q - found_Q.mean())
    users = apart_U.size
    return float(np.sqrt((apart_U**2).sum() * users / (users - 1)) / found_Q.size) if users > 1 else math.nan


def _places(
    search: Callable[[Array], Array], queries_QxD: Array, target_Q: Array, report: Callable[..., None]
) -> Array:
    """The place of each target among what the search returns; as many as it returns where it is not there."""
    out = []
    for start in range(0, len(queries_QxD), AT_ONCE):
        report(start, len(queries_QxD), doing="searching")
        found_qxK = search(queries_QxD[start : start + AT_ONCE])
        hit_qxK = found_qxK == target_Q[start : start + AT_ONCE, None]
        out.append(np.where(hit_qxK.any(axis=1), hit_qxK.argmax(axis=1), found_qxK.shape[1]))
    return np.concatenate(out)
