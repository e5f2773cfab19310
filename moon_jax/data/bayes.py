"""The best that anyone can predict from a history of a given length: exact marginalisation over what was not seen."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64, 128)  # of worlds with as few events; longer histories have further doublings
_MIXED = 2**22  # impressions times values of the unseen rest at a time


@dataclass(frozen=True)
class Personas:
    """Known, equally likely distributions over styles: of a user's events and of what is shown, each [Z, S]."""

    events: np.ndarray
    targets: np.ndarray


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit))."""
    return 0.5 * (1 + np.tanh(0.5 * logit))


def lag_weights(stop: int, scale: int, decay: float) -> np.ndarray:
    """Integer weights of lags 1..stop: round(scale * 2^(-decay k)), at least 1, for the lags 2^(k-1) + 1 to 2^k."""
    doubling = np.ceil(np.log2(np.arange(1, stop + 1)))
    return np.maximum(1, np.rint(scale * 2.0 ** (-decay * doubling))).astype(np.int64)


def weigh(same_NxL: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum of the weights of the lags that are the same, int64 [N]; lags of equal weight are counted together."""
    total_N = np.zeros(len(same_NxL), np.int64)
    edges = [*np.flatnonzero(np.diff(weights, prepend=-1)).tolist(), len(weights)]
    for start, end in itertools.pairwise(edges):
        total_N += weights[start] * np.count_nonzero(same_NxL[:, start:end], axis=1)
    return total_N


def bayes_probabilities(
    logit_N: np.ndarray,
    gain: float,
    target_N: np.ndarray,
    recent_NxL: np.ndarray,
    personas: Personas,
    weights: np.ndarray,
    lengths: Sequence[int] = LENGTHS,
) -> dict[int, np.ndarray]:
    """E[p | target, its item's effect, last L events] for each L, float64 [N].

    `logit_N` is the logit without the history's part, `target_N` the style shown, `recent_NxL` the styles of the last
    events, newest first (as many as `weights`, at least), -1 where a user has had fewer; how many there were is taken
    as known at every L. Given the persona, the events beyond L are independent of those within, so the unseen rest of s
    is a weighted sum of independent binomials; its exact distribution is tabled.
    """
    stop = len(weights)
    same_NxL = recent_NxL[:, :stop] == target_N[:, None]
    depth_N = (recent_NxL[:, :stop] >= 0).sum(axis=1)  # how many events there are that could tell
    log_events_SxZ = np.log(personas.events.T)
    log_posterior_NxZ = np.log(personas.targets.T)[target_N]
    known_N = np.zeros(len(target_N), np.int64)  # the part of s that the last L events decide
    result = {}
    reached = 0
    for length in sorted(lengths):
        further = slice(reached, max(reached, min(length, stop)))
        # Where there is no such event (-1) all is seen already, and the posterior plays no part.
        seen_NxL = recent_NxL[:, further]
        counts_NxS = np.stack([(seen_NxL == style).sum(axis=1) for style in range(len(log_events_SxZ))], axis=1)
        log_posterior_NxZ = log_posterior_NxZ + counts_NxS @ log_events_SxZ
        known_N = known_N + weigh(same_NxL[:, further], weights[further])
        reached = further.stop
        result[length] = sigmoid(logit_N + gain * known_N)  # where nothing is left to guess
        if not (depth_N > reached).any():
            continue
        posterior_NxZ = np.exp(log_posterior_NxZ - log_posterior_NxZ.max(axis=1, keepdims=True))
        posterior_NxZ /= posterior_NxZ.sum(axis=1, keepdims=True)
        for depth, rest_ZxSxR in _rests(personas.events, weights, reached, depth_N):
            rows = np.flatnonzero(depth_N == depth)
            logit = logit_N[rows] + gain * known_N[rows]
            result[length][rows] = _mix(logit, gain, target_N[rows], posterior_NxZ[rows], rest_ZxSxR)
    return result


def _rests(
    match_ZxS: np.ndarray, weights: np.ndarray, reached: int, depth_N: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """For each number of events beyond `reached` that occurs, the distribution of what those unseen add to s."""
    stop = len(weights)
    if (depth_N == stop).any():
        yield stop, rest_distribution(match_ZxS, weights[reached:])
    shorter = set(np.unique(depth_N[(depth_N > reached) & (depth_N < stop)]).tolist())
    if not shorter:
        return
    rest_ZxSxR = np.zeros((*match_ZxS.shape, int(weights[reached : max(shorter)].sum()) + 1))
    rest_ZxSxR[..., 0] = 1
    for lag in range(reached, max(shorter)):  # one event more at a time
        hit_ZxSxR = match_ZxS[..., None] * rest_ZxSxR
        rest_ZxSxR -= hit_ZxSxR
        weight = int(weights[lag])
        rest_ZxSxR[..., weight:] += hit_ZxSxR[..., : rest_ZxSxR.shape[-1] - weight]
        if lag + 1 in shorter:
            yield lag + 1, rest_ZxSxR


def rest_distribution(match_ZxS: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Exact distribution of sum_l weights[l] * Bernoulli(match), float64 [Z, S, sum(weights) + 1].

    By its characteristic function, the product over lags of 1 - match + match exp(i t weight), at as many points as there
    are values: lags of equal weight are a power, and one inverse Fourier transform gives all shares (to about 1e-15).
    """
    size = int(weights.sum()) + 1
    point_F = np.arange(size // 2 + 1)
    product_ZxSxF = np.ones((*match_ZxS.shape, point_F.size), np.complex128)
    for weight, count in zip(*np.unique(weights, return_counts=True), strict=True):
        turn_F = np.exp(-2j * np.pi * (point_F * weight % size) / size)
        product_ZxSxF *= (1 + match_ZxS[..., None] * (turn_F - 1)) ** int(count)
    return np.maximum(np.fft.irfft(product_ZxSxF, size), 0.0)


def _mix(
    logit_N: np.ndarray, gain: float, target_N: np.ndarray, posterior_NxZ: np.ndarray, rest_ZxSxR: np.ndarray
) -> np.ndarray:
    """The mean of sigmoid(logit + gain * rest) over personas and the rest; style by style: tables stay small."""
    # exp(-(logit + value)) is a product, so that one table of exponentials serves all rows.
    odds_N, odds_R = np.exp(-logit_N), np.exp(-gain * np.arange(rest_ZxSxR.shape[-1]))
    mixed_N = np.empty(len(logit_N))
    for style in np.unique(target_N):
        rows = np.flatnonzero(target_N == style)
        for part in np.array_split(rows, max(1, len(rows) * len(odds_R) // _MIXED)):
            rest_PxR = posterior_NxZ[part] @ rest_ZxSxR[:, style]
            mixed_N[part] = (rest_PxR / (1 + odds_N[part, None] * odds_R)).sum(axis=1)
    return mixed_N
