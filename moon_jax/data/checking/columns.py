"""The columns of every file of the contract and whether a table has them."""

from typing import TYPE_CHECKING, Any

from moon_jax.data.checking.findings import Findings

if TYPE_CHECKING:
    import polars as pl

# file -> column -> (type, required, may be null)
COLUMNS: dict[str, dict[str, tuple[str, bool, bool]]] = {
    "items": {
        "item_id": ("int", True, False),
        "source_id": ("string", False, True),
        "title": ("string", True, False),
        "image": ("binary", True, True),
        "category": ("list<string>", True, False),
        "attributes": ("list<string>", True, False),
        "product_id": ("int", True, False),
        "available_from": ("int", False, True),
    },
    "queries": {
        "query_id": ("int", True, False),
        "text": ("string", False, True),
        "image": ("binary", False, True),
        "item_id": ("int", False, True),
    },
    "pairs": {
        "query_id": ("int", True, False),
        "item_id": ("int", True, False),
        "action": ("string", True, False),
        "user_id": ("int", False, True),
        "search_id": ("int", False, True),
        "timestamp": ("int", False, True),
        "split": ("string", True, False),
    },
    "events": {
        "user_id": ("int", True, False),
        "item_id": ("int", False, True),
        "query_id": ("int", False, True),
        "action": ("string", True, False),
        "timestamp": ("int", True, False),
    },
    "impressions": {
        "impression_id": ("int", True, False),
        "user_id": ("int", True, False),
        "item_id": ("int", True, False),
        "query_id": ("int", False, True),
        "search_id": ("int", False, True),
        "position": ("int", False, True),
        "timestamp": ("int", False, False),
        "history": ("list<int>", False, False),
        "clicked": ("bool", True, False),
        "split": ("string", True, False),
    },
    "truth": {"impression_id": ("int", True, False), "probability": ("float", True, False)},
    "relevance": {
        "query_id": ("int", True, False),
        "item_id": ("int", True, False),
        "grade": ("number", True, False),
        "split": ("string", True, False),
    },
    "users": {"user_id": ("int", True, False)},
    "embeddings": {
        "item_id": ("int", True, False),
        "embedding": ("list<number>", True, False),
        "scale": ("float", False, False),
    },
    "hard_negatives": {
        "query_id": ("int", True, False),
        "item_id": ("int", True, False),
        "kind": ("string", True, False),
    },
}


def check_columns(found: Findings, file: str, schema: "pl.Schema", rows: int) -> bool:
    """Whether the columns are those of the contract; what is wrong with them is noted."""
    before = len(found.faults)
    for column, (kind, required, _) in COLUMNS[file].items():
        if column not in schema:
            if required:
                found.whole(file, f"column {column!r} is missing")
        elif not is_kind(schema[column], kind):
            found.whole(file, f"column {column!r} is {schema[column]}, must be {kind}")
    if file == "impressions" and not {"timestamp", "history"} & set(schema):
        found.whole(file, "needs a column 'timestamp' (with events.parquet) or 'history'")
    if file == "embeddings" and is_kind(schema.get("embedding"), "list<int>") and "scale" not in schema:
        found.whole(file, "needs a column 'scale': the embedding is of integers")
    if rows == 0:
        found.whole(file, "has no rows")
    return len(found.faults) == before


def is_kind(dtype: Any, kind: str) -> bool:
    """Whether a polars type is of a kind of the table above: "int", "list<string>", ..."""
    import polars as pl

    if dtype is None:
        return False
    if kind.startswith("list<"):
        return isinstance(dtype, pl.List | pl.Array) and is_kind(dtype.inner, kind[5:-1])
    return bool(
        {
            "int": dtype.is_integer(),
            "float": dtype.is_float(),
            "number": dtype.is_numeric(),
            "string": dtype == pl.String,
            "binary": dtype == pl.Binary,
            "bool": dtype == pl.Boolean,
        }[kind]
    )
