"""Work over a batch some rows at a time: what is made on the way never stands whole, and stays in the processor's cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
FEWEST = 8  # rows at a time, so that every device has some
ON_ACCELERATORS = 64  # times as many places: they have no such cache, and each step of the walk costs a launch


def by_rows(f: Callable[..., Array], *parts: Array, places: int) -> Array:
    """f over some rows of a batch after another, and again for the gradient.

    Args:
        f: R x ... arrays -> R x F, each row for itself.
        parts: B x ... arrays, the first B x L x ...
        places: R x L at most on CPUs, where that leaves at least `FEWEST` rows; R divides B.

    Returns:
        B x F: with f(*parts) the same up to the order of sums in gradients of what the rows share.
    """
    batch, length = parts[0].shape[:2]
    rows = rows_at_once(batch, length, places if jax.default_backend() == "cpu" else places * ON_ACCELERATORS)
    if rows == batch:
        return f(*parts)
    # every step takes rows from all over the batch: from each device's share of it
    cut_SxRx = tuple(jnp.moveaxis(part.reshape(rows, -1, *part.shape[1:]), 1, 0) for part in parts)
    out_SxRxF = jax.lax.map(lambda now: jax.checkpoint(f)(*now), cut_SxRx)
    return jnp.moveaxis(out_SxRxF, 0, 1).reshape(batch, *out_SxRxF.shape[2:])


def rows_at_once(batch: int, length: int, places: int) -> int:
    """The largest divisor of the batch that keeps rows x length within `places`, or has at most `FEWEST` rows."""
    return max(r for r in range(1, batch + 1) if batch % r == 0 and (r * length <= places or r <= FEWEST))
