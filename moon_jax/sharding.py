"""The mesh: one `data` axis over which batches are split; parameters are replicated."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: int | None = None) -> Mesh:
    """A one-axis mesh over the first `devices` devices (all by default)."""
    chosen = jax.devices()[:devices]
    return jax.make_mesh((len(chosen),), ("data",), axis_types=(AxisType.Auto,), devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis over the mesh."""
    return NamedSharding(mesh, PartitionSpec("data"))
