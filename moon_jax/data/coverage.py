"""A learner whose scaling law is known: it remembers every combination of attributes that it has seen, and no more.

After n samples its error is the probability of what it has not seen yet. For K kinds of frequency p_k this is, in
expectation, exactly

    U(n) = sum_k p_k (1 - p_k)^n

For Zipf's p_k = k^-a / H, a > 1, and many kinds, the sum turns into an integral over p with density
H^(-1/a) p^(-1/a - 1) / a, so that

    U(n) ~ Gamma(1 - 1/a) / a * H^(-1/a) * n^-(1 - 1/a)        for  1 / p_1  <<  n  <<  1 / p_K

Before, the most frequent kind is not yet seen for sure; beyond, all kinds have been seen and U falls exponentially. The
power also ends early where a is near 1, as the kinds beyond K, which are not there, would have held much of the mass;
for a <= 1 there is none. (The same argument as in Hutter, "Learning Curve Theory", 2021, and Michaud et al., "The
Quantization Model of Neural Scaling", 2023.)
"""

from typing import Any

import numpy as np

_CLOSE = 0.05  # the power law holds where the local exponent is this near to it, relatively
_PARTS = 1 << 22


def zipf_shares(values: int, exponent: float) -> np.ndarray:
    """p_k = k^-exponent / H of k = 1..values, float64."""
    shares = np.arange(1.0, values + 1) ** -exponent
    return shares / shares.sum()


def unseen_mass(shares_K: np.ndarray, samples_N: np.ndarray) -> np.ndarray:
    """U(n) for every n of `samples_N`, exactly, float64 [N]."""
    log_K = np.log1p(-np.minimum(shares_K, 1 - 1e-16))
    return np.array([(shares_K * np.exp(n * log_K)).sum() for n in np.asarray(samples_N, np.float64)])


def local_exponent(shares_K: np.ndarray, samples_N: np.ndarray) -> np.ndarray:
    """-d log U / d log n at every n of `samples_N`, exactly, float64 [N]."""
    log_K = np.log1p(-np.minimum(shares_K, 1 - 1e-16))
    slopes = []
    for n in np.asarray(samples_N, np.float64):
        left_K = shares_K * np.exp(n * log_K)
        slopes.append(-n * (left_K * log_K).sum() / left_K.sum())
    return np.array(slopes)


def coverage_law(values: int, exponent: float) -> dict[str, Any]:
    """`exponent` 1 - 1/a, `amplitude`, and `valid` [n, n]: where U's own slope is within 5 % of it.

    For a <= 1, or where the slope comes nowhere that near, what does not hold is None.
    """
    if exponent <= 1:
        return {"exponent": None, "amplitude": None, "valid": None}
    from scipy.special import gamma

    shares = zipf_shares(values, exponent)
    power = 1 - 1 / exponent
    samples = np.unique(np.round(np.geomspace(1, 100 / shares[-1], 200)))
    near = np.flatnonzero(np.abs(local_exponent(shares, samples) / power - 1) < _CLOSE)
    return {
        "exponent": round(power, 6),
        "amplitude": round(float(gamma(power) / exponent * shares[0] ** (1 / exponent)), 6),  # p_1 = 1 / H
        "valid": [int(samples[near[0]]), int(samples[near[-1]])] if len(near) else None,
    }


def simulated_errors(shares_K: np.ndarray, samples_N: np.ndarray, seed: int) -> np.ndarray:
    """The error of one learner after each of the rising numbers of samples, float64 [N]: a draw of what U expects."""
    rng = np.random.default_rng([seed, 13])
    cumulative_K = np.cumsum(shares_K)
    unseen_K = np.ones(len(shares_K), bool)
    errors, drawn = [], 0
    for n in np.asarray(samples_N, np.int64):
        while drawn < n:
            count = min(_PARTS, int(n) - drawn)
            kinds = np.searchsorted(cumulative_K, rng.random(count) * cumulative_K[-1], side="right")
            unseen_K[np.minimum(kinds, len(shares_K) - 1)] = False
            drawn += count
        errors.append(shares_K[unseen_K].sum())
    return np.array(errors)
