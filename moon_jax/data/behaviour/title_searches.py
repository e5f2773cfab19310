"""Simulated text searches over somebody's catalogue: what a shopper types who remembers some words of a title."""

from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data.contract import DataError, Dataset

if TYPE_CHECKING:
    import polars as pl

KEPT = 0.5  # share of a title's words that are typed
FEWEST = 2
FORM = "text->image+text"


def title_searches(dataset: Dataset, seed: int) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """(queries, pairs) to be added to the dataset's own: for each image search of a product one by some words of its title.

    It leads to the product and to whatever the image search led to, in the same split, so that what is held out of one search
    is held out of the other. Words are kept by chance, in their order, two at least.
    Raises DataError where there are text searches already, or no image searches by products with titles.
    """
    import polars as pl

    if "text" in dataset.forms:
        raise DataError(f"{dataset.folder}: it has text searches of its own")
    queries = dataset.read("queries", ["query_id", "item_id"]).drop_nulls("item_id")
    titles = dataset.read("items", ["item_id", "title"]).filter(pl.col("title").fill_null("") != "")
    asked = queries.join(titles, on="item_id", maintain_order="left")
    if asked.is_empty():
        raise DataError(f"{dataset.folder}: no search is a photo of a product with a title")
    rng = np.random.default_rng(seed)
    first = int(dataset.read("queries", ["query_id"])["query_id"].max()) + 1  # type: ignore[arg-type]
    texts = [_typed(title.split(), rng) for title in asked["title"]]
    asked = asked.with_columns(new=pl.int_range(first, first + asked.height), text=pl.Series(texts))
    led = dataset.read("pairs").join(
        asked.select("query_id", "new", own="item_id"), on="query_id", maintain_order="left"
    )
    led = led.drop_nulls("new").with_columns(query_id="new")
    own = led.unique("query_id", keep="first", maintain_order=True).with_columns(item_id="own")
    return asked.select(query_id="new", text="text"), pl.concat([own, led]).drop("new", "own")


def _typed(words: list[str], rng: np.random.Generator) -> str:
    kept = rng.random(len(words)) < KEPT
    if kept.sum() < FEWEST:
        kept[rng.permutation(len(words))[:FEWEST]] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)
