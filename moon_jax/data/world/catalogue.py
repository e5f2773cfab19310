"""The items of a planted world: photos and titles, block by block of products."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data import rendering, wording
from moon_jax.data.world.products import Products, WorldConfig

if TYPE_CHECKING:
    import polars as pl


def blocks_of(config: WorldConfig) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the block, its products)."""
    for number, first in enumerate(range(0, config.products, config.block)):
        yield number, np.arange(first, min(first + config.block, config.products))


def block_rng(config: WorldConfig, stream: int, number: int) -> np.random.Generator:
    """The random numbers of one block of one stream."""
    return np.random.default_rng([config.seed, stream, number])  # [s, n, 0] gives what [s, n] gives


def item_blocks(products: Products, config: WorldConfig) -> "Iterator[tuple[pl.DataFrame, np.ndarray]]":
    """Table `items` of one block after the other, with the words that each title holds, bool [I, 4]."""
    import polars as pl

    for number, block in blocks_of(config):
        rng = block_rng(config, 2, number)
        product_I = np.repeat(block, config.variants)
        category_I, words_Ix4 = products.category[product_I], products.words[product_I]
        photos = photograph(products, product_I, rendering.CATALOGUE, rng)
        titles, told_Ix4 = wording.write_titles(category_I, words_Ix4, config.missing, rng)
        stated = rng.random(len(product_I)) >= config.missing
        use_I = [f"use:{wording.USES[use][0]}" for use in words_Ix4[:, 2]]
        items = pl.DataFrame(
            {
                "item_id": block[0] * config.variants + np.arange(len(product_I)),
                "title": titles,
                "image": photos,
                "category": [list(wording.CATEGORIES[category]) for category in category_I],
                "attributes": [[use] if there else [] for use, there in zip(use_I, stated, strict=True)],
                "product_id": product_I,
                "available_from": products.available_from[product_I],
            },
            schema_overrides={"attributes": pl.List(pl.String)},
        )
        yield items, told_Ix4


def photograph(
    products: Products, product_N: np.ndarray, nuisance: rendering.Nuisance, rng: np.random.Generator
) -> list[bytes]:
    """One photo (PNG) of each of these products."""
    shape, colour, accent, pattern = (
        cause[product_N] for cause in (products.category, products.colour, products.accent, products.pattern)
    )
    return rendering.encode_png(rendering.render(shape, colour, accent, pattern, nuisance, rng))
