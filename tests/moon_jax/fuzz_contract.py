"""Seeded damage to a small valid dataset, each with the line that `moon data check` must say of it."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image
from sources import photo

from moon_jax.data.checking.columns import COLUMNS
from moon_jax.data.checking.ids import KEYS
from moon_jax.data.contract import FILES, write_dataset

Random = np.random.Generator


@dataclass(frozen=True)
class Damage:
    """What was done and what must be said: of which file, in which row (None: any or none), with which words.

    `may_pass`: the damage may have changed nothing that counts, as a flipped bit in padding does.
    """

    told: str
    file: str
    row: int | None = None
    words: str = ""
    may_pass: bool = False


def make_dataset(folder: Path) -> None:
    """Every file of the contract, 24 items, 4 users, all rules kept."""
    rng = np.random.default_rng(0)
    ids = np.arange(100, 124)
    texts = pl.List(pl.String)
    tables = {
        "items": pl.DataFrame(
            {
                "item_id": ids,
                "title": [f"thing {k}" for k in ids],
                "image": [photo(k, ("JPEG", "PNG", "WEBP")[k % 3]) for k in ids],
                "category": [["home", "mug"]] * 24,
                "attributes": [["colour:red"], []] * 12,
                "product_id": ids // 2,
                "available_from": [None, 5] * 12,
            },
            schema_overrides={"category": texts, "attributes": texts},
        ),
        "queries": pl.DataFrame(
            {
                "query_id": np.arange(12),
                "text": [f"thing {k}" if k < 6 else None for k in range(12)],
                "image": [photo(k) if 6 <= k < 9 else None for k in range(12)],
                "item_id": [None if k < 9 else 100 + k for k in range(12)],
            }
        ),
        "pairs": pl.DataFrame(
            {
                "query_id": np.arange(12),
                "item_id": ids[:12],
                "action": ["click", "cart", "purchase"] * 4,
                "timestamp": np.arange(50, 62),
                "split": ["train", "valid", "test"] * 4,
            }
        ),
        "events": pl.DataFrame(
            {
                "user_id": np.repeat([1, 2, 3, 4], 8),
                "item_id": rng.choice(ids, 32),
                "action": ["click"] * 32,
                "timestamp": np.tile(np.arange(10, 18), 4),
            }
        ),
        "relevance": pl.DataFrame(
            {
                "query_id": np.arange(12),
                "item_id": ids[:12],
                "grade": rng.random(12),
                "split": ["train", "valid", "test"] * 4,
            }
        ),
        "users": pl.DataFrame({"user_id": [1, 2, 3, 4], "age": [1.5, 2.5, 3.5, 4.5]}),
        "embeddings": pl.DataFrame(
            {"item_id": ids, "embedding": pl.Series(rng.random((24, 4)), dtype=pl.Array(pl.Float32, 4))}
        ),
    }
    past = tables["events"]["item_id"].to_numpy().reshape(4, 8)
    tables["impressions"] = pl.DataFrame(
        {
            "impression_id": np.arange(12),
            "user_id": np.repeat([1, 2, 3, 4], 3),
            "item_id": rng.choice(ids, 12),
            "timestamp": np.tile([20, 21, 22], 4),
            "history": [past[k // 3, -3:].tolist() for k in range(12)],
            "clicked": [True, False] * 6,
            "split": ["train", "valid", "test"] * 4,
        }
    )
    tables["truth"] = pl.DataFrame({"impression_id": np.arange(12), "probability": rng.random(12)})
    if "hard_negatives" in FILES:
        tables["hard_negatives"] = pl.DataFrame({"query_id": [0, 1], "item_id": [120, 121], "kind": ["category"] * 2})
    write_dataset(
        folder,
        name="small",
        source="made for fuzzing",
        licence="none",
        split_rule="by hand",
        tables=tables,
        simulated=dict.fromkeys(tables, True),
        forms={"text": "text->image+text"},
        facts={},
    )


def damage(folder: Path, seed: int) -> Damage:
    """Damages the dataset in `folder`; the kind goes round with the seed, so that a range of seeds has all kinds."""
    rng = np.random.default_rng(seed)
    return KINDS[seed % len(KINDS)](folder, rng)


def _pick(rng: Random, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _files(folder: Path) -> list[str]:
    return [file for file in FILES if (folder / f"{file}.parquet").exists()]


def _rewrite(folder: Path, file: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    path = folder / f"{file}.parquet"
    change(pl.read_parquet(path)).write_parquet(path)


def _set(folder: Path, file: str, column: str, row: int, value: Any, dtype: Any = None) -> None:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(column, values, dtype=dtype or frame.schema[column]))

    _rewrite(folder, file, change)


def _any_row(folder: Path, file: str, rng: Random) -> int:
    return int(rng.integers(pl.read_parquet(folder / f"{file}.parquet").height))


def _required(folder: Path, rng: Random) -> tuple[str, str]:
    file = _pick(rng, _files(folder))
    there = pl.read_parquet_schema(folder / f"{file}.parquet")
    return file, _pick(rng, [c for c, (_, required, _) in COLUMNS[file].items() if required and c in there])


def _drop_column(folder: Path, rng: Random) -> Damage:
    file, column = _required(folder, rng)
    if len(pl.read_parquet_schema(folder / f"{file}.parquet")) == 1:
        file, column = "items", "title"
    _rewrite(folder, file, lambda frame: frame.drop(column))
    return Damage(f"drop {column}", file, None, f"column '{column}' is missing")


def _other_type(folder: Path, rng: Random) -> Damage:
    file, column = _required(folder, rng)
    kind = COLUMNS[file][column][0]
    others = {
        "int": [pl.String, pl.Float64, pl.List(pl.Int64), pl.Struct({"a": pl.Int64}), pl.Datetime, pl.Boolean, pl.Null],
        "string": [pl.Int64, pl.Binary, pl.List(pl.String), pl.Null, pl.Struct({"a": pl.String, "b": pl.Int8})],
        "binary": [pl.String, pl.Int64, pl.List(pl.Binary), pl.Struct({"bytes": pl.Binary, "path": pl.String})],
        "bool": [pl.Int64, pl.String, pl.Float32, pl.Decimal(10, 2)],
    }.get(kind, [pl.String, pl.Int8 if kind == "float" else pl.Date, pl.List(pl.List(pl.List(pl.String)))])
    dtype = _pick(rng, others)
    _rewrite(folder, file, lambda frame: frame.with_columns(pl.lit(None, dtype).alias(column)))
    return Damage(f"{file}.{column} as {dtype}", file, None, column)


def _null(folder: Path, rng: Random) -> Damage:
    file = _pick(rng, _files(folder))
    there = pl.read_parquet_schema(folder / f"{file}.parquet")
    column = _pick(rng, [c for c, (_, _, may) in COLUMNS[file].items() if not may and c in there])
    row = _any_row(folder, file, rng)
    _set(folder, file, column, row, None)
    return Damage(f"null in {file}.{column}", file, row, f"{column} is null")


def _not_finite(folder: Path, rng: Random) -> Damage:
    value = _pick(rng, [float("nan"), float("inf"), -float("inf")])
    file, column = _pick(
        rng, [("truth", "probability"), ("relevance", "grade"), ("users", "age"), ("embeddings", "embedding")]
    )
    row = _any_row(folder, file, rng)
    _set(folder, file, column, row, [0.5, value, 0.5, 0.5] if file == "embeddings" else value)
    return Damage(f"{value} in {file}", file, row, "finite")


def _unknown_id(folder: Path, rng: Random) -> Damage:
    choices = [(f, c) for f in _files(folder) for c in ("item_id", "query_id", "user_id") if c in COLUMNS[f]]
    homes = {("items", "item_id"), ("queries", "query_id"), ("users", "user_id"), ("pairs", "user_id")}
    there = [(f, c) for f, c in choices if (f, c) not in homes and c in pl.read_parquet_schema(folder / f"{f}.parquet")]
    file, column = _pick(rng, there)
    value = _pick(rng, [-1, 99_999, 2**63 - 1, -(2**63), 2**62])
    row = _any_row(folder, file, rng)
    _set(folder, file, column, row, value)
    return Damage(f"{file}.{column} = {value}", file, row, f"unknown {column} {value}")


def _unknown_in_history(folder: Path, rng: Random) -> Damage:
    row, value = int(rng.integers(12)), _pick(rng, [0, -5, 2**62])
    _set(folder, "impressions", "history", row, [value])
    return Damage("unknown in history", "impressions", row, f"unknown item_id {value} in history")


def _huge_type(folder: Path, rng: Random) -> Damage:
    file, column = _pick(rng, [("pairs", "item_id"), ("events", "item_id"), ("embeddings", "item_id")])
    row = _any_row(folder, file, rng)
    _set(folder, file, column, row, 2**64 - 1, pl.UInt64)
    return Damage("an id of 64 unsigned bits", file, row, f"unknown {column} {2**64 - 1}")


def _duplicate(folder: Path, rng: Random) -> Damage:
    homes = ("items", "queries", "impressions", "truth", "users", "embeddings")
    file = _pick(rng, homes)
    key = KEYS[file][0]
    frame = pl.read_parquet(folder / f"{file}.parquet")
    row = int(rng.integers(1, frame.height))
    value = frame[key][int(rng.integers(row))]
    _set(folder, file, key, row, value)
    return Damage(f"duplicate in {file}", file, row, f"duplicate {key} {value}")


def _time_travel(folder: Path, rng: Random) -> Damage:
    kind = int(rng.integers(4))
    if kind == 0:
        row = int(_pick(rng, [k for k in range(32) if k % 8]))
        _set(folder, "events", "timestamp", row, 1)
        return Damage("an event before the one before it", "events", row, "not sorted")
    if kind == 1:
        row = 3 * int(rng.integers(4))
        _set(folder, "impressions", "timestamp", row, 99)
        return Damage("a training impression after the test's", "impressions", row, "leaks the future: train")
    row = int(rng.integers(12))
    if kind == 2:
        _set(folder, "impressions", "timestamp", row, 10 + int(rng.integers(3)))
        return Damage("an impression before its history", "impressions", row, "history leaks the future")
    _rewrite(folder, "items", lambda frame: frame.with_columns(available_from=pl.lit(1000, pl.Int64)))
    return Damage("shown before it was there", "impressions", row, "before its item is there")


def _word(folder: Path, rng: Random) -> Damage:
    file, column = _pick(
        rng, [("pairs", "split"), ("pairs", "action"), ("impressions", "split"), ("relevance", "split")]
    )
    row, value = int(rng.integers(12)), _pick(rng, ["dev", "", "TRAIN", "\0", "train\n", "ü" * 1000])
    _set(folder, file, column, row, value)
    return Damage(f"{value[:5]!r} in {file}", file, row, f"{column} is")


def _empty_split(folder: Path, rng: Random) -> Damage:
    file, split = _pick(rng, ["pairs", "impressions", "relevance"]), _pick(rng, ["train", "valid", "test"])
    _rewrite(folder, file, lambda frame: frame.filter(pl.col("split") != split))
    return Damage(f"no {split} in {file}", file, None, f"split '{split}' is empty")


def _no_rows(folder: Path, rng: Random) -> Damage:
    file = _pick(rng, _files(folder))
    _rewrite(folder, file, lambda frame: frame.clear())
    return Damage(f"{file} without rows", file, None, "has no rows")


def _says_nothing(folder: Path, rng: Random) -> Damage:
    row = int(rng.integers(6))
    if rng.random() < 0.5:
        _set(folder, "queries", "text", row, None)
        return Damage("a query of nothing", "queries", row, "has neither text nor image")
    _set(folder, "events", "item_id", row, None)
    return Damage("an event of nothing", "events", row, "has neither item_id")


def _list_holds_null(folder: Path, rng: Random) -> Damage:
    file, column = _pick(rng, [("items", "category"), ("items", "attributes"), ("impressions", "history")])
    row = int(rng.integers(12))
    _set(folder, file, column, row, [None])
    return Damage(f"null within {file}.{column}", file, row, f"{column} holds a null")


def _widths(folder: Path, rng: Random) -> Damage:
    lists = [[0.5] * 4] * 24
    row = int(rng.integers(24))
    lists[row] = _pick(rng, [[], [0.5], [0.5] * 9])
    column = pl.Series("embedding", lists, dtype=pl.List(pl.Float32))
    _rewrite(folder, "embeddings", lambda frame: frame.with_columns(column))
    return Damage("vectors of two lengths", "embeddings", None, "different lengths")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT\x78\x01")
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bad_image(rng: Random, good: bytes) -> tuple[bytes, bool]:
    """Bytes that are no usable image, and whether they might still decode."""
    kind = int(rng.integers(6))
    if kind == 0:
        return good[: int(rng.integers(len(good) // 2))], False
    if kind == 1:
        return png_header(int(rng.integers(1 << 13, 1 << 30)), int(rng.integers(1 << 13, 1 << 30))), False
    if kind == 2:
        buffer = io.BytesIO()
        Image.new("L", (5000, 5000)).save(buffer, "PNG", compress_level=9)
        return buffer.getvalue(), False
    if kind == 3:
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4)).save(buffer, _pick(rng, ["GIF", "BMP", "TIFF", "PPM"]))
        return buffer.getvalue(), False
    if kind == 4:
        return rng.bytes(int(rng.integers(200))), False
    flipped = bytearray(good)
    for _ in range(int(rng.integers(1, 20))):
        flipped[int(rng.integers(len(good)))] ^= 1 << int(rng.integers(8))
    return bytes(flipped), True


def _image(folder: Path, rng: Random) -> Damage:
    file, rows = _pick(rng, [("items", range(24)), ("queries", range(6, 9))])
    row = int(_pick(rng, rows))
    good = pl.read_parquet(folder / f"{file}.parquet")["image"][row]
    image, may_decode = bad_image(rng, good)
    _set(folder, file, "image", row, image)
    return Damage(f"an image of {len(image)} bytes", file, None if may_decode else row, "" if may_decode else "image")


def _truncate(folder: Path, rng: Random) -> Damage:
    file = _pick(rng, _files(folder))
    path = folder / f"{file}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(len(content)))])
    return Damage("a truncated file", file, None, "not readable as Parquet")


def flip(path: Path, rng: Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 30))):
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def _flip(folder: Path, rng: Random) -> Damage:
    file = _pick(rng, _files(folder))
    flip(folder / f"{file}.parquet", rng)
    return Damage("flipped bits", file, None, "", may_pass=True)


def _no_table(folder: Path, rng: Random) -> Damage:
    file = _pick(rng, _files(folder))
    path = folder / f"{file}.parquet"
    kind = int(rng.integers(5))
    content = path.read_bytes()
    path.unlink()
    if kind == 0:
        return Damage("a missing file", file, None, "is missing")
    if kind == 1:
        path.write_bytes(_pick(rng, [b"", b"PAR1", b"PAR1PAR1", b"a,b\n1,2\n", rng.bytes(500)]))
        return Damage("no Parquet", file, None, "not readable as Parquet")
    path.mkdir()
    if kind == 2:
        return Damage("a folder without shards", file, None, "without any shard")
    (path / "0.parquet").write_bytes(content)
    if kind == 3:
        pl.DataFrame({"odd": ["x"]}).write_parquet(path / "1.parquet")
        return Damage("a shard with other columns", file, None, "differ from")
    os.symlink("/etc/passwd", path / "1.parquet")
    return Damage("a shard that is a link", file, None, "not a link")


def _description(folder: Path, rng: Random) -> Damage:
    path = folder / "dataset.json"
    text = path.read_text()
    described = json.loads(text)
    kind = int(rng.integers(8))
    if kind == 0:
        path.write_text(text[: int(rng.integers(len(text) - 2))])
    elif kind == 1:
        path.write_bytes(rng.bytes(100))
    elif kind == 2:
        path.write_text(_pick(rng, ["[]", "null", '"x"', "[" * 100_000, "9" * 10_000, "{}", '{"name": NaN}', ""]))
    elif kind == 3:
        del described[_pick(rng, ["name", "source", "licence", "files"])]
    elif kind == 4:
        described[_pick(rng, ["name", "licence", "files", "forms", "facts", "split_rule"])] = _pick(
            rng, [7, None, [], True]
        )
    elif kind == 5:
        described["files"][_pick(rng, ["../../etc/passwd", "clicks", ""])] = {"simulated": True}
    elif kind == 6:
        described["files"][_pick(rng, list(described["files"]))] = _pick(rng, [None, [], 7, {}, {"simulated": "yes"}])
    else:
        described["files"]["items"]["digest"] = _pick(rng, [7, None, ["x"], "0" * 64])
    if kind > 2:
        path.write_text(json.dumps(described))
    wrong_digest = kind == 7 and described["files"]["items"]["digest"] == "0" * 64
    return Damage("a damaged dataset.json", "items" if wrong_digest else "dataset.json")


def _many_rows(folder: Path, rng: Random) -> Damage:
    """A table that is small on disk and large in rows, all of them wrong."""
    file, column = _pick(rng, [("pairs", "item_id"), ("events", "item_id")])
    frame = pl.read_parquet(folder / f"{file}.parquet").head(1)
    rows = frame.select(pl.all().repeat_by(300_000).explode()).with_columns(pl.lit(7).cast(pl.Int64).alias(column))
    rows.write_parquet(folder / f"{file}.parquet")
    return Damage("a bomb of rows", file, 0, f"unknown {column} 7")


KINDS: tuple[Callable[[Path, Random], Damage], ...] = (
    _drop_column,
    _other_type,
    _null,
    _not_finite,
    _unknown_id,
    _unknown_in_history,
    _huge_type,
    _duplicate,
    _time_travel,
    _word,
    _empty_split,
    _no_rows,
    _says_nothing,
    _list_holds_null,
    _widths,
    _image,
    _image,
    _truncate,
    _flip,
    _flip,
    _flip,
    _no_table,
    _description,
    _many_rows,
)
