"""What vectors say without a search: by the definition, and beside scikit-learn's classifier."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moon_jax.metrics import alignment, neighbour_accuracy, top_k, uniformity
from moon_jax.stages.embed import categories_of, geometry


def unit(rng: np.random.Generator, rows: int, width: int = 8) -> np.ndarray:
    vectors = rng.normal(size=(rows, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
@settings(max_examples=50)
def test_alignment_and_uniformity_are_their_definitions(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = unit(rng, rows), unit(rng, rows)
    apart = np.array([np.sum((a - b) ** 2) for a, b in zip(one, other, strict=True)])
    assert alignment(one, other) == pytest.approx(apart.mean())
    kernel = [np.exp(-2 * np.sum((one[i] - one[j]) ** 2)) for i in range(rows) for j in range(rows) if i != j]
    assert uniformity(one) == pytest.approx(np.log(np.mean(kernel)))


def test_their_ends() -> None:
    same = np.tile(unit(np.random.default_rng(0), 1), (5, 1))
    assert alignment(same, same) == 0
    assert alignment(same, -same) == pytest.approx(4)
    assert uniformity(same) == pytest.approx(0, abs=1e-12)
    assert uniformity(unit(np.random.default_rng(0), 500, 512)) == pytest.approx(-4, abs=0.1)
    with pytest.raises(ValueError, match="two vectors"):
        uniformity(same[:1])
    with pytest.raises(ValueError, match="no neighbours"):
        neighbour_accuracy(np.empty((0, 3), int), np.empty(0, int))


def test_neighbours_elect_as_in_scikit_learn() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 300)  # of two classes and an odd K no vote is a tie
    vectors = unit(rng, 300) + 0.5 * classes[:, None]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery, queries = slice(0, 200), slice(200, 300)
    nearest = top_k(vectors[queries], vectors[gallery], 5)
    ours = neighbour_accuracy(classes[gallery][nearest], classes[queries])
    theirs = KNeighborsClassifier(5).fit(vectors[gallery].astype(np.float32), classes[gallery])
    assert ours == pytest.approx(theirs.score(vectors[queries].astype(np.float32), classes[queries]))


def test_a_tie_goes_to_the_nearest_of_the_tied() -> None:
    assert neighbour_accuracy(np.array([[3, 1, 1, 3, 2]]), np.array([3])) == 1


def test_items_without_a_category_neither_ask_nor_answer(tmp_path) -> None:
    """Leaf categories go by item id, whatever the order of the prepared items; the vectors of a category coincide."""
    from types import SimpleNamespace

    ids = np.arange(100, 140)
    leaf = [["clothes", "ab"[k % 2]] if k < 30 else None for k in range(40)]
    pl.DataFrame({"item_id": ids, "category": leaf}).write_parquet(tmp_path / "items.parquet")
    order = np.random.default_rng(0).permutation(40)[:35]
    codes = categories_of(tmp_path / "items.parquet", SimpleNamespace(item_ids=ids[order]))
    assert codes.tolist() == [k % 2 if k < 30 else -1 for k in order]
    vectors = np.eye(3, dtype=np.float32)[np.where(codes < 0, 2, codes)]
    measured = geometry(vectors, codes, seed=0)
    assert measured["category_knn@10"] == 1
    assert measured["uniformity"] < 0
    assert "category_knn@10" not in geometry(vectors, None, seed=0)
    pl.DataFrame({"item_id": ids}).write_parquet(tmp_path / "bare.parquet")
    assert categories_of(tmp_path / "bare.parquet", SimpleNamespace(item_ids=ids)) is None
