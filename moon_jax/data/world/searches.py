"""The search log of a planted world: who asked for what, by photo, text, both or product, and what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data import rendering, wording
from moon_jax.data.behaviour.config import START
from moon_jax.data.behaviour.simulation import Searchable, Simulation, draw_actions
from moon_jax.data.world.catalogue import block_rng, blocks_of, photograph
from moon_jax.data.world.products import Products, WorldConfig

if TYPE_CHECKING:
    import polars as pl

KINDS = ("image", "text", "item", "mixed")
FORMS = {
    "image": "image->image+text",
    "text": "text->image+text",
    "item": "image+text->image+text",
    "mixed": "image+text->image+text",
}


@dataclass(frozen=True)
class Asked:
    """Q searches of one kind: the products asked for, the words told (bool [Q, 4]) and the asking item (-1: none)."""

    kind: str
    product_Q: np.ndarray
    told_Qx4: np.ndarray
    item_Q: np.ndarray


def counts_of(products: Products, config: WorldConfig) -> dict[str, np.ndarray]:
    """How many searches of each kind ask for each product; a kind that nobody uses is left out."""
    trains = products.split == "train"
    each = (config.image_queries, config.text_queries, config.variants, config.mixed_queries)
    return {kind: np.where(trains, count, 1) for kind, count in zip(KINDS, each, strict=True) if count}


def first_ids(counts: dict[str, np.ndarray]) -> dict[str, int]:
    """The id of the first search of each kind: ids run through the kinds, and in each through the products."""
    totals = [int(count_P.sum()) for count_P in counts.values()]
    return dict(zip(counts, (np.cumsum(totals) - totals).tolist(), strict=True))


def searchable(products: Products, config: WorldConfig) -> Searchable:
    """All searches with the style of what they ask for; nobody asks for what is still to come."""
    product_Q = np.concatenate(
        [np.repeat(np.arange(config.products), count_P) for count_P in counts_of(products, config).values()]
    )
    there = products.available_from[product_Q] == START
    return Searchable(np.flatnonzero(there), products.style(config.drives)[product_Q[there]])


def search_blocks(
    products: Products, config: WorldConfig, simulation: Simulation
) -> "Iterator[tuple[pl.DataFrame, pl.DataFrame, list[Asked]]]":
    """Tables `queries` and `pairs`, and what was asked, of one block of products after the other.

    A pair's action is the furthest that came of it: what was bought was put into the cart, and clicked. Whoever asks
    wants the product's style as much as its persona does; when, is any time of the log that has the product.
    """
    import polars as pl

    counts = counts_of(products, config)
    offset = first_ids(counts)
    for number, block in blocks_of(config):
        rng, extra = block_rng(config, 3, number), block_rng(config, 4, number)
        product = {kind: np.repeat(block, count_P[block]) for kind, count_P in counts.items()}
        text, photos, asked = _queries(products, config, product, rng, extra)
        sizes = {kind: len(product_Q) for kind, product_Q in product.items()}
        id_Q = np.concatenate([offset[kind] + np.arange(size) for kind, size in sizes.items()])
        offset = {kind: first + sizes[kind] for kind, first in offset.items()}
        asking_Q = np.concatenate([part.item_Q for part in asked])
        queries = pl.DataFrame(
            {
                "query_id": id_Q,
                "text": [words for kind in sizes for words in text.get(kind, [None] * sizes[kind])],
                "image": [photo for kind in sizes for photo in photos.get(kind, [None] * sizes[kind])],
                "item_id": pl.Series(asking_Q).replace(-1, None),
            },
            schema={"query_id": pl.Int64, "text": pl.String, "image": pl.Binary, "item_id": pl.Int64},
        )
        product_Q = np.concatenate(list(product.values()))
        row_R = np.repeat(np.arange(len(id_Q)), config.variants)
        item_R = (product_Q[:, None] * config.variants + np.arange(config.variants)).ravel()
        pairs = pl.DataFrame(
            {
                "query_id": id_Q[row_R],
                "item_id": item_R,
                "action": draw_actions(len(row_R), config.cart_share, config.purchase_share, rng),
                "user_id": _users(products.style(config.drives)[product_Q], simulation, extra)[row_R],
                "search_id": id_Q[row_R],
                "timestamp": _times(products.available_from[product_Q], config.behaviour.span, extra)[row_R],
                "split": products.split[product_Q[row_R]],
            }
        )
        yield queries, pairs.filter(pl.lit(pl.Series(asking_Q[row_R] != item_R))), asked


def _queries(
    products: Products,
    config: WorldConfig,
    product: dict[str, np.ndarray],
    rng: np.random.Generator,
    extra: np.random.Generator,
) -> tuple[dict[str, list[str]], dict[str, list[bytes]], list[Asked]]:
    """Texts and photos of the kinds that have them, and what all kinds ask."""
    text: dict[str, list[str]] = {}
    photos: dict[str, list[bytes]] = {}
    asked = []
    # Texts before photos, and what is mixed from a stream of its own: so a seed's other searches stay as they are.
    told: dict[str, np.ndarray] = {}
    for kind in ("text", "mixed"):
        if kind in product:
            of = product[kind]
            stream = extra if kind == "mixed" else rng
            text[kind], told[kind] = wording.write_queries(products.category[of], products.words[of], stream)
    for kind in ("image", "mixed"):
        if kind in product:
            stream = extra if kind == "mixed" else rng
            photos[kind] = photograph(products, product[kind], rendering.USER_PHOTO, stream)
    for kind, product_Q in product.items():
        asking = np.full(len(product_Q), -1)
        if kind == "item":  # in training every variant asks; in valid and test a product's first one
            _, first, which = np.unique(product_Q, return_index=True, return_inverse=True)
            asking = product_Q * config.variants + np.arange(len(product_Q)) - first[which]
        asked.append(Asked(kind, product_Q, told.get(kind, np.zeros((len(product_Q), 4), bool)), asking))
    return text, photos, asked


def _users(style_Q: np.ndarray, simulation: Simulation, rng: np.random.Generator) -> np.ndarray:
    """A user for each search: a persona as likely as it wants the style, then any user of it."""
    styles, persona_U = simulation.labels, simulation.personas_of_users()
    want_ZxS = simulation.personas.targets * np.bincount(persona_U, minlength=len(simulation.personas.targets))[:, None]
    share_ZxS = np.cumsum(want_ZxS, axis=0) / want_ZxS.sum(axis=0)
    share_QxZ = share_ZxS.T[np.searchsorted(styles, style_Q)]
    persona_Q = np.minimum((rng.random((len(style_Q), 1)) > share_QxZ).sum(axis=1), persona_U.max())
    order = np.argsort(persona_U, kind="stable")
    count_Z = np.bincount(persona_U, minlength=len(want_ZxS))
    start_Z = np.cumsum(count_Z) - count_Z
    return order[start_Z[persona_Q] + (rng.random(len(style_Q)) * count_Z[persona_Q]).astype(np.int64)]


def _times(available_Q: np.ndarray, span: int, rng: np.random.Generator) -> np.ndarray:
    """Seconds: any time of the log after the product's arrival."""
    return available_Q + 1 + (rng.random(len(available_Q)) * (START + span - available_Q)).astype(np.int64)
