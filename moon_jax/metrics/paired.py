"""Paired differences: the same test impressions under two scorers, users as the unit of chance."""

import numpy as np
from numpy.typing import ArrayLike

from moon_jax.metrics.ranking import user_aucs


def paired_gauc(labels: ArrayLike, scores: ArrayLike, baseline: ArrayLike, groups: ArrayLike) -> tuple[float, float]:
    """GAUC(scores) - GAUC(baseline) on the same impressions, with its standard error over users.

    GAUC is a ratio of sums over users, so the standard error is that of a weighted mean (linearised ratio):
    sqrt(sum (n_u (d_u - d))^2) / sum n_u, with d_u a user's difference of AUC and n_u its impressions.

    Returns:
        (difference, standard error); nan with fewer than two users of both classes.
    """
    _, auc_G, size_G = user_aucs(labels, scores, groups)
    _, base_G, _ = user_aucs(labels, baseline, groups)
    kept = np.isfinite(auc_G)
    if kept.sum() < 2:
        return float("nan"), float("nan")
    difference_G, size_G = (auc_G - base_G)[kept], size_G[kept].astype(np.float64)
    mean = float(np.average(difference_G, weights=size_G))
    users = kept.sum()
    error = np.sqrt(np.sum((size_G * (difference_G - mean)) ** 2) * users / (users - 1)) / size_G.sum()
    return mean, float(error)
