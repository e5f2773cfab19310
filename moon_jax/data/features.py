"""Features of users and of context as codes: each column a block of rows in one table of embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from moon_jax.data.contract import DataError, read_table
from moon_jax.data.histories import Behaviour
from moon_jax.data.tables import read_schema

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
Group = Literal["user", "time", "position"]
BUCKETS = 32  # quantiles of training that a number is told by, where it has more values than VALUES
VALUES = 64
WIDEST = 1 << 16  # values of one column at most: beyond, a column names users rather than describes them


@dataclass(frozen=True)
class Features:
    """What impressions say besides target, history and query.

    names: the columns, F of them; row_IxF int32: rows of the table of embeddings, each column in a block of its own whose
    first row is that of values which training never shows, or which are missing; rows: of the whole table.
    """

    names: tuple[str, ...]
    row_IxF: Array
    rows: int


def read_features(
    groups: Sequence[Group], behaviour: Behaviour, impressions: Path, users: Path | None = None
) -> Features | None:
    """The columns of these groups for every impression of `behaviour`, coded by what training impressions show; without those
    that are the same for all of them, and None where that leaves none.

    "user": all columns of `users.parquet` but the id (where there is one), and how many events happened before, in powers of
    two. "time": hour of the day and day of the week of `timestamp` (UTC). "position": the place that the impression was
    shown at, in test, too: metrics are then those of clicks as logged, not of an order that has yet to be chosen.

    Words, truth values and numbers of at most 64 values are categories, other numbers go by the quantiles of training.
    Raises DataError where a group has nothing to read, or a column is no word, truth value or number.
    """
    columns: dict[str, Array] = {}
    schema = read_schema(impressions)
    for group in groups:
        if group == "user":
            columns |= _of_users(users, behaviour)
        elif group == "time":
            columns |= _of_time(_column(impressions, schema, "timestamp", group))
        elif group == "position":
            columns["position"] = _column(impressions, schema, "position", group)
        else:
            raise DataError(f"features: {group!r} is unknown; some of user, time, position")
    training, rows = behaviour.split == "train", 0
    names: list[str] = []
    codes: list[Array] = []
    for name, values_I in columns.items():
        code_I, count = _coded(name, values_I, training)
        if np.unique(code_I[training]).size > 1:
            names.append(name)
            codes.append(code_I + rows)
            rows += count
    return Features(tuple(names), np.stack(codes, axis=1).astype(np.int32), rows) if names else None


def _of_users(users: Path | None, behaviour: Behaviour) -> dict[str, Array]:
    events_I = behaviour.end - behaviour.start
    out = {"events before": np.floor(np.log2(events_I + 1)).astype(np.float64)}
    if users is None:
        return out
    table = read_table(users)
    order = np.argsort(table["user_id"].to_numpy(), kind="stable")
    ids_U = table["user_id"].to_numpy()[order]
    at_I = np.minimum(np.searchsorted(ids_U, behaviour.user), ids_U.size - 1)
    known_I = ids_U[at_I] == behaviour.user
    for name in (name for name in table.columns if name != "user_id"):
        values_I = _values(table[name], f"{users}, column {name!r}")[order][at_I]
        values_I[~known_I] = None  # nan, where they are numbers
        out[f"user {name}"] = values_I
    return out


def _of_time(seconds_I: Array) -> dict[str, Array]:
    return {"hour": seconds_I // 3600 % 24, "weekday": (seconds_I // 86400 + 3) % 7}  # 1970-01-01 was a Thursday


def _column(impressions: Path, schema: "pl.Schema", name: str, group: str) -> Array:
    if name not in schema:
        raise DataError(f"{impressions}: no column {name!r}, which features {group!r} read")
    return _values(read_table(impressions, [name])[name], f"{impressions}, column {name!r}")


def _values(column: "pl.Series", where: str) -> Array:
    """As float64 with nan, or as objects with None, for missing ones."""
    import polars as pl

    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return column.cast(pl.Float64).to_numpy()
    if column.dtype == pl.String:
        return column.to_numpy().astype(object)
    raise DataError(f"{where} is {column.dtype}: a feature is a word, a truth value or a number; leave the column out")


def _coded(name: str, values_I: Array, training: Array) -> tuple[Array, int]:
    """(codes, how many there are): 0 for a missing value and for one that training never shows."""
    return _words(name, values_I, training) if values_I.dtype == object else _numbers(values_I, training)


def _words(name: str, values_I: Array, training: Array) -> tuple[Array, int]:
    known = sorted(set(values_I[training]) - {None})
    if len(known) > WIDEST:
        raise DataError(f"feature {name!r}: {len(known):,} words in training; a feature has at most {WIDEST:,}")
    codes = {word: code for code, word in enumerate(known, start=1)}
    return np.array([codes.get(word, 0) for word in values_I]), len(known) + 1


def _numbers(values_I: Array, training: Array) -> tuple[Array, int]:
    missing_I = ~np.isfinite(values_I)
    shown = values_I[training & ~missing_I]
    known = np.unique(shown)
    if known.size > VALUES:
        borders = np.unique(np.quantile(shown, np.arange(1, BUCKETS) / BUCKETS))
        code_I = 1 + np.searchsorted(borders, np.where(missing_I, 0.0, values_I), side="right")
        return np.where(missing_I, 0, code_I), borders.size + 2
    if not known.size:
        return np.zeros(values_I.size, np.int64), 1
    at_I = np.minimum(np.searchsorted(known, np.where(missing_I, known[0], values_I)), known.size - 1)
    return np.where(known[at_I] == values_I, 1 + at_I, 0), known.size + 1
