"""Fashion Product Images (Kaggle, small or full): photos of the same title are photos of the same product.

An image search is one item's photo against all others; relevant are the other items of its title.

Where: Kaggle, `paramaggarwal/fashion-product-images-small` (or `-dataset`). Licence: stated as MIT on Kaggle, not
verified; the photos are the sellers'. Layout: `styles.csv` (id, gender, masterCategory, subCategory, articleType,
baseColour, season, year, usage, productDisplayName) and `images/<id>.jpg`, as folders or in one zip.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.adapters.groups import group_pairs
from moon_jax.data.adapters.photos import read_photos, read_text
from moon_jax.data.contract import DataError, Dataset, refuse_existing, write_dataset
from moon_jax.data.quarantine import Quarantine

if TYPE_CHECKING:
    import polars as pl

MAX_LEFT_OUT = 0.05
_NEEDED = ("id", "masterCategory", "subCategory", "articleType", "baseColour", "usage", "productDisplayName")
_ATTRIBUTES = {"colour": "baseColour", "usage": "usage", "gender": "gender", "season": "season", "year": "year"}


@dataclass(frozen=True)
class Product:
    """One line of styles.csv; `title` is stripped, `fields` are the columns as they stand."""

    line: int
    item_id: int
    title: str
    fields: Mapping[str, str]

    @property
    def category(self) -> list[str]:
        return [self.fields[level] for level in ("masterCategory", "subCategory", "articleType") if self.fields[level]]

    @property
    def attributes(self) -> list[str]:
        return [f"{name}:{value}" for name, column in _ATTRIBUTES.items() if (value := self.fields.get(column, ""))]


def import_fashion(source: Path, target: Path, *, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Imports `source` into the contract directory `target`: a folder with styles.csv and images/ or images.zip, or one
    zip with both.

    Items without a photo that decodes are left out: each is named in the quarantine, `facts["left_out"]` counts them.
    Titles are split three ways by SHA-256. `progress(done, total)` counts photos. Raises DataError where a file is
    missing, a column is missing, more than 5 % of the items fall out, or too few titles are shared.
    """
    source, target = Path(source), Path(target)
    refuse_existing(target)
    products, unread = read_styles(source)
    photos, absent, broken = read_photos(source, "images", [product.item_id for product in products], progress)
    left_out = {"malformed_line": 0, "duplicate_id": 0, **Counter(unread.values())}
    left_out |= {"no_image": len(absent), "broken": len(broken)}
    lines = len(products) + len(unread)
    if sum(left_out.values()) > MAX_LEFT_OUT * lines:
        told = ", ".join(f"{reason} {count}" for reason, count in left_out.items() if count)
        raise DataError(f"{source}: more than 5 % of {lines} items cannot be used ({told}); is the download complete?")
    reasons = broken | dict.fromkeys(absent, "no_image")
    unusable = {product.line: reasons[product.item_id] for product in products if product.item_id in reasons}
    quarantine = Quarantine()
    for line, reason in sorted((unread | unusable).items()):
        quarantine.put("items", "styles.csv", [line], reason)
    products = [product for product in products if product.item_id in photos]
    groups: dict[str, list[int]] = defaultdict(list)
    for product in products:
        groups[product.title].append(product.item_id)
    pairs, splits = group_pairs(groups)
    return write_dataset(
        target,
        name="fashion-product-images",
        source="Fashion Product Images (Kaggle)",
        licence="stated as MIT on Kaggle, not verified; the photos are the sellers': not to be redistributed",
        split_rule="by title group, in the order of the SHA-256 of the title",
        tables=_tables(products, groups, photos, pairs),
        simulated={"items": False, "queries": False, "pairs": False},
        forms={"image": "image->image"},
        quarantine=quarantine,
        facts={
            "items": len(products),
            "gallery": len(products),
            "category_levels": ["masterCategory", "subCategory", "articleType"],
            "left_out": left_out,
            "groups": {split: list(splits.values()).count(split) for split in ("train", "valid", "test")},
            "queries": {
                split: len({pair[0] for pair in pairs if pair[2] == split}) for split in ("train", "valid", "test")
            },
        },
    )


def read_styles(source: Path) -> tuple[list[Product], dict[int, str]]:
    """Products in the order of ids, and the lines left out with why: "malformed_line" or "duplicate_id".

    Kaggle does not quote titles, so whatever commas stand beyond the last column belong to the title.
    """
    path = source / "styles.csv"
    lines = read_text(source, "styles.csv").splitlines()
    header = lines[0].split(",") if lines else []
    if missing := [column for column in _NEEDED if column not in header]:
        raise DataError(f"{path}, line 1: lacks column {missing[0]!r}; it has {', '.join(header)[:200] or 'nothing'}")
    if header[-1] != "productDisplayName":
        raise DataError(f"{path}, line 1: productDisplayName must be the last column, its titles hold commas")
    found: dict[int, Product] = {}
    unread: dict[int, str] = {}
    at = header.index("id")
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        values = line.split(",", len(header) - 1)
        if len(values) < len(header) or not values[at].isdecimal() or len(values[at]) > 18:
            unread[number] = "malformed_line"
            continue
        fields = {column: value.strip() for column, value in zip(header, values, strict=True)}
        title = fields["productDisplayName"]
        if len(title) > 1 and title[0] == title[-1] == '"':  # a re-saved file quotes what holds commas
            title = title[1:-1].replace('""', '"').strip()
        product = Product(number, int(fields["id"]), title, fields)
        if product.item_id in found:
            unread[number] = "duplicate_id"
        found.setdefault(product.item_id, product)
    return sorted(found.values(), key=lambda product: product.item_id), unread


def _tables(
    products: list[Product],
    groups: Mapping[str, list[int]],
    photos: Mapping[int, bytes],
    pairs: list[tuple[int, int, str]],
) -> "dict[str, pl.DataFrame]":
    import polars as pl

    texts = pl.List(pl.String)
    items = pl.DataFrame(
        {
            "item_id": [product.item_id for product in products],
            "title": [product.title for product in products],
            "image": [photos[product.item_id] for product in products],
            "category": [product.category for product in products],
            "attributes": [product.attributes for product in products],
            "product_id": [min(groups[p.title]) if p.title else p.item_id for p in products],
        },
        schema_overrides={"category": texts, "attributes": texts},
    )
    asked = list(dict.fromkeys(pair[0] for pair in pairs))
    queries = pl.DataFrame(
        {
            "query_id": asked,  # an item asks at most once, so its id serves
            "text": pl.Series([None] * len(asked), dtype=pl.String),
            "image": [photos[item] for item in asked],
            "item_id": asked,
        }
    )
    frame = pl.DataFrame(pairs, schema=["query_id", "item_id", "split"], orient="row")
    return {
        "items": items,
        "queries": queries,
        "pairs": frame.select("query_id", "item_id", pl.lit("click").alias("action"), "split"),
    }
