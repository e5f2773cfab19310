"""Representations as the contract has them: `embeddings.parquet`, item_id and a vector in float16, or in int8 with a scale."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.data.tables import read_table

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray


def embeddings_table(
    item_ids_N: Array, vectors_NxD: Array, *, dim: int | None = None, int8: bool = False
) -> "pl.DataFrame":
    """The table of `embeddings.parquet`: vectors at unit length.

    Args:
        item_ids_N: int64; vectors_NxD: floats.
        dim: keep the first so many dimensions, at unit length again: for Matryoshka representations.
        int8: a quarter of float32's bytes: whole numbers in -127..127 and a scale for each vector. Each number is at
            most half a scale off, so that a cosine of two vectors of 64 dimensions moves by about 0.003.

    Raises:
        DataError: no such dimension, or vectors that do not match the ids.
    """
    import polars as pl

    if len(item_ids_N) != len(vectors_NxD) or vectors_NxD.ndim != 2:
        raise DataError(f"vectors of shape {vectors_NxD.shape} for {len(item_ids_N)} items; one row for each is needed")
    width = vectors_NxD.shape[1]
    if dim is not None and not 0 < dim <= width:
        raise DataError(f"dim: {dim} must lie in 1..{width}, the width of the representation")
    kept = vectors_NxD[:, :dim].astype(np.float32)
    kept /= np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    ids = pl.Series("item_id", np.asarray(item_ids_N, np.int64))
    if not int8:
        return pl.DataFrame(
            [ids, pl.Series("embedding", kept.astype(np.float16), dtype=pl.Array(pl.Float16, kept.shape[1]))]
        )
    scale_N = np.maximum(np.abs(kept).max(axis=1), 1e-12) / 127
    whole = np.rint(kept / scale_N[:, None]).astype(np.int8)
    embedding = pl.Series("embedding", whole, dtype=pl.Array(pl.Int8, kept.shape[1]))
    return pl.DataFrame([ids, embedding, pl.Series("scale", scale_N.astype(np.float32))])


def read_embeddings(path: Path | str) -> tuple[Array, Array]:
    """(item ids int64 N, float32 N x D) of `embeddings.parquet`; DataError where vectors differ in length."""
    table = read_table(Path(path))
    widths = table["embedding"].cast(_list_of(table["embedding"].dtype)).list.len().unique().to_list()
    if len(widths) != 1 or not widths[0]:
        raise DataError(f"{path}: embeddings have different lengths: {', '.join(map(str, sorted(widths)[:5]))}")
    vectors = np.array(table["embedding"].to_list(), np.float32)
    if "scale" in table.columns:
        vectors *= table["scale"].to_numpy().astype(np.float32)[:, None]
    return table["item_id"].to_numpy(), vectors


def _list_of(dtype: "pl.DataType") -> "pl.DataType":
    import polars as pl

    return pl.List(dtype.inner)  # type: ignore[attr-defined]
