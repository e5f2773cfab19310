"""Work over a batch some rows at a time: what is made on the way never stands whole, and stays in the processor's cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

Array = jax.Array
ON_ACCELERATORS = 256  # times as many places: they have no such cache, and each step of the walk costs a launch


def by_rows(f: Callable[..., Array], shared: Any, *parts: Array, places: int) -> Array:
    """f over some rows of a batch after another, and again for the gradient.

    Under a mesh that only splits batches (`jax.sharding.use_abstract_mesh` tells a trace of it) every device walks over its
    own share, and gradients of what is shared meet once: left to itself the compiler adds them up over devices at each step.
    Under one that splits parameters, too, the compiler splits the walk.

    Args:
        f: (shared, R x ... arrays) -> R x F, each row for itself.
        shared: what all rows share, a tree of arrays or a module; f may close over no array of its own.
        parts: B x ... arrays, the first B x L x ...
        places: R x L at most on CPUs, or a single row (of each device); R divides B.

    Returns:
        B x F: with f(shared, *parts) the same up to the order of sums in gradients of what is shared.
    """
    mesh, batch = jax.sharding.get_abstract_mesh(), parts[0].shape[0]
    devices = mesh.size if mesh.axis_names and batch % mesh.size == 0 else 1
    if devices == 1 or mesh.shape["data"] < devices:
        return _walk(f, shared, parts, places, devices)

    def share(shared: Any, parts: tuple[Array, ...]) -> Array:
        own = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), shared)
        return _walk(f, own, parts, places, 1)

    split = PartitionSpec("data")
    return jax.shard_map(share, mesh=mesh, in_specs=(PartitionSpec(), split), out_specs=split)(shared, parts)


def _walk(f: Callable[..., Array], shared: Any, parts: tuple[Array, ...], places: int, devices: int) -> Array:
    """The walk over a batch that so many devices share: each step takes rows of all of them."""
    batch, length = parts[0].shape[:2]
    places = places if jax.default_backend() == "cpu" else places * ON_ACCELERATORS
    rows = devices * rows_at_once(batch // devices, length, places)
    if rows == batch:
        return f(shared, *parts)
    if devices == 1:
        cut_SxRx = tuple(part.reshape(-1, rows, *part.shape[1:]) for part in parts)
        return jax.lax.map(lambda now: jax.checkpoint(f)(shared, *now), cut_SxRx).reshape(batch, -1)
    cut_SxRx = tuple(jnp.moveaxis(part.reshape(rows, -1, *part.shape[1:]), 1, 0) for part in parts)
    out_SxRxF = jax.lax.map(lambda now: jax.checkpoint(f)(shared, *now), cut_SxRx)
    return jnp.moveaxis(out_SxRxF, 0, 1).reshape(batch, -1)


def rows_at_once(batch: int, length: int, places: int) -> int:
    """The largest divisor of the batch that keeps rows x length within `places`; 1 where none does."""
    return max(r for r in range(1, batch + 1) if batch % r == 0 and (r * length <= places or r == 1))
