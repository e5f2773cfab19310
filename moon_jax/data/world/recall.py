"""The best recall that any searcher of a planted world can expect.

The oracle reads every cause that is shown without error, and ranks the gallery by the probability that an item's
product is the one asked for. What looks and reads the same it can only order at random: variants of a product, other
products of the same look, and items whose titles leave out the words that would tell them apart.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from moon_jax.data.forms import Form, parse_form
from moon_jax.data.world.products import Products
from moon_jax.data.world.searches import FORMS, Asked

KS = (1, 10, 100)
_SEARCHES = 1000  # of a kind, at most: each is held against the whole gallery
_CELLS = 1 << 22


def best_recall(
    products: Products, told_Ix4: np.ndarray, asked: Sequence[Asked], ks: Sequence[int] = KS
) -> dict[str, dict[str, float]]:
    """Expected recall@K and hit rate@K of the oracle for each kind of search, over the test searches given.

    `told_Ix4` says which words each item's title holds. Where there are more than 1,000 searches of a kind, the first
    1,000 stand for all (`searches` says how many were read).
    """
    facts: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(part.kind for part in asked):
        parts = [part for part in asked if part.kind == kind]
        whole = Asked(
            kind,
            np.concatenate([part.product_Q for part in parts])[:_SEARCHES],
            np.concatenate([part.told_Qx4 for part in parts])[:_SEARCHES],
            np.concatenate([part.item_Q for part in parts])[:_SEARCHES],
        )
        recall_QxK, hit_QxK = expected_recall(products, told_Ix4, whole, parse_form(kind, FORMS[kind]), ks)
        facts[kind] = {"searches": len(whole.product_Q)}
        facts[kind] |= {f"recall@{k}": round(float(recall_QxK[:, at].mean()), 6) for at, k in enumerate(ks)}
        facts[kind] |= {f"hit@{k}": round(float(hit_QxK[:, at].mean()), 6) for at, k in enumerate(ks)}
    return facts


def expected_recall(
    products: Products, told_Ix4: np.ndarray, asked: Asked, form: Form, ks: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(recall, hit rate) to expect of the oracle for each search and K, both float64 [Q, K], exactly.

    The items of a product follow one another, as many for each; the gallery is all of them but the asking item.
    """
    items, count = len(told_Ix4), len(asked.product_Q)
    variants = items // len(products.split)
    recall_QxK, hit_QxK = np.empty((count, len(ks))), np.empty((count, len(ks)))
    step = max(1, _CELLS // items)
    for start in range(0, count, step):
        part = slice(start, start + step)
        score_QxI = _scores(products, told_Ix4, asked, part, form)
        relevant_QxV = asked.product_Q[part, None] * variants + np.arange(variants)
        counts_QxV = relevant_QxV != asked.item_Q[part, None]
        own_Q = np.flatnonzero(asked.item_Q[part] >= 0)
        score_QxI[own_Q, asked.item_Q[part][own_Q]] = -1
        reached_QxV = np.take_along_axis(score_QxI, relevant_QxV, axis=1)
        above_QxV, tied_QxV = np.empty(reached_QxV.shape), np.empty(reached_QxV.shape)
        for variant in range(variants):
            above_QxV[:, variant] = (score_QxI > reached_QxV[:, variant, None]).sum(axis=1)
            tied_QxV[:, variant] = (score_QxI == reached_QxV[:, variant, None]).sum(axis=1)
        for at, k in enumerate(ks):
            found_QxV = np.clip((k - above_QxV) / tied_QxV, 0, 1) * counts_QxV
            recall_QxK[part, at] = found_QxV.sum(axis=1) / counts_QxV.sum(axis=1)
            hit_QxK[part, at] = 1 - _misses(k, above_QxV, tied_QxV, counts_QxV)
    return recall_QxK, hit_QxK


def _scores(products: Products, told_Ix4: np.ndarray, asked: Asked, part: slice, form: Form) -> np.ndarray:
    """How likely the search is if it asked for the item's product, float64 [Q, I], up to a factor for each search.

    A word that the item's title leaves out may be any: then the word asked for is as likely as it is frequent.
    """
    variants = len(told_Ix4) // len(products.split)
    product_Q, product_I = asked.product_Q[part], np.repeat(np.arange(len(products.split)), variants)
    seen = products.look if "image" in form.query and "image" in form.item else products.category
    score_QxI = (seen[product_Q, None] == seen[product_I]).astype(np.float64)
    if "text" not in form.query or "text" not in form.item:
        return score_QxI
    item_Q = asked.item_Q[part, None]
    told_Qx4 = np.where(item_Q >= 0, told_Ix4[np.maximum(item_Q[:, 0], 0)], asked.told_Qx4[part])
    for column, attribute in enumerate(("brand", "material", "use", "model")):
        value_Q, value_I = products.words[product_Q, column], products.words[product_I, column]
        likely_QxI = np.where(
            told_Ix4[:, column], value_Q[:, None] == value_I, products.shares[attribute][value_Q, None]
        )
        score_QxI *= np.where(told_Qx4[:, column, None], likely_QxI, 1.0)
    return score_QxI


def _misses(k: int, above_QxV: np.ndarray, tied_QxV: np.ndarray, counts_QxV: np.ndarray) -> np.ndarray:
    """The probability that none of the relevant items stands among the first k.

    All in front of the tie that reaches over place k are found; of those in it none, if all k - above places go to the
    others: one factor for each place.
    """
    sure_Q = (counts_QxV & (above_QxV + tied_QxV <= k)).any(axis=1)
    in_tie_QxV = counts_QxV & (above_QxV < k) & (above_QxV + tied_QxV > k)
    relevant_Q = in_tie_QxV.sum(axis=1)
    places_Q = np.where(in_tie_QxV, k - above_QxV, 0).max(axis=1)
    size_Q = np.where(in_tie_QxV, tied_QxV, 1).max(axis=1)
    miss_Q = np.ones(len(sure_Q))
    for drawn in range(int(relevant_Q.max(initial=0))):  # C(M - r, k) / C(M, k) = product of 1 - k / (M - i), i < r
        share = 1 - places_Q / np.maximum(size_Q - drawn, 1)
        miss_Q = np.where(drawn < relevant_Q, miss_Q * np.maximum(share, 0), miss_Q)
    return np.where(sure_Q, 0.0, miss_Q)


def held_out(products: Products, asked: Sequence[Asked]) -> list[Asked]:
    """Those of the test split."""
    kept = []
    for part in asked:
        mask = products.split[part.product_Q] == "test"
        kept.append(Asked(part.kind, part.product_Q[mask], part.told_Qx4[mask], part.item_Q[mask]))
    return kept


def proxy_that_wins(drives: str) -> str | None:
    """The offline metric whose exchange rate must rank first; None where no content tells what clicks follow."""
    return {"visual": "image_recall@10", "text": "text_recall@10"}.get(drives)


def token_law(products: Products, zipf_looks: float | None) -> Mapping[str, object]:
    """What the learner that remembers looks must reach (see `data.coverage`), for `dataset.json`."""
    from moon_jax.data.coverage import coverage_law, unseen_mass

    shares = products.look_shares()
    law: dict[str, object] = {"learner": "remembers every look it has seen", "looks": len(shares)}
    if zipf_looks is not None:
        law |= {"zipf": zipf_looks, **coverage_law(len(shares), zipf_looks)}
    samples = 10 ** np.arange(6)
    return law | {
        "unseen": dict(zip(map(str, samples), np.round(unseen_mass(shares, samples), 6).tolist(), strict=True))
    }
