"""The catalogue on the device: which row of the ID table an item has, and its frozen representation."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moon_jax.models.chunks import by_rows

Array = jax.Array
ROWS = 128  # tables have a multiple of so many rows, so that devices can share them evenly
Storage = Literal["float32", "float16", "int8"]


class Catalogue(NamedTuple):
    """id_row_N int32: rows of the ID table; vectors_NxD: unit-length representations as they are stored, or None.

    Where queries are behaviours, too, their rows follow those of the items. scale_N float32: what int8 vectors are
    multiplied with.
    """

    id_row_N: Array
    vectors_NxD: Array | None = None
    scale_N: Array | None = None

    def vectors(self, rows: Array) -> Array:
        """Representations of these item rows, float32 ... x D."""
        if self.vectors_NxD is None:
            raise ValueError("the catalogue has no representations")
        vectors = self.vectors_NxD[rows].astype(jnp.float32)
        return vectors if self.scale_N is None else vectors * self.scale_N[rows][..., None]

    def similarities(self, target_BxD: Array, rows_BxL: Array, places: int) -> Array:
        """cos(r_b, r_t), B x L; representations of `places` behaviours are looked up at a time: B x L x D never stands whole."""

        def cosines(catalogue: "Catalogue", rows_RxL: Array, target_RxD: Array) -> Array:
            return jnp.einsum("rd,rld->rl", target_RxD, catalogue.vectors(rows_RxL))

        return by_rows(cosines, self, rows_BxL, target_BxD, places=places)


def place_catalogue(
    known_N: np.ndarray, vectors_NxD: np.ndarray | None, storage: Storage, mesh: Mesh, *, queries: int = 0
) -> tuple[Catalogue, int]:
    """(the catalogue on the devices, rows of its ID table).

    Items that no training impression or history shows share a row of the ID table: an embedding that was never trained
    would be noise. Queries, the last rows, share another: they hardly recur. Vectors are brought to unit length (0 stays 0:
    an item without one), stored as asked, and split by rows over the axes of the mesh that split parameters.

    Args:
        known_N: bool, of the items.
        vectors_NxD: floats, of items and then queries, or None for the ID-only catalogue.
        storage: float16 has 2 bytes a number, int8 one, and a scale for each vector.
        mesh: of the run.
        queries: how many there are.
    """
    known = int(known_N.sum())
    id_row_N = np.where(known_N, np.cumsum(known_N) - 1, known).astype(np.int32)
    id_row_N = np.append(id_row_N, np.full(queries, known + 1, np.int32))
    whole, by_rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(("model", "fsdp")))
    ids, scale = jax.device_put(id_row_N, whole), None
    if vectors_NxD is None:
        return Catalogue(ids), known + 1 + bool(queries)
    kept = np.zeros((-(-len(vectors_NxD) // ROWS) * ROWS, vectors_NxD.shape[1]), np.float32)
    kept[: len(vectors_NxD)] = vectors_NxD
    kept /= np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-6)
    if storage == "int8":
        scale_N = np.maximum(np.abs(kept).max(axis=1), 1e-12) / 127
        kept = np.rint(kept / scale_N[:, None]).astype(np.int8)
        scale = jax.device_put(scale_N.astype(np.float32), by_rows)
    return Catalogue(ids, jax.device_put(kept.astype(storage), by_rows), scale), known + 1 + bool(queries)
