"""How many users a simulated log has, and what is planted in it."""

from dataclasses import dataclass, field, fields
from math import ceil, exp, isfinite, log2
from typing import TYPE_CHECKING, Any

import numpy as np

from moon_jax.data.bayes import LENGTHS, lag_weights
from moon_jax.data.contract import DataError

if TYPE_CHECKING:
    import polars as pl

START = 1_700_000_000  # seconds: when the simulated log begins
LOG_GAP, GAP_SPREAD = 7.0, 1.5  # the seconds between two events are log-normal
FOLLOWS = ("history", "popularity")


def require_finite(config: Any) -> None:
    """DataError where a float of a config (a dataclass) is nan or infinite: comparisons alone let nan through."""
    for name in (one.name for one in fields(config)):
        if isinstance(value := getattr(config, name), float) and not isfinite(value):
            raise DataError(f"{name} is {value}, must be a finite number")


@dataclass(frozen=True)
class BehaviourConfig:
    """How many users there are and what they want.

    Attributes:
        users, impressions: how many users, and impressions of each.
        events_before: events of a user before the first impression; one to three more come before each page.
        personas, favourites, favourite_share: kinds of users; a persona has some favourite styles, which get that share
            of its events, and shares the rest with all others.
        stop, weight_scale, weight_decay: lags 1..stop tell; the weight is about scale * lag^-decay.
        weights: in their place any given integers, one for lag 1, one for lag 2, one for lags 3-4, 5-8, ... up to stop.
        clicks_follow: "history", or "popularity": then clicks follow how popular an item is, and the history tells
            nothing.
        zipf_styles, zipf_items: exponents of the popularity of styles, and of the items of a style.
        popularity_effect: standard deviation of the items' own effect on the logit (what an ID can learn).
        click_rate, auc: the mean click probability of what is examined and the AUC of the truth; bias and gain are
            calibrated to them on the first block of users.
        page, position_bias: impressions shown at a time; position k is examined with probability k^-position_bias.
        cold_users: share of users who join late, with 1 to 7 events before their first impression.
        query_events: share of events that are searches, for something of the event's style.
        cart_share, purchase_share: of clicked items the share put into the cart, and of those the share bought.
        test_share, valid_share: of users.
        block: users made at a time; other blocks give other draws.
    """

    users: int = 1500
    impressions: int = 40
    events_before: int = 128
    personas: int = 24
    favourites: int = 8
    favourite_share: float = 0.5
    stop: int = 64
    weight_scale: int = 16
    weight_decay: float = 0.2
    weights: tuple[int, ...] | None = None
    clicks_follow: str = "history"
    zipf_styles: float = 0.7
    zipf_items: float = 0.8
    popularity_effect: float = 0.3
    click_rate: float = 0.27
    auc: float = 0.78
    page: int = 1
    position_bias: float = 0.0
    cold_users: float = 0.0
    query_events: float = 0.0
    cart_share: float = 0.0
    purchase_share: float = 0.0
    test_share: float = 0.2
    valid_share: float = 0.1
    block: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        require_finite(self)
        if self.events_before < LENGTHS[-1]:
            raise DataError(f"events_before is {self.events_before}, must be at least {LENGTHS[-1]}")
        if not 1 <= self.stop <= self.lengths[-1]:
            raise DataError(
                f"stop is {self.stop}, must lie in 1..{self.lengths[-1]}: events_before sets how far it may look"
            )
        if self.users < 10 or self.impressions < 2:
            raise DataError(f"{self.users} users with {self.impressions} impressions are too few to split three ways")
        if self.block < 10:
            raise DataError(f"block is {self.block}: a block of users is split three ways, so 10 at least")
        if self.clicks_follow not in FOLLOWS:
            raise DataError(f"clicks_follow is {self.clicks_follow!r}, must be one of {', '.join(FOLLOWS)}")
        for name in ("cold_users", "query_events", "cart_share", "purchase_share", "favourite_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} is {getattr(self, name)}, must be a share, 0 to 1")
        if not 0.5 < self.auc < 1 or not 0 < self.click_rate < 1:
            raise DataError(f"auc is {self.auc} and click_rate {self.click_rate}: must lie in 0.5..1 and in 0..1")
        if self.position_bias < 0 or self.page < 1:
            raise DataError(f"page is {self.page} and position_bias {self.position_bias}: at least 1, and at least 0")
        if self.position_bias and self.page == 1:
            raise DataError("position_bias needs pages of several impressions; give page, e.g. 10")
        if self.weights is not None:
            doublings = 1 + ceil(log2(self.stop))
            if len(self.weights) != doublings or min(self.weights) < 0 or not any(self.weights):
                raise DataError(
                    f"weights must be {doublings} integers (lags 1, 2, 3-4, ... to stop {self.stop}), not all 0"
                )

    @property
    def lengths(self) -> tuple[int, ...]:
        """The history lengths whose Bayes answers are known: 0, 1, 2, 4, ... up to `events_before`."""
        return (0, *(2**doubling for doubling in range(self.events_before.bit_length())))

    @property
    def pages(self) -> int:
        """Pages that a user is shown; the last one may be shorter."""
        return -(-self.impressions // self.page)

    @property
    def span(self) -> int:
        """Seconds that the log of a user lasts, in the mean."""
        return round((self.events_before + 2 * self.pages) * exp(LOG_GAP + GAP_SPREAD**2 / 2))

    def lag_weights(self) -> np.ndarray:
        """int64 [stop]: what the event at each lag tells; zeros where clicks follow popularity alone."""
        if self.clicks_follow == "popularity":
            return np.zeros(self.stop, np.int64)
        if self.weights is None:
            return lag_weights(self.stop, self.weight_scale, self.weight_decay)
        doubling = np.ceil(np.log2(np.arange(1, self.stop + 1))).astype(np.int64)
        return np.array(self.weights, np.int64)[doubling]

    def examination(self) -> np.ndarray:
        """float64 [page]: the probability that a position is examined."""
        return np.arange(1.0, self.page + 1) ** -self.position_bias


@dataclass(frozen=True)
class Behaviour:
    """Tables `events`, `impressions` and `truth` of the contract, and what is known of them."""

    tables: "dict[str, pl.DataFrame]"
    facts: dict[str, Any] = field(default_factory=dict)
