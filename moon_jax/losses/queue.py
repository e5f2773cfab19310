"""Temporal negatives: a first-in, first-out memory of past item representations (MoCo's, arXiv 1911.05722).

A lane for each place of the global batch: lane b holds the last S items that stood at place b. Where the batch is split
over devices the lanes are split alike, so that a push writes on every device its own rows and nothing moves.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Queue = dict[str, Any]


def empty_queue(batch: int, size: int, width: int, dtype: Any = jnp.float32) -> Queue:
    """A queue of `size` = S x batch places, to be filled by S pushes before its first use.

    Returns:
        "vectors" dtype B x S x D, "ids" int32 B x S, "born" int32 S (the step whose parameters encoded a slot), and "at",
        int32: the slot that is written next.

    Raises:
        ValueError: a size that is no positive multiple of the batch.
    """
    if size <= 0 or size % batch:
        raise ValueError(f"queue: {size} must be a positive multiple of the batch of {batch}")
    slots = size // batch
    return {
        "vectors": jnp.zeros((batch, slots, width), dtype),
        "ids": jnp.zeros((batch, slots), jnp.int32),
        "born": jnp.zeros((slots,), jnp.int32),
        "at": jnp.int32(0),
    }


def push(queue: Queue, vectors_BxD: Array, ids_B: Array, step: Array) -> Queue:
    """The queue with a batch of items (int32 ids of products) in place of its oldest; they get no gradient."""
    vectors_BxD = jax.lax.stop_gradient(vectors_BxD).astype(queue["vectors"].dtype)
    at, slots = queue["at"], queue["born"].size
    return {
        "vectors": jax.lax.dynamic_update_slice_in_dim(queue["vectors"], vectors_BxD[:, None, :], at, axis=1),
        "ids": jax.lax.dynamic_update_slice_in_dim(queue["ids"], ids_B.astype(jnp.int32)[:, None], at, axis=1),
        "born": jax.lax.dynamic_update_slice_in_dim(queue["born"], step.astype(jnp.int32)[None], at, axis=0),
        "at": (at + 1) % slots,
    }


def contents(queue: Queue) -> tuple[Array, Array]:
    """(vectors Q x D, ids Q), lane by lane; split over devices as the batch is."""
    vectors = queue["vectors"]
    return vectors.reshape(-1, vectors.shape[-1]), queue["ids"].reshape(-1)


def staleness(queue: Queue, step: Array) -> Array:
    """float32: the mean number of steps since the entries were encoded."""
    return jnp.mean((step - queue["born"]).astype(jnp.float32))
