"""Simulated behaviour over a catalogue, with the click probability of every impression known.

Every item has a style. A user is one of some known personas, and a persona is a distribution over styles; the user's
events are drawn from it independently (style, then an item of it by popularity). An impression is clicked with

    p = sigmoid(bias + effect[item] + gain * s),    s = sum over lags l = 1..stop of w_l * [style of event l is shown]

where event l is the l-th last before the impression and w_l is an integer, about scale * l^-decay, the same from lag
2^(k-1) + 1 to 2^k: interest that recurs at heavy-tailed lags. Beyond `stop` the history tells nothing more.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moon_jax.data.bayes import LENGTHS, Personas, bayes_probabilities, lag_weights, sigmoid
from moon_jax.data.contract import DataError, Dataset, open_dataset, refuse_existing, write_dataset

if TYPE_CHECKING:
    import polars as pl

_START = 1_700_000_000  # seconds: when the simulated log begins
_LARGEST_GAIN = 0.5


@dataclass(frozen=True)
class BehaviourConfig:
    """How many users there are and what they want.

    `zipf_styles` and `zipf_items` are exponents of popularity; `popularity_effect` the standard deviation of the items'
    own effect on the logit (what an ID can learn); `weight_scale` and `weight_decay` say how interest fades with the
    lag. Bias and gain are calibrated to `click_rate`, the mean click probability, and to `auc`, the AUC of the truth.
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
    zipf_styles: float = 0.7
    zipf_items: float = 0.8
    popularity_effect: float = 0.3
    click_rate: float = 0.27
    auc: float = 0.78
    test_share: float = 0.2
    valid_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.events_before < max(self.stop, LENGTHS[-1]):
            raise DataError(f"events_before is {self.events_before}, must be at least {max(self.stop, LENGTHS[-1])}")
        if self.users < 10 or self.impressions < 2:
            raise DataError(f"{self.users} users with {self.impressions} impressions are too few to split three ways")


@dataclass(frozen=True)
class Behaviour:
    """Tables `events`, `impressions` and `truth` of the contract, and what is known of them."""

    tables: "dict[str, pl.DataFrame]"
    facts: dict[str, Any] = field(default_factory=dict)


def simulate(item_ids_I: np.ndarray, style_I: np.ndarray, config: BehaviourConfig) -> Behaviour:
    """Draws users, events, impressions and clicks over items with the given styles (int, any labels).

    Raises DataError where the items have fewer than two styles.
    """
    import polars as pl

    labels, style_I = np.unique(style_I, return_inverse=True)
    if len(labels) < 2:
        raise DataError("behaviour needs at least two styles; choose attributes in which items differ")
    rng = np.random.default_rng([config.seed, 7])
    personas = draw_personas(len(labels), config, rng)
    pick_items = _Popularity(style_I, config.zipf_items, rng)
    effect_I = np.round(config.popularity_effect * rng.standard_normal(len(style_I)), 4)

    # A user's log: `events_before` events, then impressions with one to three further events before each.
    persona_U = rng.integers(0, config.personas, config.users)
    past_UxJ = config.events_before - 1 + np.cumsum(rng.integers(1, 4, (config.users, config.impressions)), axis=1)
    longest = int(past_UxJ.max())
    style_UxE = _draw_rows(personas.events, persona_U, longest, rng)
    item_UxE = pick_items(style_UxE, rng)
    style_UxJ = _draw_rows(personas.targets, persona_U, config.impressions, rng)
    item_UxJ = pick_items(style_UxJ, rng)
    gap_UxE = np.rint(np.exp(rng.normal(7.0, 1.5, (config.users, longest + 1)))).astype(np.int64) + 2
    time_UxE = _START + np.cumsum(gap_UxE, axis=1)

    user_N = np.repeat(np.arange(config.users), config.impressions)
    past_N, target_N, item_N = past_UxJ.ravel(), style_UxJ.ravel(), item_UxJ.ravel()
    recent_NxL = style_UxE[user_N[:, None], past_N[:, None] - 1 - np.arange(LENGTHS[-1])]
    weights = lag_weights(config.stop, config.weight_scale, config.weight_decay)
    match_N = ((recent_NxL[:, : config.stop] == target_N[:, None]) * weights).sum(axis=1)
    bias, gain = calibrate(effect_I[item_N], match_N, config)
    logit_N = bias + effect_I[item_N]
    bayes = bayes_probabilities(logit_N, gain, target_N, recent_NxL, personas, weights)
    probability_N = np.round(sigmoid(logit_N + gain * match_N), 6)
    clicked_N = rng.random(len(user_N)) < probability_N

    split_N = split_users(config, rng)[user_N]
    there_UxE = np.arange(longest) < past_UxJ[:, -1:]  # nothing is logged after a user's last impression
    user_E, event_E = np.nonzero(there_UxE)
    tables = {
        "events": pl.DataFrame(
            {
                "user_id": user_E,
                "item_id": item_ids_I[item_UxE[there_UxE]],
                "action": pl.Series(["click"]).new_from_index(0, len(user_E)),
                "timestamp": time_UxE[user_E, event_E],
            }
        ),
        "impressions": pl.DataFrame(
            {
                "impression_id": np.arange(len(user_N)),
                "user_id": user_N,
                "item_id": item_ids_I[item_N],
                "timestamp": time_UxE[user_N, past_N - 1] + gap_UxE[user_N, past_N] // 2,
                "clicked": clicked_N,
                "split": split_N,
            }
        ),
        "truth": pl.DataFrame(
            {
                "impression_id": np.arange(len(user_N)),
                "probability": probability_N,
                **{f"bayes_{length}": np.round(bayes[length], 6) for length in LENGTHS},
            }
        ),
    }
    facts = {
        "stop": config.stop,
        "styles": len(labels),
        "zipf_styles": config.zipf_styles,
        "zipf_items": config.zipf_items,
        "popularity_effect": config.popularity_effect,
        "weights": weights.tolist(),
        "bias": bias,
        "gain": gain,
        "click_rate": round(float(clicked_N.mean()), 6),
        "seed": config.seed,
        "bayes": _score(tables, "test"),
    }
    return Behaviour(tables, facts)


def simulate_behaviour(
    folder: Path,
    target: Path,
    *,
    by: tuple[str, ...] = ("colour", "category"),
    styles: int = 48,
    config: BehaviourConfig | None = None,
) -> Dataset:
    """Behaviour over the catalogue in `folder`, written with it to the contract directory `target`.

    A style is a combination of the values of `by`: names of attributes ("colour" of "colour:Blue"), "category" (the
    leaf) or a level's name in the dataset's facts ("articleType"); the `styles - 1` most frequent combinations stand,
    all else is one style. Raises DataError where no item has such a value.
    """
    dataset = open_dataset(folder)
    refuse_existing(Path(target))
    items = dataset.read("items", ["item_id", "category", "attributes"])
    levels = list(dataset.facts.get("category_levels", ()))
    names = _style_names(items, levels, by, dataset.folder)
    frequent = sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))[: styles - 1]
    rank = {name: place for place, (name, _) in enumerate(frequent)}
    style_I = np.array([rank.get(name, len(rank)) for name in names])
    behaviour = simulate(items["item_id"].to_numpy(), style_I, config or BehaviourConfig())
    kept = [file for file in dataset.rows if file not in ("events", "impressions", "truth")]
    return write_dataset(
        Path(target),
        name=f"{dataset.name} with simulated behaviour",
        source=dataset.source,
        licence=dataset.licence,
        split_rule=f"{dataset.split_rule}; simulated impressions: by user",
        tables={**{file: dataset.read(file) for file in kept}, **behaviour.tables},
        simulated={**{file: dataset.simulated[file] for file in kept}, **dict.fromkeys(behaviour.tables, True)},
        forms=dataset.forms,
        facts={**dataset.facts, "drives": "+".join(by), **behaviour.facts},
    )


def _style_names(items: "pl.DataFrame", levels: list[str], by: tuple[str, ...], folder: Path) -> list[tuple[str, ...]]:
    """Each item's values of `by`, an empty string where it has none."""
    categories, attributes = items["category"].to_list(), items["attributes"].to_list()
    columns = []
    for name in by:
        if name == "category":
            column = [category[-1] if category else "" for category in categories]
        elif name in levels:
            level = levels.index(name)
            column = [category[level] if level < len(category) else "" for category in categories]
        else:
            column = [next((a.split(":", 1)[1] for a in given if a.startswith(f"{name}:")), "") for given in attributes]
        if not any(column):
            known = {attribute.split(":", 1)[0] for given in attributes for attribute in given if ":" in attribute}
            choice = ", ".join(["category", *levels, *sorted(known)])
            raise DataError(f"{folder}: no item has a value of {name!r}; there are: {choice}")
        columns.append(column)
    return list(zip(*columns, strict=True))


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


def calibrate(effect_N: np.ndarray, match_N: np.ndarray, config: BehaviourConfig) -> tuple[float, float]:
    """(bias, gain), to 4 decimals, that give the wanted AUC of the true probability and the wanted click rate."""
    low, high = 0.0, _LARGEST_GAIN
    for _ in range(20):
        gain = (low + high) / 2
        probability_N = sigmoid(_bias(effect_N + gain * match_N, config.click_rate) + effect_N + gain * match_N)
        low, high = (gain, high) if expected_auc(probability_N) < config.auc else (low, gain)
    gain = round((low + high) / 2, 4)
    return round(_bias(effect_N + gain * match_N, config.click_rate), 4), gain


def _bias(logit_N: np.ndarray, click_rate: float) -> float:
    low, high = -30.0, 30.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(middle + logit_N).mean() < click_rate else (low, middle)
    return (low + high) / 2


def expected_auc(probability_N: np.ndarray) -> float:
    """The AUC of the probabilities as scores of clicks drawn from them (ratio of expectations)."""
    ordered = np.sort(probability_N)
    below = np.cumsum(1 - ordered) - (1 - ordered)  # non-clicks expected below each; ties hardly matter here
    return float((ordered * below).sum() / (ordered.sum() * (1 - ordered).sum()))


def split_users(config: BehaviourConfig, rng: np.random.Generator) -> np.ndarray:
    """The split of each user: users of valid and test are never seen in training."""
    test = max(1, round(config.users * config.test_share))
    valid = max(1, round(config.users * config.valid_share))
    return rng.permutation(np.repeat(["train", "valid", "test"], [config.users - valid - test, valid, test]))


class _Popularity:
    """Draws items of given styles, each style's items by Zipf popularity."""

    def __init__(self, style_I: np.ndarray, exponent: float, rng: np.random.Generator) -> None:
        order = rng.permutation(len(style_I))
        self._items_I = order[np.argsort(style_I[order], kind="stable")]  # by style, then most popular first
        count_S = np.bincount(style_I)
        self._start_S = np.cumsum(count_S) - count_S
        self._cumulative_S = [np.cumsum((1.0 + np.arange(count)) ** -exponent) for count in count_S]

    def __call__(self, style: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        uniform = rng.random(style.shape)
        drawn = np.empty(style.shape, np.int64)
        for index, cumulative in enumerate(self._cumulative_S):
            here = style == index
            rank = np.searchsorted(cumulative, uniform[here] * cumulative[-1], side="right")
            drawn[here] = self._items_I[self._start_S[index] + np.minimum(rank, len(cumulative) - 1)]
        return drawn


def _draw_rows(distribution_ZxS: np.ndarray, row_U: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` draws for each user from the row of its persona: int [U, count]."""
    uniform = rng.random((len(row_U), count))
    drawn = np.empty(uniform.shape, np.int64)
    for index, row in enumerate(distribution_ZxS):
        mine = row_U == index
        drawn[mine] = np.searchsorted(np.cumsum(row)[:-1], uniform[mine], side="right")
    return drawn


def _score(tables: "dict[str, pl.DataFrame]", split: str) -> dict[str, dict[str, float]]:
    """AUC and GAUC of Bayes at each length on the impressions of a split."""
    from moon_jax.metrics.ranking import auc, gauc

    rows = tables["impressions"].join(tables["truth"], on="impression_id", maintain_order="left")
    rows = rows.filter(rows["split"] == split)
    labels, users = rows["clicked"].to_numpy(), rows["user_id"].to_numpy()
    scores = {str(length): rows[f"bayes_{length}"].to_numpy() for length in LENGTHS}
    return {
        "auc": {length: round(float(auc(labels, score)), 6) for length, score in scores.items()},
        "gauc": {length: round(float(gauc(labels, score, users)[0]), 6) for length, score in scores.items()},
    }
