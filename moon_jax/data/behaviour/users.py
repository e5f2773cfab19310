"""What users want: personas, the popularity of items, and draws from both."""

import numpy as np

from moon_jax.data.bayes import Personas
from moon_jax.data.behaviour.config import BehaviourConfig

_TRIES = 100


def draw_personas(styles: int, config: BehaviourConfig, rng: np.random.Generator) -> Personas:
    """Known distributions over styles: half Zipf (shared), half spread over a persona's few favourites."""
    base_S = (1.0 + rng.permutation(styles)) ** -config.zipf_styles
    base_S /= base_S.sum()
    events_ZxS = np.empty((config.personas, styles))
    favourites = min(config.favourites, styles)
    for row in events_ZxS:
        spread = np.zeros(styles)
        spread[rng.choice(styles, favourites, replace=False)] = 1 / favourites
        row[:] = (1 - config.favourite_share) * base_S + config.favourite_share * spread
    return Personas(events=events_ZxS, targets=0.5 * events_ZxS + 0.5 * base_S)


def draw_rows(distribution_ZxS: np.ndarray, row_U: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` draws for each user from the row of its persona: int [U, count]."""
    uniform = rng.random((len(row_U), count))
    drawn = np.empty(uniform.shape, np.int64)
    for index, row in enumerate(distribution_ZxS):
        mine = row_U == index
        drawn[mine] = np.searchsorted(np.cumsum(row)[:-1], uniform[mine], side="right")
    return drawn


def split_users(users: int, config: BehaviourConfig, rng: np.random.Generator) -> np.ndarray:
    """The split of each of `users` users: those of valid and test are never seen in training."""
    test = max(1, round(users * config.test_share))
    valid = max(1, round(users * config.valid_share))
    return rng.permutation(np.repeat(["train", "valid", "test"], [users - valid - test, valid, test]))


class Popularity:
    """Draws items of given styles, each style's items by Zipf popularity; nothing before it is available."""

    def __init__(
        self, style_I: np.ndarray, exponent: float, rng: np.random.Generator, available_I: np.ndarray | None = None
    ) -> None:
        order = rng.permutation(len(style_I))
        self._items_I = order[np.argsort(style_I[order], kind="stable")]  # by style, then most popular first
        count_S = np.bincount(style_I)
        self._start_S = np.cumsum(count_S) - count_S
        self._cumulative_S = [np.cumsum((1.0 + np.arange(count)) ** -exponent) for count in count_S]
        self._available_I = available_I
        self.rank_I = np.empty(len(style_I), np.int64)  # 0: the most popular of its style
        self.rank_I[self._items_I] = np.arange(len(style_I)) - np.repeat(self._start_S, count_S)
        self.tail_I = self.rank_I >= (count_S[style_I] + 1) // 2  # the less popular half of each style
        if available_I is not None:
            by_arrival = np.lexsort((available_I, style_I))
            self._earliest_S = by_arrival[self._start_S]

    @property
    def complete_from(self) -> int:
        """The time from which on every style has an item."""
        return 0 if self._available_I is None else int(self._available_I[self._earliest_S].max())

    def __call__(self, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Items of these styles, as if all were available."""
        uniform = rng.random(style.shape)
        drawn = np.empty(style.shape, np.int64)
        for index, cumulative in enumerate(self._cumulative_S):
            here = style == index
            rank = np.searchsorted(cumulative, uniform[here] * cumulative[-1], side="right")
            drawn[here] = self._items_I[self._start_S[index] + np.minimum(rank, len(cumulative) - 1)]
        return drawn

    def redraw_early(self, item: np.ndarray, style: np.ndarray, time: np.ndarray, rng: np.random.Generator) -> None:
        """Draws anew, in place, what is not available at its time: popularity among what is there.

        After 100 vain tries (an unpopular item stands in a style almost alone) the style's earliest item is taken.
        """
        if self._available_I is None:
            return
        for _ in range(_TRIES):
            early = self._available_I[item] >= time
            if not early.any():
                return
            item[early] = self(style[early], rng)
        early = self._available_I[item] >= time
        item[early] = self._earliest_S[style[early]]
