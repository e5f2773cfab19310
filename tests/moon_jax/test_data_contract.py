"""The contract: datasets appear whole, what is left out is quarantined, every fault is named."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moon_jax.data.checking.findings import LISTED
from moon_jax.data.contract import DataError, Dataset, check, open_dataset, write_dataset
from moon_jax.data.quarantine import Quarantine
from moon_jax.data.tables import read_table
from moon_jax.data.writing import DatasetWriter

Plant = Callable[[dict[str, pl.DataFrame]], None]


def photo(colour: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 50, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels: only its header can be read."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + b"\x78\x01"
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tables() -> dict[str, pl.DataFrame]:
    texts = pl.List(pl.String)
    items = pl.DataFrame(
        {
            "item_id": [1, 2, 3],
            "title": ["a red hat", "a hat", "a mug"],
            "image": [photo(1), None, photo(3)],
            "category": [["home"], [], ["home", "mug"]],
            "attributes": [["colour:red"], [], []],
            "product_id": [1, 1, 3],
        },
        schema_overrides={"category": texts, "attributes": texts},
    )
    queries = pl.DataFrame(
        {
            "query_id": [0, 1, 2],
            "text": ["hat", None, None],
            "image": [None, photo(9), None],
            "item_id": [None, None, 1],
        }
    )
    pairs = pl.DataFrame(
        {"query_id": [0, 1, 2], "item_id": [1, 2, 2], "action": ["click"] * 3, "split": ["train", "valid", "test"]}
    )
    events = pl.DataFrame(
        {"user_id": [1, 1, 2], "item_id": [1, 2, 3], "action": ["click"] * 3, "timestamp": [10, 20, 5]}
    )
    impressions = pl.DataFrame(
        {
            "impression_id": [0, 1, 2],
            "user_id": [1, 1, 2],
            "item_id": [3, 3, 1],
            "timestamp": [15, 25, 9],
            "clicked": [True, False, True],
            "split": ["train", "valid", "test"],
        }
    )
    truth = pl.DataFrame({"impression_id": [0, 1, 2], "probability": [0.5, 0.1, 0.9]})
    found = {"items": items, "queries": queries, "pairs": pairs, "events": events}
    return {**found, "impressions": impressions, "truth": truth}


def write(folder: Path, given: dict[str, pl.DataFrame], **changed: Any) -> Dataset:
    fields: dict[str, Any] = {
        "name": "three things",
        "source": "a test",
        "licence": "none",
        "split_rule": "by hand",
        "simulated": dict.fromkeys(given, True),
        "forms": {"text": "text->image+text"},
        "facts": {"answer": 42},
    }
    return write_dataset(folder, tables=given, **(fields | changed))


def test_a_written_dataset_reads_back(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", tables())
    again = open_dataset(tmp_path / "set")
    assert again == dataset
    assert again.rows == {"items": 3, "queries": 3, "pairs": 3, "events": 3, "impressions": 3, "truth": 3}
    assert again.facts["answer"] == 42
    assert again.has("items", "events")
    assert not again.has("items", "relevance")
    assert again.read("items").equals(tables()["items"])
    assert check(tmp_path / "set") == []


def test_missing_files_name_file_and_remedy(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", {"items": tables()["items"]})
    with pytest.raises(DataError, match=r"no events\.parquet.*moon data simulate"):
        dataset.path("events")
    with pytest.raises(DataError, match="knows no file 'clicks'"):
        dataset.path("clicks")
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no dataset\.json"):
        open_dataset(tmp_path)
    (tmp_path / "set" / "items.parquet").unlink()
    with pytest.raises(DataError, match=r"items\.parquet is missing"):
        open_dataset(tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not readable as JSON"),
        ("[]", "one JSON object"),
        ('{"name": "x", "source": "y", "files": {}}', "'licence' is missing"),
        ('{"name": "x", "source": "y", "licence": "z", "files": {"clicks": {}}}', "files names 'clicks'"),
        ('{"name": "x", "source": "y", "licence": "z", "files": {"items": {}}}', "simulated must be true or false"),
    ],
)
def test_a_broken_description_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=told) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_half_written(tmp_path: Path) -> None:
    bad = {"items": tables()["items"], "users": pl.DataFrame({"user_id": [1], "odd": [object()]})}
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever fails inside, nothing may be left
        write(tmp_path / "set", bad)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="simulated; missing: items"):
        write(tmp_path / "set", {"items": tables()["items"]}, simulated={})
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "set", tables(), facts={"rate": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "diary.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        write(target, tables())
    assert (target / "diary.txt").read_text() == "mine"


def test_the_slower_of_two_equal_writers_accepts_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "set", tables())
    monkeypatch.setattr(
        "moon_jax.data.contract.refuse_existing", lambda folder: None
    )  # it looked before the other wrote
    assert write(tmp_path / "set", tables()) == first
    other = {"items": tables()["items"].head(2)}
    with pytest.raises(DataError, match="other content"):
        write(tmp_path / "set", other)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_shards_serve_as_a_file(tmp_path: Path) -> None:
    write(tmp_path / "set", tables())
    items = tmp_path / "set" / "items.parquet"
    items.unlink()
    items.mkdir()
    tables()["items"].head(1).write_parquet(items / "0.parquet")
    tables()["items"].slice(1).write_parquet(items / "1.parquet")
    assert check(tmp_path / "set") == []  # its digest is unchanged, too
    assert open_dataset(tmp_path / "set").read("items", ["item_id"])["item_id"].to_list() == [1, 2, 3]


def writer(folder: Path, **changed: Any) -> DatasetWriter:
    fields: dict[str, Any] = {"name": "x", "source": "a test", "licence": "none", "split_rule": "", "forms": {}}
    return DatasetWriter(folder, simulated={"items": True, "pairs": True}, **(fields | changed))


def test_a_dataset_is_written_in_shards(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", {"items": tables()["items"]})
    with writer(tmp_path / "set") as growing:
        growing.add("items", tables()["items"].head(1))
        growing.add("items", tables()["items"].slice(1).lazy())
        assert growing.rows("items") == 3
        assert [part["item_id"].to_list() for _, part in growing.written("items", ["item_id"])] == [[1], [2, 3]]
        growing.facts["said"] = "late"
        assert not (tmp_path / "set").exists()
    assert growing.dataset.digests == whole.digests
    assert growing.dataset.facts == {"said": "late"}
    assert sorted(path.name for path in (tmp_path / "set" / "items.parquet").iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert check(tmp_path / "set") == []


def test_rows_that_are_few_wait_for_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writer(tmp_path / "one") as growing:
        for row in range(3):
            growing.gather("items", tables()["items"].slice(row, 1))
        assert growing.rows("items") == 3
    assert (tmp_path / "one" / "items.parquet").is_file()
    monkeypatch.setattr("moon_jax.data.writing.SHARD_BYTES", 1)
    with writer(tmp_path / "two") as growing:
        for row in range(3):
            growing.gather("items", tables()["items"].slice(row, 1))
    assert (tmp_path / "two" / "items.parquet").is_dir()
    assert open_dataset(tmp_path / "one").digests == open_dataset(tmp_path / "two").digests


@pytest.mark.parametrize(
    ("file", "shards", "told"),
    [
        ("items", lambda: [tables()["items"], tables()["items"].drop("title")], "shard 1 has the columns"),
        ("truth", lambda: [tables()["truth"]], "simulated; missing: truth"),
        ("clicks", lambda: [tables()["truth"]], "knows no file 'clicks'"),
    ],
)
def test_a_broken_off_writer_leaves_nothing(
    tmp_path: Path, file: str, shards: Callable[[], list[pl.DataFrame]], told: str
) -> None:
    def attempt() -> None:
        with writer(tmp_path / "set") as growing:
            for shard in shards():
                growing.add(file, shard)

    with pytest.raises(DataError, match=told):
        attempt()
    assert list(tmp_path.iterdir()) == []


def test_the_quarantine_is_kept_counted_and_limited(tmp_path: Path) -> None:
    with writer(tmp_path / "set") as growing:
        growing.add("items", tables()["items"])
        growing.quarantine.put("items", Path("a/b.csv"), [7, 3], "is odd")
        growing.quarantine.put("pairs", "c.csv", [None], "is empty")
        growing.quarantine.require_few("items", 100)
    assert growing.dataset.quarantined == {"items": 2, "pairs": 1}
    noted = pl.read_parquet(tmp_path / "set" / "quarantine.parquet")
    assert noted.rows() == [
        ("items", "b.csv", 3, "is odd"),
        ("items", "b.csv", 7, "is odd"),
        ("pairs", "c.csv", None, "is empty"),
    ]


@given(rows=st.integers(1, 100_000), bad=st.integers(0, 2_000))
def test_one_in_a_hundred_or_ten_may_be_left_out(rows: int, bad: int) -> None:
    quarantine = Quarantine()
    quarantine.put("items", "a.csv", range(bad), "is odd")
    quarantine.put("pairs", "a.csv", range(5_000), "counts for another file")
    if bad > max(10, rows // 100):
        with pytest.raises(DataError, match=f"a.csv, row 0: is odd; {bad} of {rows} rows for items"):
            quarantine.require_few("items", rows)
    else:
        quarantine.require_few("items", rows)


def test_a_rule_that_all_rows_break_is_told_and_counted(tmp_path: Path) -> None:
    given = tables()
    given["pairs"] = pl.concat([given["pairs"]] * 1000).with_columns(item_id=pl.lit(77))
    write(tmp_path / "set", given)
    found = [str(fault) for fault in check(tmp_path / "set")]
    assert len(found) == LISTED + 1
    assert found[0] == "pairs, row 0: unknown item_id 77"
    assert found[-1] == "pairs: 2000 more rows: unknown item_id"


def test_no_table_leads_out_of_its_dataset(tmp_path: Path) -> None:
    write(tmp_path / "set", tables())
    items = tmp_path / "set" / "items.parquet"
    items.rename(tmp_path / "elsewhere.parquet")
    items.mkdir()
    (items / "0.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(DataError, match=r"0\.parquet: a shard must be a file of its own"):
        open_dataset(tmp_path / "set")
    with pytest.raises(DataError, match="a shard must be"):
        read_table(items)


def set_value(file: str, row: int, column: str, value: object) -> Plant:
    def change(given: dict[str, pl.DataFrame]) -> None:
        frame = given[file]
        values = frame[column].to_list()
        values[row] = value
        given[file] = frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))

    return change


def replace_table(file: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Plant:
    return lambda given: given.__setitem__(file, change(given[file]))


FAULTS: list[tuple[Plant, str, int | None, str]] = [
    (set_value("items", 1, "item_id", 1), "items", 1, "duplicate item_id 1"),
    (set_value("queries", 2, "query_id", 0), "queries", 2, "duplicate query_id 0"),
    (set_value("items", 0, "title", None), "items", 0, "title is null"),
    (set_value("items", 0, "image", b"not an image"), "items", 0, "does not decode"),
    (set_value("queries", 1, "image", photo()[:-30]), "queries", 1, "does not decode"),
    (set_value("items", 2, "image", png_header(5000, 5000)), "items", 2, "oversized: 5000 x 5000"),
    (set_value("items", 2, "image", png_header(99999, 99999)), "items", 2, "oversized"),
    (set_value("pairs", 1, "item_id", 77), "pairs", 1, "unknown item_id 77"),
    (set_value("pairs", 1, "query_id", 77), "pairs", 1, "unknown query_id 77"),
    (set_value("queries", 2, "item_id", 77), "queries", 2, "unknown item_id 77"),
    (set_value("events", 2, "item_id", 77), "events", 2, "unknown item_id 77"),
    (set_value("events", 2, "item_id", None), "events", 2, "neither item_id nor query_id"),
    (set_value("impressions", 0, "item_id", 77), "impressions", 0, "unknown item_id 77"),
    (set_value("truth", 0, "impression_id", 77), "truth", 0, "unknown impression_id 77"),
    (set_value("truth", 1, "probability", float("nan")), "truth", 1, "not a finite number"),
    (set_value("truth", 1, "probability", 1.5), "truth", 1, "outside 0..1"),
    (set_value("queries", 0, "text", None), "queries", 0, "neither text nor image nor item_id"),
    (set_value("pairs", 0, "action", "glance"), "pairs", 0, "must be one of click, cart, purchase"),
    (set_value("pairs", 0, "split", "dev"), "pairs", 0, "must be one of train, valid, test"),
    (set_value("pairs", 2, "split", "train"), "pairs", None, "split 'test' is empty"),
    (set_value("impressions", 1, "split", "test"), "impressions", None, "split 'valid' is empty"),
    (set_value("events", 1, "timestamp", 3), "events", 1, "not sorted by user and time"),
    (set_value("events", 1, "user_id", 3), "events", 2, "not sorted by user and time"),
    (set_value("impressions", 0, "timestamp", 99), "impressions", 0, "leaks the future"),
    (replace_table("items", lambda t: t.drop("title")), "items", None, "column 'title' is missing"),
    (replace_table("items", lambda t: t.cast({"item_id": pl.String})), "items", None, "must be int"),
    (replace_table("pairs", lambda t: t.clear()), "pairs", None, "has no rows"),
    (
        replace_table("impressions", lambda t: t.with_columns(history=pl.Series([[1], [1, 3], [3]]))),
        "impressions",
        1,
        "history leaks the future: item 3",
    ),
    (
        replace_table("impressions", lambda t: t.with_columns(history=pl.Series([[1, 2], [1], [3]]))),
        "impressions",
        0,
        "history leaks the future: item 2",
    ),
    (
        replace_table("impressions", lambda t: t.drop("timestamp")),
        "impressions",
        None,
        "needs a column 'timestamp'",
    ),
]


def with_table(file: str, columns: dict[str, Any]) -> Plant:
    return lambda given: given.__setitem__(file, pl.DataFrame(columns))


SPLIT = ["train", "valid", "test"]
FAULTS += [
    (with_table("users", {"user_id": [1, 2, 2]}), "users", 2, "duplicate user_id 2"),
    (with_table("users", {"user_id": [1, 9]}), "events", 2, "unknown user_id 2"),
    (with_table("users", {"user_id": [1, 2], "age": [1.0, float("inf")]}), "users", 1, "age is not a finite number"),
    (
        with_table("relevance", {"query_id": [0, 0, 1], "item_id": [1, 1, 2], "grade": [1, 0, 1], "split": SPLIT}),
        "relevance",
        1,
        "duplicate query_id with item_id 0 with 1",
    ),
    (
        with_table("relevance", {"query_id": [0, 1], "item_id": [1, 1], "grade": [1, 0], "split": SPLIT[:2]}),
        "relevance",
        None,
        "split 'test' is empty",
    ),
    (with_table("embeddings", {"item_id": [1, 7], "embedding": [[0.1], [0.2]]}), "embeddings", 1, "unknown item_id 7"),
    (
        with_table("embeddings", {"item_id": [1, 2], "embedding": [[0.1], [0.2, 0.3]]}),
        "embeddings",
        None,
        "lengths: 1, 2",
    ),
    (with_table("embeddings", {"item_id": [1], "embedding": [[5]]}), "embeddings", None, "needs a column 'scale'"),
    (
        with_table("embeddings", {"item_id": [1, 2], "embedding": [[5], [6]], "scale": [1.0, 0.0]}),
        "embeddings",
        1,
        "scale is not above 0",
    ),
    (
        with_table("hard_negatives", {"query_id": [0, 1], "item_id": [2, 2], "kind": ["category"] * 2}),
        "hard_negatives",
        1,
        "item_id 2 is a positive of its query",
    ),
    (
        replace_table("items", lambda t: t.with_columns(available_from=pl.Series([None, 12, 99]))),
        "impressions",
        1,
        "is before its item is there: item_id 3",
    ),
    (
        replace_table(
            "impressions", lambda t: t.with_columns(history=pl.Series([[], [7], []], dtype=pl.List(pl.Int64)))
        ),
        "impressions",
        1,
        "unknown item_id 7 in history",
    ),
]


@pytest.mark.parametrize(("plant", "file", "row", "reason"), FAULTS, ids=[f"{f[1]}-{f[3]}" for f in FAULTS])
def test_check_names_file_row_and_reason(tmp_path: Path, plant: Plant, file: str, row: int | None, reason: str) -> None:
    given = tables()
    plant(given)
    write(tmp_path / "set", given)
    found = check(tmp_path / "set")
    assert [fault for fault in found if fault.file == file and fault.row == row and reason in fault.reason], found


def test_check_sees_a_changed_and_an_unlisted_file(tmp_path: Path) -> None:
    given = tables()
    write(tmp_path / "set", given)
    given["items"].with_columns(title=pl.lit("changed")).write_parquet(tmp_path / "set" / "items.parquet")
    given["truth"].write_parquet(tmp_path / "set" / "users.parquet")
    told = [str(fault) for fault in check(tmp_path / "set")]
    assert told == [
        "items: content differs from the digest in dataset.json",
        "users: is in the folder but dataset.json does not list it",
    ]


def test_a_file_that_is_no_parquet_is_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "set", tables())
    (tmp_path / "set" / "items.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"items\.parquet: not readable as Parquet"):
        open_dataset(tmp_path / "set")


def test_the_description_says_what_is_simulated(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", tables(), simulated=dict.fromkeys(tables(), False) | {"truth": True})
    assert dataset.simulated["truth"]
    assert not dataset.simulated["items"]
    described = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert described["files"]["items"]["digest"] == dataset.digests["items"]
