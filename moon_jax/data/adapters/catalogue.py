"""The items of a user's own table with their images, written in blocks: photos are never all in memory."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moon_jax.data.adapters.photos import Reader, open_photos, read_all, read_inside
from moon_jax.data.adapters.records import Ids, read_records, seconds, text_of
from moon_jax.data.contract import DataError
from moon_jax.data.writing import DatasetWriter

if TYPE_CHECKING:
    import polars as pl

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
BLOCK = 1024  # rows whose photos are read and decoded together
Columns = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Item:
    """One row of the table that can be used; `product` is what its variants share, "" for none."""

    row: int
    item_id: int
    source_id: str
    title: str
    image: bytes | None
    category: list[str]
    attributes: list[str]
    product: str
    available_from: int | None


@dataclass
class Catalogue:
    """What is remembered of the items while they are written: ids, not photos.

    `shown` are the items with a photo by product, `titles` those with a photo and a title, `first` the first item of each
    product: its id names the product; `titled`: whether any item has a title.
    """

    kept: set[int] = field(default_factory=set)
    first: dict[str, int] = field(default_factory=dict)
    shown: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    titles: dict[int, str] = field(default_factory=dict)
    titled: bool = False
    rows: int = 0

    def add(self, item: Item) -> int:
        """Notes an item; returns the id of its product."""
        self.kept.add(item.item_id)
        self.titled |= bool(item.title)
        if item.image is not None:
            self.shown[item.product].append(item.item_id)
            if item.title:
                self.titles[item.item_id] = item.title
        return self.first.setdefault(item.product, item.item_id) if item.product else item.item_id


def write_items(
    writer: DatasetWriter,
    folder: Path,
    table: Path,
    columns: Columns,
    ids: Ids,
    catalogue: Catalogue,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Writes the items of `table` whose photos lie under `folder` and notes them in `catalogue`; rows that cannot be used
    go to the quarantine."""
    with open_images(folder) as read:
        for block in _blocks(read_records(table, columns)):
            items = _usable(writer, table, block, columns, ids, catalogue, read)
            catalogue.rows += len(block)
            writer.gather("items", _frame(items, [catalogue.add(item) for item in items], columns, ids))
            if progress is not None:
                progress(catalogue.rows, max(catalogue.rows, len(ids.number)))


@contextmanager
def open_images(folder: Path) -> Iterator[Reader]:
    """A function from what a table calls an image to its bytes: a path under `folder`, a file name anywhere under it, or
    a member of `folder/images.zip`; None if there is no such image. Links are not followed out of the folder."""
    by_name: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES:
            by_name.setdefault(path.name, path.relative_to(folder).as_posix())
    with ExitStack() as stack:
        zipped = stack.enter_context(open_photos(folder, "images")) if (folder / "images.zip").is_file() else None

        def read(name: str) -> bytes | None:
            found = read_inside(folder, name)
            if found is None and name in by_name:
                found = read_inside(folder, by_name[name])
            return zipped(name) if found is None and zipped is not None else found

        yield read


def _blocks(records: Iterator[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    block = []
    for record in records:
        block.append(record)
        if len(block) == BLOCK:
            yield block
            block = []
    yield block


def _usable(
    writer: DatasetWriter,
    table: Path,
    block: list[tuple[int, Any]],
    columns: Columns,
    ids: Ids,
    catalogue: Catalogue,
    read: Reader,
) -> list[Item]:
    """The rows of a block that make an item; the others go to the quarantine with the reason."""
    rows = [(row, values) for row, values in block if values is not None]
    for row, values in block:
        if values is None:
            writer.quarantine.put("items", table, [row], "cells do not fit the header")
    asked = [_image(values["image"][0] if "image" in values else None, table, row) for row, values in rows]
    kept: list[Item] = []
    seen: set[int] = set()
    for (row, values), name, (image, fault) in zip(rows, asked, read_all(read, asked), strict=True):
        item, reason = _item(row, values, image, columns, ids, table)
        if fault is None and name is not None and image is None:
            fault = f"image {name[:80]!r} is not there"
        if reason is None and item is not None and (item.item_id in seen or item.item_id in catalogue.kept):
            reason = f"duplicate item_id {item.source_id[:80]!r}"
        reason = reason or fault
        if reason is None and item is not None:
            kept.append(item)
            seen.add(item.item_id)
        else:
            writer.quarantine.put("items", table, [row], reason or "")
    return kept


def _item(
    row: int, values: Mapping[str, list[Any]], image: bytes | None, columns: Columns, ids: Ids, table: Path
) -> tuple[Item | None, str | None]:
    """The item of a row, or why there is none."""
    cells = {name: [cell_text(cell, table, row, name) for cell in of] for name, of in values.items() if name != "image"}
    name, title = cells["item_id"][0], cells.get("title", [""])[0]
    if name not in ids.number:
        return None, "item_id is empty"
    arrives = cells.get("available_from", [""])[0]
    if arrives and seconds(arrives) is None:
        return None, f"available_from {arrives[:80]!r} is no time"
    if image is None and not title and "image" not in columns:
        return None, "has no title"
    return Item(
        row=row,
        item_id=ids.number[name],
        source_id=name,
        title=title,
        image=image,
        category=[level.strip() for cell in cells.get("category", []) for level in cell.split(">") if level.strip()],
        attributes=[
            f"{column}:{cell}"
            for column, cell in zip(columns.get("attributes", ()), cells.get("attributes", ()), strict=True)
            if cell
        ],
        product=cells.get("product_id", [title])[0],
        available_from=seconds(arrives) if arrives else None,
    ), None


def _image(value: Any, table: Path, row: int) -> str | bytes | None:
    if isinstance(value, bytes):
        return value
    return cell_text(value, table, row, "image") or None


def cell_text(value: Any, table: Path, row: int, name: str) -> str:
    """A cell as text; DataError, naming it, for what is neither text nor a number."""
    try:
        return text_of(value)
    except DataError as error:
        raise DataError(f"{table}, row {row}: {name} is {error}") from error


def _frame(items: list[Item], products: list[int], columns: Columns, ids: Ids) -> "pl.DataFrame":
    import polars as pl

    texts = pl.List(pl.String)
    schema: dict[str, Any] = {
        "item_id": pl.Int64,
        "title": pl.String,
        "image": pl.Binary,
        "category": texts,
        "attributes": texts,
    }
    frame = pl.DataFrame({name: [getattr(item, name) for item in items] for name in schema}, schema=schema)
    frame = frame.with_columns(product_id=pl.Series(products, dtype=pl.Int64))
    if not ids.own:
        frame = frame.with_columns(source_id=pl.Series([item.source_id for item in items], dtype=pl.String))
    if "available_from" in columns:
        frame = frame.with_columns(available_from=pl.Series([item.available_from for item in items], dtype=pl.Int64))
    return frame
