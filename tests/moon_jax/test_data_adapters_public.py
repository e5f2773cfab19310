"""TAOBAO-MM, MMCTR, ESCI and vectors out: every row arrives or is quarantined, ids and splits hold, memory is bounded."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sources import esci_source, mmctr_source, photo, taobao_mm_source

from moon_jax.data.adapters.esci import GRADES, import_esci
from moon_jax.data.adapters.mmctr import import_mmctr
from moon_jax.data.adapters.taobao_mm import SCALE, import_taobao_mm
from moon_jax.data.adapters.vectors import export_step, export_vectors, read_vectors
from moon_jax.data.contract import DataError, check, open_dataset


def change(path: Path, *changes: pl.Expr) -> None:
    pl.read_parquet(path).with_columns(*changes).write_parquet(path)


def at_row(column: str, row: int, value: Any) -> pl.Expr:
    """The column with another value in one row."""
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)


@pytest.mark.parametrize("raw", [True, False])
def test_taobao_mm_keeps_every_impression_with_its_history(tmp_path: Path, raw: bool) -> None:
    source = taobao_mm_source(tmp_path / "source", raw=raw)
    told: list[tuple[int, int]] = []
    dataset = import_taobao_mm(source, tmp_path / "set", progress=lambda *at: told.append(at))
    assert check(dataset.folder) == []
    given = pl.concat(
        pl.read_parquet(p) for p in sorted(source.glob("*/t*-shard-*.parquet"), key=lambda p: p.name[:2] != "tr")
    )
    shown = dataset.read("impressions")
    assert shown["impression_id"].to_list() == list(range(given.height))
    assert shown["user_id"].equals(given["129_1"].alias("user_id"))
    assert shown["item_id"].equals(given["205"].alias("item_id"))
    assert shown["clicked"].to_list() == [label == [0, 1] for label in given["label_0"].to_list()]
    assert shown["history"].to_list() == [[i for i in seen if i != 0] for seen in given["150_2_180"].to_list()]
    assert [path.name for path in sorted((dataset.folder / "impressions.parquet").iterdir())] == [
        f"part-0000{shard}.parquet" for shard in range(3)
    ]
    held = shown.filter(pl.col("split") == "valid")["user_id"]
    assert (held % 20 == 0).all()
    assert not set(held) & set(shown.filter(pl.col("split") == "train")["user_id"])
    assert told[-1][0] == told[-1][1]
    assert set(dataset.read("users")["user_id"]) == set(given["129_1"])


def test_taobao_mm_brings_vectors_at_their_scale(tmp_path: Path) -> None:
    source = taobao_mm_source(tmp_path / "source")
    dataset = import_taobao_mm(source, tmp_path / "set")
    raw = pl.read_parquet(source / "raw" / "scl_embedding_int8_p90.parquet")
    vectors = dataset.read("embeddings")
    assert vectors["item_id"].equals(raw["205"].alias("item_id"))
    assert vectors["embedding"].to_list() == raw["205_c"].to_list()
    assert vectors["scale"].unique().to_list() == [pytest.approx(SCALE)]
    items = dataset.read("items")
    assert dataset.rows["items"] == 50  # 30 with features, 20 that only histories name
    assert items.filter(pl.col("category").list.len() > 0).height == 30
    assert "province:0" not in items["attributes"].explode().to_list()  # 0 stands for nothing


def test_taobao_mm_quarantines_rows_and_stops_at_the_limit(tmp_path: Path) -> None:
    source = taobao_mm_source(tmp_path / "source")
    shard = source / "train" / "train-shard-000001.parquet"
    whole = import_taobao_mm(source, tmp_path / "whole")
    change(shard, at_row("205", 3, None), at_row("129_1", 5, 0), at_row("label_0", 7, [1, 1]))
    dataset = import_taobao_mm(source, tmp_path / "set")
    assert dataset.quarantined == {"impressions": 3}
    noted = pl.read_parquet(dataset.folder / "quarantine.parquet")
    assert noted.rows() == [
        ("impressions", shard.name, 3, "item 205 is null or 0"),
        ("impressions", shard.name, 5, "user 129_1 is null or 0"),
        ("impressions", shard.name, 7, "label_0 is not one-hot"),
    ]
    left = [row for row in range(180) if row not in (63, 65, 67)]
    columns = ["user_id", "item_id", "history", "clicked"]
    assert dataset.read("impressions", columns).equals(whole.read("impressions", columns)[left])
    change(shard, pl.lit(0).alias("205"))
    with pytest.raises(DataError, match=r"train-shard-000001\.parquet, row 0: item 205 is null or 0; 60 of 180 rows"):
        import_taobao_mm(source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_taobao_mm_names_what_is_missing(tmp_path: Path) -> None:
    source = taobao_mm_source(tmp_path / "source")
    shard = source / "test" / "test-shard-000000.parquet"
    pl.read_parquet(shard).drop("150_2_180").write_parquet(shard)
    with pytest.raises(DataError, match=r"test-shard-000000\.parquet: lacks column '150_2_180'"):
        import_taobao_mm(source, tmp_path / "set")
    shard.unlink()
    with pytest.raises(DataError, match="no shard test-shard"):
        import_taobao_mm(source, tmp_path / "set")


def test_mmctr_keeps_histories_levels_and_vectors(tmp_path: Path) -> None:
    source = mmctr_source(tmp_path / "source", photos=True)
    dataset = import_mmctr(source, tmp_path / "set")
    assert check(dataset.folder) == []
    given = pl.concat([pl.read_parquet(source / f"{split}.parquet") for split in ("train", "valid", "test")])
    shown = dataset.read("impressions")
    assert shown["split"].to_list() == ["train"] * 80 + ["valid"] * 20 + ["test"] * 20
    assert shown["history"].to_list() == [[i for i in seen if i] for seen in given["item_seq"].to_list()]
    assert shown["clicked"].to_list() == [label == 1 for label in given["label"]]
    assert shown["likes_level"].to_list() == given["likes_level"].to_list()
    items = dataset.read("items")
    assert items["item_id"].to_list() == list(range(1, 31))  # row 0 is the padding
    assert items["title"][4] == "video 5"
    assert items["image"][4] == photo(5)
    ids, vectors = read_vectors(source / "item_info.parquet")
    assert np.array_equal(dataset.read("embeddings")["item_id"].to_numpy(), ids)
    assert np.array_equal(dataset.read("embeddings")["embedding"].to_numpy(), vectors)


def test_mmctr_without_test_labels_tests_on_the_published_valid(tmp_path: Path) -> None:
    dataset = import_mmctr(mmctr_source(tmp_path / "source", labelled=False), tmp_path / "set")
    shown = dataset.read("impressions")
    assert shown["split"].to_list()[80:] == ["test"] * 20
    train, valid = (set(shown.filter(pl.col("split") == split)["user_id"]) for split in ("train", "valid"))
    assert valid
    assert not train & valid
    assert dataset.facts["labels_of_test"] == "hidden"


@pytest.mark.parametrize(
    ("file", "column", "value", "reason"),
    [
        ("train", "label", 7, "label is neither 0 nor 1"),
        ("train", "item_id", 99, "unknown item_id"),
        ("train", "item_seq", [0, 0, 99], "unknown item_id in item_seq"),
        ("train", "user_id", None, "user_id is null"),
        ("item_info", "item_id", 3, "item_id is not the row's number"),
        ("item_info", "item_emb_d128", [float("nan")] * 128, "item_emb_d128 holds a number that is not finite"),
    ],
)
def test_mmctr_quarantines(tmp_path: Path, file: str, column: str, value: Any, reason: str) -> None:
    source = mmctr_source(tmp_path / "source")
    frame = pl.read_parquet(source / f"{file}.parquet")
    values = frame[column].to_list()
    values[9] = value
    frame.with_columns(pl.Series(column, values, dtype=frame.schema[column])).write_parquet(source / f"{file}.parquet")
    dataset = import_mmctr(source, tmp_path / "set", limit=0.5)
    noted = pl.read_parquet(dataset.folder / "quarantine.parquet")
    assert (f"{file}.parquet", 9, reason) in noted.select("source", "row", "reason").rows()
    assert check(dataset.folder) == []


def test_esci_grades_are_numbers_and_locales_stay_apart(tmp_path: Path) -> None:
    source = esci_source(tmp_path / "source")
    dataset = import_esci(source, tmp_path / "set", version="large")
    assert check(dataset.folder) == []
    inner = source / "shopping_queries_dataset"
    examples = pl.read_parquet(inner / "shopping_queries_dataset_examples.parquet")
    judged = (
        dataset.read("relevance").join(dataset.read("items"), on="item_id").join(dataset.read("queries"), on="query_id")
    )
    found = judged.select("text", "source_id", "title", "grade").sort("text", "source_id")
    expected = examples.select(
        pl.col("query").alias("text"),
        pl.col("product_id").alias("source_id"),
        pl.format("{} product {}", "product_locale", "product_id").alias("title"),
        pl.col("esci_label").replace_strict(GRADES).alias("grade"),
    ).sort("text", "source_id")
    assert found.equals(expected)
    pairs = dataset.read("pairs")
    assert pairs.height == examples.filter(pl.col("esci_label") == "E").height
    splits = dataset.read("relevance").group_by("query_id").agg(pl.col("split").unique())
    assert (splits["split"].list.len() == 1).all()
    published = dict(examples.select("query_id", "split").unique().iter_rows())
    ours = {query: split[0] for query, split in splits.iter_rows()}
    assert all((split == "test") == (published[query] == "test") for query, split in ours.items())


def test_esci_takes_a_version_and_a_locale(tmp_path: Path) -> None:
    source = esci_source(tmp_path / "source")
    small = import_esci(source, tmp_path / "small")
    large = import_esci(source / "shopping_queries_dataset", tmp_path / "large", version="large")
    assert small.rows["relevance"] < large.rows["relevance"]
    english = import_esci(source, tmp_path / "us", version="large", locales=("us",))
    assert set(english.read("items")["attributes"].explode()) <= {"brand:Acme", "colour:red", "locale:us"}
    with pytest.raises(DataError, match="no locale 'de'"):
        import_esci(source, tmp_path / "de", locales=("de",))


def test_esci_quarantines(tmp_path: Path) -> None:
    source = esci_source(tmp_path / "source")
    inner = source / "shopping_queries_dataset"
    change(inner / "shopping_queries_dataset_examples.parquet", at_row("esci_label", 4, "X"), at_row("query", 8, " "))
    change(inner / "shopping_queries_dataset_products.parquet", at_row("product_title", 2, None))
    dataset = import_esci(source, tmp_path / "set", version="large", limit=0.2)
    noted = pl.read_parquet(dataset.folder / "quarantine.parquet").select("file", "row", "reason").rows()
    assert ("relevance", 4, "esci_label is none of E, S, C, I") in noted
    assert ("relevance", 8, "query is empty") in noted
    assert ("items", 2, "has no title") in noted
    assert check(dataset.folder) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.integers(1, 500), min_size=1, max_size=20, unique=True),
    width=st.integers(1, 128),
    data=st.data(),
)
def test_exported_vectors_read_back_equal(tmp_path: Path, ids: list[int], width: int, data: st.DataObject) -> None:
    shape = (len(ids), width)
    vectors = data.draw(hnp.arrays(np.float16, shape, elements=st.floats(-100, 100, width=16)))
    target = tmp_path / str(len(list(tmp_path.iterdir())))
    path = export_vectors(target, np.array(ids), vectors)
    again, read = read_vectors(path)
    order = np.argsort(ids)
    assert again.tolist() == sorted(ids)
    assert np.array_equal(read, vectors[order].astype(np.float32))
    frame = pl.read_parquet(path)
    assert frame["item_id"].to_list() == list(range(max(ids) + 1))  # loaders read by row number
    assert frame["item_emb_d128"].dtype == pl.Array(pl.Float32, 128)


def test_an_embed_step_is_exported_and_comes_back_through_the_adapter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30, 64)).astype(np.float16)
    np.save(tmp_path / "item_ids.npy", np.arange(1, 31))
    np.save(tmp_path / "items.npy", vectors)
    source = mmctr_source(tmp_path / "source")
    (source / "item_info.parquet").unlink()
    export_step(tmp_path, tmp_path, source)
    dataset = import_mmctr(source, tmp_path / "set")
    assert np.array_equal(dataset.read("embeddings")["embedding"].to_numpy()[:, :64], vectors.astype(np.float32))


@pytest.mark.parametrize(
    ("ids", "shape", "told"),
    [
        ([0, 1], (2, 8), "from 1 to"),
        ([1, 1], (2, 8), "distinct"),
        ([2**40], (1, 8), "number the items anew"),
        ([1, 2], (2, 200), "have 200 numbers"),
        ([1, 2], (3, 8), "one row for each item"),
    ],
)
def test_vectors_that_have_not_the_form_are_refused(
    tmp_path: Path, ids: list[int], shape: tuple[int, int], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        export_vectors(tmp_path / "out", np.array(ids), np.zeros(shape))
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_shards_is_opened_again_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large table's digest is noted with its state; a changed file is digested anew, and `check` trusts no note."""
    monkeypatch.setattr("moon_jax.data.writing.WHOLE_BYTES", 0)
    dataset = import_taobao_mm(taobao_mm_source(tmp_path / "source"), tmp_path / "set")
    monkeypatch.setattr("moon_jax.data.contract.logical_digest", lambda path: pytest.fail(f"{path} was read"))
    assert open_dataset(dataset.folder).digests == dataset.digests
    assert check(dataset.folder) == []
    monkeypatch.undo()
    part = dataset.folder / "impressions.parquet" / "part-00001.parquet"
    change(part, ~pl.col("clicked"))
    assert open_dataset(dataset.folder).digests["impressions"] != dataset.digests["impressions"]
    assert [str(fault) for fault in check(dataset.folder)] == [
        "impressions: content differs from the digest in dataset.json"
    ]
