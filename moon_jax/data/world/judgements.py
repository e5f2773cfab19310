"""Judged pairs of a planted world: how well a product answers what a text search told."""

from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data.world.products import Products, WorldConfig
from moon_jax.data.world.searches import Asked

if TYPE_CHECKING:
    import polars as pl

SAME, OTHERS = 10, 10  # candidates of a search beside its own product: of the category that it names, and of all
HIGHEST = 3


def judgements(
    products: Products, config: WorldConfig, asked: Asked, query_ids_Q: np.ndarray, rng: np.random.Generator
) -> "pl.DataFrame":
    """Table `relevance` of these text searches: query_id, item_id, grade 0 to 3, split.

    Judged are the product that is asked for, some of its category and some of all, a variant of each. Grade 0: another
    category than the search names; else 1 + the share of the words told (brand, material, use, model) that the product
    has, times 2, rounded down. The truth is of products, not of titles, which leave words out.
    """
    import polars as pl

    product_Q = asked.product_Q
    by_category = np.argsort(products.category, kind="stable")
    count_C = np.bincount(products.category)
    first_Q = (np.cumsum(count_C) - count_C)[products.category[product_Q]]
    within_QxK = (rng.random((len(product_Q), SAME)) * count_C[products.category[product_Q], None]).astype(np.int64)
    others_QxK = rng.integers(0, config.products, (len(product_Q), OTHERS))
    shown_QxK = np.concatenate([product_Q[:, None], by_category[first_Q[:, None] + within_QxK], others_QxK], axis=1)
    grade_QxK = grades(products, product_Q, asked.told_Qx4, shown_QxK)
    item_QxK = shown_QxK * config.variants + rng.integers(0, config.variants, shown_QxK.shape)
    row_P = np.repeat(np.arange(len(product_Q)), shown_QxK.shape[1])
    pairs = pl.DataFrame(
        {
            "query_id": query_ids_Q[row_P],
            "item_id": item_QxK.ravel(),
            "grade": grade_QxK.ravel(),
            "split": products.split[product_Q[row_P]],
        }
    )
    return pairs.unique(["query_id", "item_id"], keep="first", maintain_order=True)


def grades(products: Products, product_Q: np.ndarray, told_Qx4: np.ndarray, shown_QxK: np.ndarray) -> np.ndarray:
    """int64 Q x K: how well each product shown answers a search for product_Q that told these words."""
    same_QxK = products.category[shown_QxK] == products.category[product_Q][:, None]
    has_QxKx4 = products.words[shown_QxK] == products.words[product_Q][:, None, :]
    had_QxK = (has_QxKx4 & told_Qx4[:, None, :]).sum(axis=2)
    told_Qx1 = told_Qx4.sum(axis=1)[:, None]
    share_QxK = np.where(told_Qx1 > 0, (HIGHEST - 1) * had_QxK // np.maximum(told_Qx1, 1), HIGHEST - 1)
    return np.where(same_QxK, 1 + share_QxK, 0)
