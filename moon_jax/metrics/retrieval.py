"""Retrieval metrics over a full gallery.

recall@K = mean over queries of |relevant in top K| / |relevant|; hit rate@K = share of queries with a relevant item in
the top K; as sentence-transformers' InformationRetrievalEvaluator. The query item itself is taken out of the gallery.
"""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def top_k(queries_QxD: Array, gallery_NxD: Array, k: int, *, exclude_Q: Array | None = None, chunk: int = 512) -> Array:
    """The k best gallery rows for each query by inner product; ties go to the lower row.

    Args:
        queries_QxD: float; unit vectors make the product a cosine.
        gallery_NxD: float, N >= k (+ 1 where a row is excluded).
        k: how many.
        exclude_Q: a gallery row that a query must not find (its own item), -1 for none.
        chunk: queries scored at once: bounds memory at chunk x N floats.

    Returns:
        int64 Q x k, best first.
    """
    if k > gallery_NxD.shape[0] - (exclude_Q is not None):
        raise ValueError(f"k = {k} is more than a gallery of {gallery_NxD.shape[0]} items can answer")
    gallery_NxD = gallery_NxD.astype(np.float32)
    found = []
    for start in range(0, queries_QxD.shape[0], chunk):
        scores_qxN = queries_QxD[start : start + chunk].astype(np.float32) @ gallery_NxD.T
        if exclude_Q is not None:
            rows_q = exclude_Q[start : start + chunk]
            own = np.flatnonzero(rows_q >= 0)
            scores_qxN[own, rows_q[own]] = -np.inf
        best_qxk = np.sort(np.argpartition(-scores_qxN, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(scores_qxN, best_qxk, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(best_qxk, order, axis=1))
    return np.concatenate(found) if found else np.zeros((0, k), np.int64)


def _found(top_QxK: Array, relevant: Sequence[Array], k: int) -> list[int]:
    if k > top_QxK.shape[1]:
        raise ValueError(f"k = {k}, but only the top {top_QxK.shape[1]} were searched")
    if len(relevant) != top_QxK.shape[0] or any(len(r) == 0 for r in relevant):
        raise ValueError("relevant: every query needs at least one relevant gallery row")
    return [int(np.isin(top_QxK[q, :k], rows).sum()) for q, rows in enumerate(relevant)]


def recall_at_k(top_QxK: Array, relevant: Sequence[Array], k: int) -> float:
    """Mean over queries of the share of its relevant gallery rows that stand in its top k."""
    return float(
        np.mean(
            [n / len(set(np.asarray(r).tolist())) for n, r in zip(_found(top_QxK, relevant, k), relevant, strict=True)]
        )
    )


def hit_rate_at_k(top_QxK: Array, relevant: Sequence[Array], k: int) -> float:
    """Share of queries with at least one relevant gallery row in the top k."""
    return float(np.mean([n > 0 for n in _found(top_QxK, relevant, k)]))


def contrastive_entropy(
    queries_QxD: Array, gallery_NxD: Array, positive_Q: Array, candidates_QxC: Array, temperature: float
) -> float:
    """Mean negative log softmax of the positive among fixed candidates, in nats.

    Dense retrieval's smooth stand-in for ranking metrics (Fang et al., SIGIR 2024). log(C + 1) means "knows nothing".

    Args:
        queries_QxD: unit vectors.
        gallery_NxD: unit vectors.
        positive_Q: gallery row of a relevant item.
        candidates_QxC: gallery rows of the fixed other candidates.
        temperature: the model's own learned temperature.
    """
    queries_QxD = queries_QxD.astype(np.float64)
    positive_Qx1 = np.einsum("qd,qd->q", queries_QxD, gallery_NxD[positive_Q])[:, None]
    others_QxC = np.einsum("qd,qcd->qc", queries_QxD, gallery_NxD[candidates_QxC])
    logits = np.concatenate([positive_Qx1, others_QxC], axis=1) / temperature
    peak_Qx1 = logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(logits - peak_Qx1).sum(axis=1)) + peak_Qx1[:, 0] - logits[:, 0]))
