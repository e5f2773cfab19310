"""How many negatives a query really has, and how many places of its softmax are masked; no B x B matrix is made for it.

Everything is a count of equal ids, so sorting answers: O((B + Q + B H) log) in time, linear in memory.
"""

import math

import jax
import jax.numpy as jnp

Array = jax.Array


def count_candidates(
    positive_ids_B: Array, window: Array | int, *, queue_ids_Q: Array | None = None, hard_ids_BxH: Array | None = None
) -> dict[str, Array]:
    """The negatives that a query's softmax really holds, as the mean over all queries of a batch.

    A query's places are the keys at circular offsets 1..window in the batch, the whole queue, and its own hard negatives.
    Those with the id of its positive are masked. To be called inside `jax.jit`; under a mesh the ids are of the global batch.

    Args:
        positive_ids_B: int32 ids of products, any values.
        window: in-batch negatives of a query, `num_negatives` of a loss; B - 1 where that is None. It may be traced.
        queue_ids_Q, hard_ids_BxH: int32, as given to the loss.

    Returns:
        float32 scalars. "candidates": how many different products a query has among its unmasked places. "masked": the
        share of all places that is masked, 0..1.
    """
    positive_ids_B = jnp.asarray(positive_ids_B)
    batch = positive_ids_B.shape[0]
    window = jnp.minimum(jnp.asarray(window, jnp.int32), batch - 1)
    place_B = jnp.argsort(positive_ids_B, stable=True)  # by id, then by place in the batch
    ids_B = positive_ids_B[place_B]
    first_B, end_B = (jnp.searchsorted(ids_B, ids_B, side=side) for side in ("left", "right"))
    queued_B, queue_size, queue_distinct = jnp.zeros_like(place_B), 0, jnp.float32(0)
    if queue_ids_Q is not None:
        queue_ids_Q = jnp.sort(queue_ids_Q)
        queue_size = queue_ids_Q.size
        queued_B = _occurrences(queue_ids_Q, ids_B)
        queue_distinct = 1 + jnp.sum(queue_ids_Q[1:] != queue_ids_Q[:-1]) - _mean(jnp.minimum(queued_B, 1))

    # A key counts for each query that meets it before it meets its own product again: the offsets short of the key's
    # distance back to the same id (its own softmax of that id is masked at exactly that distance).
    before_B = jnp.where(jnp.arange(batch) > first_B, jnp.roll(place_B, 1), place_B[end_B - 1] - batch)
    met_B = jnp.minimum(place_B - before_B - 1, window)
    candidates = queue_distinct + _mean(jnp.where(queued_B == 0, met_B, 0))

    # Places b + 1 .. b + window with b's own id: between two ranks, around the end of the batch where it comes to that.
    last_B = place_B + window
    reached_B = _bisect(ids_B, place_B, ids_B, last_B % batch + 1)
    around_B = jnp.where(last_B < batch, 0, end_B - first_B)
    masked = _mean(reached_B + around_B - jnp.arange(1, batch + 1)) + _mean(queued_B)
    places = window + queue_size

    if hard_ids_BxH is not None:
        many = hard_ids_BxH.shape[1]
        at_Bx1 = jnp.arange(batch)[:, None]
        own_BxH = hard_ids_BxH == positive_ids_B[:, None]
        new_BxH = ~own_BxH & (_next(ids_B, place_B, hard_ids_BxH, at_Bx1) - at_Bx1 > window)
        if queue_ids_Q is not None:
            new_BxH &= _occurrences(queue_ids_Q, hard_ids_BxH) == 0
        same_BxHxH = hard_ids_BxH[:, :, None] == hard_ids_BxH[:, None, :]
        new_BxH &= ~jnp.any(same_BxHxH & jnp.tri(many, k=-1, dtype=bool)[None], axis=2)
        candidates += _mean(jnp.sum(new_BxH, axis=1))
        masked += _mean(jnp.sum(own_BxH, axis=1))
        places += many
    return {"candidates": candidates, "masked": masked / jnp.maximum(places, 1).astype(jnp.float32)}


def _occurrences(sorted_N: Array, ids: Array) -> Array:
    """How often each id is among sorted ones."""
    return jnp.searchsorted(sorted_N, ids, side="right") - jnp.searchsorted(sorted_N, ids)


def _next(ids_B: Array, place_B: Array, ids: Array, after: Array) -> Array:
    """The next place with each id after a place, + B where it is around the end of the batch; far off for unknown ids."""
    batch = ids_B.size

    def found(rank: Array) -> tuple[Array, Array]:
        rank = jnp.minimum(rank, batch - 1)
        return (ids_B[rank] == ids), place_B[rank]

    ahead, place = found(_bisect(ids_B, place_B, ids, jnp.broadcast_to(after + 1, ids.shape)))
    known, first = found(jnp.searchsorted(ids_B, ids))
    # a rank past the last of an id shows another id; past the end it shows the last place, which is not ahead
    ahead &= place > after
    return jnp.where(ahead, place, jnp.where(known, first + batch, 3 * batch))


def _bisect(ids_B: Array, place_B: Array, ids: Array, places: Array) -> Array:
    """How many of (id, place), sorted, are below each (id, place) given: two int32 keys, since one would need 64 bits."""
    batch = ids_B.size

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = jnp.minimum((low + high) // 2, batch - 1)
        below = (ids_B[middle] < ids) | ((ids_B[middle] == ids) & (place_B[middle] < places))
        open_still = low < high
        return jnp.where(open_still & below, middle + 1, low), jnp.where(open_still & ~below, middle, high)

    start = jnp.zeros(ids.shape, jnp.int32), jnp.full(ids.shape, batch, jnp.int32)
    return jax.lax.fori_loop(0, math.ceil(math.log2(batch + 1)), halve, start)[0]


def _mean(counts_N: Array) -> Array:
    """The float32 mean of N <= 2^20 counts below 2^21, exact up to its rounding.

    The sum of a million counts fits neither int32 nor, addend by addend, float32: their high and low bits are summed apart.
    """
    high, low = jnp.sum(counts_N >> 10), jnp.sum(counts_N & 1023)
    return (high.astype(jnp.float32) * 1024 + low.astype(jnp.float32)) / counts_N.size
