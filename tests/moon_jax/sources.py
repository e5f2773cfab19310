"""Small public sets in their exact layouts, for the adapters' tests and for fuzzing."""

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image


def photo(shade: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 8), (shade % 256, (7 * shade) % 256, 90)).save(buffer, kind)
    return buffer.getvalue()


def taobao_mm_source(folder: Path, *, users: int = 40, rows: int = 60, shards: int = 2, raw: bool = True) -> Path:
    """Negative 64-bit ids, histories of unequal length that name items without features, [0] for an empty one."""
    rng = np.random.default_rng(0)
    item = rng.choice(np.arange(-(2**62), 2**62, 2**40), 50, replace=False)
    seen = np.concatenate([item, rng.integers(2**62, 2**63 - 1, 30)])
    user = rng.choice(np.arange(-(2**62), 2**62, 2**41), users, replace=False)
    features = pl.DataFrame(
        {"205": item[:30], "206": item[:30] // 7, "213": item[:30] // 11, "214": [0, *(item[1:30] // 13)]}
    )
    history = {int(u): rng.choice(seen, rng.integers(1, 20)).tolist() for u in user}
    history[int(user[0])] = [0]
    for split, count in (("train", shards), ("test", 1)):
        (folder / split).mkdir(parents=True)
        for shard in range(count):
            who = rng.choice(user, rows)
            target = rng.choice(item[:30], rows)
            frame = pl.DataFrame(
                {
                    "label_0": pl.Series([[1, 0], [0, 1]] * (rows // 2), dtype=pl.List(pl.Int8)),
                    "129_1": who,
                    **{f"130_{k}": who // (100 + k) for k in range(1, 6)},
                    "150_2_180": [history[int(u)] for u in who],
                    "151_2_180": [history[int(u)] for u in who],
                    "205": target,
                }
            ).join(features, on="205", how="left", maintain_order="left")
            frame.write_parquet(folder / split / f"{split}-shard-{shard:06d}.parquet", row_group_size=16)
    if raw:
        (folder / "raw").mkdir()
        features.write_parquet(folder / "raw" / "item_features.parquet")
        vectors = pl.Series(rng.integers(-127, 128, (50, 128)).tolist(), dtype=pl.List(pl.Int8))
        pl.DataFrame({"205": item, "205_c": vectors}).write_parquet(folder / "raw" / "scl_embedding_int8_p90.parquet")
    return folder


def mmctr_source(folder: Path, *, items: int = 30, labelled: bool = True, photos: bool = False) -> Path:
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    vectors = rng.standard_normal((items + 1, 128)).astype(np.float32)
    tags = rng.integers(0, 9, (items + 1, 5))
    vectors[0], tags[0] = 0, 0
    info = {
        "item_id": np.arange(items + 1),
        "item_tags": pl.Series(tags, dtype=pl.Array(pl.Int64, 5)),
        "item_emb_d128": pl.Series(vectors, dtype=pl.Array(pl.Float32, 128)),
    }
    pl.DataFrame(info).write_parquet(folder / "item_info.parquet")
    for split, rows in (("train", 80), ("valid", 20), ("test", 20)):
        seen = rng.integers(1, items + 1, (rows, 10))
        seen[rng.random((rows, 10)).cumsum(axis=1) < 2] = 0  # padded on the left
        frame = pl.DataFrame(
            {
                "user_id": rng.integers(1, 40, rows),
                "item_seq": pl.Series(seen.tolist(), dtype=pl.List(pl.Int64)),
                "item_id": rng.integers(1, items + 1, rows),
                "likes_level": rng.integers(0, 11, rows),
                "views_level": rng.integers(0, 11, rows),
                "label": rng.integers(0, 2, rows),
            }
        )
        frame = frame.drop("label") if split == "test" and not labelled else frame
        frame.write_parquet(folder / f"{split}.parquet")
    if photos:
        (folder / "item_images").mkdir()
        for item in range(1, items + 1):
            (folder / "item_images" / f"{item}.jpg").write_bytes(photo(item))
        feature = {"item_id": np.arange(1, items + 1), "item_title": [f"video {k}" for k in range(1, items + 1)]}
        pl.DataFrame(feature).write_parquet(folder / "item_feature.parquet")
    return folder


def esci_source(folder: Path, *, queries: int = 60, products: int = 40) -> Path:
    """The repository's layout; product ids repeat between locales, one in three judgements is of the large version only."""
    rng = np.random.default_rng(2)
    inner = folder / "shopping_queries_dataset"
    inner.mkdir(parents=True)
    locales = ("us", "es", "jp")
    listed = [(f"B{k:03d}", locale) for locale in locales for k in range(products)]
    pl.DataFrame(
        {
            "product_id": [name for name, _ in listed],
            "product_title": [f"{locale} product {name}" for name, locale in listed],
            "product_description": [None] * len(listed),
            "product_bullet_point": [None] * len(listed),
            "product_brand": ["Acme" if k % 2 else None for k in range(len(listed))],
            "product_color": ["red"] * len(listed),
            "product_locale": [locale for _, locale in listed],
        },
        schema_overrides={"product_description": pl.String, "product_bullet_point": pl.String},
    ).write_parquet(inner / "shopping_queries_dataset_products.parquet")
    rows = []
    for query in range(queries):
        locale = locales[query % 3]
        for product in rng.choice(products, 6, replace=False):
            label = "ESCI"[rng.integers(0, 4)]
            split = "test" if query % 4 == 0 else "train"
            rows.append((f"query {query}", query, f"B{product:03d}", locale, label, int(product % 3 > 0), 1, split))
    schema = [
        "query",
        "query_id",
        "product_id",
        "product_locale",
        "esci_label",
        "small_version",
        "large_version",
        "split",
    ]
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_row_index("example_id").cast({"example_id": pl.Int64})
    frame.write_parquet(inner / "shopping_queries_dataset_examples.parquet")
    return folder


def table_source(folder: Path, *, rows: int = 40, logs: bool = False) -> Path:
    """A shop's own export: sku, name, group, colour, photo; two photos a name."""
    (folder / "photos").mkdir(parents=True)
    lines = ["sku,name,group,colour,photo"]
    for k in range(rows):
        (folder / "photos" / f"p{k}.jpg").write_bytes(photo(k))
        lines.append(f'S-{k},"Shoe, no. {k // 2}",Shoes > Low,{"red" if k % 2 else ""},p{k}.jpg')
    (folder / "catalogue.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if logs:
        events = [f"u{k % 7},S-{k % rows},click,{1000 + k}" for k in range(60)]
        (folder / "events.csv").write_text("\n".join(["user_id,item_id,action,timestamp", *events]) + "\n")
        shown = [f"u{k % 7},S-{(3 * k) % rows},{1030 + k},{k % 2}" for k in range(60)]
        (folder / "impressions.csv").write_text("\n".join(["user_id,item_id,timestamp,clicked", *shown]) + "\n")
        asked = [f"q{k},shoe {k}," for k in range(20)] + [f"q{k},,S-{k}" for k in range(20, 30)]
        (folder / "queries.csv").write_text("\n".join(["query_id,text,item_id", *asked]) + "\n")
        found = [f"q{k},S-{(k + 1) % rows}" for k in range(30)]
        (folder / "pairs.csv").write_text("\n".join(["query_id,item_id", *found]) + "\n")
    return folder


TABLE_MAP = ("item_id=sku", "title=name", "image=photo", "category=group", "attributes=colour")
