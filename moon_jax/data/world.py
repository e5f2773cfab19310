"""The planted world: products whose every cause is known, photographed, titled, searched for and clicked on.

A product has a category (told by image and title), a colour, a pattern and an accent (told by the image alone), a
brand, a material, a use and a model (told by the title alone) and a hidden group (told by nothing but its id). Its
variants share all of these and differ in photo and wording. Which of them drives clicks is a knob, so what a
representation must hold is known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data import rendering, wording
from moon_jax.data.behaviour import BehaviourConfig, simulate
from moon_jax.data.contract import DataError, Dataset, refuse_existing, write_dataset

if TYPE_CHECKING:
    import polars as pl

DRIVES = ("visual", "text", "id")
HIDDEN_GROUPS = 48  # as many as there are visual styles (colour, pattern) and text styles (brand, material)
SPLIT_SHARES = (0.7, 0.1, 0.2)


@dataclass(frozen=True)
class WorldConfig:
    """The size of a world and what is planted in it.

    `zipf` is the exponent of every attribute's frequencies, `missing` the share of words that a title leaves out,
    `drives` the style that clicks follow. A product of the training split is asked for by `image_queries` photos and
    `text_queries` texts and by each of its variants; one of valid or test by one photo, one text and one variant.
    """

    products: int = 1500
    variants: int = 2
    image_queries: int = 4
    text_queries: int = 4
    zipf: float = 0.7
    missing: float = 0.1
    drives: str = "visual"
    seed: int = 0
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)

    def __post_init__(self) -> None:
        if self.drives not in DRIVES:
            raise DataError(f"drives is {self.drives!r}, must be one of {', '.join(DRIVES)}")
        if self.products < 20 or self.variants < 2:
            raise DataError(f"{self.products} products with {self.variants} variants: at least 20 with 2 are needed")


@dataclass(frozen=True)
class Products:
    """The planted causes of P products, as indices into the lists of `rendering` and `wording`, and their split."""

    category: np.ndarray
    colour: np.ndarray
    accent: np.ndarray
    pattern: np.ndarray
    words: np.ndarray  # [P, 4]: brand, material, use, model
    hidden: np.ndarray
    split: np.ndarray

    def style(self, drives: str) -> np.ndarray:
        """The style that clicks follow: 48 combinations of colour and pattern, of brand and material, or hidden."""
        if drives == "visual":
            return self.colour * len(rendering.PATTERNS) + self.pattern
        if drives == "text":
            return self.words[:, 0] * len(wording.MATERIALS) + self.words[:, 1]
        return self.hidden


def make_world(folder: Path, config: WorldConfig, *, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Makes the world of `config` in the contract directory `folder`; the same config gives the same logical digests.

    `progress(done, total)` counts its four parts. Raises DataError where the folder holds something else.
    """
    folder = Path(folder)
    refuse_existing(folder)
    tell = progress or (lambda done, total: None)
    products = draw_products(config)
    items = _items(products, config)
    tell(1, 4)
    queries, pairs = _search_log(products, config)
    tell(2, 4)
    style_I = np.repeat(products.style(config.drives), config.variants)
    behaviour = simulate(items["item_id"].to_numpy(), style_I, config.behaviour)
    tell(3, 4)
    tables = {"items": items, "queries": queries, "pairs": pairs, **behaviour.tables}
    dataset = write_dataset(
        folder,
        name=f"planted world, {config.drives} drives",
        source=f"moon_jax.data.world, seed {config.seed}",
        licence="generated, free to use",
        split_rule="search log: by product, 70/10/20 % at random; impressions: by user, 70/10/20 % at random",
        tables=tables,
        simulated=dict.fromkeys(tables, True),
        forms={"image": "image->image+text", "text": "text->image+text", "item": "image+text->image+text"},
        facts={
            "items": items.height,
            "products": config.products,
            "variants": config.variants,
            "drives": config.drives,
            "zipf": config.zipf,
            "missing": config.missing,
            "world_seed": config.seed,
            **behaviour.facts,
        },
    )
    tell(4, 4)
    return dataset


def draw_products(config: WorldConfig) -> Products:
    """The causes of all products, each attribute on its own."""
    rng = np.random.default_rng([config.seed, 1])
    count = config.products

    def draw(values: int) -> np.ndarray:
        share = (1.0 + rng.permutation(values)) ** -config.zipf
        return np.searchsorted(np.cumsum(share / share.sum())[:-1], rng.random(count), side="right")

    colour = draw(len(rendering.COLOURS))
    others = len(rendering.COLOURS) - 1
    lexicons = (wording.BRANDS, wording.MATERIALS, wording.USES, wording.MODELS)
    train, valid = (round(share * count) for share in SPLIT_SHARES[:2])
    return Products(
        category=draw(len(wording.LEAVES)),
        colour=colour,
        accent=(colour + 1 + draw(others)) % (others + 1),  # never the colour itself
        pattern=draw(len(rendering.PATTERNS)),
        words=np.stack([draw(len(lexicon)) for lexicon in lexicons], axis=1),
        hidden=draw(HIDDEN_GROUPS),
        split=rng.permutation(np.repeat(["train", "valid", "test"], [train, valid, count - train - valid])),
    )


def _items(products: Products, config: WorldConfig) -> "pl.DataFrame":
    import polars as pl

    product_I = np.repeat(np.arange(config.products), config.variants)
    category_I, words_Ix4 = products.category[product_I], products.words[product_I]
    rng = np.random.default_rng([config.seed, 2])
    photos = _photograph(products, product_I, rendering.CATALOGUE, rng)
    titles = wording.write_titles(category_I, words_Ix4, config.missing, rng)
    stated = rng.random(len(product_I)) >= config.missing
    use_I = [f"use:{wording.USES[use][0]}" for use in words_Ix4[:, 2]]
    return pl.DataFrame(
        {
            "item_id": np.arange(len(product_I)),
            "title": titles,
            "image": photos,
            "category": [[wording.ROOTS[leaf], wording.LEAVES[leaf]] for leaf in category_I],
            "attributes": [[use] if there else [] for use, there in zip(use_I, stated, strict=True)],
            "product_id": product_I,
        },
        schema_overrides={"attributes": pl.List(pl.String)},
    )


def _search_log(products: Products, config: WorldConfig) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Image, text and item queries with the variants that they lead to, in the order image, text, item."""
    import polars as pl

    rng = np.random.default_rng([config.seed, 3])
    trains = products.split == "train"
    photographed = np.repeat(np.arange(config.products), np.where(trains, config.image_queries, 1))
    described = np.repeat(np.arange(config.products), np.where(trains, config.text_queries, 1))
    shown = np.repeat(np.arange(config.products), np.where(trains, config.variants, 1))
    # In training every variant asks; in valid and test a product asks once, by its first variant.
    first = np.concatenate([np.arange(config.variants if train else 1) for train in trains])
    asking = shown * config.variants + first
    texts = wording.write_queries(products.category[described], products.words[described], rng)
    photos = _photograph(products, photographed, rendering.USER_PHOTO, rng)
    counts = len(photographed), len(described), len(shown)
    queries = pl.DataFrame(
        {
            "query_id": np.arange(sum(counts)),
            "text": [*[None] * counts[0], *texts, *[None] * counts[2]],
            "image": [*photos, *[None] * (counts[1] + counts[2])],
            "item_id": [*[None] * (counts[0] + counts[1]), *asking.tolist()],
        },
        schema={"query_id": pl.Int64, "text": pl.String, "image": pl.Binary, "item_id": pl.Int64},
    )
    product_Q = np.concatenate([photographed, described, shown])
    query_R = np.repeat(np.arange(sum(counts)), config.variants)
    item_R = (product_Q[:, None] * config.variants + np.arange(config.variants)).ravel()
    action_R = np.where(rng.random(len(query_R)) < 0.25, "purchase", "click")
    itself = np.concatenate([np.full(counts[0] + counts[1], -1), asking])[query_R] == item_R
    pairs = pl.DataFrame(
        {"query_id": query_R, "item_id": item_R, "action": action_R, "split": products.split[product_Q[query_R]]}
    )
    return queries, pairs.filter(~itself)


def _photograph(
    products: Products, product_N: np.ndarray, nuisance: rendering.Nuisance, rng: np.random.Generator
) -> list[bytes]:
    shape, colour, accent, pattern = (
        cause[product_N] for cause in (products.category, products.colour, products.accent, products.pattern)
    )
    return rendering.encode_png(rendering.render(shape, colour, accent, pattern, nuisance, rng))
