"""Small catalogues with copies planted in them, as contract directories: what the tests of processing share."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from moon_jax.data.contract import Dataset, write_dataset

WORDS = ("navy blue", "red", "green", "shirt", "shoes", "watch", "mug", "casual", "zork", "blorp", "quux")
HELD = 5  # items that valid and test ask about
LEAVES = ("shirts", "shoes", "watches")


def picture(seed: int, size: int = 24) -> Image.Image:
    """A smooth random picture; two seeds give two that nobody would take for each other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, way: int = 0) -> bytes:
    """The picture in one of several lossless encodings: the same pixels, other bytes."""
    buffer = io.BytesIO()
    kinds: tuple[dict[str, Any], ...] = (
        {"format": "PNG"},
        {"format": "PNG", "compress_level": 0},
        {"format": "WEBP", "lossless": True},
    )
    image.save(buffer, **kinds[way % 3])
    return buffer.getvalue()


def random_tables(seed: int, shuffled: int | None = None) -> dict[str, pl.DataFrame]:
    """Every table of the contract that processing touches, with copies among photos, titles, queries and pairs.

    shuffled: a seed by which the rows of items, queries and pairs are put in another order.
    """
    rng = np.random.default_rng(seed)
    count, asked = int(rng.integers(24, 48)), int(rng.integers(24, 48))
    pictures = rng.integers(0, count, count)  # some are shared
    texts = pl.List(pl.String)
    items = pl.DataFrame(
        {
            "item_id": rng.permutation(3 * count)[:count],
            "title": ["navy blue shirt"] * HELD
            + [" ".join(rng.choice(WORDS, rng.integers(1, 5))) for _ in range(HELD, count)],
            "image": [None if rng.random() < 0.1 else encoded(picture(int(p)), i) for i, p in enumerate(pictures)],
            "category": [["goods", str(rng.choice(LEAVES))] for _ in range(count)],
            "attributes": [["colour:navy blue"] if rng.random() < 0.5 else [] for _ in range(count)],
            "product_id": rng.integers(0, max(2, count // 2), count),
        },
        schema_overrides={"category": texts, "attributes": texts},
    )
    ids = items["item_id"].to_numpy()
    kind = rng.integers(0, 3, asked)  # by photo (half of them an item's own), by text, by product
    split_Q = np.array(["train", "train", "train", "train", "valid", "test"])[np.arange(asked) % 6]
    owner = np.where(split_Q == "train", rng.integers(0, count, asked), rng.integers(0, HELD, asked))
    owned = (kind == 2) | ((kind == 0) & (rng.random(asked) < 0.5))
    queries = pl.DataFrame(
        {
            "query_id": 100 + rng.permutation(2 * asked)[:asked],
            "text": [" ".join(rng.choice(WORDS, 3)) if k == 1 else None for k in kind],
            "image": [
                encoded(picture(int(pictures[o] if w else rng.integers(0, count))), 1) if k == 0 else None
                for k, o, w in zip(kind, owner, owned, strict=True)
            ],
            "item_id": [int(ids[o]) if w else None for o, w in zip(owner, owned, strict=True)],
        },
        schema={"query_id": pl.Int64, "text": pl.String, "image": pl.Binary, "item_id": pl.Int64},
    )
    row = np.repeat(np.arange(asked), 3)
    pairs = pl.DataFrame(
        {
            "query_id": queries["query_id"].to_numpy()[row],
            "item_id": np.where(split_Q[row] == "train", rng.choice(ids, row.size), rng.choice(ids[:HELD], row.size)),
            "action": rng.choice(["click", "purchase"], row.size),
            "search_id": row,
            "timestamp": rng.integers(0, 1000, row.size),
            "split": split_Q[row],
        }
    )
    own = queries.select("query_id", own="item_id")
    pairs = pairs.join(own, on="query_id", maintain_order="left").filter(
        pl.col("own").is_null() | (pl.col("own") != pl.col("item_id"))
    )
    pairs = pairs.drop("own").unique(["query_id", "item_id"], keep="first", maintain_order=True)
    users = np.sort(rng.integers(0, 6, 40))
    events = pl.DataFrame(
        {
            "user_id": users,
            "item_id": [int(i) if rng.random() < 0.8 else None for i in rng.choice(ids, 40)],
            "query_id": rng.choice(queries["query_id"].to_numpy(), 40),
            "action": ["click"] * 40,
            "timestamp": np.arange(40),
        },
        schema_overrides={"item_id": pl.Int64},
    )
    impressions = pl.DataFrame(
        {
            "impression_id": np.arange(30),
            "user_id": 10 + np.arange(30),
            "item_id": rng.choice(ids, 30),
            "query_id": rng.choice(queries["query_id"].to_numpy(), 30),
            "history": [rng.choice(ids, int(rng.integers(0, 5))).tolist() for _ in range(30)],
            "clicked": rng.random(30) < 0.3,
            "split": np.array(["train", "train", "valid", "test"])[np.arange(30) % 4],
        },
        schema_overrides={"history": pl.List(pl.Int64)},
    )
    tables = {
        "items": items,
        "queries": queries,
        "pairs": pairs,
        "events": events,
        "impressions": impressions,
        "truth": pl.DataFrame({"impression_id": np.arange(30), "probability": rng.random(30)}),
        "relevance": pairs.select("query_id", "item_id", "split", grade=pl.lit(1.0)),
        "embeddings": pl.DataFrame(
            {"item_id": ids, "embedding": np.zeros((count, 2), np.float32)},
            schema_overrides={"embedding": pl.Array(pl.Float32, 2)},
        ),
    }
    if shuffled is not None:
        for name in ("items", "queries", "pairs"):
            tables[name] = tables[name].sample(fraction=1.0, shuffle=True, seed=shuffled)
    return tables


def written(folder: Path, tables: dict[str, pl.DataFrame]) -> Dataset:
    return write_dataset(
        folder,
        name="copies",
        source="a test",
        licence="none",
        split_rule="by query",
        tables=tables,
        simulated=dict.fromkeys(tables, True),
        forms={"image": "image->image+text", "text": "text->image+text"},
        facts={},
    )
