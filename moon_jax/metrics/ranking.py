"""AUC, GAUC, NDCG and log loss on whole arrays, in float64."""

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray


def _arrays(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    labels_N, scores_N = np.asarray(labels), np.asarray(scores, np.float64)
    if labels_N.ndim != 1 or labels_N.shape != scores_N.shape:
        raise ValueError(f"labels {labels_N.shape} and scores {scores_N.shape} must be two vectors of one length")
    if not np.isfinite(scores_N).all():
        raise ValueError(f"scores: {np.count_nonzero(~np.isfinite(scores_N))} of {scores_N.size} are not finite")
    if not np.isin(labels_N, (0, 1)).all():
        raise ValueError("labels: only 0 and 1 are allowed")
    return labels_N.astype(bool), scores_N


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, ties at half: scikit-learn's `roc_auc_score`.

    Args:
        labels: 0/1, length N.
        scores: finite, length N; any scale.

    Returns:
        The share of (positive, negative) pairs ranked rightly; nan where one class is missing.
    """
    labels_N, scores_N = _arrays(labels, scores)
    return float(user_aucs(labels_N, scores_N, np.zeros(labels_N.size, np.int8))[1][0])


def user_aucs(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> tuple[Array, Array, Array]:
    """AUC of every group in one pass: two sorts, no loop over users.

    Returns:
        (group ids G, AUC G with nan for groups of one class, impressions G), groups in sorted order.
    """
    labels_N, scores_N = _arrays(labels, scores)
    ids_G, group_N, size_G = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if group_N.shape != labels_N.shape:
        raise ValueError(f"groups {group_N.shape} and labels {labels_N.shape} must have one length")
    order_N = np.lexsort((scores_N, group_N))
    group_N, scores_N, labels_N = group_N[order_N], scores_N[order_N], labels_N[order_N]
    # A run of equal scores within a group shares its mean rank: that is what counts a tie as half.
    new_N = np.ones(labels_N.size, bool)
    new_N[1:] = (group_N[1:] != group_N[:-1]) | (scores_N[1:] != scores_N[:-1])
    first_T = np.flatnonzero(new_N)
    last_T = np.append(first_T[1:], labels_N.size) - 1
    start_G = np.cumsum(size_G) - size_G
    rank_N = ((first_T + last_T) / 2)[np.cumsum(new_N) - 1] - start_G[group_N] + 1
    positives_G = np.bincount(group_N, labels_N, ids_G.size)
    negatives_G = size_G - positives_G
    rank_sum_G = np.bincount(group_N, rank_N * labels_N, ids_G.size)
    pairs_G = positives_G * negatives_G
    with np.errstate(invalid="ignore", divide="ignore"):
        auc_G = np.where(pairs_G > 0, (rank_sum_G - positives_G * (positives_G + 1) / 2) / pairs_G, np.nan)
    return ids_G, auc_G, size_G


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> tuple[float, int]:
    """Impression-weighted mean of the users' AUC: FuxiCTR's gAUC.

    Returns:
        (value, number of users left out because all their labels are of one class); nan if all are left out.
    """
    _, auc_G, size_G = user_aucs(labels, scores, groups)
    kept_G = np.isfinite(auc_G)
    if not kept_G.any():
        return float("nan"), int(auc_G.size)
    return float(np.average(auc_G[kept_G], weights=size_G[kept_G])), int((~kept_G).sum())


def ndcg_at_k(grades: ArrayLike, scores: ArrayLike, groups: ArrayLike, k: int) -> tuple[float, int]:
    """Mean over groups (queries) of DCG@k / ideal DCG@k: gain = grade, discount = log2(1 + rank).

    Items of equal score share their mean gain, as in scikit-learn's `ndcg_score` (Jarvelin & Kekalainen 2002; ties
    after McSherry & Najork 2008).

    Args:
        grades: finite, >= 0, length N.
        scores: finite, length N; any scale.
        groups: the query of each row, length N.
        k: how deep, at least 1.

    Returns:
        (value, number of groups left out because nothing in them is relevant); nan if all are left out.
    """
    grades_N, scores_N, groups_N = np.asarray(grades, np.float64), np.asarray(scores, np.float64), np.asarray(groups)
    if not grades_N.ndim == scores_N.ndim == groups_N.ndim == 1 or not grades_N.size == scores_N.size == groups_N.size:
        raise ValueError(
            f"grades {grades_N.shape}, scores {scores_N.shape}, groups {groups_N.shape}: three vectors of one length"
        )
    if not np.isfinite(scores_N).all() or not np.isfinite(grades_N).all() or (grades_N < 0).any():
        raise ValueError("grades and scores must be finite, and no grade below 0")
    if k < 1:
        raise ValueError(f"k = {k}: at least 1")
    _, group_N, size_G = np.unique(groups_N, return_inverse=True, return_counts=True)
    rank_N = np.arange(grades_N.size) - np.repeat(np.cumsum(size_G) - size_G, size_G)
    discount_N = np.where(rank_N < k, 1 / np.log2(rank_N + 2.0), 0.0)
    by_group_N = np.sort(group_N)

    def dcg(order_N: Array, by_N: Array) -> Array:
        new_N = np.ones(by_N.size, bool)
        new_N[1:] = (by_group_N[1:] != by_group_N[:-1]) | (np.diff(by_N[order_N]) != 0)
        tie_N = np.cumsum(new_N) - 1
        gain_N = (np.bincount(tie_N, grades_N[order_N]) / np.bincount(tie_N))[tie_N] if by_N.size else by_N
        return np.bincount(by_group_N, gain_N * discount_N, size_G.size)

    found_G = dcg(np.lexsort((-scores_N, group_N)), scores_N)
    ideal_G = dcg(np.lexsort((-grades_N, group_N)), grades_N)
    kept_G = ideal_G > 0
    if not kept_G.any():
        return float("nan"), int(size_G.size)
    return float(np.mean(found_G[kept_G] / ideal_G[kept_G])), int((~kept_G).sum())


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log likelihood in nats, probabilities clipped to float64's smallest distance from 0 and 1."""
    labels_N, p_N = _arrays(labels, probabilities)
    if ((p_N < 0) | (p_N > 1)).any():
        raise ValueError("probabilities: must lie in [0, 1]; pass probabilities, not logits")
    eps = np.finfo(np.float64).eps
    p_N = np.clip(p_N, eps, 1 - eps)
    return float(-np.mean(np.where(labels_N, np.log(p_N), np.log1p(-p_N))))


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = 20) -> float:
    """Expected calibration error: mean distance between click rate and mean probability over bins of equal mass.

    Bins hold equally many impressions (within one), in order of probability; those of equal probability may fall into
    different bins (Naeini et al. 2015, with equal mass as Nixon et al. 2019, arXiv 1904.01685).
    """
    labels_N, p_N = _arrays(labels, probabilities)
    if not labels_N.size:
        return float("nan")
    order_N = np.argsort(p_N, kind="stable")
    bin_N = np.arange(labels_N.size) * bins // labels_N.size
    apart_B = np.bincount(bin_N, labels_N[order_N] - p_N[order_N], bins)
    return float(np.abs(apart_B).sum() / labels_N.size)
