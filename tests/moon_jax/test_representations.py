"""Vectors out: cut, quantised, read again; and an exported encoder gives the vectors that it was measured with."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moon_jax.data.contract import DataError
from moon_jax.data.representations import embeddings_table, read_embeddings

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(50, 64))
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
IDS = RNG.permutation(900)[:50]


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dim", [None, 16])
def test_what_is_written_is_read_again(int8: bool, dim: int | None, tmp_path: Path) -> None:
    path = tmp_path / "embeddings.parquet"
    embeddings_table(IDS, VECTORS.astype(np.float16), dim=dim, int8=int8).write_parquet(path)
    ids, read = read_embeddings(path)
    cut = VECTORS[:, :dim] / np.linalg.norm(VECTORS[:, :dim], axis=1, keepdims=True)
    np.testing.assert_array_equal(ids, IDS)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read @ read.T, cut @ cut.T, atol=0.01 if int8 else 2e-3)
    assert path.stat().st_size > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 64), st.integers(0, 99))
def test_int8_is_half_a_scale_off_at_most(dim: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(5, 64))
    table = embeddings_table(np.arange(5), vectors, dim=dim, int8=True)
    whole, scale = np.array(table["embedding"].to_list()), table["scale"].to_numpy()
    cut = vectors[:, :dim] / np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True)
    assert np.abs(whole).max() == 127
    assert (np.abs(whole * scale[:, None] - cut) <= 0.501 * scale[:, None]).all()


def test_it_is_in_the_form_of_the_contract() -> None:
    half, whole = embeddings_table(IDS, VECTORS), embeddings_table(IDS, VECTORS, int8=True)
    assert half.schema == {"item_id": pl.Int64, "embedding": pl.Array(pl.Float16, 64)}
    assert whole.schema == {"item_id": pl.Int64, "embedding": pl.Array(pl.Int8, 64), "scale": pl.Float32}


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dim: 65 must lie in 1\.\.64"):
        embeddings_table(IDS, VECTORS, dim=65)
    with pytest.raises(DataError, match="for 3 items; one row for each"):
        embeddings_table(IDS[:3], VECTORS)
    pl.DataFrame({"item_id": [1, 2], "embedding": [[1.0], [1.0, 2.0]]}).write_parquet(tmp_path / "odd.parquet")
    with pytest.raises(DataError, match=r"odd\.parquet: embeddings have different lengths: 1, 2"):
        read_embeddings(tmp_path / "odd.parquet")
