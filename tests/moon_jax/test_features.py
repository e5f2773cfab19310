"""Features of users and of context: coded by what training shows, whatever else test shows."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moon_jax.data.contract import DataError
from moon_jax.data.features import BUCKETS, VALUES, _coded, read_features
from moon_jax.data.histories import Behaviour, read_behaviour

DAY = 86_400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pl.DataFrame({"item_id": [10, 20]}).write_parquet(tmp_path / "items.parquet")
    events = {"user_id": [1, 1, 1, 3], "item_id": [10, 20, 10, 20], "action": ["click"] * 4, "timestamp": [1, 2, 3, 4]}
    pl.DataFrame(events).write_parquet(tmp_path / "events.parquet")
    shown = {
        "impression_id": [1, 2, 3, 4],
        "user_id": [1, 2, 3, 1],
        "item_id": [10, 20, 10, 20],
        "timestamp": [10 + 4 * DAY, 10 + 4 * DAY + 3600, 10, 10 + 5 * DAY],
        "position": [1, None, 3, 9],
        "clicked": [True, False, True, False],
        "split": ["train", "train", "train", "test"],
    }
    pl.DataFrame(shown).write_parquet(tmp_path / "impressions.parquet")
    users = {"user_id": [3, 1], "city": ["Oslo", "Bergen"], "age": [30.5, None], "member": [True, False]}
    pl.DataFrame(users).write_parquet(tmp_path / "users.parquet")
    return tmp_path


def behaviour_of(folder: Path) -> Behaviour:
    return read_behaviour(*(folder / f"{name}.parquet" for name in ("items", "events", "impressions")))


def test_each_column_has_a_block_of_its_own(folder: Path) -> None:
    shown, users = folder / "impressions.parquet", folder / "users.parquet"
    found = read_features(("user", "time", "position"), behaviour_of(folder), shown, users)
    assert found is not None
    assert found.names == (
        "events before", "user city", "user age", "user member", "hour", "weekday", "position",
    )  # fmt: skip
    columns = dict(zip(found.names, found.row_IxF.T.tolist(), strict=True))
    # events before: 3, 0, 1, 3 -> powers 2, 0, 1, 2 -> rows 3, 1, 2, 3; user 2 is unknown, user 1 has no age
    assert columns["events before"] == [3, 1, 2, 3]
    assert columns["user city"] == [4 + 1, 4 + 0, 4 + 2, 4 + 1]
    assert columns["user age"] == [7 + 0, 7 + 0, 7 + 1, 7 + 0]
    assert columns["user member"] == [9 + 1, 9 + 0, 9 + 2, 9 + 1]
    assert columns["hour"] == [12 + 1, 12 + 2, 12 + 1, 12 + 1]
    assert columns["weekday"] == [15 + 1, 15 + 1, 15 + 2, 15 + 0]  # Monday twice, Thursday; Tuesday only in test
    assert columns["position"] == [18 + 1, 18 + 0, 18 + 2, 18 + 0]  # 9 only in test
    assert found.rows == 21


def test_no_group_is_no_feature(folder: Path) -> None:
    assert read_features((), behaviour_of(folder), folder / "impressions.parquet") is None


def test_a_column_that_tells_nothing_is_left_out(folder: Path) -> None:
    shown = folder / "impressions.parquet"
    pl.read_parquet(shown).with_columns(position=pl.lit(1)).write_parquet(shown)
    assert read_features(("position",), behaviour_of(folder), shown) is None


def test_without_a_table_of_users_their_activity_is_read(folder: Path) -> None:
    found = read_features(("user",), behaviour_of(folder), folder / "impressions.parquet")
    assert found is not None
    assert found.names == ("events before",)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=300),
    st.integers(0, 2**32 - 1),
)
def test_numbers_keep_their_order_and_missing_ones_stand_apart(values: list, seed: int) -> None:
    column = np.array([np.nan if value is None else value for value in values])
    training = np.random.default_rng(seed).random(column.size) < 0.7
    codes, count = _coded("x", column, training)
    assert ((codes >= 0) & (codes < count)).all()
    assert (codes[np.isnan(column)] == 0).all()
    shown = np.unique(column[training & ~np.isnan(column)])
    known = ~np.isnan(column) & (np.isin(column, shown) | (shown.size > VALUES))
    order = np.argsort(column[known], kind="stable")
    assert (np.diff(codes[known][order]) >= 0).all()
    assert (codes[known] > 0).all()
    if shown.size <= VALUES:
        assert len(set(codes[known])) == shown.size
    else:
        assert count <= BUCKETS + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=4)), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_words_are_told_apart_and_unknown_ones_are_one(values: list, seed: int) -> None:
    column = np.array(values, object)
    training = np.random.default_rng(seed).random(column.size) < 0.6
    codes, _ = _coded("x", column, training)
    known = {value for value, seen in zip(values, training, strict=True) if seen and value is not None}
    by_code: dict[int, set] = {}
    for value, code in zip(values, codes.tolist(), strict=True):
        by_code.setdefault(code, set()).add(value)
        assert (code > 0) == (value in known)
    assert all(len(of) == 1 for code, of in by_code.items() if code)


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    shown, users = folder / "impressions.parquet", folder / "users.parquet"
    behaviour = behaviour_of(folder)
    table = pl.read_parquet(users).with_columns(tags=pl.lit([[1], [2]]).explode().reshape((2, 1)))
    table.write_parquet(users)
    with pytest.raises(DataError, match=r"users\.parquet, column 'tags' is .*leave the column out"):
        read_features(("user",), behaviour, shown, users)
    pl.read_parquet(shown).drop("position").write_parquet(shown)
    with pytest.raises(DataError, match=r"impressions\.parquet: no column 'position'"):
        read_features(("position",), behaviour, shown)
    with pytest.raises(DataError, match="'weather' is unknown"):
        read_features(("weather",), behaviour, shown)  # type: ignore[arg-type]
