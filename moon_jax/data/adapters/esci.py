"""ESCI, Amazon's Shopping Queries: text queries with graded products in English, Spanish and Japanese.

Where: github.com/amazon-science/esci-data (Git LFS), folder `shopping_queries_dataset`. Licence: Apache-2.0. Layout:

    shopping_queries_dataset_examples.parquet   example_id, query, query_id, product_id, product_locale, esci_label,
                                                small_version, large_version, split (train, test)
    shopping_queries_dataset_products.parquet   product_id, product_title, product_description, product_bullet_point,
                                                product_brand, product_color, product_locale

Grades are the gains of the KDD Cup's nDCG: exact 1, substitute 0.1, complement 0.01, irrelevant 0. Pairs are the exact
ones; nobody clicked: `action` says "click" because the contract has no word for a judgement. A tenth of the training
queries, by SHA-256 of the id, is valid. There are no images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moon_jax.data.adapters.groups import held_out
from moon_jax.data.adapters.parquet_source import Steps, require_columns, set_apart, sound_batches
from moon_jax.data.contract import DataError, Dataset, refuse_existing
from moon_jax.data.quarantine import SHARE
from moon_jax.data.tables import count_rows
from moon_jax.data.writing import DatasetWriter

if TYPE_CHECKING:
    import polars as pl

GRADES = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
LOCALES = ("us", "es", "jp")
_HELD_OUT = 0.1  # of the training queries
_TWICE = "the product is listed twice"
_EXAMPLES = {
    "query": "string",
    "query_id": "int",
    "product_id": "string",
    "product_locale": "string",
    "esci_label": "string",
    "small_version": "int",
    "large_version": "int",
    "split": "string",
}
_PRODUCTS = dict.fromkeys(("product_id", "product_title", "product_brand", "product_color", "product_locale"), "string")


def import_esci(
    source: Path,
    target: Path,
    *,
    version: Literal["small", "large"] = "small",
    locales: tuple[str, ...] = LOCALES,
    limit: float = SHARE,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Imports the folder `source` into the contract directory `target`: items, queries, pairs, relevance.

    Args:
        source: the folder with the two Parquet files, or the repository's root.
        version: "small" (task 1, the harder queries: 1.1 million judgements) or "large" (tasks 2 and 3: 2.6 million).
        locales: of "us", "es", "jp".
        limit: share of the rows of a table that may be left out; each is named in the quarantine.
        progress: called with (rows done, rows).

    Raises DataError where a file, a column or too many rows cannot be used.
    """
    import polars as pl

    source, target = Path(source), Path(target)
    refuse_existing(target)
    if wrong := set(locales) - set(LOCALES):
        raise DataError(f"ESCI has no locale {sorted(wrong)[0]!r}; it has {', '.join(LOCALES)}")
    inner = source / "shopping_queries_dataset"
    folder = inner if inner.is_dir() else source
    examples, products = (folder / f"shopping_queries_dataset_{kind}.parquet" for kind in ("examples", "products"))
    require_columns(examples, _EXAMPLES)
    require_columns(products, _PRODUCTS)
    step = Steps(progress, examples, products)
    with DatasetWriter(
        target,
        name=f"esci-{version}-{'-'.join(locales)}",
        source="Shopping Queries Dataset (Amazon), KDD Cup 2022",
        licence="Apache-2.0",
        split_rule="train and test as published; valid: a tenth of the training queries by SHA-256 of the id",
        simulated=dict.fromkeys(("items", "queries", "pairs", "relevance"), False),
        forms={"text": "text->text"},
    ) as writer:
        judged = _judgements(writer, examples, version, locales, step)
        items = _write_items(writer, products, judged, step)
        judged = judged.join(items, on=["product_id", "product_locale"], how="left", maintain_order="left")
        unknown = {"its product is not in the products, or has no title": pl.col("item_id").is_null()}
        judged = set_apart(judged, unknown, writer.quarantine, "relevance", examples)
        for file, path in (("items", products), ("relevance", examples)):
            writer.quarantine.require_few(file, count_rows(path), share=limit)
        _write_searches(writer, judged)
        writer.facts |= {"grades": GRADES, "version": version, "locales": list(locales)}
    return writer.dataset


def _judgements(
    writer: DatasetWriter, path: Path, version: str, locales: tuple[str, ...], step: Callable[[int], None]
) -> "pl.DataFrame":
    """The judgements of a version and its locales, with `grade` and our `split`."""
    import polars as pl

    faults = {
        **{f"{name} is null": pl.col(name).is_null() for name in _EXAMPLES},
        "query is empty": pl.col("query").str.strip_chars().str.len_bytes() == 0,
        f"esci_label is none of {', '.join(GRADES)}": ~pl.col("esci_label").is_in(list(GRADES)),
        "split is neither train nor test": ~pl.col("split").is_in(["train", "test"]),
    }
    wanted = (pl.col(f"{version}_version") == 1) & pl.col("product_locale").is_in(list(locales))
    found = []
    for part in sound_batches(path, list(_EXAMPLES), faults, writer.quarantine, "relevance"):
        step(part.height)
        found.append(part.filter(wanted).drop("small_version", "large_version"))
    judged = pl.concat(found)
    if not judged.height:
        raise DataError(f"{path}: no judgement of the {version} version in {', '.join(locales)}")
    again = {"the product is judged twice for its query": ~pl.struct("query_id", "product_id").is_first_distinct()}
    judged = set_apart(judged, again, writer.quarantine, "relevance", path)
    valid = held_out(judged.filter(pl.col("split") == "train")["query_id"], _HELD_OUT)
    asked = pl.Series(sorted(valid), dtype=judged.schema["query_id"])
    return judged.with_columns(
        grade=pl.col("esci_label").replace_strict(GRADES, return_dtype=pl.Float64),
        split=pl.when(pl.col("query_id").is_in(asked.implode())).then(pl.lit("valid")).otherwise(pl.col("split")),
    )


def _write_items(
    writer: DatasetWriter, path: Path, judged: "pl.DataFrame", step: Callable[[int], None]
) -> "pl.DataFrame":
    """Writes the judged products that have a title, streamed; returns their keys with the item id."""
    import polars as pl

    key = ["product_id", "product_locale"]
    needed = judged.select(key).unique()
    faults = {
        **{f"{name} is null": pl.col(name).is_null() for name in key},
        "has no title": pl.col("product_title").fill_null("").str.strip_chars().str.len_bytes() == 0,
    }
    found: list[pl.DataFrame] = []
    for part in sound_batches(path, list(_PRODUCTS), {}, writer.quarantine, "items"):
        step(part.height)
        rows = part.join(needed, on=key, how="semi").sort("row")
        rows = set_apart(rows, faults, writer.quarantine, "items", path)
        rows = set_apart(rows, {_TWICE: ~pl.struct(key).is_first_distinct()}, writer.quarantine, "items", path)
        if found:
            before = rows.select(key).join(pl.concat(found), on=key, how="left", maintain_order="left")["item_id"]
            rows = set_apart(rows, {_TWICE: before.is_not_null()}, writer.quarantine, "items", path)
        start = sum(map(len, found))
        rows = rows.with_columns(item_id=pl.int_range(start, start + pl.len(), dtype=pl.Int64))
        found.append(rows.select(*key, "item_id"))
        writer.gather("items", _items(rows))
    return pl.concat(found)


def _items(products: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    said = {"brand": "product_brand", "colour": "product_color", "locale": "product_locale"}
    words = [pl.format("{}:{}", pl.lit(name), pl.col(column).str.strip_chars()) for name, column in said.items()]
    return products.select(
        "item_id",
        pl.col("product_id").alias("source_id"),
        pl.col("product_title").str.strip_chars().alias("title"),
        pl.lit(None, pl.Binary).alias("image"),
        pl.lit([], pl.List(pl.String)).alias("category"),
        pl.concat_list(words).list.drop_nulls().alias("attributes"),
        pl.col("item_id").alias("product_id"),
    )


def _write_searches(writer: DatasetWriter, judged: "pl.DataFrame") -> None:
    """Queries in the order of their ids, the exact products as pairs, all judgements as relevance."""
    import polars as pl

    judged = judged.with_columns(pl.col("query_id").cast(pl.Int64)).sort("query_id", "row")
    queries = judged.unique("query_id", keep="first", maintain_order=True)
    writer.add("queries", queries.select("query_id", pl.col("query").str.strip_chars().alias("text")))
    exact = judged.filter(pl.col("esci_label") == "E")
    writer.add("pairs", exact.select("query_id", "item_id", pl.lit("click").alias("action"), "split"))
    writer.add("relevance", judged.select("query_id", "item_id", "grade", "split"))
