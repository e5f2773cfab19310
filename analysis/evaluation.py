"""Evaluation noise: the binomial scatter of a share (a recall, a hit rate) that was measured on a finite number of trials.

A run scatters by its seed, too. The two add: Var = beyond + v(share, trials), with `beyond` estimated from what the
residuals show above the trials' own noise (the moment estimator of random-effects meta-analysis, DerSimonian & Laird 1986).
"""

from __future__ import annotations

import numpy as np


def share_variance(values: np.ndarray, trials: np.ndarray | float, *, error: bool, logs: bool) -> np.ndarray:
    """Variance of values (n,) that are shares of `trials`, or 1 minus shares (`error`), in logs if asked for: (n,).

    Of k hits in n trials 1/2 is added to each side: a row with no hit is not known without error.
    """
    share = np.clip(1 - values if error else values, 0.0, 1.0)
    share = (share * trials + 0.5) / (trials + 1.0)
    variance = share * (1 - share) / trials
    return np.asarray(variance / values**2 if logs else variance)


def beyond_trials(residuals: np.ndarray, variance: np.ndarray, leverage: np.ndarray, freedom: int) -> float:
    """What the squared residuals (n,) show above the trials' own variance (n,), at least 0.

    leverage (n,) of the fit with weights 1 / variance; freedom: points minus parameters.
    """
    weights = 1 / variance
    surplus = np.sum(weights * residuals**2) - freedom
    return float(max(surplus / np.sum(weights * (1 - leverage)), 0.0))
