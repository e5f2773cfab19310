"""Your own catalogue: a CSV or Parquet file with a folder of images, columns mapped by name.

    SRC/items.csv (or the only table there), images anywhere under SRC or in SRC/images.zip,
    and, if you have them, SRC/queries, SRC/pairs, SRC/events, SRC/impressions (.csv, .tsv or .parquet). Impressions with times
    and without events will do: what a user clicked on is then what happened before the next impression.

`item_id` may be any text; whole numbers are kept, else rows are numbered and the text stays in `source_id`. `category`
and `attributes` may take several columns (`category=group,type`), a category also "Shoes > Boots". Items of one
`product_id` (by default: of one title) are variants. Without queries and pairs, searches come from the catalogue: photos
of one product ask for one another, as in Fashion; where too few products have several, a title asks for its photo.
Where to get it and its licence are yours to know.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from moon_jax.data.adapters.catalogue import Catalogue, cell_text, write_items
from moon_jax.data.adapters.groups import group_pairs, split_titles
from moon_jax.data.adapters.logs import COLUMNS, Logs, map_columns
from moon_jax.data.adapters.records import SUFFIXES, Ids, columns_of, find_table, read_records
from moon_jax.data.contract import DataError, Dataset, refuse_existing
from moon_jax.data.quarantine import SHARE
from moon_jax.data.writing import DatasetWriter

ITEM = ("item_id", "title", "image", "category", "attributes", "product_id", "available_from")
FEWEST = 8  # groups of photos of one product, or titles: with fewer there is nothing to split three ways
Mapped = dict[str, dict[str, tuple[str, ...]]]


def import_table(
    source: Path,
    target: Path,
    *,
    mapping: Sequence[str] = (),
    limit: float = SHARE,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Imports the folder or table `source` into the contract directory `target`.

    Args:
        source: a folder as described above, or the items table itself with the images beside it.
        mapping: "item_id=sku", "category=group,type", for other tables "pairs.item_id=sku"; columns that already have
            the contract's name need none.
        limit: share of the rows of a table that may be left out; each is named in the quarantine.
        progress: called with (items done, items).

    Raises DataError where a table, a column or too many rows cannot be used.
    """
    source, target = Path(source), Path(target)
    refuse_existing(target)
    folder, table, mapped = source.parent if source.is_file() else source, _items_table(source), parse_mapping(mapping)
    columns = map_columns(table, "items", ITEM, mapped.get("items", {}), ("item_id",))
    if not {"title", "image"} & set(columns):
        told = ", ".join(columns_of(table))[:200]
        raise DataError(f"{table}: map a title or an image (--map title=COLUMN --map image=COLUMN); it has {told}")
    named = read_records(table, {"item_id": columns["item_id"]})
    ids = Ids([cell_text(values["item_id"][0], table, row, "item_id") for row, values in named if values])
    with DatasetWriter(
        target,
        name=folder.resolve().name,
        source=f"{table.name} of the user",
        licence="the owner's",
        split_rule="as given; where a table has no split: by SHA-256 of product, query or user",
        simulated=dict.fromkeys(("items", *COLUMNS), False),
        forms={},
    ) as writer:
        catalogue = Catalogue()
        logs = Logs(folder, mapped, ids, catalogue.kept, limit, writer)  # first: it may refuse, and items take long
        write_items(writer, folder, table, columns, ids, catalogue, progress)
        writer.quarantine.require_few("items", catalogue.rows, share=limit)
        if not catalogue.kept:
            raise DataError(f"{table}: no row of it makes an item")
        if logs.has("queries"):
            writer.forms.update(_forms(logs.write_searches(), catalogue))
            searches = "as given"
        else:
            searches = _searches_of(writer, catalogue)
        logs.write_behaviour()
        writer.facts |= {
            "items": len(catalogue.kept),
            "searches": searches,
            "mapped": {name: ",".join(of) for name, of in columns.items()},
            **({"events": "the clicked impressions"} if logs.clicks_are_events else {}),
        }
    return writer.dataset


def parse_mapping(mapping: Sequence[str]) -> Mapped:
    """{"items": {"title": ("name",)}, ...} of "title=name" and "pairs.item_id=sku"; DataError for what is neither."""
    allowed = {"items": ITEM, **COLUMNS}
    found: Mapped = {}
    for entry in mapping:
        target, equals, sources = entry.partition("=")
        file, dot, column = target.rpartition(".")
        file = file if dot else "items"
        if not equals or not sources:
            raise DataError(f"--map {entry}: write NAME=COLUMN, e.g. --map title=name or --map pairs.item_id=sku")
        if column not in allowed.get(file, ()):
            told = f"{file} has {', '.join(allowed[file])}" if file in allowed else f"tables: {', '.join(allowed)}"
            raise DataError(f"--map {entry}: the contract has no {target}; {told}")
        found.setdefault(file, {})[column] = tuple(sources.split(","))
    return found


def _items_table(source: Path) -> Path:
    if source.is_file():
        if source.suffix in SUFFIXES:
            return source
        raise DataError(f"{source}: give a folder, or a table that ends in {', '.join(SUFFIXES)}")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or file")
    if found := find_table(source, "items"):
        return found
    tables = [path for path in sorted(source.iterdir()) if path.suffix in SUFFIXES and path.stem not in COLUMNS]
    if len(tables) != 1:
        told = ", ".join(path.name for path in tables) or "none"
        raise DataError(
            f"{source}: one table of items is needed, found {told}; name it items.csv, and what users did "
            "impressions.csv or events.csv"
        )
    return tables[0]


def _searches_of(writer: DatasetWriter, catalogue: Catalogue) -> str:
    """Writes searches that the catalogue itself gives; says in words which."""
    shared = [name for name, items in catalogue.shown.items() if name and len(items) > 1]
    if len(shared) >= FEWEST:
        pairs, _ = group_pairs(catalogue.shown)
        _write_photo_queries(writer, list(dict.fromkeys(pair[0] for pair in pairs)))
        _write_pairs(writer, pairs)
        writer.forms["image"] = "image->image"
        return "photos of one product ask for one another"
    if len(catalogue.titles) >= FEWEST:
        _write_title_queries(writer, catalogue)
        writer.forms["text"] = "text->image"
        return "titles ask for their photos"
    return "none: too few products have two photos, and too few photos a title"


def _forms(kinds: list[str], catalogue: Catalogue) -> dict[str, str]:
    """A query as it is, against all that items show."""
    shown = "+".join(name for name, there in (("image", catalogue.shown), ("text", catalogue.titled)) if there)
    return {kind: f"{shown if kind == 'item' else kind}->{shown}" for kind in kinds}


def _write_photo_queries(writer: DatasetWriter, asking: list[int]) -> None:
    import polars as pl

    ids = pl.Series("item_id", asking, dtype=pl.Int64)
    for _, part in writer.written("items", ["item_id", "image"]):
        chosen = part.filter(pl.col("item_id").is_in(ids.implode()))
        text = pl.lit(None, pl.String).alias("text")
        writer.gather("queries", chosen.select(pl.col("item_id").alias("query_id"), text, "image", "item_id"))


def _write_title_queries(writer: DatasetWriter, catalogue: Catalogue) -> None:
    """A title asks for all photos of that title, so that equal titles are not one another's negatives."""
    import polars as pl

    by_title: dict[str, list[int]] = {}
    for item, title in catalogue.titles.items():
        by_title.setdefault(title, []).append(item)
    splits = split_titles(list(by_title))
    queries = pl.DataFrame(
        {"query_id": range(len(by_title)), "text": list(by_title)}, schema_overrides={"query_id": pl.Int64}
    )
    writer.add("queries", queries)
    _write_pairs(
        writer, [(query, item, splits[t]) for query, (t, items) in enumerate(by_title.items()) for item in items]
    )


def _write_pairs(writer: DatasetWriter, pairs: list[tuple[int, int, str]]) -> None:
    import polars as pl

    frame = pl.DataFrame(pairs, schema={"query_id": pl.Int64, "item_id": pl.Int64, "split": pl.String}, orient="row")
    writer.add("pairs", frame.select("query_id", "item_id", pl.lit("click").alias("action"), "split"))
