"""Tables: what one says has one digest however it is stored, and is the same read in batches."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moon_jax.data import tables as data_tables
from moon_jax.data.contract import logical_digest
from moon_jax.data.tables import batches

COLUMNS = {
    "whole": (st.integers(-(2**62), 2**62), pl.Int64),
    "real": (st.floats(allow_nan=False), pl.Float64),
    "flag": (st.booleans(), pl.Boolean),
    "text": (st.text(max_size=5), pl.String),
    "bytes": (st.binary(max_size=5), pl.Binary),
    "texts": (st.lists(st.text(max_size=3) | st.none(), max_size=3), pl.List(pl.String)),
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, (values, _) in COLUMNS.items()}), max_size=12)
SCHEMA = {name: kind for name, (_, kind) in COLUMNS.items()}
reuse_folder = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@reuse_folder
@given(rows=ROWS, cut=st.integers(0, 12))
def test_the_digest_ignores_how_a_table_is_stored(tmp_path: Path, rows: list[dict[str, Any]], cut: int) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    table = pl.DataFrame(rows, schema=SCHEMA)
    table.write_parquet(tmp_path / "plain.parquet", compression="uncompressed")
    table.select(sorted(SCHEMA)).write_parquet(tmp_path / "other.parquet", compression="zstd", row_group_size=2)
    (tmp_path / "shards.parquet").mkdir()
    table.head(cut).write_parquet(tmp_path / "shards.parquet" / "0.parquet")
    table.slice(cut).write_parquet(tmp_path / "shards.parquet" / "1.parquet")
    digests = {logical_digest(tmp_path / f"{name}.parquet") for name in ("plain", "other", "shards")}
    assert len(digests) == 1


@settings(parent=reuse_folder, max_examples=20)
@given(rows=ROWS, cut=st.integers(0, 12), size=st.integers(1, 12))
def test_a_table_read_in_batches_is_the_table(tmp_path: Path, rows: list[dict[str, Any]], cut: int, size: int) -> None:
    """Batches are its rows in order, and the digest of a table too large to hold is that of one held."""
    shutil.rmtree(tmp_path)
    (tmp_path / "x.parquet").mkdir(parents=True)
    table = pl.DataFrame(rows, schema=SCHEMA)
    table.head(cut).write_parquet(tmp_path / "x.parquet" / "0.parquet")
    table.slice(cut).write_parquet(tmp_path / "x.parquet" / "1.parquet")
    parts = list(batches(tmp_path / "x.parquet", rows=size))
    assert [start for start, _ in parts] == sorted(start for start, _ in parts)
    assert all(part.equals(table.slice(start, part.height)) for start, part in parts)
    assert sum(part.height for _, part in parts) == table.height
    held = logical_digest(tmp_path / "x.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_tables, "WHOLE_ROWS", -1)
        patch.setattr(data_tables, "_batch_rows", lambda frame, height, shard: size)
        data_tables._digest_once.cache_clear()
        assert logical_digest(tmp_path / "x.parquet") == held


@reuse_folder
@given(one=ROWS, two=ROWS)
def test_different_tables_have_different_digests(
    tmp_path: Path, one: list[dict[str, Any]], two: list[dict[str, Any]]
) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    digests = []
    for name, rows in (("one", one), ("two", two)):
        pl.DataFrame(rows, schema=SCHEMA).write_parquet(tmp_path / f"{name}.parquet")
        digests.append(logical_digest(tmp_path / f"{name}.parquet"))
    assert (digests[0] == digests[1]) == (repr(one) == repr(two))  # repr: 0.0 and -0.0 are different content


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pl.Series([["a"], []]), pl.Series([[], ["a"]])),
        (pl.Series([[]], dtype=pl.List(pl.String)), pl.Series([None], dtype=pl.List(pl.String))),
        (pl.Series([[None]], dtype=pl.List(pl.String)), pl.Series([[""]], dtype=pl.List(pl.String))),
        (pl.Series(["ab", "c"]), pl.Series(["a", "bc"])),
        (pl.Series([1, 2]), pl.Series([1, 2], dtype=pl.Int32)),
        (pl.Series([0, None]), pl.Series([None, 0])),
    ],
)
def test_near_alike_tables_have_different_digests(tmp_path: Path, one: pl.Series, two: pl.Series) -> None:
    for name, series in (("one", one), ("two", two)):
        pl.DataFrame({"x": series}).write_parquet(tmp_path / f"{name}.parquet")
    assert logical_digest(tmp_path / "one.parquet") != logical_digest(tmp_path / "two.parquet")
