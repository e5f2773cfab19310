"""Whatever a transformation drops: references stay whole, a second pass drops nothing, the order of rows is no matter."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from catalogues import random_tables, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moon_jax.data.contract import DataError, Dataset, check
from moon_jax.data.processing import (
    EntityFilter,
    ExactImages,
    MatchExposure,
    MergeVariants,
    NearTitles,
    PerceptualImages,
    SimilarityDedup,
    Transformation,
    Vectors,
    process_dataset,
)

ALL = (
    ExactImages(),
    PerceptualImages(),
    NearTitles(threshold=0.6, shingle=1),
    MergeVariants(),
    SimilarityDedup(),
    MatchExposure(level=2, short=0.3),
    EntityFilter(),
)


def vectors_of(dataset: Dataset) -> Vectors:
    """A representation for every item and query, made from the id alone."""
    made = []
    for name, key in (("items", "item_id"), ("queries", "query_id")):
        ids = dataset.read(name, [key])[key].sort().to_numpy()
        made += [ids, np.stack([np.random.default_rng(int(i)).normal(size=6) for i in ids])]
    return Vectors(*made)


def run(dataset: Dataset, to: Path, transformation: Transformation, vectors: Vectors) -> Dataset | None:
    """The processed dataset; None where a split would have lost its last pair, which is refused."""
    try:
        return process_dataset(dataset.folder, to, [transformation], vectors=vectors)
    except DataError as error:
        assert "pair would be left" in str(error) or "impression would be left" in str(error)  # noqa: PT017
        assert not to.exists()
        return None


def content(dataset: Dataset) -> dict[str, list]:
    """What the tables that were touched say, whatever their order."""
    said = {}
    for name in ("items", "queries", "pairs", "events", "impressions", "relevance"):
        frame = dataset.read(name)
        said[name] = sorted(frame.drop([c for c in ("image",) if c in frame.columns]).rows(), key=repr)
    return said


def stands(transformation: Transformation, seed: int, order: int) -> bool:
    """Assert it all for one random dataset; whether the transformation changed anything there."""
    with tempfile.TemporaryDirectory() as home:
        source = written(Path(home, "source"), random_tables(seed))
        shuffled = written(Path(home, "shuffled"), random_tables(seed, shuffled=order))
        vectors = vectors_of(source)
        once = run(source, Path(home, "once"), transformation, vectors)
        other = run(shuffled, Path(home, "other"), transformation, vectors)
        assert (once is None) == (other is None)
        if once is None or other is None:
            return False
        assert content(other) == content(once)
        faults = {str(fault) for fault in check(source.folder)}
        assert {str(fault) for fault in check(once.folder)} <= faults
        if transformation.scope == "train":
            for name in set(source.rows) - {"items", "pairs"}:
                assert once.digests[name] == source.digests[name], name
            assert once.read("items").drop("in_training", strict=False).equals(source.read("items"))
            held = pl.col("split") != "train"
            assert once.read("pairs").filter(held).equals(source.read("pairs").filter(held))
        twice = run(once, Path(home, "twice"), transformation, vectors)
        assert twice is not None
        assert content(twice) == content(once)
        return content(once) != content(source)


@pytest.mark.parametrize("scope", ["train", "all"])
@pytest.mark.parametrize("transformation", ALL, ids=lambda transformation: transformation.name)
def test_references_stay_whole_and_a_second_pass_drops_nothing(transformation: Transformation, scope: str) -> None:
    assert stands(replace(transformation, scope=scope), seed=11, order=5)


def test_found_by_the_search_below() -> None:
    """A query whose stand-in is of the item that it asked for; items that take the last test impression with them."""
    stands(ExactImages(), seed=716, order=0)
    stands(EntityFilter(scope="all"), seed=217, order=0)


@pytest.mark.proof
@pytest.mark.parametrize("scope", ["train", "all"])
@pytest.mark.parametrize("transformation", ALL, ids=lambda transformation: transformation.name)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), order=st.integers(0, 10**6))
def test_so_it_is_in_any_dataset(transformation: Transformation, scope: str, seed: int, order: int) -> None:
    stands(replace(transformation, scope=scope), seed, order)


def test_a_held_out_item_is_neither_replaced_nor_stood_for(tmp_path: Path) -> None:
    """In train scope an item that test asks about stays out of training: no training pair is turned to it."""
    tables = random_tables(3)
    held = tables["pairs"].filter(pl.col("split") != "train")["item_id"]
    every = tables["items"].with_columns(title=pl.lit("the same title"), product_id=pl.lit(1))
    source = written(tmp_path / "source", {**tables, "items": every})
    for transformation in (MergeVariants(), NearTitles(within=True)):
        done = process_dataset(source.folder, tmp_path / transformation.name, [transformation])
        was = set(source.read("pairs").filter(pl.col("split") == "train").select("query_id", "item_id").rows())
        now = set(done.read("pairs").filter(pl.col("split") == "train").select("query_id", "item_id").rows())
        assert not {item for _, item in now - was} & set(held.to_list())
        out = done.read("items").filter(~pl.col("in_training"))["item_id"].to_list()
        assert out
        assert not set(out) & set(held.to_list())


def test_an_answer_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    tables = random_tables(1)
    alone = tables["items"].with_columns(title=pl.lit("zork"))
    source = written(tmp_path / "source", {**tables, "items": alone})
    with pytest.raises(DataError, match=r"no \w+ pair would be left \(with fewer than 2 entities\)"):
        process_dataset(source.folder, tmp_path / "to", [EntityFilter(scope="all")])
    assert not (tmp_path / "to").exists()
