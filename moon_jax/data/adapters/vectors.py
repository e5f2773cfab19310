"""Vectors out and in, in the form of MMCTR's `item_info.parquet`: item_id, item_tags, item_emb_d128; row = item_id."""

import os
from pathlib import Path

import numpy as np

from moon_jax.data.adapters.mmctr import WIDTH
from moon_jax.data.contract import DataError
from moon_jax.data.tables import read_table, reading

Array = np.ndarray
TAGS = 5
MOST_ROWS = 1 << 24  # a row for every number up to the largest id: ids must not be hashes
_PRESENT = "present"


def export_vectors(target: Path, item_ids_N: Array, vectors_NxD: Array, tags_NxT: Array | None = None) -> Path:
    """Writes `target/item_info.parquet`, which MMCTR's loaders read by row number: row 0 and numbers without an item are
    zeros.

    Args:
        target: folder, made if it is not there; a file of that name in it is not overwritten.
        item_ids_N: distinct ids from 1 on (an id 0 would be taken for the padding).
        vectors_NxD: any floats, finite, D <= 128; shorter ones are filled with zeros, which changes no cosine.
        tags_NxT: small whole numbers, T <= 5; zeros where there are none.

    Returns the path of the file. Raises DataError for other shapes, ids and numbers.
    """
    import polars as pl

    ids_N, vectors = np.asarray(item_ids_N), np.asarray(vectors_NxD, np.float32)
    if vectors.ndim != 2 or ids_N.shape != vectors.shape[:1] or not ids_N.size:
        raise DataError(f"vectors of shape {vectors.shape} for {ids_N.size} items; one row for each item is needed")
    if vectors.shape[1] > WIDTH:
        raise DataError(
            f"vectors have {vectors.shape[1]} numbers, the form holds {WIDTH}; take a prefix or project them"
        )
    if not np.isfinite(vectors).all():
        raise DataError(f"vector of item {ids_N[~np.isfinite(vectors).all(axis=1)][0]} is not finite")
    if ids_N.min() < 1 or ids_N.max() >= MOST_ROWS or np.unique(ids_N).size != ids_N.size:
        raise DataError(f"item ids must be distinct and from 1 to {MOST_ROWS - 1}; number the items anew")
    tags = np.zeros((ids_N.size, 0), np.int64) if tags_NxT is None else np.asarray(tags_NxT, np.int64)
    if tags.ndim != 2 or len(tags) != ids_N.size or tags.shape[1] > TAGS:
        raise DataError(f"tags of shape {tags.shape} for {ids_N.size} items; at most {TAGS} for each")
    rows = int(ids_N.max()) + 1
    full_RxW, tags_RxT = np.zeros((rows, WIDTH), np.float32), np.zeros((rows, TAGS), np.int64)
    present_R = np.zeros(rows, bool)
    full_RxW[ids_N, : vectors.shape[1]], tags_RxT[ids_N, : tags.shape[1]], present_R[ids_N] = vectors, tags, True
    path = Path(target) / "item_info.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise DataError(f"{path}: exists already; remove it or name another folder")
    frame = pl.DataFrame(
        {
            "item_id": np.arange(rows),
            "item_tags": pl.Series(tags_RxT, dtype=pl.Array(pl.Int64, TAGS)),
            "item_emb_d128": pl.Series(full_RxW, dtype=pl.Array(pl.Float32, WIDTH)),
            _PRESENT: present_R,  # tells a number without an item from an item of zeros; loaders pass it over
        }
    )
    partial = path.with_suffix(".partial")
    frame.write_parquet(partial, compression="zstd", metadata={"width": str(vectors.shape[1])})
    os.replace(partial, path)
    return path


def read_vectors(path: Path) -> tuple[Array, Array]:
    """(item_ids int64 N, vectors float32 N x D) of an `item_info.parquet`, ours or a published one.

    Ours is read as it was given; of others, row 0 is the padding and every other row an item. DataError where the file
    has not the form.
    """
    import polars as pl

    frame = read_table(path)
    if lacking := {"item_id", "item_emb_d128"} - set(frame.columns):
        raise DataError(f"{path}: lacks column {sorted(lacking)[0]!r}")
    with reading(path):
        width = int(pl.read_parquet_metadata(path).get("width", WIDTH))
        kept = frame.filter(pl.col(_PRESENT) if _PRESENT in frame.columns else pl.col("item_id") > 0)
        vectors = kept["item_emb_d128"].cast(pl.Array(pl.Float32, WIDTH)).to_numpy()
    return kept["item_id"].cast(pl.Int64).to_numpy(), np.ascontiguousarray(vectors[:, :width])


def export_step(prepare: Path, embed: Path, target: Path) -> Path:
    """The representations of a finished embed step: `prepare` and `embed` are the steps' folders."""
    ids_N = np.load(prepare / "item_ids.npy", allow_pickle=False)
    return export_vectors(target, ids_N, np.load(embed / "items.npy", allow_pickle=False))
