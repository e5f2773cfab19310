"""One's own table and images: from a CSV and a folder to a checked dataset; nothing leaves the folder or is lost unseen."""

import os
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sources import TABLE_MAP, photo, table_source

from moon_jax.data.adapters.table import import_table, parse_mapping
from moon_jax.data.contract import DataError, check


def noted(folder: Path) -> list[tuple[Any, ...]]:
    return pl.read_parquet(folder / "quarantine.parquet").rows()


def append(path: Path, *lines: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_a_folder_of_images_and_a_csv_become_a_checked_dataset(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    dataset = import_table(
        table_source(tmp_path / "shop"), tmp_path / "set", mapping=TABLE_MAP, progress=lambda *at: told.append(at)
    )
    assert check(dataset.folder) == []
    assert told[-1] == (40, 40)
    items = dataset.read("items")
    first = items.row(1, named=True)
    assert first["source_id"] == "S-1"
    assert first["title"] == "Shoe, no. 0"
    assert first["image"] == photo(1)
    assert first["category"] == ["Shoes", "Low"]
    assert first["attributes"] == ["colour:red"]
    assert items["attributes"][0].to_list() == []  # an empty cell is no attribute
    assert items["product_id"].to_list() == [k - k % 2 for k in range(40)]
    assert dataset.forms == {"image": "image->image"}
    pairs = dataset.read("pairs").join(dataset.read("queries"), on="query_id")
    assert (pairs["item_id"] // 2 == pairs["item_id_right"] // 2).all()
    assert (pairs["item_id"] != pairs["item_id_right"]).all()
    assert not dataset.quarantined
    assert not any(dataset.simulated.values())


def test_a_parquet_table_with_images_inside_gives_the_same(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop")
    one = import_table(source, tmp_path / "one", mapping=TABLE_MAP)
    frame = pl.read_csv(source / "catalogue.csv")
    frame = frame.with_columns(photo=pl.Series([photo(k) for k in range(40)]))
    frame.write_parquet(tmp_path / "catalogue.parquet")
    two = import_table(tmp_path / "catalogue.parquet", tmp_path / "two", mapping=TABLE_MAP)
    assert one.digests == two.digests


def test_images_come_out_of_a_zip(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop")
    one = import_table(source, tmp_path / "one", mapping=TABLE_MAP)
    with zipfile.ZipFile(source / "images.zip", "w") as archive:
        for path in (source / "photos").iterdir():
            archive.write(path, f"deep/{path.name}")
            path.unlink()
    assert import_table(source, tmp_path / "two", mapping=TABLE_MAP).digests == one.digests


def test_whole_numbers_stay_the_ids(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop")
    path = source / "catalogue.csv"
    path.write_text(path.read_text().replace("S-", "10"), encoding="utf-8")
    items = import_table(source, tmp_path / "set", mapping=TABLE_MAP).read("items")
    assert items["item_id"].to_list()[:3] == [100, 101, 102]
    assert "source_id" not in items.columns


def test_unique_titles_ask_for_their_photo(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop")
    mapping = [*TABLE_MAP, "product_id=sku"]
    dataset = import_table(source, tmp_path / "set", mapping=mapping)
    assert check(dataset.folder) == []
    assert dataset.forms == {"text": "text->image"}
    asked = dataset.read("pairs").join(dataset.read("queries"), on="query_id").join(dataset.read("items"), on="item_id")
    assert (asked["text"] == asked["title"]).all()
    assert asked.height == 40  # photos of one title are all its answers


def test_own_logs_are_taken_with_their_names(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop", logs=True)
    dataset = import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    assert check(dataset.folder) == []
    assert dataset.rows == {"items": 40, "queries": 30, "pairs": 30, "events": 60, "impressions": 60}
    assert dataset.forms == {"item": "image+text->image+text", "text": "text->image+text"}
    events, shown = dataset.read("events"), dataset.read("impressions")
    assert events.sort("user_id", "timestamp").equals(events)
    assert set(shown["user_id"]) == set(events["user_id"])  # "u3" is one number in both
    assert set(shown["split"]) == {"train", "valid", "test"}
    by_user = shown.group_by("user_id").agg(pl.col("split").n_unique())
    assert (by_user["split"] == 1).all()


def test_rows_of_logs_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop", logs=True)
    append(source / "events.csv", "u1,S-999,click,1", "u1,S-1,click,soon", "u1,S-1", ",S-1,click,5")
    append(source / "impressions.csv", "u1,S-1,2000,perhaps")
    append(source / "pairs.csv", "q77,S-1")
    dataset = import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    assert noted(dataset.folder) == [
        ("events", "events.csv", 62, "unknown item_id 'S-999'"),
        ("events", "events.csv", 63, "timestamp 'soon' is no time"),
        ("events", "events.csv", 64, "cells do not fit the header"),
        ("events", "events.csv", 65, "user_id is empty"),
        ("impressions", "impressions.csv", 62, "clicked 'perhaps' is neither 1 nor 0"),
        ("pairs", "pairs.csv", 32, "unknown query_id 'q77'"),
    ]
    assert dataset.quarantined == {"events": 4, "impressions": 1, "pairs": 1}
    assert check(dataset.folder) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.jpg", "leads out of the folder"),
        ("photos/../../secret.jpg", "leads out of the folder"),
        ("/etc/passwd", "leads out of the folder"),
        ("..\\secret.jpg", "leads out of the folder"),
        ("C:/secret.jpg", "leads out of the folder"),
        ("link.jpg", "by a link"),
        ("linked/secret.jpg", "by a link"),
        ("x" * 5000 + ".jpg", "cannot be read"),
        ("nowhere.jpg", "is not there"),
        ("photos", "is not there"),
        ("text.jpg", "does not decode"),
    ],
)
def test_no_image_path_leaves_the_folder(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(photo(1))
    source = table_source(tmp_path / "shop")
    (source / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (source / "linked").symlink_to(tmp_path)
    (source / "text.jpg").write_text("not an image")
    append(source / "catalogue.csv", f"S-X,Evil,x,red,{name}")
    dataset = import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    assert dataset.rows["items"] == 40
    ((file, table, line, why),) = noted(dataset.folder)
    assert (file, table, line) == ("items", "catalogue.csv", 42)
    assert reason in why


@pytest.mark.parametrize(
    ("size", "reason"),
    [(1 << 27, "zip member is larger than 64 MiB"), (1 << 24, "zip member would swell more than 50 times")],
)
def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, size: int, reason: str) -> None:
    source = table_source(tmp_path / "shop")
    with zipfile.ZipFile(source / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(size))
    append(source / "catalogue.csv", "S-X,Bomb,x,red,bomb.jpg")
    dataset = import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    assert noted(dataset.folder) == [("items", "catalogue.csv", 42, reason)]


def test_too_many_bad_rows_stop_the_import(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop")
    append(source / "catalogue.csv", *(f"S-0,again {k},x,red,p1.jpg" for k in range(11)))
    with pytest.raises(DataError, match=r"catalogue\.csv, row 42: duplicate item_id 'S-0'; 11 of 51 rows"):
        import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    assert not (tmp_path / "set").exists()
    assert import_table(source, tmp_path / "set", mapping=TABLE_MAP, limit=0.3).quarantined == {"items": 11}


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ((), r"which column is item_id\? say --map item_id=COLUMN; it has sku, name, group, colour, photo"),
        (("item_id=sku",), "map a title or an image"),
        (("item_id=sku", "title=nmae"), r"no column 'nmae' for title; it has sku, name"),
        (("item_id",), "write NAME=COLUMN"),
        (("item_id=sku", "price=x"), "the contract has no price; items has item_id, title"),
        (("shops.x=y",), "tables: items, queries"),
        (("item_id=sku", "title=name", "pairs.item_id=sku"), r"--map names pairs, but there is no pairs\.csv"),
    ],
)
def test_a_wrong_mapping_says_what_to_write(tmp_path: Path, mapping: tuple[str, ...], told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        import_table(table_source(tmp_path / "shop"), tmp_path / "set", mapping=mapping)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["shop"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"sku,name,group,colour,photo\n", "no row of it makes an item"),
        ("sku,name,group,colour,photo\nS-1,sch\xf6n,x,y,p1.jpg\n".encode("latin-1"), "line 2: not UTF-8"),
        (b"sku,name,group,colour,photo\n" + b'"' + b"x" * 200_000, "line 2: cannot be read as CSV"),
    ],
)
def test_a_broken_csv_is_one_clear_line(tmp_path: Path, content: bytes, told: str) -> None:
    source = table_source(tmp_path / "shop")
    (source / "catalogue.csv").write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    assert "catalogue.csv" in str(caught.value)


def test_which_table_is_meant_must_be_clear(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop")
    (source / "prices.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"found catalogue\.csv, prices\.csv; name it items\.csv, and what"):
        import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    assert import_table(source / "catalogue.csv", tmp_path / "set", mapping=TABLE_MAP).rows["items"] == 40
    with pytest.raises(DataError, match="no such folder or file"):
        import_table(tmp_path / "nowhere", tmp_path / "other")


def test_half_a_log_is_refused_before_any_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = table_source(tmp_path / "shop", logs=True)
    (source / "pairs.csv").unlink()
    monkeypatch.setattr("moon_jax.data.adapters.table.write_items", lambda *args: pytest.fail("items were read first"))
    with pytest.raises(DataError, match="queries and pairs belong together"):
        import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    assert not (tmp_path / "set").exists()


def test_without_events_clicks_are_what_happened_before(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop", logs=True)
    (source / "events.csv").unlink()
    dataset = import_table(source, tmp_path / "set", mapping=TABLE_MAP)
    events, shown = dataset.read("events"), dataset.read("impressions")
    clicked = shown.filter("clicked").select("user_id", "item_id", "timestamp")
    assert events.height == clicked.height > 0
    assert set(events.select("user_id", "item_id", "timestamp").iter_rows()) == set(clicked.iter_rows())
    assert set(events["action"]) == {"click"}
    assert dataset.facts["events"] == "the clicked impressions"
    assert not check(dataset.folder)


def test_impressions_without_a_time_have_no_past(tmp_path: Path) -> None:
    source = table_source(tmp_path / "shop", logs=True)
    (source / "events.csv").unlink()
    table = pl.read_csv(source / "impressions.csv")
    table.drop("timestamp").write_csv(source / "impressions.csv")
    with pytest.raises(DataError, match="needs a column 'timestamp'"):
        import_table(source, tmp_path / "set", mapping=TABLE_MAP)


def test_a_mapping_is_read_by_table() -> None:
    assert parse_mapping(["title=name", "category=a,b", "pairs.item_id=sku"]) == {
        "items": {"title": ("name",), "category": ("a", "b")},
        "pairs": {"item_id": ("sku",)},
    }
