"""Matryoshka representations: one vector whose beginnings are representations, too."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def matryoshka(
    loss: Any, queries_BxD: Array, keys_BxD: Array, *, dims: Sequence[int], weights: Sequence[float] = (), **given: Any
) -> Array:
    """The weighted mean of a contrastive loss over nested dimensions (Kusupati et al. 2022, arXiv 2205.13147, eq. 1).

    Each beginning of a vector is brought to unit length again. `queue_QxD` and `hard_BxHxD` are cut alike.

    Args:
        loss: `info_nce`, `circle_loss` or `sigmoid_loss`; `given` goes to it.
        dims: widths of the beginnings, 1..D.
        weights: of each width; equal if left out, as in the paper.

    Returns:
        float32 scalar.

    Raises:
        ValueError: no width, one out of 1..D, or weights that do not match them or sum to nothing.
    """
    width = queries_BxD.shape[1]
    shares = tuple(weights) or (1.0,) * len(dims)
    if not dims or any(not 0 < dim <= width for dim in dims):
        raise ValueError(f"dims {tuple(dims)} must be some widths among 1..{width}")
    if len(shares) != len(dims) or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"weights {shares} must be one for each of {len(dims)} widths, none below 0, some above")
    total = jnp.float32(0)
    for dim, share in zip(dims, shares, strict=True):
        nested = given | {
            name: _beginning(given[name], dim) for name in ("queue_QxD", "hard_BxHxD") if given.get(name) is not None
        }
        total += share * loss(_beginning(queries_BxD, dim), _beginning(keys_BxD, dim), **nested)
    return total / sum(shares)


def _beginning(vectors: Array, dim: int) -> Array:
    """The first `dim` elements at unit length, in the dtype that they came in."""
    if dim == vectors.shape[-1]:
        return vectors
    cut = vectors[..., :dim].astype(jnp.float32)
    return (cut * jax.lax.rsqrt(jnp.sum(cut * cut, axis=-1, keepdims=True) + 1e-12)).astype(vectors.dtype)
