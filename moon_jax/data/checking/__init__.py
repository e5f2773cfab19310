"""What `moon data check` looks for: every rule of the contract that a table or an image can break."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.checking.columns import check_columns
from moon_jax.data.checking.findings import Findings
from moon_jax.data.checking.ids import KEYS, References, check_keys, check_negatives
from moon_jax.data.checking.images import FORMATS, MAX_PIXELS, image_fault, image_faults
from moon_jax.data.checking.times import Order, check_arrivals, check_histories, check_splits_in_time
from moon_jax.data.checking.values import check_content, check_values
from moon_jax.data.contract import FILES, SPLITS, DataError, Dataset, Fault, open_dataset
from moon_jax.data.tables import logical_digest, read_schema

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FORMATS", "MAX_PIXELS", "find_faults", "image_fault", "image_faults", "require_sound"]

Progress = Callable[[int, int], None]


def find_faults(folder: Path, *, progress: Progress | None = None) -> list[Fault]:
    """Every fault of the dataset in `folder`, in bounded memory; see `contract.check`."""
    dataset, found = open_dataset(folder), Findings()
    schemas = {file: read_schema(dataset.path(file)) for file in dataset.rows}
    sound = [file for file, schema in schemas.items() if check_columns(found, file, schema, dataset.rows[file])]
    for file, recorded in dataset.recorded.items():
        if recorded != logical_digest(dataset.path(file)):  # read anew, whatever was noted beside the file
            found.whole(file, "content differs from the digest in dataset.json")
    for file in FILES:
        if file not in dataset.rows and (folder / f"{file}.parquet").exists():
            found.whole(file, "is in the folder but dataset.json does not list it")
    _check_rows(found, dataset, sound, {file: list(schema) for file, schema in schemas.items()}, progress)
    _check_tables(found, dataset, sound, {file: list(schemas[file]) for file in sound})
    return found.all()


def _check_rows(
    found: Findings, dataset: Dataset, sound: list[str], columns: dict[str, list[str]], progress: Progress | None
) -> None:
    """One pass over each file: what can be told from a batch, the ids of other tables and the row before."""
    references, order = References(dataset, sound), Order()
    arrivals = _arrivals(dataset, sound, columns)
    # With vectors, or for a log of clicks without searches, items need show nothing.
    bare_items = dataset.has("embeddings") or (dataset.has("impressions") and not dataset.has("pairs"))
    total = sum(dataset.rows[file] for file in sound if "image" in columns[file])
    done = 0
    for file in dataset.rows:
        for start, frame in dataset.batches(file):
            check_values(found, file, start, frame)
            if file not in sound:
                continue
            references.check(found, file, start, frame)
            check_content(found, file, start, frame, bare_items=bare_items)
            if file == "events":
                order.check(found, start, frame)
            if arrivals is not None and {"item_id", "timestamp"} <= set(columns[file]):
                check_arrivals(found, file, start, frame, arrivals)
            if "image" in frame.columns:
                _check_images(found, file, start, frame["image"])
                done += frame.height
                if progress is not None:
                    progress(done, total)
        if file in sound:
            references.check_tables(found, file, columns[file])


def _arrivals(dataset: Dataset, sound: list[str], columns: dict[str, list[str]]) -> "pl.DataFrame | None":
    """`item_id`, `available_from` of the items that were not there from the beginning."""
    if "items" not in sound or "available_from" not in columns["items"]:
        return None
    return dataset.read("items", ["item_id", "available_from"]).drop_nulls().unique("item_id")


def _check_images(found: Findings, file: str, start: int, images: "pl.Series") -> None:
    import polars as pl

    for first in range(0, len(images), 4096):  # their bytes need not be held twice
        reasons = pl.Series(image_faults(images[first : first + 4096].to_list()), dtype=pl.String)
        found.rows(file, start + first, reasons.is_not_null(), "{}{}", "", reasons)


def _check_tables(found: Findings, dataset: Dataset, sound: list[str], columns: dict[str, list[str]]) -> None:
    """What only a whole table, or two of them, can tell."""
    for file in (file for file in KEYS if file in sound):
        check_keys(found, dataset, file)
    for file in (file for file in ("pairs", "impressions", "relevance") if file in sound):
        there = {split for _, part in dataset.batches(file, ["split"]) for split in part["split"].unique().to_list()}
        for split in (split for split in SPLITS if split not in there):
            found.whole(file, f"split {split!r} is empty")
    if "embeddings" in sound and len(widths := _widths(dataset)) > 1:
        found.whole("embeddings", f"embeddings have different lengths: {', '.join(map(str, sorted(widths)[:5]))}")
    if "hard_negatives" in sound and "pairs" in sound:
        check_negatives(found, dataset)
    if "events" in sound and not {"item_id", "query_id"} & set(columns["events"]):
        found.whole("events", "needs a column 'item_id' or 'query_id'")
    if "impressions" not in sound:
        return
    timed, kept = "timestamp" in columns["impressions"], "history" in columns["impressions"]
    if timed:
        check_splits_in_time(found, dataset)
    if not kept and not dataset.has("events"):
        found.whole("impressions", "has no history: needs events.parquet or a column 'history'")
    if timed and kept and "item_id" in columns.get("events", ()):
        check_histories(found, dataset)


def _widths(dataset: Dataset) -> set[int]:
    import polars as pl

    lengths: set[int] = set()
    for _, part in dataset.batches("embeddings", ["embedding"]):
        lists = part["embedding"].cast(pl.List(part["embedding"].dtype.inner))  # type: ignore[attr-defined]
        lengths |= set(lists.list.len().drop_nulls().unique().to_list())
    return lengths


def require_sound(folder: Path) -> None:
    """Raises DataError with the first fault and their number, if there is any."""
    if faults := find_faults(folder):
        raise DataError(f"{folder}: {faults[0]} ({len(faults)} faults; `moon data check {folder}` lists them)")
