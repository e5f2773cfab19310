"""A simulated log, made block by block of users: only one block need be in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moon_jax.data.bayes import bayes_probabilities, sigmoid, weigh
from moon_jax.data.behaviour.answers import Answers
from moon_jax.data.behaviour.calibration import calibrate
from moon_jax.data.behaviour.config import GAP_SPREAD, LOG_GAP, START, Behaviour, BehaviourConfig
from moon_jax.data.behaviour.users import Popularity, draw_personas, draw_rows, split_users
from moon_jax.data.contract import DataError

if TYPE_CHECKING:
    import polars as pl

# Streams of random numbers beside the first, so that a knob that is off leaves the draws as they are.
_BLOCKS, _EXTRAS = 7, 11


@dataclass(frozen=True)
class Searchable:
    """Searches that users may make: int64 ids and, as `style_I` labels them, what each asks for."""

    query_ids_Q: np.ndarray
    style_Q: np.ndarray


@dataclass(frozen=True)
class _Draws:
    """What a block of U users does and is shown: events E, impressions J."""

    first: int
    persona_U: np.ndarray
    past_UxJ: np.ndarray  # events before each impression
    style_UxE: np.ndarray
    item_UxE: np.ndarray
    style_UxJ: np.ndarray
    item_UxJ: np.ndarray
    time_UxE: np.ndarray
    time_UxJ: np.ndarray


class Simulation:
    """Behaviour over items with styles, to be read once: all `blocks`, then `facts`.

    Args:
        item_ids_I, style_I: int64 ids, and styles as any labels.
        available_I: seconds from which on an item is there; nothing happens to it before. None: all are, always.
        searches: what `config.query_events` draws from.

    Raises DataError where the items have fewer than two styles, or where there is nothing to search for.
    """

    def __init__(
        self,
        item_ids_I: np.ndarray,
        style_I: np.ndarray,
        config: BehaviourConfig,
        *,
        available_I: np.ndarray | None = None,
        searches: Searchable | None = None,
    ) -> None:
        self.labels, style_I = np.unique(style_I, return_inverse=True)
        if len(self.labels) < 2:
            raise DataError("behaviour needs at least two styles; choose attributes in which items differ")
        if config.query_events and (searches is None or not len(searches.query_ids_Q)):
            raise DataError("query_events needs searches, and the dataset has no queries that tell what they ask for")
        self.config, self.item_ids_I, self._available_I = config, item_ids_I, available_I
        self._searches = None if searches is None else _by_style(searches, self.labels)
        self._rng = np.random.default_rng([config.seed, _BLOCKS])
        self.personas = draw_personas(len(self.labels), config, self._rng)
        self.popularity = Popularity(style_I, config.zipf_items, self._rng, available_I)
        self.effect_I = np.round(config.popularity_effect * self._rng.standard_normal(len(style_I)), 4)
        self.start = max(START, self.popularity.complete_from)
        self.weights = config.lag_weights()
        self._clicks: tuple[float, float] | None = None
        self._answers = Answers(config)
        self._persona_blocks: list[np.ndarray] = []

    def blocks(self) -> "Iterator[dict[str, pl.DataFrame]]":
        """Tables `events`, `impressions` and `truth` of one block of users after the other."""
        for index, first in enumerate(range(0, self.config.users, self.config.block)):
            count = min(self.config.block, self.config.users - first)
            if 0 < self.config.users - first - count < 10:  # too few to split three ways: they join this block
                count = self.config.users - first
            elif count < 10:
                break
            # A seed [s, 7, 0] would be that of [s, 7]: block 0 goes on with the stream of what all blocks share.
            rng = np.random.default_rng([self.config.seed, _BLOCKS, index]) if index else self._rng
            extra = np.random.default_rng([self.config.seed, _EXTRAS, index])
            yield self._block(self._draw(first, count, rng, extra), rng, extra)

    def personas_of_users(self) -> np.ndarray:
        """The persona of every user of the blocks so far, int16 [U]."""
        return np.concatenate(self._persona_blocks)

    @property
    def facts(self) -> dict[str, Any]:
        """What is planted and what it amounts to, for `dataset.json`; whole after the last block."""
        if self._clicks is None:
            raise RuntimeError("facts are known when the blocks have been made")
        bias, gain = self._clicks
        config = self.config
        examined = {"page": config.page, "position_bias": config.position_bias}
        return {
            "stop": config.stop,
            "styles": int(self.personas.events.shape[1]),
            "zipf_styles": config.zipf_styles,
            "zipf_items": config.zipf_items,
            "popularity_effect": config.popularity_effect,
            "clicks_follow": config.clicks_follow,
            "weights": self.weights.tolist(),
            "bias": bias,
            "gain": gain,
            "log_start": self.start,
            **(examined | {"examination": np.round(config.examination(), 6).tolist()} if config.page > 1 else {}),
            "seed": config.seed,
            **self._answers.facts(),
        }

    def _draw(self, first: int, count: int, rng: np.random.Generator, extra: np.random.Generator) -> _Draws:
        config = self.config
        persona_U = rng.integers(0, config.personas, count)
        self._persona_blocks.append(persona_U.astype(np.int16))
        # A user's log: `events_before` events, then pages of impressions with one to three further events before each.
        before_U, joins_U = np.full(count, config.events_before), np.zeros(count, np.int64)
        if config.cold_users:
            cold_U = extra.random(count) < config.cold_users
            before_U = np.where(cold_U, extra.integers(1, 8, count), before_U)
            joins_U = np.where(cold_U, extra.integers(0, config.span, count), joins_U)
        past_UxP = before_U[:, None] - 1 + np.cumsum(rng.integers(1, 4, (count, config.pages)), axis=1)
        past_UxJ = np.repeat(past_UxP, config.page, axis=1)[:, : config.impressions]
        longest = int(past_UxJ.max())
        style_UxE = draw_rows(self.personas.events, persona_U, longest, rng)
        item_UxE = self.popularity(style_UxE, rng)
        style_UxJ = draw_rows(self.personas.targets, persona_U, config.impressions, rng)
        item_UxJ = self.popularity(style_UxJ, rng)
        gap_UxE = np.rint(np.exp(rng.normal(LOG_GAP, GAP_SPREAD, (count, longest + 1)))).astype(np.int64) + 2
        time_UxE = self.start + joins_U[:, None] + np.cumsum(gap_UxE, axis=1)
        # An impression comes half-way to the next event.
        time_UxJ = np.take_along_axis(time_UxE, past_UxJ - 1, 1) + np.take_along_axis(gap_UxE, past_UxJ, 1) // 2
        self.popularity.redraw_early(item_UxE, style_UxE, time_UxE[:, :longest], extra)
        self.popularity.redraw_early(item_UxJ, style_UxJ, time_UxJ, extra)
        return _Draws(first, persona_U, past_UxJ, style_UxE, item_UxE, style_UxJ, item_UxJ, time_UxE, time_UxJ)

    def _block(self, drawn: _Draws, rng: np.random.Generator, extra: np.random.Generator) -> "dict[str, pl.DataFrame]":
        import polars as pl

        config, weights = self.config, self.weights
        count, longest = drawn.style_UxE.shape
        user_N = np.repeat(np.arange(count), config.impressions)
        past_N, target_N, item_N = drawn.past_UxJ.ravel(), drawn.style_UxJ.ravel(), drawn.item_UxJ.ravel()
        recent_NxL = _recent(drawn.style_UxE, user_N, past_N, config.stop)
        effect_N, told_N = self.effect_I[item_N], weigh(recent_NxL == target_N[:, None], weights)
        if config.clicks_follow == "popularity":
            told_N = -np.log1p(self.popularity.rank_I[item_N])
        if self._clicks is None:
            self._clicks = calibrate(effect_N, told_N, config.auc, config.click_rate)
        bias, gain = self._clicks
        logit_N = bias + effect_N
        if config.clicks_follow == "popularity":
            logit_N = logit_N + gain * told_N
            bayes = dict.fromkeys(config.lengths, sigmoid(logit_N))
            probability_N = np.round(bayes[0], 6)
        else:
            personas, lengths = self.personas, config.lengths
            bayes = bayes_probabilities(logit_N, gain, target_N, recent_NxL, personas, weights, lengths)
            probability_N = np.round(sigmoid(logit_N + gain * told_N), 6)

        place_J = np.arange(config.impressions)
        examination_N = np.tile(np.round(config.examination(), 6)[place_J % config.page], count)
        clicked_N = rng.random(len(user_N)) < probability_N * examination_N
        split_N = split_users(count, config, rng)[user_N]
        impression_N = drawn.first * config.impressions + np.arange(len(user_N))
        impressions = pl.DataFrame(
            {
                "impression_id": impression_N,
                "user_id": drawn.first + user_N,
                "item_id": self.item_ids_I[item_N],
                "search_id": (drawn.first + user_N) * config.pages + np.tile(place_J // config.page, count),
                "position": np.tile(place_J % config.page + 1, count),
                "timestamp": drawn.time_UxJ.ravel(),
                "clicked": clicked_N,
                "split": split_N,
            }
        )
        truth = pl.DataFrame(
            {
                "impression_id": impression_N,
                "probability": probability_N,
                **({"examination": examination_N} if config.position_bias else {}),
                **{f"bayes_{length}": np.round(bayes[length], 6) for length in config.lengths},
            }
        )
        slices = {"tail_items": self.popularity.tail_I[item_N]}
        if self._available_I is not None:
            slices["new_items"] = self._available_I[item_N] > self.start
        self._answers.add(impressions, truth, past_N, slices)
        return {"events": self._events(drawn, longest, extra), "impressions": impressions, "truth": truth}

    def _events(self, drawn: _Draws, longest: int, extra: np.random.Generator) -> "pl.DataFrame":
        import polars as pl

        config = self.config
        there_UxE = np.arange(longest) < drawn.past_UxJ[:, -1:]  # nothing is logged after a user's last impression
        user_E, event_E = np.nonzero(there_UxE)
        columns = {
            "user_id": drawn.first + user_E,
            "item_id": self.item_ids_I[drawn.item_UxE[there_UxE]],
            "action": pl.Series(["click"]).new_from_index(0, len(user_E)),
            "timestamp": drawn.time_UxE[user_E, event_E],
        }
        if config.cart_share:
            columns["action"] = draw_actions(len(user_E), config.cart_share, config.purchase_share, extra)
        events = pl.DataFrame(columns)
        if self._searches is None or not config.query_events:
            return events
        ids, start_S, count_S = self._searches
        style_E = drawn.style_UxE[there_UxE]
        asks_E = (extra.random(len(user_E)) < config.query_events) & (count_S[style_E] > 0)
        query_E = start_S[style_E] + (extra.random(len(user_E)) * count_S[style_E]).astype(np.int64)
        return events.with_columns(
            item_id=pl.when(pl.lit(pl.Series(~asks_E))).then("item_id"),
            query_id=pl.when(pl.lit(pl.Series(asks_E))).then(pl.lit(pl.Series(ids[np.minimum(query_E, len(ids) - 1)]))),
            action=pl.when(pl.lit(pl.Series(asks_E))).then(pl.lit("search")).otherwise("action"),
        ).select("user_id", "item_id", "query_id", "action", "timestamp")


def simulate(
    item_ids_I: np.ndarray,
    style_I: np.ndarray,
    config: BehaviourConfig,
    *,
    available_I: np.ndarray | None = None,
    searches: Searchable | None = None,
) -> Behaviour:
    """The whole log of a `Simulation` in memory."""
    import polars as pl

    simulation = Simulation(item_ids_I, style_I, config, available_I=available_I, searches=searches)
    blocks = list(simulation.blocks())
    tables = {file: pl.concat([block[file] for block in blocks]) for file in blocks[0]}
    return Behaviour(tables, simulation.facts)


def _recent(style_UxE: np.ndarray, user_N: np.ndarray, past_N: np.ndarray, length: int) -> np.ndarray:
    """Styles of the last `length` events before each impression, newest first, -1 where there were fewer: int16 [N, length]."""
    recent_NxL = np.full((len(user_N), length), -1, np.int16)
    for row, (user, past) in enumerate(zip(user_N.tolist(), past_N.tolist(), strict=True)):
        first = max(0, past - length)
        recent_NxL[row, : past - first] = style_UxE[user, first:past][::-1]
    return recent_NxL


def draw_actions(count: int, cart_share: float, purchase_share: float, rng: np.random.Generator) -> np.ndarray:
    """How far each of `count` clicked items came: "click", "cart" or "purchase" (which has been both before)."""
    uniform = rng.random(count)
    return np.where(uniform < cart_share * purchase_share, "purchase", np.where(uniform < cart_share, "cart", "click"))


def _by_style(searches: Searchable, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query ids in the order of their styles; where each of `labels` starts in it, and how many it has."""
    at_Q = np.searchsorted(labels, searches.style_Q)
    known_Q = labels[np.minimum(at_Q, len(labels) - 1)] == searches.style_Q
    ids_Q, at_Q = searches.query_ids_Q[known_Q], at_Q[known_Q]
    count_S = np.bincount(at_Q, minlength=len(labels))
    return ids_Q[np.argsort(at_Q, kind="stable")], np.cumsum(count_S) - count_S, count_S
