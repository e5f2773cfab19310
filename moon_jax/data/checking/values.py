"""Rules that a row breaks by itself: nulls, numbers that are not finite, words that the contract does not have."""

from typing import TYPE_CHECKING

from moon_jax.data.checking.columns import COLUMNS, is_kind
from moon_jax.data.checking.findings import Findings
from moon_jax.data.contract import SPLITS
from moon_jax.data.tables import flattened

if TYPE_CHECKING:
    import polars as pl

ACTIONS = {"pairs": ("click", "cart", "purchase")}


def check_values(found: Findings, file: str, start: int, frame: "pl.DataFrame") -> None:
    """Every column of a batch that begins at row `start`, whether or not its type is right."""
    import polars as pl

    columns = COLUMNS[file]
    for column, dtype in frame.schema.items():
        series = frame[column]
        if column in columns and not columns[column][2]:
            found.rows(file, start, series.is_null(), f"{column} is null")
        if dtype.is_float():
            found.rows(file, start, ~series.is_finite(), f"{column} is not a finite number")
        elif isinstance(dtype, pl.List | pl.Array):
            _check_elements(found, file, start, series)
    if is_kind(frame.schema.get("probability"), "float") and file == "truth":
        outside = (frame["probability"] < 0) | (frame["probability"] > 1)
        found.rows(file, start, outside, "{} {} is outside 0..1", "probability", frame["probability"])
    for column, allowed in (("split", SPLITS), ("action", ACTIONS.get(file, ()))):
        if allowed and frame.schema.get(column) == pl.String:
            wrong = ~frame[column].is_in(list(allowed))
            found.rows(file, start, wrong, "{} is {!r}, must be one of " + ", ".join(allowed), column, frame[column])


def _check_elements(found: Findings, file: str, start: int, series: "pl.Series") -> None:
    import polars as pl

    inner = series.cast(pl.List(series.dtype.inner))  # type: ignore[attr-defined]
    flat = flattened(series)
    if flat.null_count():  # row by row only where there is something to find: histories are long
        nulls = inner.list.eval(pl.element().is_null()).list.any()
        found.rows(file, start, nulls, f"{series.name} holds a null")
    if flat.dtype.is_float() and not flat.is_finite().all():
        not_finite = inner.list.eval(~pl.element().is_finite()).list.any()
        found.rows(file, start, not_finite, f"{series.name} holds a number that is not finite")


def check_content(found: Findings, file: str, start: int, frame: "pl.DataFrame", *, bare_items: bool) -> None:
    """Rows that say nothing: a query without a modality, an item without image and title, an event of nothing.

    `bare_items`: items may lack both, for what they show is not asked for.
    """
    import polars as pl

    def nothing(*columns: str) -> pl.Series:
        absent = pl.Series([True] * frame.height, dtype=pl.Boolean)
        for column in columns:
            if column in frame.columns:
                absent &= frame[column].is_null()
        return absent

    if file == "queries":
        found.rows(file, start, nothing("text", "image", "item_id"), "has neither text nor image nor item_id")
    if file == "items" and not bare_items:
        empty = frame["image"].is_null() & (frame["title"].str.len_bytes() == 0)
        found.rows(file, start, empty, "has neither image nor title")
    if file == "events" and {"item_id", "query_id"} & set(frame.columns):
        found.rows(file, start, nothing("item_id", "query_id"), "has neither item_id nor query_id")
    if file == "embeddings" and frame.height:
        lists = frame["embedding"].cast(pl.List(frame["embedding"].dtype.inner))  # type: ignore[attr-defined]
        found.rows(file, start, lists.list.len() == 0, "embedding is empty")
        if "scale" in frame.columns:
            found.rows(file, start, frame["scale"] <= 0, "scale is not above 0")
