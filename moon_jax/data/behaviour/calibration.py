"""Bias and gain of the click model, so that a log has the wanted click rate and AUC."""

import numpy as np

from moon_jax.data.bayes import sigmoid
from moon_jax.data.contract import DataError

_LARGEST_GAIN = 0.5  # enough for the default weights
_DOUBLINGS = 6


def calibrate(effect_N: np.ndarray, match_N: np.ndarray, auc: float, click_rate: float) -> tuple[float, float]:
    """(bias, gain), to 4 decimals, that give the wanted AUC of the true probability and the wanted click rate.

    Raises DataError where no gain gives that AUC.
    """

    def reached(gain: float) -> float:
        logit_N = effect_N + gain * match_N
        return _truth_auc(sigmoid(_bias(logit_N, click_rate) + logit_N))

    low, high = 0.0, _LARGEST_GAIN
    tried = []
    for _ in range(_DOUBLINGS):
        tried.append(reached(high))
        if tried[-1] >= auc:
            break
        high *= 2
    else:
        raise DataError(
            f"an AUC of {auc} cannot be reached; with these weights the truth has at most {max(tried):.3f}: more styles, "
            "or attributes that part the items more evenly, would help"
        )
    for _ in range(20):
        gain = (low + high) / 2
        low, high = (gain, high) if reached(gain) < auc else (low, gain)
    gain = round((low + high) / 2, 4)
    return round(_bias(effect_N + gain * match_N, click_rate), 4), gain


def _bias(logit_N: np.ndarray, click_rate: float) -> float:
    low, high = -30.0, 30.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(middle + logit_N).mean() < click_rate else (low, middle)
    return (low + high) / 2


def _truth_auc(probability_N: np.ndarray) -> float:
    """`expected_auc` of the probabilities as their own scores, faster; ties hardly matter here."""
    ordered = np.sort(probability_N)
    below = np.cumsum(1 - ordered) - (1 - ordered)  # non-clicks expected below each
    pairs = ordered.sum() * (1 - ordered).sum()
    return float((ordered * below).sum() / pairs) if pairs > 0 else 0.5  # all click, or none: there is nothing to rank


def expected_auc(probability_N: np.ndarray, scores_N: np.ndarray) -> float:
    """The AUC to expect of scores when clicks are drawn with the given probabilities.

    It is a ratio of expectations: the rightly ordered pairs, ties at half, over all pairs of a click and none.
    """
    _, tie_N = np.unique(scores_N, return_inverse=True)
    clicks_T = np.bincount(tie_N, probability_N)
    others_T = np.bincount(tie_N, 1 - probability_N)
    below_T = np.cumsum(others_T) - others_T / 2
    return float((clicks_T * below_T).sum() / (clicks_T.sum() * others_T.sum()))
